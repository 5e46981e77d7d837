"""Shared fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def find_samples() -> Path | None:
    """The folder of real sample data that lives beside the repository, if it is there."""
    named = os.environ.get("DFMAMBA_SAMPLES")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "samples"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Real samples (not redistributable, so not part of the repository); skips where they are absent."""
    folder = find_samples()
    if folder is None:
        pytest.skip("real sample data not found beside the repository (set DFMAMBA_SAMPLES to its folder)")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the tiny model of the tests, untrained."""
    import torch

    from dfmamba.models import MODELS, HandPoseModel

    folder = tmp_path_factory.mktemp("weights") / "test"
    torch.manual_seed(0)
    HandPoseModel(MODELS["test"]).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for PyTorch, as bulk workers have: another number may sum in another order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
