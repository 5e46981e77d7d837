"""The switch between fast and reference operators."""

from __future__ import annotations

import importlib

import pytest
import torch

from dfmamba.ops import anchor_grid, current_backend, deformable_sample, selective_scan, use_backend
from dfmamba.ops.backend import VARIABLE


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the references that have run."""
    names: list[str] = []
    for name in ("selective_scan", "deformable_sample"):
        module = importlib.import_module(f"dfmamba.ops.{name}")
        reference = getattr(module, f"{name}_reference")

        def recording(*args, name: str = name, reference=reference, **kwargs):
            names.append(name)
            return reference(*args, **kwargs)

        monkeypatch.setattr(module, f"{name}_reference", recording)
    return names


def run_both() -> None:
    sequence = torch.ones(1, 2, 3)
    selective_scan(sequence, sequence, -torch.ones(2, 1), torch.ones(1, 1, 3), torch.ones(1, 1, 3))
    deformable_sample(torch.ones(1, 2, 3, 3), None, torch.ones(2, 9), anchor_grid(9))


def test_default_is_auto(monkeypatch: pytest.MonkeyPatch, called: list[str]) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert current_backend() == "auto"
    run_both()
    assert called == []


def test_environment_is_read_at_call_time(monkeypatch: pytest.MonkeyPatch, called: list[str]) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    run_both()
    assert called == ["selective_scan", "deformable_sample"]
    with use_backend("auto"):
        run_both()
    assert len(called) == 2
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(
        ValueError, match=r"unknown backend 'fast' from the environment variable .* auto, .*ref"
    ):
        run_both()


def test_context_manager(monkeypatch: pytest.MonkeyPatch, called: list[str]) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with use_backend("reference"):
        with use_backend("auto"):
            assert current_backend() == "auto"
        run_both()
    assert current_backend() == "auto"
    assert len(called) == 2
    with pytest.raises(ValueError, match="unknown backend 'cuda' from use_backend"), use_backend("cuda"):
        pass
