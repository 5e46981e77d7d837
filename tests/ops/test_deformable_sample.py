"""Deformable sampling against torchvision's deformable convolution, its reference, and gradcheck."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from dfmamba.ops import anchor_grid, centre_index, deformable_sample, deformable_sample_reference


def case(
    batch: int = 2,
    channels: int = 6,
    height: int = 5,
    width: int = 7,
    count: int = 9,
    offset_groups: int | None = 2,
    weight_groups: int | None = 3,
    spread: float = 2.0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Random map, offsets (None without groups), weights (per channel without groups) and moved anchors."""
    g = torch.Generator().manual_seed(height * 100 + width)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=dtype)

    x = normal(batch, channels, height, width)
    offsets = None
    if offset_groups is not None:
        offsets = spread * normal(batch, offset_groups, count, 2, height, width)
    if weight_groups is None:
        weights = normal(channels, count)
    else:
        weights = normal(batch, weight_groups, count, height, width)
    return x, offsets, weights, anchor_grid(count).to(dtype) + 0.1 * normal(count, 2)


def oracle(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    """Depthwise deformable convolution of torchvision."""
    batch, channels, height, width = x.shape
    count = anchors.shape[0]
    side = int(count**0.5)
    groups = 1 if offsets is None else offsets.shape[1]
    if weights.dim() == 5:
        groups = channels
    grid = torch.stack(
        torch.meshgrid(*[torch.arange(side, dtype=x.dtype) - side // 2] * 2, indexing="ij"), -1
    ).view(count, 2)
    moved = (anchors - grid)[None, None, :, :, None, None].expand(batch, groups, -1, -1, height, width)
    if offsets is not None:
        moved = moved + offsets.repeat_interleave(groups // offsets.shape[1], dim=1)
    if weights.dim() == 5:
        kernel = torch.ones(channels, 1, side, side, dtype=x.dtype)
        mask = weights.repeat_interleave(channels // weights.shape[1], dim=1).reshape(
            batch, -1, height, width
        )
    else:
        kernel = weights.view(channels, 1, side, side)
        mask = torch.ones(batch, groups * count, height, width, dtype=x.dtype)
    return deform_conv2d(x, moved.reshape(batch, -1, height, width), kernel, padding=side // 2, mask=mask)


@pytest.fixture(params=["dense", "sparse"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces each way through the fast path (weights per channel only know the sparse one)."""
    cpu = importlib.import_module("dfmamba.ops.deformable_sample.plain")
    limit = 1 << 30 if request.param == "dense" else 0
    monkeypatch.setattr(cpu, "_DENSE_PIXELS_BACKWARD", limit)
    monkeypatch.setattr(cpu, "_DENSE_PIXELS_FORWARD", limit)
    return request.param


def results(function, values: tuple) -> list[Tensor]:
    """The output and the gradient of every operand."""
    leaves = [None if v is None else v.detach().requires_grad_() for v in values]
    y = function(*leaves)
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    return [y, *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], weights)]


CASES = [
    {},
    {"offset_groups": 1, "weight_groups": 1},
    {"offset_groups": 1, "weight_groups": 6},
    {"offset_groups": 6, "weight_groups": 2, "height": 1, "width": 9},
    {"offset_groups": None, "weight_groups": 2},
    {"offset_groups": 3, "weight_groups": None},
    {"offset_groups": 1, "weight_groups": None, "height": 7, "width": 3, "spread": 6.0},
    {"offset_groups": None, "weight_groups": None},
    {"count": 1, "height": 1, "width": 1},
    {"count": 25, "height": 8, "width": 5, "spread": 0.3},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_equals_torchvision_and_reference(options: dict, route: str) -> None:
    values = case(**options)
    fast = results(deformable_sample, values)
    for other in (deformable_sample_reference, oracle):
        for got, wanted in zip(fast, results(other, values), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(deformable_sample(*values), fast[0], rtol=1e-11, atol=1e-11)


def test_default_routes_agree_on_larger_maps() -> None:
    for options in ({"weight_groups": 1, "offset_groups": 1}, {"weight_groups": None}):
        values = case(batch=1, height=17, width=19, **options)
        for got, wanted in zip(results(deformable_sample, values), results(oracle, values), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_zero_offsets_have_torchvisions_derivative(route: str) -> None:
    """Training starts at whole-number positions, where the derivative must be one-sided and not zero."""
    x, offsets, weights, _ = case(offset_groups=1, weight_groups=1)
    values = (x, torch.zeros_like(offsets), weights, anchor_grid(9).double())
    fast, wanted = results(deformable_sample, values), results(oracle, values)
    for got, expected in zip(fast, wanted, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
    assert fast[2].abs().max() > 0.1


@pytest.mark.parametrize("weight_groups", [None, 2])
def test_gradcheck(weight_groups: int | None, route: str) -> None:
    values = case(1, 2, 2, 3, count=4, offset_groups=1, weight_groups=weight_groups, spread=0.8)
    leaves = tuple(v.requires_grad_() for v in values if v is not None)
    assert torch.autograd.gradcheck(deformable_sample, leaves)


def test_single_and_half_precision(route: str) -> None:
    values = case(offset_groups=1, weight_groups=1)
    exact = results(deformable_sample, values)
    single = results(deformable_sample, tuple(v.float() for v in values))
    for got, wanted in zip(single, exact, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-4)
    x, *rest = (v.float() for v in values)
    half = deformable_sample(x.bfloat16(), *rest)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), exact[0], rtol=0.05, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = deformable_sample(x, *rest)
    assert torch.equal(inside, deformable_sample(x, *rest))


def test_far_positions_give_zero(route: str) -> None:
    x, offsets, weights, anchors = case(offset_groups=1, weight_groups=1)
    for far in (1e4, -1e4, 1e30):
        values = (x, torch.full_like(offsets, far), weights, anchors)
        assert all(not value.any() for value in results(deformable_sample, values))


def test_position_that_is_not_a_number_spoils_only_its_pixel(route: str) -> None:
    x, offsets, weights, anchors = case(batch=1, offset_groups=1, weight_groups=1)
    offsets[0, 0, 3, 1, 2, 4] = torch.nan
    y = deformable_sample(x, offsets, weights, anchors)
    assert y[0, :, 2, 4].isnan().all()
    if route == "sparse":
        assert y.isnan().sum() == x.shape[1]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_order(memory_format: torch.memory_format, route: str) -> None:
    x, *rest = case(offset_groups=1, weight_groups=1)
    y = deformable_sample(x.to(memory_format=memory_format), *rest)
    torch.testing.assert_close(y, deformable_sample_reference(x, *rest))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_anchor_grid() -> None:
    grid = anchor_grid(9)
    assert grid.dtype == torch.float32
    assert grid.tolist() == [[dy, dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    assert anchor_grid(1).tolist() == [[0, 0]]
    assert anchor_grid(4).tolist() == [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    assert anchor_grid(16).abs().max() == 1.5
    for count in (1, 9, 25):
        assert anchor_grid(count)[centre_index(count)].tolist() == [0, 0]
    for count in (-1, 0, 2, 8, 10, 36):
        with pytest.raises(ValueError, match=f"got {count} anchors"):
            anchor_grid(count)
    with pytest.raises(ValueError, match="none at its centre"):
        centre_index(4)


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (6, 5, 7), r"x has shape \(6, 5, 7\), expected \(batch, C, H, W\)"),
        (1, (2, 2, 8, 2, 5, 7), r"offsets has shape .*, expected \(2, groups, 9, 2, 5, 7\)"),
        (1, (2, 9, 2, 5, 7), "offsets has shape"),
        (1, (2, 4, 9, 2, 5, 7), r"6 channels cannot be divided into \[4, 3\] groups"),
        (2, (6, 8), r"weights has shape \(6, 8\), expected \(6, 9\) or \(2, groups, 9, 5, 7\)"),
        (2, (2, 3, 9, 7, 5), r"weights has shape .*, expected \(2, groups, 9, 5, 7\)"),
        (3, (9,), r"anchors has shape \(9,\), expected \(K, 2\)"),
    ],
)
def test_wrong_shapes(position: int, shape: tuple[int, ...], message: str) -> None:
    values = list(case())
    values[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        deformable_sample(*values)


def test_wrong_type() -> None:
    x, *rest = case()
    with pytest.raises(ValueError, match=r"x is torch\.int64"):
        deformable_sample(x.long(), *rest)
