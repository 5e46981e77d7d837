"""Checks of whole data sets: a good one passes, each fault is found by the check that is meant for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dfmamba.data.check import Finding, Labels, check_bones, check_count, check_dataset, evenly, worst
from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import IndexedDataset
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import FINGERS, PARENTS, REFERENCE_BONES_MM

LABEL_CHECK_NAMES = ("labels", "projection", "inside", "bones", "fingers", "sides")
SIZE = (64, 48)
CAMERA = Camera(60.0, 60.0, 31.5, 23.5)
ANGLES_DEG = {"thumb": 55.0, "index": 15.0, "middle": 0.0, "ring": -13.0, "little": -27.0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def bent_hand(side: int, bend_deg: float) -> np.ndarray:
    """(21, 3) mm, wrist at the origin: fingers up, palm and bent fingers towards the camera."""
    joints = np.zeros((21, 3))
    for name, chain in FINGERS.items():
        angle = np.radians(ANGLES_DEG[name])
        for step, joint in enumerate(chain):
            bend = np.radians(bend_deg * step)
            ahead = np.cos(bend)
            bone = np.array([np.sin(angle) * ahead, -np.cos(angle) * ahead, -np.sin(bend)])
            joints[joint] = joints[PARENTS[joint]] + bone * REFERENCE_BONES_MM[joint - 1]
    return joints * (np.array([1, 1, 1]) if side == 0 else np.array([-1, 1, 1]))


def good_rows(count: int = 6) -> list[Row]:
    rows = []
    for i in range(count):
        joints, valid = np.zeros((2, 21, 3)), np.zeros((2, 21), bool)
        joints[i % 2] = bent_hand(i % 2, 20.0 + 5 * i) + np.array([5.0 * i - 15, 60, 400])
        valid[i % 2] = True
        rows.append(Row(f"s{i}", f"pictures/{i % 2}/{i}.png", joints, valid, CAMERA, SIZE))
    return rows


def write_pictures(root: Path, rows: list[Row]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    for row in rows:
        (root / row.picture).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(root / row.picture)


def dataset_of(root: Path, rows: list[Row], order: str = "openpose") -> IndexedDataset:
    class Toy(IndexedDataset):
        NAME = "toy"
        SPLITS = ("train",)
        ORDER = order

        def sources(self) -> list[Path]:
            return []

        def rows(self, report: Report) -> Iterator[Row]:
            return iter(rows)

    root.mkdir(exist_ok=True)
    return Toy(root, "train")


def findings(root: Path, rows: list[Row], pictures: int | None = None) -> dict[str, Finding]:
    """Checks rows whose pictures have been written, unless they were before."""
    if not root.exists():
        write_pictures(root, rows)
    return {finding.check: finding for finding in check_dataset(dataset_of(root, rows), pictures=pictures)}


def test_a_good_copy_passes(tmp_path: Path) -> None:
    found = findings(tmp_path / "toy", good_rows())
    assert {name: finding.level for name, finding in found.items()} == dict.fromkeys(
        (*("samples", "count", "sizes", "files", "pictures"), *LABEL_CHECK_NAMES),
        "ok",
    )
    assert found["samples"].text == "6 samples, none left out"
    assert found["files"].figures == {"files": 6, "missing": 0, "empty": 0}
    assert found["pictures"].figures == {"opened": 6, "failed": 0, "black": 0}
    assert found["sizes"].text == "64 x 48: 6"
    assert found["projection"].figures["percentile_99_px"] < 1e-3
    assert found["bones"].figures == pytest.approx(
        {"size": 1, "thumb": 1, "index": 1, "middle": 1, "ring": 1, "little": 1}, abs=1e-4
    )
    assert found["sides"].figures == {"clear": 6, "agree": 1.0}
    assert "pictures" not in findings(tmp_path / "toy", good_rows(), pictures=0)


def changed(change: Callable[[np.ndarray], np.ndarray]) -> list[Row]:
    """Good rows with each hand's joints (21, 3), wrist at the origin, changed."""
    rows = []
    for i, row in enumerate(good_rows()):
        joints = row.joints_cam_mm.copy()
        wrist = joints[i % 2, :1].copy()
        joints[i % 2] = change(joints[i % 2] - wrist) + wrist
        rows.append(replace(row, joints_cam_mm=joints))
    return rows


def tip_to_base(joints: np.ndarray) -> np.ndarray:
    return joints[[0, *(j for chain in FINGERS.values() for j in reversed(chain))]]


def thumb_for_little(joints: np.ndarray) -> np.ndarray:
    return joints[[0, *FINGERS["little"], *range(5, 17), *FINGERS["thumb"]]]


def little_first(joints: np.ndarray) -> np.ndarray:
    return joints[
        [0, *FINGERS["thumb"], *(j for name in ("little", "ring", "middle", "index") for j in FINGERS[name])]
    ]


def bump(*joints: int) -> np.ndarray:
    return 60.0 * np.isin(np.arange(21), joints)[:, None]


@pytest.mark.parametrize(
    ("change", "check", "text"),
    [
        (tip_to_base, "bones", "index, middle, ring, little run from tip to base"),
        (lambda joints: joints * 3, "bones", "no hand has this size"),
        (lambda joints: joints * 0.1, "bones", "look like centimetres"),
        (thumb_for_little, "fingers", "in 0.0 % of the hands"),
        (little_first, "fingers", "in 0.0 % of the hands"),
        (lambda joints: joints + bump(7, 11, 15), "bones", "unlike a hand's: those that end in index_dip"),
    ],
)
def test_misread_joints_are_wrong(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], check: str, text: str
) -> None:
    found = findings(tmp_path / "toy", changed(change))
    assert found[check].level == "wrong"
    assert text in found[check].text
    assert worst(found.values()) == "wrong"


def test_metres_are_named(tmp_path: Path) -> None:
    rows = [replace(row, joints_cam_mm=row.joints_cam_mm / 1000) for row in good_rows()]
    found = findings(tmp_path / "toy", rows)
    assert found["bones"].level == "wrong"
    assert "lengths look like metres" in found["bones"].text
    assert found["projection"].level == "ok"


def test_swapped_sides_are_a_hint(tmp_path: Path) -> None:
    rows = [replace(row, joints_cam_mm=row.joints_cam_mm[::-1], valid=row.valid[::-1]) for row in good_rows()]
    found = findings(tmp_path / "toy", rows)
    assert found["sides"].level == "note"
    assert found["sides"].figures == {"clear": 6, "agree": 0.0}
    assert "left and right may be swapped" in found["sides"].text


def test_straight_hands_tell_no_side(tmp_path: Path) -> None:
    rows = changed(lambda joints: joints * [1, 1, 0])
    assert findings(tmp_path / "toy", rows)["sides"].text == "no hand tells left from right by its shape"


@pytest.mark.parametrize(("shift", "level"), [(0.5, "ok"), (5.0, "wrong")])
def test_pixels_beside_the_projection(tmp_path: Path, shift: float, level: str) -> None:
    rows = [
        replace(row, joints_2d_px=CAMERA.project(row.joints_cam_mm) + np.array([shift, 0]))
        for row in good_rows()
    ]
    finding = findings(tmp_path / "toy", rows)["projection"]
    assert finding.level == level
    assert finding.figures["median_px"] == pytest.approx(shift, abs=1e-3)


def test_a_few_pixels_far_off_are_noted(tmp_path: Path) -> None:
    rows = good_rows()
    pixels = CAMERA.project(rows[0].joints_cam_mm)
    pixels[0, :4] += 9
    rows[0] = replace(rows[0], joints_2d_px=pixels)
    assert findings(tmp_path / "toy", rows)["projection"].level == "note"


def test_without_a_camera(tmp_path: Path) -> None:
    rows = [replace(row, camera=None, joints_2d_px=CAMERA.project(row.joints_cam_mm)) for row in good_rows()]
    finding = findings(tmp_path / "toy", rows)["projection"]
    assert (finding.level, finding.figures) == ("note", {})


def test_boxes_and_pictures_that_miss_the_joints(tmp_path: Path) -> None:
    rows = [replace(row, size=(24, 24)) for row in good_rows()]
    finding = findings(tmp_path / "toy", rows, pictures=0)["inside"]
    assert finding.level == "wrong"
    assert finding.figures["in_picture"] < 0.5
    assert finding.figures["in_box"] == 1


def test_missing_empty_and_damaged_pictures(tmp_path: Path) -> None:
    root, rows = tmp_path / "toy", good_rows(8)
    write_pictures(root, rows)
    (root / rows[0].picture).unlink()
    (root / rows[1].picture).write_bytes(b"")
    whole = (root / rows[2].picture).read_bytes()
    (root / rows[2].picture).write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (10, 10), (200, 0, 0)).save(root / rows[3].picture)
    Image.new("RGB", SIZE).save(root / rows[4].picture)
    found = findings(root, rows)
    assert found["files"].level == "wrong"
    assert found["files"].figures == {"files": 8, "missing": 1, "empty": 1}
    assert "pictures/0/0.png" in found["files"].text
    assert "pictures/1/1.png" in found["files"].text
    assert found["pictures"].level == "wrong"
    assert found["pictures"].figures == {"opened": 8, "failed": 4, "black": 1}
    assert "pictures/0/0.png" in found["pictures"].text
    assert "black (such as s4)" in found["pictures"].text


def test_nothing_there_is_unusable(tmp_path: Path) -> None:
    root = tmp_path / "toy"
    root.mkdir()
    found = findings(root, good_rows())
    assert found["files"].level == found["pictures"].level == worst(found.values()) == "unusable"
    assert found["files"].figures["missing"] == 6


def test_what_was_left_out_is_said(tmp_path: Path) -> None:
    rows = good_rows()
    rows[1].joints_cam_mm[1, 3, 2] = -5
    found = list(check_dataset(dataset_of(tmp_path / "toy", rows), pictures=0))
    assert [(f.level, f.text) for f in found[:2]] == [
        ("note", "5 samples"),
        ("note", "left out 1: a joint lies behind the camera (such as s1)"),
    ]
    for i in range(4):
        rows[i].joints_cam_mm[i % 2, 3] = np.nan
    found = list(check_dataset(dataset_of(tmp_path / "other", rows), pictures=0))
    assert (found[0].level, found[0].figures) == ("wrong", {"kept": 2, "left_out": 4})


@pytest.mark.parametrize(
    ("published", "level", "text"),
    [
        (None, "ok", "no published number"),
        (5, "ok", "5 of 5 pictures: complete"),
        (6, "note", "5 of 6 pictures: complete but for the 1 left out"),
        (4000, "note", "5 of 4,000 pictures: a part of the data set"),
        (3, "note", "5 of 3 pictures: more than published"),
    ],
)
def test_published_numbers(tmp_path: Path, published: int | None, level: str, text: str) -> None:
    rows = good_rows()
    rows[0].joints_cam_mm[:] = np.nan
    finding = check_count(dataset_of(tmp_path / "toy", rows), published, "pictures")
    assert finding.level == level
    assert finding.text.startswith(text)


def test_joints_of_nyu(tmp_path: Path) -> None:
    """14 joints: little, ring, middle, index finger (tip, PIP), thumb (tip, IP, base), wrist, wrist, palm."""
    places = [20, 18, 16, 14, 12, 10, 8, 6, 4, 3, 2, 0, 0, 9]
    rows = []
    for i, row in enumerate(good_rows()):
        joints, valid = np.zeros((2, 14, 3)), np.zeros((2, 14), bool)
        joints[0] = bent_hand(0, 5.0)[places] + np.array([2.0 * i, 60, 400])
        valid[0] = True
        rows.append(replace(row, joints_cam_mm=joints, valid=valid))
    labels = Labels(dataset_of(tmp_path / "toy", rows, "nyu14"))
    assert labels.hands[0].shape == (6, 21, 3)
    finding = check_bones(labels)
    assert finding.level == "ok"
    assert set(finding.figures) == {"size", "thumb", "index", "middle", "ring", "little"}
    assert finding.figures["size"] == pytest.approx(1, abs=0.02)


def test_joints_of_which_none_are_neighbours(tmp_path: Path) -> None:
    rows = [replace(row, valid=row.valid & np.isin(np.arange(21), (4, 8, 12))) for row in good_rows()]
    found = findings(tmp_path / "toy", rows)
    assert found["bones"].level == "note"
    assert found["fingers"].level == found["sides"].level == "ok"
    assert "not checked" in found["fingers"].text


@given(st.integers(1, 500), st.none() | st.integers(0, 600))
def test_evenly_spaced(length: int, count: int | None) -> None:
    chosen = evenly(length, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == (length if count is None else min(count, length))
    assert all(0 <= i < length for i in chosen)
    if count is None or count > 1:
        assert chosen[0] == 0
        assert chosen[-1] == length - 1
        steps = np.diff(chosen)
        assert not len(steps) or steps.max() - steps.min() <= 1
