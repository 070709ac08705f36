"""Capture of a network by torch.export, and its conversion by torch.onnx; an error names the layer at fault."""

import ast
import copy
import inspect
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from traceback import extract_tb, walk_tb

import onnx
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from netkit.core.errors import ModelError, first_line
from netkit.export.silence import silent
from netkit.infer.model.onnx_file import INPUT, OUTPUTS
from netkit.infer.model.operators import REFUSED

TORCH = os.path.dirname(torch.__file__) + os.sep
# torch's metadata of a node: the paths of the enclosing modules, outermost first, then the operator; and their classes
SCOPES_KEY, CLASSES_KEY = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
BATCH = ({0: Dim("batch")},)  # the dynamic axis of the only input
NETWORK = "model.net"  # the path of the network in convert.Classifier
FILLS = {  # an assignment with a boolean mask -> the fill that does the same
    torch.ops.aten.index_put.default: torch.ops.aten.masked_fill.Tensor,
    torch.ops.aten.index_put_.default: torch.ops.aten.masked_fill_.Tensor,
}
# a part of torch's message -> what is wrong, and what to write instead
CAUSES = {
    "data-dependent": (
        "its Python code depends on values of a tensor, as 'if' and .item() do, which ONNX cannot express; "
        "compute both results and choose with torch.where"
    ),
    "specialized it to be a constant": (
        "its code fixes the batch size; write x.shape[0] or -1 instead of a number or len(x), and do not loop over "
        "images"
    ),
    "constraints violated (batch)": (
        "its computation depends on the batch size, as in torch.cdist; for distances, write "
        "(x[:, None] - y).norm(dim=-1)"
    ),
    "unsupported attribute type": (
        "an argument of the operator, such as the groups of a convolution, depends on the batch size; use a constant"
    ),
    "adaptive_max_pool": "its output size does not divide the size of its input; use nn.MaxPool2d",
    "No ONNX function found": "PyTorch cannot convert {operator} to ONNX; use other operators",
}


def copied(net: nn.Module, *, name: str) -> nn.Module:
    """Return a copy of the network.

    Raises ModelError if torch.jit.script compiled a part of it, or if it has a tensor that PyTorch cannot copy.
    """
    _reject_scripted(net, name)
    try:
        return copy.deepcopy(net)
    except Exception as exc:  # the network's attributes can raise anything
        computed = (
            "an attribute is a tensor computed from its weights; compute it in forward(), or store it after .detach()"
        )
        cause = computed if "graph leaves" in str(exc) else first_line(exc)
        raise ModelError(f"{name}: cannot be copied for the export: {cause}") from None


def capture(module: nn.Module, example: Tensor, *, name: str) -> ExportedProgram:
    """Return `module` as a graph of PyTorch's operators for any batch size; `example` (2, C, H, W) is an input.

    torch runs the module's code to record its operators. If that fails, torch interprets the code instead.

    Raises ModelError if both fail. The message begins with `name`, and names the layer and the cause.
    """
    running: list[tuple[str, nn.Module]] = []
    errors: list[Exception] = []
    for strict in (False, True):
        try:
            with silent(), ExitStack() if strict else _recorded(module, running):
                return torch.export.export(module, (example,), dynamic_shapes=BATCH, strict=strict)
        except Exception as exc:  # the network's code can raise anything
            errors.append(exc)
    path, layer = running[-1] if running else ("", module)
    raise _error(name, path, type(layer).__name__, _cause(*errors) + _line(errors[0], layer)) from None


def to_onnx(program: ExportedProgram, *, opset: int, name: str) -> onnx.ModelProto:
    """Return the program as an ONNX model. Raises ModelError, with a message as in `capture`, if that fails."""
    _fill_by_mask(program)
    try:
        with silent():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=BATCH,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as exc:  # its own message is several pages long
        errors = list(_chain(exc))
        node = next((node for error in errors if (node := _converted_node(error))), None)
        cause = _cause(errors[-1], operator=str(node.target) if node else "an operator")
        raise _error(name, *_scope(node), cause + _source(node)) from None
    assert converted is not None  # it is None only without dynamo
    _reject_refused(converted.model_proto, name)
    return converted.model_proto


def _fill_by_mask(program: ExportedProgram) -> None:
    """Replace each index_put of a scalar with a boolean mask, as in x[x < 0] = 0, by masked_fill.

    torch.onnx would convert it to NonZero, which a model file may not contain.
    """
    for node in program.graph.nodes:
        if node.target in FILLS and len(node.args) == 3:  # the fourth argument, accumulate, adds instead
            x, (mask, *more), value = node.args
            shapes = [argument.meta["val"].shape for argument in (x, mask, value) if isinstance(argument, fx.Node)]
            is_mask = len(shapes) == 3 and not more and mask.meta["val"].dtype == torch.bool
            if is_mask and len(shapes[0]) == len(shapes[1]) and not shapes[2]:
                node.target, node.args = FILLS[node.target], (x, mask, value)
    program.graph_module.recompile()


def _reject_refused(proto: onnx.ModelProto, name: str) -> None:
    """Raise ModelError for the first operator that no model file may contain; here the layer is still known."""
    node = next((node for node in proto.graph.node if node.op_type in REFUSED), None)
    if node is not None:
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        (*_, path, _), (*_, class_name, _) = (ast.literal_eval(metadata[key]) for key in (SCOPES_KEY, CLASSES_KEY))
        reason = f"the ONNX operator {node.op_type} {REFUSED[node.op_type]}; use other operators"
        raise _error(name, path, _class_name(class_name), reason)


def _reject_scripted(net: nn.Module, name: str) -> None:
    """Raise ModelError for a module, or a function in an attribute, that torch.jit.script compiled."""
    for path, layer in net.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise _error(name, path, layer.original_name, "torch.jit.script compiled it; use the original module")
        for key, value in vars(layer).items():
            if isinstance(value, torch.jit.ScriptFunction):
                cause = f"torch.jit.script compiled its attribute {key!r}; use the original function"
                raise _error(name, path, type(layer).__name__, cause)


def _class_name(qualified: object) -> str:
    return str(qualified).rpartition(".")[2]


def _error(name: str, path: str, class_name: str, cause: str) -> ModelError:
    path = path.removeprefix(NETWORK).removeprefix(".")
    layer = f"layer {path!r} ({class_name})" if path else "the network"
    return ModelError(f"{name}: {layer} cannot be exported: {cause}")


def _cause(*errors: BaseException, operator: str = "") -> str:
    text = " ".join(map(str, errors)).lower()
    known = (cause.format(operator=operator) for part, cause in CAUSES.items() if part.lower() in text)
    return next(known, first_line(errors[0]))


@contextmanager
def _recorded(network: nn.Module, running: list[tuple[str, nn.Module]]) -> Iterator[None]:
    """Keep the modules that are running, with their paths, in `running`; after an error, the last one caused it."""

    def leave(*_: object) -> None:
        running.pop()

    with ExitStack() as hooks:
        for path, module in network.named_modules():

            def enter(module: nn.Module, _: object, path: str = path) -> None:
                running.append((path, module))

            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield


def _line(exc: Exception, layer: nn.Module) -> str:
    """Where the code of `layer` raised `exc`, as " (file.py, line 7)"."""
    file = inspect.getsourcefile(type(layer)) or ""
    lines = [frame.lineno for frame in extract_tb(exc.__traceback__) if frame.filename == file]
    return f" ({os.path.basename(file)}, line {lines[-1]})" if lines and not file.startswith(TORCH) else ""


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and its causes, from the last to the first."""
    while exc:
        yield exc
        exc = exc.__cause__


def _converted_node(exc: BaseException) -> fx.Node | None:
    """The operator that torch.onnx was converting when it raised `exc`; its message does not name the layer."""
    nodes = (frame.f_locals.get("node") for frame, _ in walk_tb(exc.__traceback__))
    return next((node for node in nodes if isinstance(node, fx.Node)), None)


def _scope(node: fx.Node | None) -> tuple[str, str]:
    """Path and class of the innermost module that contains the operator."""
    modules = list(node.meta.get("nn_module_stack", {}).values()) if node else []
    path, class_name = modules[-1] if modules else ("", "")
    return path, _class_name(class_name)


def _source(node: fx.Node | None) -> str:
    """The line of the network's code that calls the operator, as " (file.py, line 7)"."""
    lines = re.findall(r'File "(.+)", line (\d+)', node.meta.get("stack_trace") or "") if node else []
    file, line = lines[-1] if lines else ("", "")
    return f" ({os.path.basename(file)}, line {line})" if lines and not file.startswith(TORCH) else ""
