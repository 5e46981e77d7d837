"""What the benchmark consists of can't change unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfmamba.data.kinds import SYNTHETIC_KINDS
from studies.synthhands5 import settings
from studies.synthhands5.compare import RATES, STEPS, TUNING_STEPS
from studies.synthhands5.pictures import renderer_config
from studies.synthhands5.rows import MACS, PARAMETERS
from studies.synthhands5.settings import SETTINGS, SPLITS, known, seed_of

PAGE = Path(__file__).parents[1] / "README.md"


def seeds() -> dict[str, tuple[int, ...]]:
    return {name: tuple(seed_of(one, split) for split in SPLITS.values()) for name, one in SETTINGS.items()}


def test_version_1_is_frozen() -> None:
    assert settings.VERSION == 1
    assert {name: split.pictures for name, split in SPLITS.items()} == {
        "train": 10_000,
        "val": 500,
        "test": 1000,
    }
    assert (settings.PICTURE, settings.MARGIN, settings.CROP_FACTOR) == (128, 1.4, 1.2)
    assert seeds() == {
        "two": (50_001_011, 50_001_012, 50_001_013),
        "distractors": (50_001_021, 50_001_022, 50_001_023),
        "depth": (50_001_031, 50_001_032, 50_001_033),
        "object": (50_001_041, 50_001_042, 50_001_043),
        "ego": (50_001_051, 50_001_052, 50_001_053),
    }


def test_no_two_splits_share_a_seed_nor_do_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    first = {seed for group in seeds().values() for seed in group}
    monkeypatch.setattr(settings, "VERSION", 2)
    second = {seed for group in seeds().values() for seed in group}
    assert len(first) == len(second) == len(SETTINGS) * len(SPLITS)
    assert not first & second


def test_the_renderer_gets_the_seed_size_and_kind() -> None:
    for name, setting in SETTINGS.items():
        assert setting.kind in SYNTHETIC_KINDS
        config = renderer_config(name, "val")
        assert (config.seed, config.size) == (seed_of(setting, SPLITS["val"]), settings.PICTURE)
        assert dict(config.kinds) == {setting.kind: 1.0}
        assert config.backgrounds is None  # nothing from this machine may get into the pictures


@pytest.mark.parametrize(("setting", "split"), [("three", "test"), ("two", "dev")])
def test_unknown_names_are_refused(setting: str, split: str) -> None:
    with pytest.raises(
        ValueError, match=r"unknown (setting 'three'; known: two, |split 'dev'; known: train, )"
    ):
        renderer_config(setting, split)


def test_known_names_pass() -> None:
    known("two", SETTINGS, "setting")


def test_the_page_has_these_figures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    numbers = [split.pictures for split in SPLITS.values()] + [PARAMETERS, STEPS, TUNING_STEPS]
    wanted = [f"{number:,}" for number in numbers] + [f"{MACS / 1e6:g} M", f"version {settings.VERSION}"]
    wanted += [str(rate) for rate in RATES] + [f"`{name}`" for name in SETTINGS]
    wanted += [one.mirrors for one in SETTINGS.values()]
    assert [text for text in wanted if text not in page] == []
