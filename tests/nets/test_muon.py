"""Muon, against torch.optim.Muon, and its iterations against float64 on one matrix at a time."""

import pytest
import torch

from netkit.nets.training.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalize

SHAPES = [(16, 25), (8, 8), (64, 9), (1, 30), (20, 2200)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_batched_iterations_equal_plain_iterations_of_each_matrix() -> None:
    matrices = [random(*shape, seed=seed) * 10.0**seed for seed, shape in enumerate(SHAPES)]
    a, b, c = COEFFICIENTS
    for result, matrix in zip(orthogonalize(matrices), matrices, strict=True):
        plain = matrix.double() / matrix.double().norm()
        for _ in range(ITERATIONS):
            gram = plain @ plain.T
            plain = a * plain + (b * gram + c * gram @ gram) @ plain
        torch.testing.assert_close(result, plain.float(), rtol=1e-3, atol=1e-5)
        assert torch.linalg.svdvals(result).max() < 1.3


def test_zero_matrix_stays_zero() -> None:
    zeros, ones = orthogonalize([torch.zeros(3, 5), torch.ones(2, 2)])
    assert torch.equal(zeros, torch.zeros(3, 5))
    assert ones.isfinite().all() and ones.abs().sum() > 0


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(8, 3, 5, 5), (64, 2, 3, 3)])
def test_steps_equal_torchs_muon(shape: tuple[int, ...], nesterov: bool) -> None:
    kernel = random(*shape).to(memory_format=torch.channels_last).requires_grad_()
    matrix = kernel.detach().flatten(1).clone().requires_grad_()
    muon = Muon([kernel], 0.1, 0.9, nesterov=nesterov)
    torch_muon = torch.optim.Muon([matrix], 0.1, 0.0, 0.9, nesterov, ns_steps=ITERATIONS)
    for step in range(3):
        gradient = random(*shape, seed=1 + step)
        kernel.grad, matrix.grad = gradient, gradient.flatten(1)
        muon.step()
        torch_muon.step()
    moved = (kernel.detach() - random(*shape)).flatten(1)
    expected = matrix.detach() - random(*shape).flatten(1)
    assert (moved - expected).norm() < 0.02 * expected.norm()  # torch.optim.Muon computes in bfloat16
