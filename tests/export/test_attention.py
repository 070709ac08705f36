"""Attention that torch's exporter cannot convert is exported as matrix products."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from netkit.core.model_card import ModelCard
from netkit.export.attention import attention
from netkit.export.convert import convert
from netkit.export.dry_run import dry_run
from netkit.infer.model import onnx_file

WIDTH, HEADS = 8, 2


class Attention(nn.Module):
    """Self-attention over patches of 7x7 pixels: (N, 1, 28, 28) -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.head = nn.Conv2d(1, WIDTH, 7, 7), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)  # (N, 16, WIDTH)
        return self.head(self.attend(self.qkv(x)).mean(1))

    def attend(self, qkv: Tensor) -> Tensor:
        raise NotImplementedError


class WindowAttention(Attention):
    """Attention in 4 windows, with five axes, as in timm's Twins, Nest and Hiera."""

    def attend(self, qkv: Tensor) -> Tensor:
        n = qkv.shape[0]
        q, k, v = qkv.view(n, 4, 4, 3, HEADS, WIDTH // HEADS).permute(3, 0, 4, 1, 2, 5)  # each (N, HEADS, 4, 4, ...)
        return F.scaled_dot_product_attention(q, k, v).permute(0, 2, 3, 1, 4).reshape(n, 16, WIDTH)


class BiasedAttention(Attention):
    """Attention with a learned position bias, as in timm's BEiT."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(HEADS, 16, 16))

    def attend(self, qkv: Tensor) -> Tensor:
        n = qkv.shape[0]
        q, k, v = qkv.view(n, 16, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)  # each (N, HEADS, 16, ...)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[None])
        return out.transpose(1, 2).reshape(n, 16, WIDTH)


class Patchify(nn.Module):
    """Patches of 4x4 pixels by nn.Unfold, as in timm's TNT."""

    def __init__(self) -> None:
        super().__init__()
        self.unfold, self.head = nn.Unfold(4, stride=4), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.unfold(images).transpose(1, 2).relu().mean(1))


@pytest.mark.parametrize("network", [WindowAttention, BiasedAttention, Patchify])
def test_networks_from_timm_in_small_pass_the_trial_export(network: type[nn.Module], card: ModelCard) -> None:
    torch.manual_seed(0)
    net = network().eval()
    dry_run(net, card)
    assert onnx_file.check(convert(net, card), "m.onnx").card == card


@pytest.mark.parametrize("options", [
    {}, {"scale": 0.3}, {"is_causal": True}, {"enable_gqa": True}, {"attn_mask": torch.randn(5, 7)},
    {"attn_mask": torch.arange(35).view(5, 7) % 3 != 1},
])  # fmt: skip
@pytest.mark.parametrize("leading", [(2, 4), (2, 3, 4), (4,)])
def test_attention_equals_that_of_pytorch(options: dict[str, object], leading: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    keys = (*leading[:-1], 2) if options.get("enable_gqa") else leading
    query, key, value = torch.randn(*leading, 5, 6), torch.randn(*keys, 7, 6), torch.randn(*keys, 7, 3)
    expected = F.scaled_dot_product_attention(query, key, value, **options)  # type: ignore[arg-type]
    assert attention(query, key, value, **options).sub(expected).abs().max() < 1e-6  # type: ignore[arg-type]


def test_dropout_in_attention_stays_random() -> None:
    x = torch.randn(1, 2, 8, 4)
    assert not attention(x, x, x, dropout_p=0.5).equal(attention(x, x, x, dropout_p=0.5))
