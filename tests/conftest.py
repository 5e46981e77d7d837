"""Shared fixtures."""

from __future__ import annotations

import os
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
