"""The shapes, dtypes and switches that mamba-ssm's own test of `selective_scan_fn` covers, for real A.

Source of the table: state-spaces/mamba, tests/ops/test_selective_scan.py (batch 2, 4 channels, 8 states;
lengths up to 4096; variable B and C with one or two groups; float32, float16, bfloat16 sequences beside
float32 A, D and delta_bias). The tolerances are those of one rounding to the dtype and of float32 sums.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfmamba.ops import selective_scan, selective_scan_reference, use_backend

TOLERANCES = {torch.float32: 2e-4, torch.float16: 6e-3, torch.bfloat16: 5e-2}
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def operands(length: int, groups: int, dtype: torch.dtype, skip: bool, gate: bool, bias: bool) -> list:
    generator = torch.Generator().manual_seed(length)
    batch, channels, states = 2, 4, 8

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    matrix = (batch, states, length) if groups == 1 else (batch, groups, states, length)
    return [
        normal(batch, channels, length).to(dtype),
        (0.5 * torch.rand(batch, channels, length, generator=generator)).to(dtype),
        -0.5 * torch.rand(channels, states, generator=generator),
        normal(*matrix).to(dtype),
        normal(*matrix).to(dtype),
        normal(channels) if skip else None,
        normal(batch, channels, length).to(dtype) if gate else None,
        0.5 * torch.rand(channels, generator=generator) if bias else None,
    ]


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("length", "skip", "gate", "bias", "softplus"),
    [
        (1, True, True, True, True),
        (8, True, True, True, True),
        (37, False, True, False, True),
        (128, True, False, True, False),
        (372, False, False, False, False),
        (1134, True, True, True, True),
    ],
)
def test_table(
    backend: str,
    dtype: torch.dtype,
    groups: int,
    length: int,
    skip: bool,
    gate: bool,
    bias: bool,
    softplus: bool,
) -> None:
    values = operands(length, groups, dtype, skip, gate, bias)
    weight = torch.randn(2, 4, length, generator=torch.Generator().manual_seed(1))
    found, wanted = [], []
    for function, target in ((selective_scan, found), (selective_scan_reference, wanted)):
        leaves = [
            None if v is None else (v.clone() if target is found else v.double()).requires_grad_()
            for v in values
        ]
        with use_backend(backend):
            y, last = function(*leaves, delta_softplus=softplus, return_last_state=True)
        target += [y, last]
        present = [leaf for leaf in leaves if leaf is not None]
        target += torch.autograd.grad((y * weight).sum() + last.sum(), present)
    assert found[0].dtype == dtype
    names = ["y", "last", *(n for n, v in zip(NAMES, values, strict=True) if v is not None)]
    for name, one, other in zip(names, found, wanted, strict=True):
        assert one.shape == other.shape, name
        error = (one.double() - other.double()).abs().max() / other.abs().max().clamp(min=1e-3)
        assert error < TOLERANCES[dtype], f"{name}: {error:.1e}"
