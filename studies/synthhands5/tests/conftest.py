"""A small benchmark, rendered once: the first pictures of each setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studies.synthhands5.pictures import Pictures, load_pictures, render
from studies.synthhands5.settings import PICTURE, SETTINGS, SPLITS

FEW = {"train": 20, "val": 5, "test": 8}
Load = Callable[..., Pictures]


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Makes the splits as small as what `small_benchmark` holds; seeds stay."""
    for name, pictures in FEW.items():
        patch.setitem(SPLITS, name, replace(SPLITS[name], pictures=pictures))


@pytest.fixture(scope="session")
def small_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with test pictures of all settings, and training and validation pictures of two hands."""
    pytest.importorskip("warp", reason="the renderer is missing: pip install 'dfmamba[synthetic]'")
    folder = tmp_path_factory.mktemp("synthhands5")
    wanted = [(setting, "test") for setting in SETTINGS] + [("two", "train"), ("two", "val")]
    for setting, split in wanted:
        render(setting, split, folder, workers=0, count=FEW[split], progress=False)
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits are as small as the rendered ones."""
    shrink(monkeypatch)


@pytest.fixture(scope="session")
def load(small_benchmark: Path) -> Load:
    """Reads pictures of the small benchmark: setting, and split ("test" unless named)."""

    def read(setting: str, split: str = "test") -> Pictures:
        with pytest.MonkeyPatch.context() as patch:
            shrink(patch)
            return load_pictures(setting, split, small_benchmark)

    return read


@pytest.fixture(scope="session")
def blank() -> Callable[[int], Pictures]:
    """Makes black pictures without hands, to be filled in."""

    def make(n: int) -> Pictures:
        return Pictures(
            torch.zeros(n, PICTURE, PICTURE, 3, dtype=torch.uint8),
            torch.zeros(n, 2, 21, 2),
            torch.zeros(n, 2, 21, 3),
            torch.zeros(n, 2, 21, dtype=torch.bool),
            torch.zeros(n, 2, 21, dtype=torch.bool),
            torch.tensor([300.0, 300.0, 63.5, 63.5]).repeat(n, 1),
        )

    return make
