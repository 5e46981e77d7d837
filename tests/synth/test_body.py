"""The body asset, its kinematics and the arms' inverse kinematics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dfmamba.hands.model import rotation_about
from dfmamba.synth.person import LIPS, SCALP, BodyModel, aligning, bend_arm
from dfmamba.synth.pose import ASSETS

MODEL = BodyModel.load()
direction = st.tuples(*[st.floats(-1.0, 1.0)] * 3).map(np.array).filter(lambda v: np.linalg.norm(v) > 0.1)


def test_asset_is_small_and_sound() -> None:
    assert (ASSETS / "body.npz").stat().st_size < 1.5e6
    count = len(MODEL.mean_vertices)
    assert MODEL.faces.min() == 0
    assert MODEL.faces.max() == count - 1
    assert MODEL.weights.shape == (count, len(MODEL.names))
    assert np.allclose(MODEL.weights.sum(axis=1), 1.0, atol=1e-5)
    a, b, c = (MODEL.mean_vertices[MODEL.faces[:, k]] for k in range(3))
    volume = np.einsum("fi,fi->f", a, np.cross(b, c)).sum() / 6e9
    assert 0.03 < volume < 0.12, "cubic metres: the faces look outwards"


def test_asset_is_symmetric_and_stands_upright() -> None:
    bones = {name: MODEL.mean_bones[MODEL.bone(name)] for name in MODEL.names}
    for name in ("eye", "wrist", "thigh", "foot", "upperarm"):
        assert np.allclose(bones[f"{name}.R"] * [-1, 1, 1], bones[f"{name}.L"], atol=3.0)
        assert bones[f"{name}.R"][0] < 0 < bones[f"{name}.L"][0]
    assert bones["head"][1] < bones["pelvis"][1] < bones["foot.R"][1]
    assert bones["eye.R"][2] < bones["head"][2], "the face looks along -z"


def test_forearms_and_hands_are_left_to_the_hand_asset() -> None:
    assert MODEL.share("lowerarm.R", "lowerarm.L").max() < 0.92
    wrist = MODEL.mean_bones[MODEL.bone("wrist.R")]
    assert np.linalg.norm(MODEL.mean_vertices - wrist, axis=1).min() > 60.0


def test_paint_lies_where_it_belongs() -> None:
    eyes = 0.5 * (MODEL.mean_bones[MODEL.bone("eye.R")] + MODEL.mean_bones[MODEL.bone("eye.L")])
    lips = MODEL.mean_vertices[MODEL.paint[:, LIPS] > 0.8]
    assert len(lips) > 10
    assert 40.0 < lips[:, 1].mean() - eyes[1] < 90.0
    assert abs(lips[:, 0].mean()) < 5.0
    scalp = MODEL.mean_vertices[MODEL.paint[:, SCALP] > 0.9]
    assert scalp[:, 1].mean() < eyes[1]
    assert scalp[:, 2].mean() > eyes[2]


def test_people_have_human_heights() -> None:
    heights = np.array([np.ptp(MODEL.shape(row).vertices[:, 1]) for row in MODEL.coefficients[:300]])
    assert 800.0 < heights.min() < 1500.0
    assert 1750.0 < heights.max() < 2400.0
    assert 1500.0 < np.median(heights) < 1900.0


def test_rest_pose_gives_the_shape_back() -> None:
    shape = MODEL.shape(MODEL.coefficients[3])
    posed = MODEL.skin(shape, *MODEL.transforms(shape.bones, {}))
    assert np.allclose(posed.vertices, shape.vertices, atol=1e-2)
    assert np.allclose(posed.bones, shape.bones)


def test_a_turn_moves_what_hangs_on_the_bone_and_nothing_else() -> None:
    shape = MODEL.shape()
    turn = rotation_about(1, np.array(0.7))
    posed = MODEL.skin(shape, *MODEL.transforms(shape.bones, {"head": turn}))
    moved = np.linalg.norm(posed.vertices - shape.vertices, axis=1)
    head = MODEL.share("head", "eye.R", "eye.L")
    assert moved[head == 0.0].max() < 1e-2
    whole = head > 0.999
    centre = shape.bones[MODEL.bone("head")]
    assert whole.sum() > 300
    assert np.allclose(posed.vertices[whole], (shape.vertices[whole] - centre) @ turn.T + centre, atol=0.3)


def test_turns_add_up_along_the_chain() -> None:
    bones = MODEL.mean_bones
    first, second = rotation_about(0, np.array(0.4)), rotation_about(2, np.array(-0.9))
    rotations, heads = MODEL.transforms(bones, {"upperarm.L": first, "lowerarm.L": second})
    assert np.allclose(rotations[MODEL.bone("wrist.L")], first @ second)
    for child, parent in (("wrist.L", "lowerarm.L"), ("lowerarm.L", "upperarm.L")):
        k, above = MODEL.bone(child), MODEL.bone(parent)
        assert np.isclose(np.linalg.norm(heads[k] - heads[above]), np.linalg.norm(bones[k] - bones[above]))


@settings(deadline=None)
@given(direction, direction)
@example(np.array([1.0, 0.0, 0.0]), np.array([-1.0, 0.0, 1.5e-6]))
@example(np.array([1.0, 0.0, 0.0]), np.array([-1.0, 0.0, 1e-10]))
@example(np.array([1.0, 0.0, 0.0]), np.array([1.0, 0.0, 1.5e-10]))
@example(np.array([0.0, -2.0, 0.0]), np.array([0.0, 3.0, 0.0]))
def test_aligning_is_the_smallest_rotation(start: np.ndarray, end: np.ndarray) -> None:
    turn = aligning(start, end)
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert np.isclose(np.linalg.det(turn), 1.0)
    assert np.allclose(turn @ a, b, atol=1e-6)
    assert np.isclose(np.trace(turn), 1.0 + 2.0 * float(a @ b), atol=1e-6)


def test_aligning_opposite_directions() -> None:
    for axis in np.eye(3):
        assert np.allclose(aligning(axis, -axis) @ axis, -axis)


@settings(deadline=None)
@given(direction, st.floats(1.0, 900.0), st.floats(150.0, 350.0), st.floats(150.0, 350.0), direction)
def test_arms_keep_their_lengths_and_reach_what_they_can(
    way: np.ndarray, far: float, upper: float, lower: float, swivel: np.ndarray
) -> None:
    shoulder = np.array([-160.0, -400.0, 20.0])
    target = shoulder + far * way / np.linalg.norm(way)
    elbows, wrist = bend_arm(shoulder, target, upper, lower, np.stack([swivel, way]))
    assert np.allclose(np.linalg.norm(elbows - shoulder, axis=1), upper)
    assert np.allclose(np.linalg.norm(wrist - elbows, axis=1), lower)
    bend = np.degrees(
        np.arccos(np.clip(((elbows - shoulder) * (wrist - elbows)).sum(1) / upper / lower, -1, 1))
    )
    assert (bend > 9.9).all()
    assert (bend < 150.1).all()
    if ((bend > 10.1) & (bend < 149.9)).all():
        assert np.allclose(wrist, target, atol=1e-6)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="bake_body"):
        BodyModel.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="expected"):
        MODEL.bone("tail")
    with pytest.raises(ValueError, match="expected"):
        MODEL.shape(np.zeros(3))
    with pytest.raises(ValueError, match="expected"):
        MODEL.transforms(MODEL.mean_bones, {"tail": np.eye(3)})
