"""The pictures are those of the reference, and others aren't taken for them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from studies.synthhands5.checksums import (
    REFERENCE,
    SAMPLES,
    TOLERANCE_LEVELS,
    TOLERANCE_MM,
    TOLERANCE_PX,
    Check,
    check,
    digest,
    digest_of,
    first_pictures,
    read_reference,
    thumbnails,
)
from studies.synthhands5.settings import SETTINGS, SPLITS, VERSION


@pytest.mark.parametrize("setting", SETTINGS)
def test_rendered_pictures_are_those_of_the_reference(setting: str, small_benchmark: Path, few: None) -> None:
    found = check(setting, "test", small_benchmark)
    assert found.ok, found.line
    assert (found.setting, found.split) == (setting, "test")


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("split", SPLITS)
def test_this_machine_renders_the_reference(setting: str, split: str) -> None:
    pytest.importorskip("warp", reason="the renderer is missing: pip install 'dfmamba[synthetic]'")
    found = check(setting, split)
    assert found.ok, found.line


def test_a_folder_and_a_fresh_rendering_are_the_same(small_benchmark: Path, few: None) -> None:
    assert digest("two", "val", 2) == digest("two", "val", 2, small_benchmark)
    assert digest("two", "val", 2, small_benchmark) != digest("two", "val", 3, small_benchmark)


def test_the_digest_is_fixed(blank) -> None:
    assert digest_of(blank(1)) == "e77c3cb953a362ea647c62e757013f797f3263214d1a7ecbe37d1fe0d9675911"


@pytest.mark.parametrize("name", ["pixels", "joints_2d_px", "joints_mm", "valid", "visible", "camera"])
def test_the_digest_sees_every_bit(blank, name: str) -> None:
    pictures = blank(2)
    changed = getattr(pictures, name).clone()
    last = changed.flatten()[-1:]
    last.copy_(torch.nextafter(last, torch.tensor(1e9)) if last.is_floating_point() else 1 - last.int())
    assert digest_of(replace(pictures, **{name: changed})) != digest_of(pictures)


def test_thumbnails_are_means(blank) -> None:
    pixels = blank(1).pixels
    pixels[0, :8, 8:16] = 200
    pixels[0, 8:12, :8, 1] = 101
    small = thumbnails(pixels)
    assert small.shape == (1, 16, 16, 3)
    assert small[0, 0, 1].tolist() == [200, 200, 200]
    assert small[0, 1, 0].tolist() == [0, 50, 0]
    assert int(small.sum()) == 650


def test_other_pictures_are_noticed(small_benchmark: Path, few: None, tmp_path: Path) -> None:
    shutil.copytree(small_benchmark / "two" / "train", tmp_path / "two" / "test")
    found = check("two", "test", tmp_path)
    assert not found.identical
    assert not found.ok
    assert found.picture_difference > 20
    assert found.joint_difference_mm > 10
    assert found.joint_difference_px > 5
    assert "NOT the benchmark's pictures" in found.line
    assert found.to_dict()["ok"] is False


@pytest.mark.parametrize(
    ("differences", "ok"),
    [
        ((0, 0.0, 0.0), True),
        ((TOLERANCE_LEVELS, TOLERANCE_MM, TOLERANCE_PX), True),
        ((TOLERANCE_LEVELS + 1, 0.0, 0.0), False),
        ((0, 2 * TOLERANCE_MM, 0.0), False),
        ((0, 0.0, 2 * TOLERANCE_PX), False),
        ((0, float("nan"), 0.0), False),
    ],
)
def test_only_rounding_is_tolerated(differences: tuple[int, float, float], ok: bool) -> None:
    found = Check("two", "test", False, *differences)
    assert found.ok is ok
    assert ("equal but for rounding" in found.line) is ok
    assert Check("two", "test", True, 0, 0.0, 0.0).line == "two test: identical"


def test_the_reference_is_small_and_complete() -> None:
    assert REFERENCE.stat().st_size < 300_000
    with safe_open(REFERENCE, "pt") as file:
        named = file.metadata()
    assert named.pop("version") == str(VERSION)
    assert set(named) == {f"{setting}/{split}" for setting in SETTINGS for split in SPLITS}
    assert len(set(named.values())) == len(named)
    for setting in SETTINGS:
        pixels = [read_reference(setting, split)[1]["thumbnails"] for split in SPLITS]
        assert all(int(one.max()) > 150 for one in pixels)


def test_names_and_counts_are_checked(small_benchmark: Path, few: None) -> None:
    with pytest.raises(ValueError, match="unknown setting 'one'"):
        check("one", "test")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        digest("two", "dev")
    with pytest.raises(ValueError, match="got 0 pictures; expected 1 to 8"):
        first_pictures("two", "test", 0)
    with pytest.raises(ValueError, match="got 9 pictures"):
        first_pictures("two", "test", 9, small_benchmark)
    with pytest.raises(OSError, match="no finished shards"):
        check("ego", "test", small_benchmark / "nothing")


def test_a_missing_reference(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nothing\.safetensors: no such file; make it: python -m studies"):
        read_reference("two", "test", tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("metadata", "samples", "text"),
    [
        ({}, SAMPLES, "version None, expected '1'"),
        ({"version": "0"}, SAMPLES, "version '0', expected '1'"),
        ({"version": str(VERSION)}, SAMPLES, "no digest of two/test"),
        ({"version": str(VERSION), "two/test": "ab"}, SAMPLES - 1, r"thumbnails has shape \(7, 16, 16, 3\)"),
        ({"version": str(VERSION), "two/test": "ab"}, None, "thumbnails"),
    ],
)
def test_other_references_are_refused(
    tmp_path: Path, metadata: dict[str, str], samples: int | None, text: str
) -> None:
    path = tmp_path / "other.safetensors"
    tensors = {"other": torch.zeros(1)}
    if samples is not None:
        tensors = {
            "two/test/thumbnails": torch.zeros(samples, 16, 16, 3, dtype=torch.uint8),
            "two/test/joints_mm": torch.zeros(samples, 2, 21, 3),
            "two/test/joints_px": torch.zeros(samples, 2, 21, 2),
        }
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=f"no reference of the benchmark.*{text}"):
        read_reference("two", "test", path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=60), st.floats(0, 0.999).map(lambda share: cut(share))))
def test_damaged_references_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no reference of the benchmark"):
        read_reference("two", "test", path)


def cut(share: float) -> bytes:
    """The beginning of the reference."""
    content = REFERENCE.read_bytes()
    return content[: int(share * len(content))]
