"""Surfaces as OBJ and PLY, and tables of angles."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dfmamba.formats import write_prediction
from dfmamba.hands.model import DEGREES_OF_FREEDOM, HIGH, LOW
from dfmamba.predict import Prediction
from dfmamba.predict.surface import with_surface

trimesh = pytest.importorskip("trimesh")


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_surfaces_are_those_of_the_fit(two_hands: Prediction, tmp_path: Path, suffix: str) -> None:
    summary = write_prediction(two_hands, suffix, tmp_path)
    assert (summary.files, summary.hands) == (1, 2)
    mesh = trimesh.load(tmp_path / f"a.{suffix}", force="mesh", process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    hands = mesh.split(only_watertight=True)
    assert len(hands) == 2
    for hand in with_surface(two_hands).hands:
        points = hand.vertices_mm() * (1, -1, -1) / 1000
        (one,) = [one for one in hands if (one.vertices[:, 0].mean() > 0) == (points[:, 0].mean() > 0)]
        assert one.volume > 1e-4  # triangles face outwards
        away = np.linalg.norm(one.vertices[::50, None] - points, axis=2).min(axis=1)
        assert away.max() < 1e-5


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_a_picture_without_hands_has_no_file(
    two_hands: Prediction, prediction: Callable, tmp_path: Path, suffix: str
) -> None:
    summary = write_prediction([prediction(), two_hands], suffix, tmp_path)
    assert len(list(tmp_path.iterdir())) == summary.files == 1
    assert summary.notes["pictures without a hand have no file"] == 1


def test_obj_has_texture_coordinates_and_groups(two_hands: Prediction, tmp_path: Path) -> None:
    write_prediction(two_hands, "obj", tmp_path / "one.obj")
    lines = (tmp_path / "one.obj").read_text().splitlines()
    assert [line for line in lines if line.startswith("g ")] == ["g right_hand_0", "g left_hand_1"]
    corners = np.array(
        [[corner.split("/") for corner in line.split()[1:]] for line in lines if line.startswith("f ")]
    ).astype(int)
    assert corners.min() == 1
    assert corners[..., 0].max() <= sum(line.startswith("v ") for line in lines)
    assert corners[..., 1].max() <= sum(line.startswith("vt ") for line in lines)


def test_table_of_angles(two_hands: Prediction, hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    point = prediction(hand(0, joints_3d_mm=np.zeros((21, 3))))
    summary = write_prediction([two_hands, point], "angles", tmp_path / "angles.csv")
    rows = list(csv.DictReader((tmp_path / "angles.csv").read_text().splitlines()))
    assert [row["side"] for row in rows] == ["right", "left"]
    assert any("without extent" in text for text in summary.notes)
    for row, expected in zip(rows, with_surface(two_hands).hands, strict=True):
        names = [name for name in row if name == "palm_cupping" or name.endswith("_deg")]
        assert [name.removesuffix("_deg") for name in names] == list(DEGREES_OF_FREEDOM[:22])
        angles = np.array([float(row[name]) for name in names])
        assert expected.fit is not None
        np.testing.assert_allclose(angles, expected.fit.pose_deg[:22], atol=1e-3)
        assert ((angles >= LOW[:22] - 1e-3) & (angles <= HIGH[:22] + 1e-3)).all()
        assert 0 <= float(row["residual_mm"]) < 5
