"""The inferred shapes of ONNX's own test cases are those of ONNX Runtime's outputs."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

from netkit.infer.model import operators, shapes

SHAPED_BY_FIRST = ("BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "MelWeightMatrix", "Range")
SKIPPED = {*operators.REFUSED, *SHAPED_BY_FIRST, "STFT"}  # onnx infers a larger shape for the output of STFT


def compare_shapes(case: TestCase) -> str | None:
    """Compare the shapes of one operator whose inputs, except the first, are constants. Return the operator.

    Return None if ONNX Runtime does not run the test case in the newest opset that netkit exports.
    """
    assert case.model is not None and case.data_sets is not None
    proto = ModelProto()
    proto.CopyFrom(case.model)
    operator = proto.graph.node[0].op_type
    if any(node.domain for node in proto.graph.node):
        return None
    arrays = case.data_sets[0][0]
    if len(proto.graph.node) > 1 or proto.functions or operator in SKIPPED or not arrays:
        return None
    if not all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays) or not arrays[0].ndim:
        return None
    for value, array in zip(proto.graph.input[1:], arrays[1:], strict=True):
        proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
    del proto.graph.input[1:], proto.opset_import[:]
    proto.opset_import.add(version=operators.OPSETS[-1])
    proto.ir_version = 10
    (images,) = proto.graph.input
    try:
        session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs = session.run(None, {images.name: arrays[0]})
    except Exception:  # ONNX Runtime's exceptions have no common base class
        return None
    images.type.CopyFrom(helper.make_tensor_type_proto(images.type.tensor_type.elem_type, arrays[0].shape))
    (step,) = shapes.trace(proto, len(arrays[0]), case.name)
    assert [tensor.shape for tensor in step.outputs if tensor] == [output.shape for output in outputs], case.name
    return operator


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_inferred_shapes_are_those_of_onnx_runtime() -> None:
    compared = {compare_shapes(case) for case in collect_testcases(None)}
    assert len(compared) > 120
