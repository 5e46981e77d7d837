"""The identities that define deformable state-space modelling, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from dfmamba.ops import (
    anchor_grid,
    centre_index,
    deformable_selective_scan,
    deformable_selective_scan_reference,
    selective_scan,
)
from dfmamba.ops.deformable_sample import plain as sample_plain
from dfmamba.ops.selective_scan import plain as scan_plain

BATCH, CHANNELS, HEIGHT, WIDTH, STATES, COUNT = 2, 4, 5, 6, 3, 9
LENGTH = HEIGHT * WIDTH


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centre_only(height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Zero offsets, and weights per channel that are 1 at the centre anchor and 0 elsewhere."""
    weights = torch.zeros(CHANNELS, COUNT, dtype=torch.float64)
    weights[:, centre_index(COUNT)] = 1.0
    return torch.zeros(BATCH, 1, COUNT, 2, height, width, dtype=torch.float64), weights


def scan_operands(length: int = LENGTH) -> dict[str, Tensor | bool]:
    return {
        "delta": normal(BATCH, CHANNELS, length, seed=1),
        "A": -normal(CHANNELS, STATES, seed=2).exp(),
        "B": normal(BATCH, STATES, length, seed=3),
        "C": normal(BATCH, STATES, length, seed=4),
        "D": normal(CHANNELS, seed=5),
        "z": normal(BATCH, CHANNELS, length, seed=6),
        "delta_bias": normal(CHANNELS, seed=7),
        "delta_softplus": True,
    }


X = normal(BATCH, CHANNELS, HEIGHT, WIDTH, seed=8)
OFFSETS = 1.5 * normal(BATCH, 2, COUNT, 2, HEIGHT, WIDTH, seed=9)
ANCHORS = anchor_grid(COUNT).double()


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_centre_weight_and_no_offsets_is_the_plain_scan(kind: str) -> None:
    offsets, weights = centre_only()
    if kind == "dynamic":
        weights = weights[:1, :, None, None].expand(BATCH, 1, COUNT, HEIGHT, WIDTH)
    plain = selective_scan(X.flatten(2), **scan_operands()).view_as(X)
    for given in (offsets, None):
        got = deformable_selective_scan(X, given, weights, ANCHORS, **scan_operands())
        torch.testing.assert_close(got, plain, rtol=1e-13, atol=1e-13)


def test_without_memory_it_is_a_deformable_depthwise_convolution() -> None:
    weights = normal(CHANNELS, COUNT, seed=10)
    step = 1000.0
    delta = torch.full((BATCH, CHANNELS, LENGTH), step, dtype=torch.float64)
    A = -torch.ones(CHANNELS, 1, dtype=torch.float64)
    B = torch.full((BATCH, 1, LENGTH), 1 / step, dtype=torch.float64)
    got = deformable_selective_scan(X, OFFSETS, weights, ANCHORS, delta, A, B, torch.ones_like(B))
    wanted = deform_conv2d(
        X, OFFSETS.reshape(BATCH, -1, HEIGHT, WIDTH), weights.view(CHANNELS, 1, 3, 3), padding=1
    )
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (0, -2), (-3, 2), (7, 0)])
def test_equal_whole_offsets_scan_the_shifted_map(dy: int, dx: int) -> None:
    offsets, weights = centre_only()
    offsets += torch.tensor([dy, dx], dtype=torch.float64)[:, None, None]
    shifted = torch.zeros_like(X)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            if 0 <= row + dy < HEIGHT and 0 <= column + dx < WIDTH:
                shifted[:, :, row, column] = X[:, :, row + dy, column + dx]
    got = deformable_selective_scan(X, offsets, weights, ANCHORS, **scan_operands())
    wanted = selective_scan(shifted.flatten(2), **scan_operands()).view_as(X)
    torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_equals_reference_with_every_gradient(kind: str, residual: bool) -> None:
    weights = normal(CHANNELS, COUNT) if kind == "static" else normal(BATCH, 2, COUNT, HEIGHT, WIDTH)
    results = []
    for function in (deformable_selective_scan, deformable_selective_scan_reference):
        operands = {
            name: value.clone().requires_grad_() if isinstance(value, Tensor) else value
            for name, value in scan_operands().items()
        }
        maps = [value.clone().requires_grad_() for value in (X, OFFSETS, weights, ANCHORS + 0.1)]
        y = function(*maps, **operands, residual=residual, between=torch.tanh)
        leaves = maps + [value for value in operands.values() if isinstance(value, Tensor)]
        results.append([y, *torch.autograd.grad((y * normal(*y.shape, seed=11)).sum(), leaves)])
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-11)


def test_gradcheck() -> None:
    x, offsets = normal(1, 2, 2, 3), 0.6 * normal(1, 1, 4, 2, 2, 3, seed=1)
    maps = [x, offsets, normal(2, 4, seed=2), anchor_grid(4).double()]
    sequences = [normal(1, 2, 2, 3, seed=3), -normal(2, 2, seed=4).exp(), normal(1, 2, 6), normal(1, 2, 6)]
    leaves = [value.requires_grad_() for value in maps + sequences]
    assert torch.autograd.gradcheck(
        lambda *values: deformable_selective_scan(*values, delta_softplus=True), leaves
    )


def test_output_does_not_depend_on_tokens_later_than_every_sample() -> None:
    x = X[:1].clone().requires_grad_()
    offsets = OFFSETS[:1, :1]
    operands = {
        name: value[:1] if isinstance(value, Tensor) and value.dim() == 3 else value
        for name, value in scan_operands().items()
    }
    y = deformable_selective_scan(x, offsets, normal(CHANNELS, COUNT), ANCHORS, **operands).flatten(2)
    rows = torch.arange(HEIGHT)[:, None] + ANCHORS[:, 0, None, None] + offsets[0, 0, :, 0]
    columns = torch.arange(WIDTH) + ANCHORS[:, 1, None, None] + offsets[0, 0, :, 1]
    latest, restricted = -1, 0
    for t in range(LENGTH):
        for k in range(COUNT):
            row, column = (int(p[k].flatten()[t].floor()) for p in (rows, columns))
            for r, c in ((row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)):
                if 0 <= r < HEIGHT and 0 <= c < WIDTH:
                    latest = max(latest, r * WIDTH + c)
        (gradient,) = torch.autograd.grad(y[0, :, t].sum(), x, retain_graph=True)
        touched = gradient.flatten(2).abs().amax((0, 1))
        assert not touched[latest + 1 :].any()
        assert touched[: latest + 1].any()
        restricted += latest + 1 < LENGTH
    assert restricted > 0


class _Work(TorchDispatchMode):
    """Adds up the elements that every operator reads and writes; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [value for value in (*args, result) if isinstance(value, Tensor)]
            self.elements += sum(tensor.numel() for tensor in tensors)
        return result


def quadratic_share(layer: Callable[[Tensor], Tensor]) -> float:
    """Elements and multiply-adds that grow with the square of the tokens, for a pair of tokens.

    Three times as many tokens in steps of one: what is linear cancels in the second difference, c T^2 leaves
    2 c (T / 3)^2. Operators are those inside the layer, so it must be no operator of its own.
    """
    height, width = 32, 20

    def work(height: int) -> int:
        x = normal(BATCH, CHANNELS, height, width)
        with torch.no_grad(), FlopCounterMode(display=False) as products, _Work() as counted:
            layer(x)
        return counted.elements + products.get_total_flops()

    once, twice, three = (work(times * height) for times in (1, 2, 3))
    return (three - 2 * twice + once) / (2 * (height * width) ** 2)


def sampled_and_scanned(x: Tensor) -> Tensor:
    """The plain forms, all of whose operators are PyTorch's."""
    height, width = x.shape[2:]
    offsets, _ = centre_only(height, width)
    weights = normal(BATCH, 1, COUNT, height, width)
    mixed = sample_plain.forward(x, offsets, weights, ANCHORS)
    return scan_plain.forward(mixed.flatten(2), *scan_operands(height * width).values())[0]


def test_work_grows_linearly_with_the_number_of_tokens() -> None:
    assert abs(quadratic_share(sampled_and_scanned)) < 0.01


def test_a_dense_product_inside_is_noticed() -> None:
    def dense(x: Tensor) -> Tensor:
        tokens = sampled_and_scanned(x).mT
        return tokens @ tokens.mT @ tokens

    assert quadratic_share(dense) > 1


def test_maps_or_sequences_of_steps_and_gates() -> None:
    offsets, weights = centre_only()
    operands = scan_operands()
    wanted = deformable_selective_scan(X, offsets, weights, ANCHORS, **operands)
    for name in ("delta", "z"):
        operands[name] = operands[name].view_as(X)
    assert torch.equal(deformable_selective_scan(X, offsets, weights, ANCHORS, **operands), wanted)
    half = deformable_selective_scan(X.bfloat16(), offsets, weights, ANCHORS, **operands)
    assert half.dtype == torch.bfloat16


def test_wrong_shapes() -> None:
    offsets, weights = centre_only()
    operands = scan_operands()
    for name in ("delta", "z"):
        wrong = {**operands, name: torch.zeros(BATCH, CHANNELS, LENGTH + 1)}
        with pytest.raises(ValueError, match=rf"{name} has shape .* expected \(2, 4, 5, 6\) or \(2, 4, 30\)"):
            deformable_selective_scan(X, offsets, weights, ANCHORS, **wrong)
    with pytest.raises(ValueError, match="between returned shape"):
        deformable_selective_scan(X, offsets, weights, ANCHORS, **operands, between=lambda m: m[:, :2])
