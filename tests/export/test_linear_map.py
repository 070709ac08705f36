"""Affine blocks of a graph and their measured maps."""

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from netkit.export.passes.linear_map import affine_blocks, measure
from tests.support.graphs import export_floats


def test_measured_map_computes_the_same_as_the_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3))
    (block,) = affine_blocks(ir.from_proto(export_floats(net, 2, 5, 4)).graph)
    matrix, offset = measure(block)
    assert (matrix.shape, offset.shape) == ((2, 3, 2, 2, 5, 4), (2, 3, 2))
    image = np.random.default_rng(0).normal(size=(2, 5, 4))
    expected = net.double()(torch.from_numpy(image[None])).detach().numpy()[0]
    np.testing.assert_allclose(np.tensordot(matrix, image, axes=3) + offset, expected, atol=1e-12)


def test_block_counts_its_weights_and_multiplications() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3))
    (block,) = affine_blocks(ir.from_proto(export_floats(net, 2, 5, 4)).graph)
    assert block.weights == 2 * 3 * 9 + 3 + 3 * 2 * 9 + 2
    assert block.multiplications == 2 * 3 * 9 * 5 * 4 + 3 * 2 * 9 * 3 * 2


def test_layers_with_other_consumers_form_no_block() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            middle = self.first(x)
            return torch.cat([self.second(middle).relu(), middle.relu()], dim=1)

    assert list(affine_blocks(ir.from_proto(export_floats(Fork(), 4, 9, 7)).graph)) == []
