"""The selective scan against a NumPy recurrence, its reference, and gradcheck."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from dfmamba.ops import selective_scan, selective_scan_reference
from dfmamba.ops.selective_scan.plain import piece_length, recur

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def operands(
    batch: int,
    channels: int,
    length: int,
    states: int,
    matrices: str = "shared",
    dtype: torch.dtype = torch.float64,
    channels_last: bool = False,
    seed: int = 0,
) -> list[Tensor]:
    """Random operands in the order of `NAMES`; matrices: "shared", "constant" or a number of groups."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    def sequence() -> Tensor:
        if channels_last:
            return normal(batch, length, channels).transpose(1, 2)
        return normal(batch, channels, length)

    shape: tuple[int, ...] = (batch, states, length)
    if matrices == "constant":
        shape = (channels, states)
    elif matrices != "shared":
        shape = (batch, int(matrices), states, length)
    decay = -torch.rand(channels, states, generator=generator, dtype=dtype) - 0.1
    return [
        sequence(),
        sequence(),
        decay,
        normal(*shape),
        normal(*shape),
        normal(channels),
        sequence(),
        normal(channels),
    ]


def numpy_scan(values: Sequence[Tensor], softplus: bool) -> tuple[np.ndarray, np.ndarray]:
    """The definition, element by element over batch, channel and state, in float64."""
    u, delta, A, B, C, D, z, bias = (value.detach().double().numpy() for value in values)
    batch, channels, length = u.shape
    states = A.shape[1]
    y, last = np.zeros_like(u), np.zeros((batch, channels, states))

    def entry(matrix: np.ndarray, b: int, d: int, n: int, t: int) -> float:
        if matrix.ndim == 2:
            return matrix[d, n]
        if matrix.ndim == 3:
            return matrix[b, n, t]
        return matrix[b, d * matrix.shape[1] // channels, n, t]

    for b in range(batch):
        for d in range(channels):
            h = np.zeros(states)
            for t in range(length):
                s = delta[b, d, t] + bias[d]
                s = np.logaddexp(0.0, s) if softplus else s
                total = D[d] * u[b, d, t]
                for n in range(states):
                    h[n] = np.exp(s * A[d, n]) * h[n] + s * entry(B, b, d, n, t) * u[b, d, t]
                    total += entry(C, b, d, n, t) * h[n]
                y[b, d, t] = total * z[b, d, t] / (1 + np.exp(-z[b, d, t]))
            last[b, d] = h
    return y, last


def relative(got: Tensor, wanted: Tensor) -> float:
    got, wanted = got.detach().double(), wanted.detach().double()
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def gradients(function, values: Sequence[Tensor], **options) -> tuple[Tensor, ...]:
    """y, last state and every gradient, under fixed random weights on both results."""
    leaves = [value.detach().requires_grad_() for value in values]
    y, last = function(*leaves, return_last_state=True, **options)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in (y, last)]
    return y, last, *torch.autograd.grad([y, last], leaves, weights)


@pytest.fixture(params=["loop", "pieces", "small blocks"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Forces each way through the fast path, whatever the shape."""
    cpu = importlib.import_module("dfmamba.ops.selective_scan.plain")
    recurrence = importlib.import_module("dfmamba.ops.selective_scan.plain")
    if request.param == "loop":
        monkeypatch.setattr(recurrence, "SMALL_STEP_ELEMENTS", 0)
    else:
        monkeypatch.setattr(recurrence, "SMALL_STEP_ELEMENTS", 1 << 30)
        monkeypatch.setattr(recurrence, "SHORTEST_CUT", 2)
    if request.param == "small blocks":
        monkeypatch.setattr(cpu, "BLOCK_ELEMENTS", 200)
    return request.param


SHAPES = [
    (2, 6, 37, 3, "shared"),
    (1, 5, 53, 1, "shared"),
    (2, 6, 41, 8, "3"),
    (1, 4, 19, 16, "2"),
    (2, 3, 23, 2, "constant"),
    (3, 4, 1, 3, "shared"),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("softplus", [False, True])
def test_equals_numpy_recurrence(shape: tuple, softplus: bool) -> None:
    values = operands(*shape)
    y, last = numpy_scan(values, softplus)
    for function in (selective_scan, selective_scan_reference):
        got = function(*values, delta_softplus=softplus, return_last_state=True)
        np.testing.assert_allclose(got[0].numpy(), y, rtol=1e-11, atol=1e-11 * np.abs(y).max())
        np.testing.assert_allclose(got[1].numpy(), last, rtol=1e-11, atol=1e-11 * np.abs(last).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_equal_reference(shape: tuple, channels_last: bool, route: str) -> None:
    values = operands(*shape, channels_last=channels_last)
    for softplus in (False, True):
        fast = gradients(selective_scan, values, delta_softplus=softplus)
        slow = gradients(selective_scan_reference, values, delta_softplus=softplus)
        for name, got, wanted in zip(("y", "last", *NAMES), fast, slow, strict=True):
            assert got.shape == wanted.shape
            assert relative(got, wanted) < 1e-12, name
        with torch.no_grad():
            y, last = selective_scan(*values, delta_softplus=softplus, return_last_state=True)
        assert relative(y, slow[0]) < 1e-12
        assert relative(last, slow[1]) < 1e-12


@pytest.mark.parametrize(("B_kind", "C_kind"), [("shared", "3"), ("3", "constant"), ("1", "2")])
def test_mixed_matrix_shapes(B_kind: str, C_kind: str) -> None:
    values = operands(2, 6, 11, 3, B_kind)
    values[4] = operands(2, 6, 11, 3, C_kind, seed=1)[4]
    fast = gradients(selective_scan, values)
    slow = gradients(selective_scan_reference, values)
    assert all(relative(a, b) < 1e-12 for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("missing", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")])
def test_optional_operands(missing: tuple[str, ...]) -> None:
    values = operands(2, 4, 13, 2)
    kept = {name: v.requires_grad_() for name, v in zip(NAMES, values, strict=True) if name not in missing}
    results = [f(**kept, delta_softplus=True) for f in (selective_scan, selective_scan_reference)]
    assert relative(results[0], results[1]) < 1e-12
    grads = [torch.autograd.grad(y.square().sum(), list(kept.values())) for y in results]
    assert all(relative(a, b) < 1e-12 for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("matrices", ["shared", "2", "constant"])
def test_gradcheck(matrices: str, route: str) -> None:
    values = [value.requires_grad_() for value in operands(1, 2, 5, 2, matrices)]

    def scan(*inputs: Tensor):
        return selective_scan(*inputs, delta_softplus=True, return_last_state=True)

    assert torch.autograd.gradcheck(scan, values)


def test_gradient_of_last_state_alone() -> None:
    values = [value.requires_grad_() for value in operands(1, 3, 7, 2)]
    grads = []
    for function in (selective_scan, selective_scan_reference):
        _, last = function(*values, return_last_state=True)
        grads.append(torch.autograd.grad(last.sum(), values[:4]))
    assert all(relative(a, b) < 1e-12 for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("step", [1e-4, 1.0, 10.0])
@pytest.mark.parametrize(("length", "states"), [(300, 1), (300, 8), (64, 16)])
def test_single_precision_and_large_steps(step: float, length: int, states: int) -> None:
    """Large steps break any form built on exponentials of cumulated sums."""
    values = operands(2, 5, length, states, dtype=torch.float32)
    values[1] = torch.rand(values[1].shape) * step
    values[2] = -torch.arange(1.0, states + 1).expand(5, states).clone()
    values[7] = torch.zeros(5)
    fast = gradients(selective_scan, values)
    exact = gradients(selective_scan_reference, [value.double() for value in values])
    for name, got, wanted in zip(("y", "last", *NAMES), fast, exact, strict=True):
        assert got.dtype == torch.float32
        assert relative(got, wanted) < 1e-5, name
    assert relative(fast[0], exact[0]) < 2e-6


def test_dtypes_and_autocast() -> None:
    values = operands(2, 4, 9, 2, dtype=torch.float32)
    exact = selective_scan(*values, delta_softplus=True)
    assert exact.dtype == torch.float32
    half = [value.bfloat16().requires_grad_() if value.dim() == 3 else value for value in values]
    y, last = selective_scan(*half, delta_softplus=True, return_last_state=True)
    assert y.dtype == torch.bfloat16
    assert last.dtype == torch.float32
    assert relative(y, exact) < 0.05
    y.sum().backward()
    assert half[0].grad is not None
    assert half[0].grad.dtype == torch.bfloat16
    leaves = [value.requires_grad_() for value in values]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = selective_scan(*leaves, delta_softplus=True)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, exact)


def test_memory_order_follows_u() -> None:
    assert selective_scan(*operands(2, 4, 9, 2)).is_contiguous()
    y = selective_scan(*operands(2, 4, 9, 2, channels_last=True))
    assert y.transpose(1, 2).is_contiguous()


def test_inputs_are_not_changed_and_changes_are_noticed() -> None:
    values = operands(1, 3, 60, 2, channels_last=True)
    copies = [value.clone() for value in values]
    u = values[0].requires_grad_()
    y = selective_scan(*values)
    assert all(torch.equal(a, b) for a, b in zip(values, copies, strict=True))
    with torch.no_grad():
        u.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_second_order_is_refused() -> None:
    u, *rest = operands(1, 2, 3, 1)
    y = selective_scan(u.requires_grad_(), *rest)
    (gradient,) = torch.autograd.grad(y.square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once, not twice"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("u", (2, 4), r"u has shape \(2, 4\), expected \(batch, D, L\)"),
        ("delta", (2, 4, 8), r"delta has shape \(2, 4, 8\), expected \(2, 4, 9\)"),
        ("A", (3, 2), r"A has shape \(3, 2\), expected \(4, N\)"),
        ("B", (2, 3, 9), r"B has shape \(2, 3, 9\), expected \(2, 2, 9\) or \(4, 2\)"),
        ("B", (2, 3, 2, 9), "B has 3 groups"),
        ("C", (2, 2, 2, 7), r"C has shape .* expected \(2, 2, 2, 9\)"),
        ("D", (4, 1), r"D has shape \(4, 1\), expected \(4,\)"),
        ("z", (2, 9, 4), r"z has shape \(2, 9, 4\), expected \(2, 4, 9\)"),
        ("delta_bias", (1,), r"delta_bias has shape \(1,\), expected \(4,\)"),
    ],
)
def test_wrong_shapes(name: str, shape: tuple[int, ...], message: str) -> None:
    values = dict(zip(NAMES, operands(2, 4, 9, 2), strict=True))
    values[name] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        selective_scan(**values)


def test_wrong_types_and_group_mixtures() -> None:
    values = dict(zip(NAMES, operands(2, 4, 9, 2), strict=True))
    with pytest.raises(ValueError, match=r"A is torch\.complex128, expected real"):
        selective_scan(**{**values, "A": values["A"].to(torch.complex128)})
    with pytest.raises(ValueError, match=r"u is torch\.int64"):
        selective_scan(**{**values, "u": values["u"].long()})
    grouped = {"B": torch.zeros(2, 2, 2, 9), "C": torch.zeros(2, 4, 2, 9)}
    with pytest.raises(ValueError, match="B has 2 groups and C 4"):
        selective_scan(**{**values, **grouped})


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 47, 64, 100, 1021])
@pytest.mark.parametrize("reverse", [False, True])
def test_recurrence_in_pieces(steps: int, reverse: bool, route: str) -> None:
    assert 1 <= piece_length(steps) <= steps
    generator = torch.Generator().manual_seed(steps)
    a, b = torch.rand(2, steps, 3, generator=generator, dtype=torch.float64)
    first = torch.randn(3, generator=generator, dtype=torch.float64)
    h, decays = b.clone(), a.clone()
    recur(a, h, first, torch.empty_like(a), reverse)
    state = first
    for t in range(steps - 1, -1, -1) if reverse else range(steps):
        state = decays[t] * state + b[t]
        torch.testing.assert_close(h[t], state, rtol=1e-12, atol=1e-12)
    assert torch.equal(a, decays)
