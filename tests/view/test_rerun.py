"""Recordings hold what was logged, on their time lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfmamba.hands.camera import Camera
from dfmamba.hands.model import HandModel
from dfmamba.predict import Hand, Prediction
from dfmamba.predict.surface import with_surface
from dfmamba.view import Viewer, make_viewer

pytest.importorskip("rerun", reason="rerun is missing: pip install 'dfmamba[viewer]'")

CAMERA = Camera(100.0, 110.0, 30.0, 20.0)


def make_hand(side: str = "right", root: str = "camera") -> Hand:
    ramp = np.arange(21.0)
    joints = np.stack([ramp, 2 * ramp, 300 + ramp], axis=1)
    return Hand(side, 0.9, [1, 2, 30, 40], np.stack([ramp, ramp / 2], 1), joints, ramp / 21, root, track=3)


def recorded(path: Path) -> dict[str, list[dict]]:
    """Entity -> its rows, each with the names of time lines and components that it has a value for."""
    from rerun.chunk import RrdReader

    rows: dict[str, list[dict]] = {}
    for chunk in RrdReader(str(path)).stream().to_chunks():
        for row in chunk.to_record_batch().to_pylist():
            values = {name.split(":")[-1]: value for name, value in row.items() if value is not None}
            rows.setdefault(str(chunk.entity_path).lstrip("/"), []).append(values)
    return rows


def latest(rows: list[dict], component: str, picture: int) -> np.ndarray:
    (value,) = (row[component] for row in rows if component in row and row.get("picture") == picture)
    return np.array(value, dtype=float)


@pytest.fixture
def recording(tmp_path: Path) -> dict[str, list[dict]]:
    """Two frames of a film with two hands and none, then a mirrored picture without intrinsics."""
    viewer: Viewer = make_viewer("rerun", tmp_path / "new" / "film.rrd")
    picture = np.zeros((48, 64, 3), np.uint8)
    both = Prediction((make_hand(), make_hand("left")), (64, 48), CAMERA)
    viewer.log(0, 0.0, picture, both)
    viewer.log(1, 0.04, picture, Prediction((), (64, 48), CAMERA))
    viewer.log(2, None, picture, Prediction((make_hand(root="wrist"),), (64, 48), mirrored=True))
    viewer.close()
    return recorded(tmp_path / "new" / "film.rrd")


def test_pictures_and_hands(recording: dict[str, list[dict]]) -> None:
    joints = "positions"
    hand = make_hand()
    space = latest(recording["hands/joints"], joints, 0)
    assert space.shape == (42, 3)
    np.testing.assert_allclose(space[:21], hand.joints_3d_mm)
    flat = latest(recording["camera/picture/joints"], joints, 0)
    np.testing.assert_allclose(flat[21:], hand.joints_2d_px + 0.5)
    assert latest(recording["hands/joints"], joints, 1).size == 0  # the hands are gone
    strips = latest(recording["hands/bones"], "strips", 0)
    assert strips.shape == (40, 2, 3)
    np.testing.assert_allclose(strips[0], hand.joints_3d_mm[[0, 1]])
    pictures = [row["picture"] for row in recording["camera/picture"] if "picture" in row]
    assert sorted(pictures) == [0, 1, 2]
    boxes = [row for row in recording["camera/picture/boxes"] if row.get("picture") == 0]
    assert boxes[0]["labels"] == ["right 0.90 #3", "left 0.90 #3"]


def test_cameras(recording: dict[str, list[dict]]) -> None:
    matrix = latest(recording["camera"], "image_from_camera", 1).reshape(3, 3).T
    np.testing.assert_allclose(matrix, [[100, 0, 30.5], [0, 110, 20.5], [0, 0, 1]])
    assert any(row.get("picture") == 2 and "is_recursive" in row for row in recording["camera"])


def test_mirrored_pictures_are_turned_back(recording: dict[str, list[dict]]) -> None:
    flat = latest(recording["camera/picture/joints"], "positions", 2)
    hand = make_hand()
    np.testing.assert_allclose(flat[:, 0], 63 - hand.joints_2d_px[:, 0] + 0.5)
    np.testing.assert_allclose(flat[:, 1], hand.joints_2d_px[:, 1] + 0.5)


def test_time_lines(recording: dict[str, list[dict]]) -> None:
    times = {row["picture"]: row.get("time") for row in recording["hands/joints"]}
    assert set(times) == {0, 1, 2}
    assert times[1] is not None
    assert times[2] is None  # a single picture has no time


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of rerun, rerun:spawn"):
        make_viewer("vtk", tmp_path / "a.rrd")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Rerun can't write there"):
        make_viewer("rerun", tmp_path / "file" / "a.rrd")


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    with pytest.raises(ImportError, match=r"dfmamba\[viewer\]"):
        make_viewer("rerun", tmp_path / "a.rrd")


def test_surfaces_of_fitted_hands(tmp_path: Path) -> None:
    model = HandModel.load()
    joints = model(np.zeros((1, 25)), side="left", place_mm=np.array([0.0, 0.0, 400.0])).joints[0]
    hand = Hand("left", 0.9, [1, 2, 30, 40], joints[:, :2], joints, np.ones(21), "camera", track=3)
    viewer: Viewer = make_viewer("rerun", tmp_path / "film.rrd")
    picture = np.zeros((48, 64, 3), np.uint8)
    fitted = with_surface(Prediction((hand,), (64, 48), CAMERA))
    viewer.log(0, 0.0, picture, fitted)
    viewer.log(1, 0.04, picture, Prediction((hand,), (64, 48), CAMERA))
    viewer.close()
    rows = recorded(tmp_path / "film.rrd")["hands/surface"]
    np.testing.assert_allclose(latest(rows, "vertex_positions", 0), fitted.hands[0].vertices_mm(), atol=1e-3)
    faces = latest(rows, "triangle_indices", 0)
    np.testing.assert_array_equal(faces, model.faces_of("left", forearm=False))
    assert any(row.get("picture") == 1 and "is_recursive" in row for row in rows)
