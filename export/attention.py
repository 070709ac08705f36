"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762) as matrix products and a softmax."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class ExplicitAttention(TorchFunctionMode):
    """Computes F.scaled_dot_product_attention with `attention`.

    torch's exporter converts that function only for tensors with four axes, and not with every mask.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        explicit = function is F.scaled_dot_product_attention
        return (attention if explicit else function)(*args, **(kwargs or {}))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Like F.scaled_dot_product_attention: (..., L, E), (..., S, E) and (..., S, D) -> (..., L, D).

    The output is NaN for a query whose keys are all masked.
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.size(-3) // x.size(-3), dim=-3) for x in (key, value))
    scale = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)  # (..., L, S)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        is_bool = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if is_bool else scores + attn_mask
    return F.dropout(scores.softmax(dim=-1), dropout_p) @ value
