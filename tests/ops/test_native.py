"""The C kernels against the references, on every instruction set of this machine, and their absence."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dfmamba.ops import (
    anchor_grid,
    deformable_sample,
    deformable_sample_reference,
    native,
    selective_scan,
    selective_scan_reference,
    use_backend,
)

built = pytest.mark.skipif(not native.available(), reason="the C kernels are not built here (no compiler)")


@pytest.fixture(params=["portable", "avx2", "avx512"])
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test on one instruction set, if the machine has it."""
    if not native.available():
        pytest.skip("the C kernels are not built here (no compiler)")
    found = native.instruction_set(request.param)
    try:
        if found != request.param:
            pytest.skip(f"this machine has no {request.param}")
        yield found
    finally:
        native.instruction_set()


def assert_near(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Largest difference relative to the largest value."""
    assert found.shape == wanted.shape
    largest = wanted.abs().max().clamp(min=1e-6)
    assert ((found.double() - wanted.double()).abs().max() / largest).item() < tolerance


def compare(function, reference, operands: list[Tensor | None], tolerance: float = 5e-6) -> None:
    """Results and all gradients of the C kernels and of the reference in double precision."""
    outcomes = []
    for run, dtype in ((function, None), (reference, torch.float64)):
        leaves = [None if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for t in operands]
        with use_backend("native"):
            results = run(*leaves)
        results = results if isinstance(results, tuple) else (results,)
        generator = torch.Generator().manual_seed(3)
        weights = [
            torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results
        ]
        gradients = torch.autograd.grad(results, [t for t in leaves if t is not None], weights)
        outcomes.append([*results, *gradients])
    for found, wanted in zip(*outcomes, strict=True):
        assert_near(found.detach(), wanted.detach(), tolerance)


SCANS = [
    # batch, D, L, N, groups of B, groups of C, (D, z, delta_bias), softplus, channels adjacent
    (2, 35, 17, 3, 0, 0, (True, True, True), True, False),
    (1, 40, 600, 2, 2, 1, (True, False, True), True, True),
    (3, 16, 9, 1, 1, 1, (False, True, False), True, True),
    (1, 5, 33, 2, 5, 5, (True, True, False), False, False),
    (2, 1, 1, 4, 1, 1, (True, True, True), True, False),
    (1, 48, 70, 17, 3, 3, (False, False, False), False, True),
]


@pytest.mark.parametrize("case", SCANS)
def test_scan(instructions: str, case: tuple) -> None:
    batch, channels, length, states, groups_b, groups_c, (skip, gate, bias), softplus, adjacent = case
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def sequence() -> Tensor:
        if adjacent:
            return normal(batch, length, channels).transpose(1, 2)
        return normal(batch, channels, length)

    def matrix(groups: int) -> Tensor:
        return normal(batch, groups, states, length) if groups else normal(batch, states, length)

    operands = [
        sequence(),
        sequence() if softplus else sequence().abs() * 0.5,
        -torch.rand(channels, states, generator=generator) * 3,
        matrix(groups_b),
        matrix(groups_c),
        normal(channels) if skip else None,
        sequence() if gate else None,
        normal(channels) * 0.1 if bias else None,
    ]
    compare(
        lambda *t: selective_scan(*t, delta_softplus=softplus, return_last_state=True),
        lambda *t: selective_scan_reference(*t, softplus, True),
        operands,
    )


def test_large_steps_and_exponents(instructions: str) -> None:
    """Steps up to 80, states that decay to nothing at once, and a gate far from zero."""
    generator = torch.Generator().manual_seed(0)
    u, z = torch.randn(2, 1, 20, 30, generator=generator)
    delta = torch.linspace(-90, 80, 600).view(1, 20, 30)
    A = -torch.logspace(-3, 3, 40).view(20, 2)
    B, C = torch.randn(2, 1, 2, 30, generator=generator)
    compare(
        lambda *t: selective_scan(*t, delta_softplus=True),
        lambda *t: selective_scan_reference(*t, True),
        [u, delta, A, B, C, None, 40 * z, None],
    )


SAMPLES = [
    # batch, C, H, W, K, groups of offsets, groups of weights (None: per channel), spread
    (2, 36, 5, 7, 9, 1, 1, 2.0),
    (1, 64, 8, 8, 9, 4, 1, 1.0),
    (2, 36, 3, 5, 4, 2, 3, 4.0),
    (1, 20, 6, 6, 9, None, 2, 0.0),
    (2, 37, 6, 4, 9, 1, None, 9.0),
    (1, 16, 5, 5, 1, None, None, 0.0),
    (1, 1, 1, 1, 25, 1, 1, 1.0),
]


@pytest.mark.parametrize("case", SAMPLES)
def test_sample(instructions: str, case: tuple) -> None:
    batch, channels, height, width, count, moved, weighted, spread = case
    generator = torch.Generator().manual_seed(count)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    operands = [
        normal(batch, channels, height, width),
        None if moved is None else normal(batch, moved, count, 2, height, width) * spread,
        normal(channels, count) if weighted is None else normal(batch, weighted, count, height, width),
        anchor_grid(count) + 0.1 * normal(count, 2),
    ]
    compare(deformable_sample, deformable_sample_reference, operands)


def test_wild_positions_stay_inside_memory(instructions: str) -> None:
    x, weights = torch.ones(1, 3, 4, 4), torch.ones(3, 1)
    for value in (1e30, -1e30, 3e9, -3e9, 4.0, -4.0):
        offsets = torch.full((1, 1, 1, 2, 4, 4), value)
        with use_backend("native"):
            y = deformable_sample(x, offsets, weights, torch.zeros(1, 2))
        assert torch.equal(y, torch.zeros_like(y))
    offsets = torch.zeros(1, 1, 1, 2, 4, 4)
    offsets[..., 2, 1] = float("nan")
    with use_backend("native"):
        y = deformable_sample(x, offsets, weights, torch.zeros(1, 2))
    assert y.isnan().sum() == 3
    assert y[..., 2, 1].isnan().all()


@built
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    u, delta = torch.randn(2, 1, 4, 20, generator=generator).to(dtype)
    A, B, C = -torch.ones(4, 2), *torch.randn(2, 1, 2, 20, generator=generator).to(dtype)
    with use_backend("native"):
        y = selective_scan(u, delta, A, B, C, delta_softplus=True)
    wanted = selective_scan_reference(
        u.double(), delta.double(), A.double(), B.double(), C.double(), None, None, None, True
    )
    assert y.dtype == dtype
    assert_near(y, wanted, 2e-2 if dtype == torch.bfloat16 else 2e-3)


@built
def test_what_the_kernels_do_not_take_is_refused_by_name_and_replaced_otherwise() -> None:
    u = torch.ones(1, 2, 3, dtype=torch.float64)
    A, B = -torch.ones(2, 1, dtype=torch.float64), torch.ones(1, 1, 3, dtype=torch.float64)
    with use_backend("native"), pytest.raises(RuntimeError, match="'native' was asked for, but takes only"):
        selective_scan(u, u, A, B, B)
    assert selective_scan(u, u, A, B, B).dtype == torch.float64


def test_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("dfmamba.ops.native")
    u, A, B = torch.ones(1, 2, 3), -torch.ones(2, 1), torch.ones(1, 1, 3)
    usual = selective_scan(u, u, A, B, B)
    monkeypatch.setattr(module, "library", lambda: None)
    assert not native.available()
    assert torch.allclose(selective_scan(u, u, A, B, B), usual, rtol=1e-5)
    with use_backend("native"), pytest.raises(RuntimeError, match="C kernels are not built here"):
        selective_scan(u, u, A, B, B)
