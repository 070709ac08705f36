"""ONNX's standard operators are allowed; graphs that could exhaust memory, never end or crash are rejected."""

import platform
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from netkit.core.errors import ModelError
from netkit.core.model_card import ModelCard
from netkit.infer.model import onnx_file, shapes
from tests.support.onnx_models import add_nodes, linear_model

MAX_PIXEL = "i64 = Cast <to=7> (images); max = ReduceMax <keepdims=0> (i64); number = Mul (max, k)"
LENGTH = MAX_PIXEL + "; length = Unsqueeze (number, axis0)"
INT32 = "int = Cast <to=6> (images)"
MEAN = "vector = ReduceMean <keepdims=0> (pixels, axis1)"  # one number for each image
N = "n = Shape <end=1> (cast)"

UNARY = "Abs Celu Elu Erf Exp Gelu LogSoftmax Mish Neg Reciprocal Round Selu Sign Softplus Softsign Sqrt Tanh"
REDUCTIONS = "ReduceL2 ReduceLogSumExp ReduceMax ReduceMin ReduceProd ReduceSum"
BINARY = "Div Equal Greater Less Max Min Pow"
# nodes and constants; each makes `y` from `cast` (N, 1, 28, 28) or `pixels` (N, 784), both float32
EVERYDAY: dict[str, tuple[str, dict[str, Any]]] = {
    **{operator: (f"y = {operator} (cast)", {}) for operator in UNARY.split()},
    **{operator: (f"y = {operator} (pixels, axis1)", {"axis1": [1]}) for operator in REDUCTIONS.split()},
    **{operator: (f"y = {operator} (cast, k)", {"k": 2.0}) for operator in BINARY.split()},
    "division by N": (N + "; float = Cast <to=1> (n); y = Div (cast, float)", {}),
    "integer Div": (INT32 + "; y = Div (int, k)", {"k": np.array([3], np.int32)}),
    "integer Mod": (INT32 + "; y = Mod (int, k)", {"k": np.array([[-7]], np.int32)}),
    "Log": ("more = Add (cast, k); y = Log (more)", {"k": 1.0}),
    "Where": ("large = Greater (cast, k); y = Where (large, cast, k)", {"k": 9.0}),
    "Einsum": ('h = Reshape (pixels, s); y = Einsum <equation="nij,nkj->nik"> (h, h)', {"s": [0, 2, 392]}),
    "Resize": ('y = Resize <mode="linear"> (cast, , scales)', {"scales": [1.0, 1.0, 2.0, 2.0]}),
    "Resize to a size": (N + "; s = Concat <axis=0> (n, rest); y = Resize (cast, , , s)", {"rest": [1, 7, 9]}),
    "ConvTranspose": (
        "y = ConvTranspose <strides=[2,2], output_padding=[1,1]> (cast, w)",
        {"w": np.ones((1, 4, 3, 3), np.float32)},
    ),
    "DepthToSpace": ("p = SpaceToDepth <blocksize=2> (cast); y = DepthToSpace <blocksize=2> (p)", {}),
    "InstanceNormalization": ("y = InstanceNormalization (cast, a, b)", {"a": [1.0], "b": [0.0]}),
    "GroupNormalization": ("y = GroupNormalization <num_groups=1> (cast, a, b)", {"a": [1.0], "b": [0.0]}),
    "GatherND": ("y = GatherND (w, at)", {"w": np.ones((5, 3), np.float32), "at": [[4, 2], [0, 0]]}),
    "ScatterElements": (
        N + "; s = Concat <axis=0> (n, one); at = Expand (place, s); first = Slice (pixels, zero, one, one);"
        "y = ScatterElements <axis=1> (pixels, at, first)",
        {"one": [1], "zero": [0], "place": [[5]]},
    ),
    "TopK": ("y, at = TopK (pixels, k)", {"k": [3]}),
    "CumSum": ("y = CumSum (pixels, axis)", {"axis": 1}),
    "Range": (N + "; last = Squeeze (n); y = Range (zero, last, one)", {"zero": 0, "one": 1}),
    "OneHot": (
        "best = ArgMax <axis=1, keepdims=0> (pixels); y = OneHot (best, k, ends)",
        {"k": 784, "ends": [0.0, 1.0]},
    ),
    "Tile": ("y = Tile (pixels, k)", {"k": [1, 3]}),
    "Pad": ('y = Pad <mode="reflect"> (cast, pads)', {"pads": [0, 0, 2, -1, 0, 0, 2, 3]}),
    "LSTM": (
        "x = Reshape (cast, s); y, h, c = LSTM <hidden_size=8> (x, w, r)",
        {"s": [28, -1, 28], "w": np.ones((1, 32, 28), np.float32), "r": np.ones((1, 32, 8), np.float32)},
    ),
    "GRU": (
        "x = Reshape (cast, s); y, h = GRU <hidden_size=8> (x, w, r)",
        {"s": [28, -1, 28], "w": np.ones((1, 24, 28), np.float32), "r": np.ones((1, 24, 8), np.float32)},
    ),
    "Attention": (
        "q = Reshape (cast, s); y = Attention <q_num_heads=4, kv_num_heads=4> (q, q, q)",
        {"s": [0, 28, 28]},
    ),
    "Dropout": ("y = Dropout (cast, half, no)", {"half": 0.5, "no": np.array(False)}),
    "DFT": ("x = Reshape (cast, s); y = DFT (x, , axis)", {"s": [-1, 28, 28, 1], "axis": 2}),
}


def checked(proto: ModelProto, opset: int = 20) -> None:
    proto.opset_import[0].version = opset
    onnx_file.check(proto.SerializeToString(), "m.onnx")


@pytest.mark.parametrize("name", EVERYDAY)
def test_everyday_operators_are_allowed_and_their_shapes_are_those_of_onnx_runtime(card: ModelCard, name: str) -> None:
    nodes, constants = EVERYDAY[name]
    proto = add_nodes(linear_model(card), nodes, **constants)
    checked(proto, {"Attention": 23, "GroupNormalization": 21}.get(name, 20))
    outputs = {output for node in proto.graph.node for output in node.output}
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=output) for output in sorted(outputs))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch_size in (1, 3, 64):
        arrays = session.run(None, {"images": np.ones((batch_size, 1, 28, 28), np.uint8)})
        steps = shapes.trace(proto, batch_size, "m.onnx")
        inferred = {
            key: tensor.shape
            for step in steps
            for key, tensor in zip(step.node.output, step.outputs, strict=True)
            if tensor
        }
        assert inferred == {key: array.shape for key, array in zip(sorted(outputs), arrays, strict=True)}


DEPENDS = "the shape of its output must not depend on the pixels, and must be known"
GROWS = "needs more than 64 times the memory or time for 64 images"
TOO_LARGE = "for one image; at most"
DIVISION = "(y): an integer may be divided only by constants other than 0 and -1"
HOSTILE: dict[str, tuple[str, str, dict[str, Any]]] = {  # message, nodes, constants
    "length from a pixel": (
        "(y): the shape of its output must not depend on the pixels",
        LENGTH + "; y = ConstantOfShape (length)",
        {"k": 10**6, "axis0": [0]},
    ),
    "Expand": (DEPENDS, LENGTH + "; y = Expand (one, length)", {"k": 10**6, "axis0": [0], "one": [1.0]}),
    "Tile": (DEPENDS, LENGTH + "; y = Tile (one, length)", {"k": 10**6, "axis0": [0], "one": [1.0]}),
    "Range": (DEPENDS, MAX_PIXEL + "; y = Range (z, number, o)", {"k": 10**6, "z": 0, "o": 1}),
    "OneHot": (DEPENDS, MAX_PIXEL + "; y = OneHot (z, number, ends)", {"k": 10**6, "z": [0], "ends": [0.0, 1.0]}),
    "TopK": (DEPENDS, LENGTH + "; y, at = TopK (pixels, length)", {"k": 3, "axis0": [0]}),
    "Slice": (DEPENDS, LENGTH + "; y = Slice (pixels, axis0, length)", {"k": 3, "axis0": [0]}),
    "NonZero": (
        "NonZero is not allowed: it has an output whose shape depends on the pixels",
        "y = NonZero (pixels)",
        {},
    ),
    "Unique": ("Unique is not allowed: it has an output whose shape", "y = Unique (pixels)", {}),
    "product over the batch": (
        GROWS,
        MEAN + '; y = Einsum <equation="i,j,k->ijk"> (vector, vector, vector)',
        {"axis1": [1]},
    ),
    "sum over the batch": (GROWS, MEAN + '; y = Einsum <equation="i,j,k->"> (vector, vector, vector)', {"axis1": [1]}),
    "attention over the batch": (GROWS, "t = Transpose (pixels); y = MatMul (pixels, t)", {}),
    "Fourier transform over the batch": (
        GROWS,
        "x = Reshape (cast, s); y = DFT (x, , axis)",
        {"s": [-1, 28, 28, 1], "axis": 0},
    ),
    "N squared": (GROWS, N + "; nn = Mul (n, n); y = ConstantOfShape (nn)", {}),
    "a table of lengths": (
        DEPENDS,
        N + "; len = Gather (table, n); y = ConstantOfShape (len)",
        {"table": [1, 1, 10**9, *[1] * 64]},
    ),
    "large only in between": (
        DEPENDS,
        N + "; less = Sub (n, one); more = Sub (k, n); p = Mul (less, more); s = Add (p, one); y = ConstantOfShape (s)",
        {"one": [1], "k": [64]},
    ),
    "a number that wraps around": (
        DEPENDS,
        "u8 = Cast <to=2> (less); b = Cast <to=7> (u8); bk = Mul (b, k); s = Add (bk, k1); y = ConstantOfShape (s)",
        {"less": [-1], "k": [10**7], "k1": [10**7 + 1]},
    ),
    "Div by -1": (DIVISION, INT32 + "; y = Div (int, k)", {"k": np.array(-1, np.int32)}),
    "Div by 0": (DIVISION, INT32 + "; y = Div (int, k)", {"k": np.array([0], np.int32)}),
    "Div by a pixel": (DIVISION, "y = Div (images, images)", {}),
    "Mod of a pixel": (DIVISION, "y = Mod (images, images)", {}),
    "huge constant": ("needs 4,000,000,000 bytes for one image", "y = ConstantOfShape (k)", {"k": [10**9]}),
    "huge Pad": (TOO_LARGE, "y = Pad (cast, k)", {"k": [0, 0, 0, 0, 0, 0, 100000, 100000]}),
    "Pad that overflows": (
        "its input 'k' has a number over 2,147,483,647",
        "y = Pad (cast, k)",
        {"k": [0, 0, 0, 2**62, 0, 0, 0, 2**62]},
    ),
    "huge Range": (TOO_LARGE, "y = Range (z, k, o)", {"z": 0.0, "k": 1.0, "o": 1e-09}),
    "Resize by a million": (TOO_LARGE, "y = Resize (cast, , k)", {"k": [1.0, 1.0, 10**6.0, 10**6.0]}),
    "Resize by infinity": ("a length must not be negative", "y = Resize (cast, , k)", {"k": [1.0, 1.0, np.inf, 1.0]}),
    "huge window": (TOO_LARGE, "y = HannWindow (k)", {"k": 10**9}),
    "doubling": (
        TOO_LARGE,
        "; ".join(f"c{i + 1} = Concat <axis=1> (c{i}, c{i})" for i in range(40)),
        {"c0": np.array([[1.0, 1.0, 1.0, 1.0]], np.float32)},
    ),
    "many large tensors": (
        "m.onnx: the network needs 5,017,",
        "; ".join(f"y{i} = Tile (pixels, k)" for i in range(20)),
        {"k": [1, 80000]},
    ),
    "many products": (
        "m.onnx: the network needs 92,",
        "t = Tile (pixels, k); m = Reshape (t, s); p = MatMul (m, m); q = MatMul (p, m); y = MatMul (q, m)",
        {"k": [1, 12544], "s": [0, 3136, 3136]},
    ),
    "large output padding": (
        TOO_LARGE,
        "y = ConvTranspose <output_padding=[99999,99999]> (cast, w)",
        {"w": np.ones((1, 4, 3, 3), np.float32)},
    ),
    "large workspace": (
        TOO_LARGE,
        "y = ConvTranspose <pads=[200,200,200,200]> (cast, w)",
        {"w": np.ones((1, 8, 402, 402), np.float32)},
    ),
    "PRelu": (
        "its slope must not have more elements along an axis than its input",
        "y = PRelu (cast, k)",
        {"k": np.ones((5, 1, 1, 1), np.float32)},
    ),
    "output shape": (
        "the attribute 'output_shape' is not allowed",
        "y = ConvTranspose <output_shape=[9,9]> (cast, w)",
        {"w": np.ones((1, 4, 3, 3), np.float32)},
    ),
    "batch of negative axes": (
        "the attribute 'batch_dims' must be 0 or more, not [-4]",
        "y = GatherND <batch_dims=-4> (cast, at)",
        {"at": [[0]]},
    ),
    "more outputs than parts": (
        "'num_outputs' must be the number of its outputs",
        "a, b, c = Split <axis=3, num_outputs=2> (cast)",
        {},
    ),
    "endless equation": (
        "its equation must consist of letters and at most one '...'",
        'y = Einsum <equation="...a...->a"> (cast)',
        {},
    ),
    "no output": ("MeanVarianceNormalization has no output", " = MeanVarianceNormalization (cast)", {}),
    "a length that wraps around in 32 bits": (
        "its output must not depend on the pixels, and must be known",
        "n = Shape <start=0, end=1> (images); i = Cast <to=6> (n); a = Mul (i, i); b = Mul (a, i); c = Mul (b, b); "
        "l = Cast <to=7> (c); y = Expand (one, l)",
        {"one": [1.0]},
    ),
    "a length that is 0 for 64 images": (
        "its output must not depend on the pixels, and must be known",
        "n = Shape <start=0, end=1> (images); q = Div (n, k); l = Mul (q, large); y = Expand (one, l)",
        {"k": [65], "large": [2**27], "one": [1.0]},
    ),
    "a range that grows and shrinks": (
        "start and delta must be constants",
        "n = Shape <start=0, end=1> (images); s = Squeeze (n); t = Mul (s, s); y = Range (t, sixty_four, one)",
        {"sixty_four": 64, "one": 1},
    ),
    "groups of no channels": (
        "the attribute 'group' must be 1 or more, not [0]",
        "y = Conv <group=0> (cast, w)",
        {"w": np.ones((1, 1, 3, 3), np.float32)},
    ),
    "stride 0": (
        "the attribute 'strides' must be 1 or more",
        "y = MaxPool <kernel_shape=[3,3], strides=[0,1]> (cast)",
        {},
    ),
    "stride over 31 bits": (
        "the attribute 'strides' has a number over",
        "y = MaxPool <kernel_shape=[3,3], strides=[4294967296,1]> (cast)",
        {},
    ),
    "positions from pixels": (
        "MaxUnpool is not allowed: it pools or unpools at positions",
        "y, at = MaxPool <kernel_shape=[2,2]> (cast); z = MaxUnpool <kernel_shape=[2,2]> (y, at)",
        {},
    ),
    "training mode": (
        "Dropout (y) is in training mode; export the network in evaluation mode",
        "y = Dropout (cast, half, yes)",
        {"half": 0.5, "yes": np.array(True)},
    ),
    "training mode of a norm": (
        "BatchNormalization is in training mode",
        "y, m, v = BatchNormalization <training_mode=1> (cast, k, k, k, k)",
        {"k": [1.0]},
    ),
    "random numbers": (
        "RandomNormalLike is not allowed: it returns random numbers",
        "y = RandomNormalLike (pixels)",
        {},
    ),
    "image files": ("ImageDecoder is not allowed: it decodes image files", "y = ImageDecoder (images)", {}),
    "sequences": ("SequenceConstruct is not allowed: it is for sequences", "y = SequenceConstruct (pixels)", {}),
    "optional values": ("Optional is not allowed: it is for optional values", "y = Optional (pixels)", {}),
    "strings": ("its output has a type that netkit does not allow", "y = Cast <to=8> (pixels)", {}),
    "unknown operator": ("No schema registered for 'EPContext'", "y = EPContext (pixels)", {}),
    "another opset's operator": ("No schema registered for 'Swish'", "y = Swish (pixels)", {}),
    "too many operators": (
        "has 10,005 operators; at most 10,000 are allowed",
        "; ".join(["y = Relu (pixels)"] * 10_001),
        {},
    ),
    "a name used twice": ("its output 'pixels' is the name of another tensor", "pixels = Relu (cast)", {}),
    "constant with the name of the input": ("two tensors have the name 'images'", "", {"images": [1.0]}),
    "unknown input": ("its input 'x' is not computed before it", "y = Relu (x)", {}),
    "no elements": ("has no elements", "y = Slice (cast, z, z, z)", {"z": [0]}),
    "another batch size": ("operator Reshape (y): is not valid", "y = Reshape (cast, k)", {"k": [2, 3, -1]}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_graphs_are_rejected_with_the_operator(card: ModelCard, name: str) -> None:
    message, nodes, constants = HOSTILE[name]
    with pytest.raises(ModelError) as exc_info:
        checked(add_nodes(linear_model(card), nodes, **constants))
    assert str(exc_info.value).startswith("m.onnx: ") and message in str(exc_info.value)


RUN = """
import sys
import numpy as np
import onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"images": np.full((1, 1, 28, 28), int(sys.argv[2]), np.uint8)})
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors do not raise SIGFPE")
@pytest.mark.parametrize("operator", ["Div", "Mod"])
def test_an_integer_division_that_is_rejected_would_end_the_process(
    card: ModelCard, tmp_path: Path, operator: str
) -> None:
    nodes = f"int = Cast <to=7> (images); x = Sub (int, grey); large = Add (x, least); y = {operator} (large, k)"
    proto = add_nodes(linear_model(card), nodes, grey=128, least=-(2**63), k=-1)
    with pytest.raises(ModelError, match=r"\(y\): an integer may be divided only by constants other than 0 and -1"):
        checked(proto)
    proto.graph.output.add(name="y")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    commands = [[sys.executable, "-c", RUN, str(path), pixel] for pixel in ("129", "128")]
    assert [subprocess.run(command, timeout=300).returncode for command in commands] == [0, -signal.SIGFPE]


def test_a_graph_that_is_rejected_would_take_as_much_memory_as_a_pixel_says(card: ModelCard) -> None:
    proto = add_nodes(linear_model(card), LENGTH + "; y = ConstantOfShape (length)", k=1000, axis0=[0])
    with pytest.raises(ModelError, match="must not depend on the pixels"):
        checked(proto)
    proto.graph.output.add(name="y")
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for pixel in (1, 255):
        (y,) = session.run(["y"], {"images": np.full((1, 1, 28, 28), pixel, np.uint8)})
        assert len(y) == 1000 * pixel


@pytest.mark.parametrize("dims", [[10**9], [-784]])
def test_a_constant_that_has_fewer_values_than_its_shape_is_rejected(card: ModelCard, dims: list[int]) -> None:
    proto = add_nodes(linear_model(card), "y = Mul (pixels, k)", k=np.ones(784, np.float32))
    proto.graph.initializer[-1].dims[:] = dims
    with pytest.raises(ModelError, match=r"tensor 'k' has the shape \[.*\], but not as many values$"):
        checked(proto)
    proto.graph.initializer[-1].dims[:] = [800]
    with pytest.raises(ModelError, match=r"initializer k: its values do not match its shape: "):
        checked(proto)


def test_a_model_with_an_opset_that_netkit_does_not_write_is_rejected(card: ModelCard) -> None:
    for opset in (17, 24):
        with pytest.raises(ModelError, match=rf"m\.onnx: uses opset {opset}; netkit runs opsets 18 to 23; export"):
            checked(linear_model(card), opset)
    proto = linear_model(card)
    proto.opset_import.add(domain="ai.onnx", version=20)
    with pytest.raises(ModelError, match=r"m\.onnx: uses opset 20, 20; "):
        checked(proto)


def test_a_larger_image_may_take_more_memory(card: ModelCard) -> None:
    for size, allowed in ((28, False), (1024, True)):
        large = replace(card, height=size, width=size)
        proto = add_nodes(linear_model(large), "y = ConstantOfShape (k)", k=[2**28])  # a gigabyte
        if allowed:
            checked(proto)
        else:
            with pytest.raises(ModelError, match="needs 1,073,741,824 bytes for one image; at most 269,238,272"):
                checked(proto)
