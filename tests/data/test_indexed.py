"""The base of all readers: labels are checked, indices renewed, pictures opened on access."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import IndexedDataset, complete_row
from dfmamba.hands.camera import Camera

CAMERA = Camera(60.0, 60.0, 31.5, 23.5)


def row(name: str = "a", **changes: Any) -> Row:
    """A left hand of 21 joints about the middle of a picture of 64 x 48 pixels."""
    joints, valid = np.zeros((2, 21, 3)), np.zeros((2, 21), bool)
    joints[1] = np.stack([np.linspace(-80, 80, 21), np.linspace(60, -60, 21), np.full(21, 400)], 1)
    valid[1] = True
    values = {"id": name, "picture": f"{name}.png", "joints_cam_mm": joints, "valid": valid}
    return Row(**(values | {"camera": CAMERA, "size": (64, 48)} | changes))


def moved(joint: int, place: Any) -> np.ndarray:
    joints = row().joints_cam_mm.copy()
    joints[1, joint] = place
    return joints


class Toy(IndexedDataset):
    """Names in labels.json; the joints of `row`, and faults by name."""

    NAME = "toy"
    SPLITS = ("train", "test")
    reads = 0

    def sources(self) -> list[Path]:
        return [self.root / "labels.json"]

    def rows(self, report: Report) -> Iterator[Row]:
        type(self).reads += 1
        path = self.root / "labels.json"
        try:
            names = json.loads(path.read_bytes())[self.split]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{path}: not valid") from None
        for name in names:
            if name == "unknown":
                report.leave_out(name, "no entry")
            elif name == "nan":
                yield row(name, joints_cam_mm=moved(3, np.nan))
            else:
                yield row(name)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "toy"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 48), (9, 90, 200)).save(folder / f"{name}.png")
    (folder / "labels.json").write_text(json.dumps({"train": ["a", "unknown", "b", "nan"], "test": ["nan"]}))
    return folder


def test_samples(root: Path) -> None:
    data = Toy(root, "train")
    assert len(data) == 2
    assert data.report.left_out == {"no entry": 1, "a joint is not finite or absurdly far": 1}
    assert data.report.examples == {"no entry": ["unknown"], "a joint is not finite or absurdly far": ["nan"]}
    assert [sample.id for sample in data] == ["a", "b"]
    sample = data[1]
    assert sample.image is not None
    assert sample.image.shape == (48, 64, 3)
    assert sample.present.tolist() == [False, True]
    assert sample.visible[1].all()
    assert sample.kind == "real"
    assert sample.camera == CAMERA
    np.testing.assert_allclose(sample.joints_2d_px[1], CAMERA.project(row().joints_cam_mm[1]), atol=1e-4)
    assert np.array_equal(sample.box_xyxy, sample.box_of(1))
    assert data.labels(1).image is None
    for i in (-1, 2):
        with pytest.raises(IndexError, match="of 2"):
            data[i]


def test_a_dataset_can_be_sent_to_another_process(root: Path) -> None:
    data = pickle.loads(pickle.dumps(Toy(root, "train")))
    assert [sample.id for sample in data] == ["a", "b"]
    assert data.report.kept == 2


def test_the_index_is_made_once_and_renewed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Toy.reads = 0
    first = Toy(root, "train")
    again = Toy(root, "train")
    assert Toy.reads == 1
    assert again.report == first.report
    assert len(Toy(root, "train", wide=True)) == 2
    assert Toy.reads == 2
    (root / "labels.json").write_text(json.dumps({"train": ["a", "b", "c"]}))
    assert len(Toy(root, "train")) == 3
    assert Toy.reads == 3
    os.utime(root / "labels.json", ns=(1, 1))
    Toy(root, "train")
    assert Toy.reads == 4
    monkeypatch.setattr(Toy, "REVISION", 2)
    Toy(root, "train")
    assert Toy.reads == 5


def test_unusable_copies(root: Path) -> None:
    with pytest.raises(ValueError, match="split is 'val'; expected one of train, test"):
        Toy(root, "val")
    with pytest.raises(OSError, match="no such folder; expected a copy of toy"):
        Toy(root / "none", "train")
    with pytest.raises(ValueError, match=r"no usable sample in toy test: 0 samples; left out 1: a joint"):
        Toy(root, "test")
    (root / "labels.json").write_text('{"train": [')
    with pytest.raises(ValueError, match=r"labels\.json: not valid"):
        Toy(root, "train")
    (root / "labels.json").unlink()
    with pytest.raises(OSError, match=r"labels\.json: missing; expected by toy train"):
        Toy(root, "train")
    assert not (root.parent / "cache" / "dfmamba" / "index").joinpath("toy-train").exists()


def test_unusable_pictures(root: Path) -> None:
    data = Toy(root, "train")
    Image.new("RGB", (64, 40)).save(root / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: 64 x 40 pixels; the labels say 64 x 48"):
        data[0]
    (root / "a.png").write_bytes((root / "b.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"a\.png: damaged"):
        data[0]
    (root / "a.png").unlink()
    with pytest.raises(OSError, match=r"a\.png: no such file"):
        data[0]
    assert data.labels(0).id == "a"


def test_a_complete_row_is_unchanged() -> None:
    first, reason = complete_row(row(), 21)
    assert reason == ""
    assert first is not None
    again, _ = complete_row(first, 21)
    assert again is not None
    for name in ("joints_cam_mm", "joints_2d_px", "valid", "visible", "present", "box_xyxy"):
        assert np.array_equal(getattr(again, name), getattr(first, name)), name


def test_what_is_not_valid_doesn_t_count() -> None:
    joints = moved(0, np.nan)
    joints[0] = -1e9
    pixels = CAMERA.project(row().joints_cam_mm)
    pixels[0] = np.inf
    pixels[1, 0] = np.nan
    valid = row().valid.copy()
    valid[1, 0] = False
    visible = np.ones((2, 21), bool)
    changes = {"joints_cam_mm": joints, "joints_2d_px": pixels, "valid": valid, "visible": visible}
    complete, reason = complete_row(row(**changes), 21)
    assert reason == ""
    assert complete is not None
    assert not complete.joints_cam_mm[~valid].any()
    assert complete.joints_2d_px is not None
    assert not complete.joints_2d_px[~valid].any()
    assert complete.visible is not None
    assert np.array_equal(complete.visible, valid)


def test_presence_and_visibility() -> None:
    complete, _ = complete_row(row(present=np.array([True, False]), size=(40, 48)), 21)
    assert complete is not None
    assert complete.present is not None
    assert complete.present.tolist() == [True, True]
    assert complete.visible is not None
    assert 0 < complete.visible[1].sum() < 21
    assert not complete.visible[0].any()


def shifted(by: float) -> np.ndarray:
    return CAMERA.project(row().joints_cam_mm) + by


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"joints_cam_mm": np.ones((2, 20, 3))}, "wrong number of joints"),
        ({"joints_cam_mm": np.ones((21, 3))}, "wrong number of joints"),
        ({"joints_cam_mm": [[[1, 2, 3]] * 21, [[1, 2]] * 21]}, "not arrays of numbers"),
        ({"joints_cam_mm": [[["x"] * 3] * 21] * 2}, "not arrays of numbers"),
        ({"joints_cam_mm": None}, "wrong number of joints"),
        ({"valid": np.ones((2, 20), bool)}, "wrong number of joints"),
        ({"visible": np.ones((2, 20), bool)}, "wrong number of joints in the visibility"),
        ({"valid": np.zeros((2, 21), bool)}, "no valid joint"),
        ({"joints_cam_mm": moved(3, np.nan)}, "not finite"),
        ({"joints_cam_mm": moved(3, (0, np.inf, 400))}, "not finite"),
        ({"joints_cam_mm": moved(3, (0, 0, 1e30))}, "not finite"),
        ({"joints_cam_mm": moved(3, (0, 0, -400))}, "a joint lies behind the camera"),
        ({"joints_cam_mm": moved(3, (0, 0, 0))}, "a joint lies behind the camera"),
        ({"joints_cam_mm": moved(3, (10, 0, 1e-300))}, "a pixel is not finite or absurdly far"),
        ({"joints_2d_px": np.zeros((2, 20, 2))}, "wrong number of pixels"),
        ({"joints_2d_px": shifted(np.nan)}, "a pixel is not finite"),
        ({"joints_2d_px": shifted(1e7)}, "a pixel is not finite"),
        ({"joints_2d_px": shifted(20.0)}, "wrong intrinsics"),
        ({"camera": Camera(60, 60, 131.5, 23.5), "box_xyxy": (15, 10, 48, 38)}, "wrong intrinsics"),
        ({"camera": None}, "neither pixels nor a camera"),
        ({"box_xyxy": (20, 10, 20, 38)}, "the box has no area"),
        ({"box_xyxy": (48, 10, 15, 38)}, "the box has no area"),
        ({"valid": np.arange(42).reshape(2, 21) == 30}, "the box has no area"),
        ({"box_xyxy": (1, 2, np.nan, 4)}, "four finite numbers"),
        ({"box_xyxy": (1, 2, 3)}, "four finite numbers"),
        ({"box_xyxy": "box"}, "four finite numbers"),
        ({"size": (0, 48)}, "no plausible size"),
        ({"size": (64, 10**12)}, "no plausible size"),
    ],
)
def test_faults_of_labels_are_named(changes: dict[str, Any], reason: str) -> None:
    complete, named = complete_row(row(**changes), 21)
    assert complete is None
    assert reason in named


NUMBERS = st.floats(width=64) | st.sampled_from([0.0, -0.0, 1e-320, 1e308, -1e5, 400.0])


@settings(deadline=None)
@given(
    st.integers(0, 41), st.lists(NUMBERS, min_size=3, max_size=3), st.lists(NUMBERS, min_size=4, max_size=4)
)
def test_whatever_is_kept_is_finite(joint: int, place: list[float], box: list[float]) -> None:
    joints = row().joints_cam_mm.copy()
    joints.reshape(42, 3)[joint] = place
    valid = row().valid.copy()
    valid.reshape(42)[joint] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for changes in ({}, {"box_xyxy": box}):
            complete, reason = complete_row(row(joints_cam_mm=joints, valid=valid, **changes), 21)
            assert (complete is None) == bool(reason)
            if complete is not None:
                for name in ("joints_cam_mm", "joints_2d_px", "box_xyxy"):
                    assert np.isfinite(getattr(complete, name).astype(np.float32)).all(), name
