"""Deformable attention against a reference that gathers every sample by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dfmamba.heads.transformer import DeformableAttention, deformable_attention

SHAPES = [(5, 3), (3, 2), (1, 1)]


def slow_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    rows = []
    for b in range(batch):
        for q in range(queries):
            for h in range(heads):
                total = torch.zeros(channels, dtype=value.dtype)
                start = 0
                for level, (height, width) in enumerate(shapes):
                    for p in range(points):
                        x = locations[b, q, h, level, p, 0] * width - 0.5
                        y = locations[b, q, h, level, p, 1] * height - 0.5
                        left, top = math.floor(x.item()), math.floor(y.item())
                        for row in (top, top + 1):
                            for column in (left, left + 1):
                                if 0 <= row < height and 0 <= column < width:
                                    share = (1 - (x - column).abs()) * (1 - (y - row).abs())
                                    cell = value[b, start + row * width + column, h]
                                    total = total + weights[b, q, h, level, p] * share * cell
                    start += height * width
                rows.append(total)
    return torch.stack(rows).view(batch, queries, heads * channels)


def random_inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = sum(height * width for height, width in SHAPES)
    value = torch.randn(2, tokens, 2, 3, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, 4, 2, 3, 2, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 4, 2, 3, 2, generator=generator, dtype=torch.float64)
    return value.requires_grad_(), locations.requires_grad_(), weights.requires_grad_()


def test_equals_the_reference_with_gradients() -> None:
    inputs = random_inputs()
    value, locations, weights = inputs
    fast = deformable_attention(value, SHAPES, locations, weights)
    slow = slow_attention(value, SHAPES, locations, weights)
    torch.testing.assert_close(fast, slow)
    direction = torch.randn(fast.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for first, second in zip(
        torch.autograd.grad(fast, inputs, direction),
        torch.autograd.grad(slow, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(first, second)


def test_starts_by_looking_around() -> None:
    attention = DeformableAttention(16, levels=2, heads=8, points=3)
    bias = attention.offsets.bias.detach().view(8, 2, 3, 2)
    torch.testing.assert_close(bias[0, 0], torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    torch.testing.assert_close(bias[1, 1], torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
    torch.testing.assert_close(bias[6, 0, 0], torch.tensor([0.0, -1.0]), atol=1e-6, rtol=0)
    assert attention.weights.weight.abs().sum() == 0


def test_module_is_a_mean_of_values_at_the_reference_when_offsets_vanish() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, levels=1, heads=2, points=2).double()
    torch.nn.init.zeros_(attention.offsets.bias)
    tokens = torch.randn(1, 6, 8, dtype=torch.float64)
    centres = torch.tensor([(0.5 / 3, 0.25), (2.5 / 3, 0.75)], dtype=torch.float64)
    found = attention(torch.randn(1, 2, 8, dtype=torch.float64), centres, tokens, [(2, 3)])
    torch.testing.assert_close(found, attention.output(attention.value(tokens[:, [0, 5]])))


@torch.no_grad()
def test_half_precision_samples_at_single_precision_places() -> None:
    """On a ramp 1000 cells wide, bfloat16 coordinates would be off by several cells."""
    attention = DeformableAttention(8, levels=1, heads=1, points=1)
    for linear in (attention.value, attention.output):
        torch.nn.init.eye_(linear.weight)
    torch.nn.init.zeros_(attention.offsets.bias)
    ramp = torch.arange(1000.0)[None, :, None].expand(1, -1, 8) / 1000
    reference = torch.tensor([[0.7003, 0.5]])
    query = torch.zeros(1, 1, 8)
    exact = attention(query, reference, ramp, [(1, 1000)])
    torch.testing.assert_close(exact, torch.full((1, 1, 8), 0.7003 - 0.0005))
    half = attention.bfloat16()(query.bfloat16(), reference, ramp.bfloat16(), [(1, 1000)])
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=2**-8)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        DeformableAttention(10, levels=1, heads=4)
