"""The Triton kernels against the references, every gradient included; `test_triton.py` runs this file.

With ``TRITON_INTERPRET=1`` on a CPU, else on a GPU. The interpreter takes milliseconds per tile operation, so
shapes are tiny: chunks of 8 steps and blocks of 4 channels still make several programs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dfmamba.ops import (
    anchor_grid,
    deformable_sample_reference,
    deformable_selective_scan,
    deformable_selective_scan_reference,
    selective_scan_reference,
    triton_common,
    use_backend,
)
from dfmamba.ops.deformable_sample.triton_kernels import deformable_sample_backward, deformable_sample_forward
from dfmamba.ops.deformable_selective_scan.triton_kernels import (
    deformable_selective_scan_backward,
    deformable_selective_scan_forward,
)
from dfmamba.ops.selective_scan.triton_kernels import selective_scan_backward, selective_scan_forward

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
gpu_only = pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")

Operands = tuple[Tensor | None, ...]


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_common, "LONGEST_TILE", 8)
    monkeypatch.setattr(triton_common, "CHUNK", 8)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def leaves_of(operands: Operands) -> list[Tensor | None]:
    return [None if t is None else t.double().requires_grad_() for t in operands]


def assert_near(got: Sequence[Tensor | None], wanted: Sequence[Tensor | None], names: Sequence[str]) -> None:
    """Differences are measured against the largest entry of each tensor, in the dtype that it came in."""
    for name, a, b in zip(names, got, wanted, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            assert a.shape == b.shape, name
            assert torch.isfinite(a).all(), name
            error = (a.double() - b).abs().max().item()
            assert error <= TOLERANCE[a.dtype] * max(1.0, b.abs().max().item()), f"{name}: off by {error}"


def gradients(total: Tensor, leaves: Sequence[Tensor | None]) -> list[Tensor | None]:
    found = iter(torch.autograd.grad(total, [leaf for leaf in leaves if leaf is not None]))
    return [None if leaf is None else next(found) for leaf in leaves]


SCAN_NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def scan_operands(
    batch: int,
    channels: int,
    length: int,
    states: int,
    groups: tuple[int, int] = (0, 0),
    without: Sequence[str] = (),
    arrange: Callable[[Tensor], Tensor] = channels_last,
) -> dict[str, Tensor | None]:
    """By name; groups of B and C, 0 for matrices without an axis of groups."""

    def matrix(count: int, seed: int) -> Tensor:
        return normal(*((batch, count, states, length) if count else (batch, states, length)), seed=seed)

    sequences = [arrange(normal(batch, channels, length, seed=seed)) for seed in (0, 1, 2)]
    decay = -normal(channels, states, seed=3).exp()
    values = (
        sequences[0], sequences[1], decay, matrix(groups[0], 4), matrix(groups[1], 5),
        normal(channels, seed=6), sequences[2], normal(channels, seed=7),
    )  # fmt: skip
    return {n: None if n in without else v for n, v in zip(SCAN_NAMES, values, strict=True)}


def check_scan(operands: dict[str, Tensor | None], softplus: bool, final: bool = True) -> None:
    values = tuple(operands.values())
    y, last = selective_scan_forward(*values, softplus)
    leaves = leaves_of(values)
    wanted_y, wanted_last = selective_scan_reference(*leaves, softplus, True)
    assert y.dtype == values[0].dtype
    assert last.dtype == torch.float32
    assert_near([y, last], [wanted_y, wanted_last], ["y", "last"])
    grad_y, grad_last = normal(*y.shape, seed=8).to(y.dtype), normal(*last.shape, seed=9)
    total = (wanted_y * grad_y).sum() + ((wanted_last * grad_last).sum() if final else 0.0)
    got = selective_scan_backward(grad_y, grad_last if final else None, *values, softplus)
    assert [None if g is None else g.dtype for g in got] == [None if v is None else v.dtype for v in values]
    assert_near(got, gradients(total, leaves), SCAN_NAMES)


@pytest.mark.usefixtures("short_chunks")
@pytest.mark.parametrize(("length", "states", "final"), [(17, 3, True), (9, 1, False)])
def test_scan_of_several_chunks_with_every_operand(length: int, states: int, final: bool) -> None:
    check_scan(scan_operands(1, 5, length, states), True, final)


@pytest.mark.parametrize(
    ("operands", "softplus"),
    [
        (scan_operands(2, 5, 7, 1, without=("D", "z", "delta_bias")), True),
        (scan_operands(1, 6, 9, 1, groups=(2, 1), without=("D",), arrange=torch.Tensor.contiguous), True),
        (scan_operands(1, 6, 5, 3, groups=(2, 2), without=("z",)), True),
        (scan_operands(1, 4, 5, 1, groups=(0, 2), without=("delta_bias",)), True),
        (scan_operands(1, 3, 1, 1), True),
    ],
    ids=["bare", "groups of B", "groups of both", "groups of C", "one step"],
)
def test_scan_of_one_chunk(operands: dict[str, Tensor | None], softplus: bool) -> None:
    check_scan(operands, softplus)


@pytest.mark.usefixtures("short_chunks")
def test_scan_without_softplus_and_steps_up_to_a_thousand() -> None:
    operands = scan_operands(1, 4, 11, 1)
    steps = 10.0 ** torch.linspace(-3, 3, 44, device=DEVICE)
    operands["delta"] = steps[torch.randperm(44, generator=torch.Generator().manual_seed(0))].view(1, 4, 11)
    operands["delta_bias"] = torch.rand(4, device=DEVICE)
    check_scan(operands, softplus=False)


def test_scan_of_slices() -> None:
    wide = scan_operands(2, 6, 10, 1, arrange=torch.Tensor.contiguous)
    values = {name: None if v is None else v[..., ::2] for name, v in wide.items()}
    halved = {"A": wide["A"][::2], "D": wide["D"][::2], "delta_bias": wide["delta_bias"][::2]}
    sequences = {name: values[name][:1, ::2] for name in ("u", "delta", "z")}
    matrices = {name: values[name][:1] for name in ("B", "C")}
    check_scan({name: {**halved, **sequences, **matrices}[name] for name in SCAN_NAMES}, True)


@HALVES
@pytest.mark.usefixtures("short_chunks")
def test_scan_in_half_precision(half: torch.dtype) -> None:
    operands = scan_operands(1, 4, 9, 1)
    for name in ("u", "delta", "B", "C", "z"):
        value = operands[name]
        assert value is not None
        operands[name] = value.to(half)
    check_scan(operands, True)


def test_small_steps_keep_their_relative_precision() -> None:
    delta = torch.linspace(-60, 60, 12, device=DEVICE)[None, :, None]
    one = torch.ones_like(delta)
    values = (one, delta, -one[0], one[:, :1], one[:, :1], None, None, None)
    y, _ = selective_scan_forward(*values, True)
    wanted = torch.nn.functional.softplus(delta.double())
    torch.testing.assert_close(y.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("matrix", ["B", "C"])
def test_scan_refuses_constant_matrices(matrix: str) -> None:
    operands = scan_operands(1, 4, 5, 3)
    operands[matrix] = operands["A"]
    with pytest.raises(ValueError, match=rf"{matrix} has shape \(4, 3\)"):
        selective_scan_forward(*operands.values(), True)


def test_operators_refuse_float64() -> None:
    scan, maps = scan_operands(1, 4, 15, 1), sample_operands()
    with pytest.raises(ValueError, match=r"A is torch\.float64"):
        selective_scan_forward(*({**scan, "A": scan["A"].double()}).values(), True)
    double = (*maps[:3], maps[3].double())
    with pytest.raises(ValueError, match=r"anchors is torch\.float64"):
        deformable_sample_forward(*double)
    with pytest.raises(ValueError, match=r"anchors is torch\.float64"):
        deformable_selective_scan_forward(*double, *tuple(scan.values())[1:], True, False)


SAMPLE_NAMES = ("x", "offsets", "weights", "anchors")


def sample_operands(
    channels: int = 4,
    size: tuple[int, int] = (3, 5),
    groups: tuple[int, int] = (1, 1),
    batch: int = 1,
    spread: float = 1.5,
    arrange: Callable[[Tensor], Tensor] = channels_last,
) -> Operands:
    """Groups of offsets and of weights; 0 for none, and for weights per channel."""
    anchors = anchor_grid(4).to(DEVICE) + 0.1
    x = arrange(normal(batch, channels, *size, seed=10))
    offsets = spread * normal(batch, groups[0], 4, 2, *size, seed=11) if groups[0] else None
    weights = normal(batch, groups[1], 4, *size, seed=12) if groups[1] else normal(channels, 4, seed=12)
    return x, offsets, weights, anchors


def check_sample(operands: Operands) -> None:
    out = deformable_sample_forward(*operands)
    leaves = leaves_of(operands)
    wanted = deformable_sample_reference(*leaves)
    grad = normal(*out.shape, seed=13).to(out.dtype)
    got = deformable_sample_backward(grad, *operands)
    assert [None if g is None else g.dtype for g in got] == [None if v is None else v.dtype for v in operands]
    assert_near([out, *got], [wanted, *gradients((wanted * grad).sum(), leaves)], ("out", *SAMPLE_NAMES))


@pytest.mark.parametrize(
    "operands",
    [
        sample_operands(4, groups=(2, 1)),
        sample_operands(6, (3, 3), groups=(1, 3), arrange=torch.Tensor.contiguous),
        sample_operands(5, groups=(1, 0)),
        sample_operands(5, (5, 7), groups=(0, 1)),
        sample_operands(4, groups=(0, 0), batch=2),
        sample_operands(4, groups=(1, 1), spread=30.0),
        sample_operands(8, groups=(1, 1), arrange=lambda x: x[:, ::2, :, :]),
    ],
    ids=[
        "offset groups",
        "weight groups",
        "static",
        "no offsets",
        "no offsets, static",
        "far outside",
        "slices",
    ],
)
def test_sample(operands: Operands) -> None:
    check_sample(operands)


def test_sample_at_whole_numbers_has_the_derivative_towards_larger_coordinates() -> None:
    x, offsets, weights, _ = sample_operands()
    assert offsets is not None
    check_sample((x, offsets.round(), weights, anchor_grid(4).to(DEVICE) + 0.5))


@HALVES
def test_sample_in_half_precision(half: torch.dtype) -> None:
    x, offsets, weights, anchors = sample_operands()
    assert x is not None
    assert offsets is not None
    assert weights is not None
    check_sample((x.to(half), offsets.to(half), weights.to(half), anchors))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(
        st.one_of(
            st.floats(-4, 4, width=32), st.integers(-4, 4).map(float), st.sampled_from([1e9, -1e30, 1e30])
        ),
        min_size=12,
        max_size=12,
    )
)
def test_sample_at_any_position(moves: list[float]) -> None:
    offsets = torch.tensor(moves, device=DEVICE).view(1, 1, 1, 2, 2, 3)
    weights = normal(1, 1, 1, 2, 3, seed=14)
    check_sample((normal(1, 2, 2, 3, seed=15), offsets, weights, torch.zeros(1, 2, device=DEVICE)))


FUSED_NAMES = (*SAMPLE_NAMES, *SCAN_NAMES[1:])


def check_fused(maps: Operands, scan: dict[str, Tensor | None], softplus: bool, residual: bool) -> None:
    values = (*maps, *tuple(scan.values())[1:])
    y, last = deformable_selective_scan_forward(*values, softplus, residual)
    leaves = leaves_of(values)
    wanted = deformable_selective_scan_reference(*leaves, softplus, residual)
    assert y.dtype == values[0].dtype
    assert last.dtype == torch.float32
    mixed = deformable_sample_reference(*leaves[:4])
    mixed = (mixed + leaves[0] if residual else mixed).flatten(2)
    flat = [
        t.flatten(2) if t is not None and t.dim() == 4 and i in (0, 5) else t
        for i, t in enumerate(leaves[4:])
    ]
    _, wanted_last = selective_scan_reference(mixed, *flat, softplus, True)
    grad = normal(*y.shape, seed=16).to(y.dtype)
    got = deformable_selective_scan_backward(grad, *values, softplus, residual)
    assert [None if g is None else g.dtype for g in got] == [None if v is None else v.dtype for v in values]
    found = gradients((wanted * grad).sum(), leaves)
    assert_near([y, last, *got], [wanted, wanted_last, *found], ("y", "last", *FUSED_NAMES))


@pytest.mark.usefixtures("short_chunks")
def test_fused_in_several_chunks() -> None:
    scan = scan_operands(1, 6, 15, 3, groups=(0, 2))
    check_fused(sample_operands(6, groups=(1, 2)), scan, True, residual=True)


@pytest.mark.parametrize("residual", [False, True], ids=["sampled alone", "residual"])
def test_fused_in_one_chunk_with_maps_as_sequences(residual: bool) -> None:
    scan = scan_operands(1, 5, 15, 1, without=() if residual else ("D", "z", "delta_bias"))
    scan["delta"] = scan["delta"].unflatten(2, (3, 5))
    if scan["z"] is not None:
        scan["z"] = scan["z"].unflatten(2, (3, 5))
    maps = sample_operands(5, groups=(1, 0) if residual else (0, 1), arrange=torch.Tensor.contiguous)
    check_fused(maps, scan, True, residual)


@HALVES
def test_fused_in_half_precision(half: torch.dtype) -> None:
    scan = scan_operands(1, 4, 15, 1)
    maps = [t if i == 3 or t is None else t.to(half) for i, t in enumerate(sample_operands())]
    for name in ("delta", "B", "C", "z"):
        value = scan[name]
        assert value is not None
        scan[name] = value.to(half)
    check_fused(tuple(maps), scan, True, residual=True)


@pytest.mark.parametrize("between", [None, torch.tanh], ids=["one kernel", "norm between"])
def test_public_operators_run_on_the_kernels(between: Callable[[Tensor], Tensor] | None) -> None:
    """Dispatch, `opcheck` of the fused operator, and gradients through autograd."""
    values = [
        None if t is None else t.requires_grad_()
        for t in (*sample_operands(4), *tuple(scan_operands(1, 4, 15, 1).values())[1:])
    ]
    leaves = leaves_of(tuple(values))
    wanted = deformable_selective_scan_reference(*leaves, True, True, between)
    with use_backend("triton"):
        y = deformable_selective_scan(*values, True, True, between)
        grad = normal(*y.shape, seed=16)
        found = gradients((y * grad).sum(), values)
        if between is None:
            from dfmamba.ops.deformable_selective_scan import fused

            checks = ("test_schema", "test_autograd_registration", "test_faketensor")
            torch.library.opcheck(fused, (*values, True, True), test_utils=checks)
    assert_near([y, *found], [wanted, *gradients((wanted * grad).sum(), leaves)], ("y", *FUSED_NAMES))


@gpu_only
@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 31)], ids=["one chunk", "several chunks"])
@pytest.mark.parametrize("states", [1, 16])
def test_sizes_of_a_network(height: int, width: int, states: int) -> None:
    scan = scan_operands(2, 96, height * width, states)
    check_scan(scan, True)
    check_fused(sample_operands(96, (height, width), (1, 1), batch=2), scan, True, residual=True)


@gpu_only
def test_gradients_of_the_scan_repeat_to_the_bit() -> None:
    values = tuple(scan_operands(2, 40, 600, 3).values())
    grad_y = normal(2, 40, 600, seed=17)
    first, second = (selective_scan_backward(grad_y, None, *values, True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@gpu_only
def test_a_captured_graph_replays() -> None:
    scan, maps = scan_operands(2, 24, 35, 1), sample_operands(24, (5, 7), (1, 1), batch=2)
    values = (*maps, *tuple(scan.values())[1:])

    def run() -> Tensor:
        return deformable_selective_scan_forward(*values, True, True)[0]

    wanted = run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    got.zero_()
    graph.replay()
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
