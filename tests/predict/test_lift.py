"""From a crop's 2.5D joints to pixels and millimetres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.hands.affine import box_iou
from dfmamba.hands.camera import Camera, to_25d
from dfmamba.hands.crop import crop_affine
from dfmamba.hands.skeleton import BONES, REFERENCE_BONES_MM
from dfmamba.predict.lift import (
    check_box,
    hand_box,
    joints_to_picture,
    lift_joints,
    mirror_box,
    mirror_points,
)

CAMERA = Camera(600, 610, 320, 240)


def reference_hand(seed: int = 0, wrist=(30.0, -20.0, 450.0)) -> np.ndarray:
    """A hand in the camera frame with reference bones in random directions."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((21, 3))
    joints[0] = wrist
    for (parent, child), length in zip(BONES, REFERENCE_BONES_MM, strict=True):
        direction = rng.normal(size=3) * [1, 1, 0.6] + [0, -1, 0]
        joints[child] = joints[parent] + length * direction / np.linalg.norm(direction)
    return joints


def test_with_a_camera_the_reference_hand_comes_back_exactly() -> None:
    joints = reference_hand()
    assert np.allclose(lift_joints(to_25d(joints, CAMERA), CAMERA), joints, atol=1e-6)


def test_with_a_camera_another_hand_is_seen_at_the_reference_size() -> None:
    small = 0.8 * reference_hand()
    lifted = lift_joints(to_25d(small, CAMERA), CAMERA)
    assert np.allclose(lifted, small / 0.8, atol=1e-6)
    assert np.allclose(CAMERA.project(lifted), CAMERA.project(small))


def test_without_a_camera_the_shape_is_right_far_away() -> None:
    joints = reference_hand(wrist=(0.0, 0.0, 50_000.0))
    far = Camera(60_000, 60_000, 320, 240)
    lifted = lift_joints(to_25d(joints, far), None)
    assert np.allclose(lifted[0], 0)
    assert np.abs(lifted - (joints - joints[0])).max() < 1.0


@pytest.mark.parametrize("size", [64, 128])
def test_the_crop_does_not_matter(size: int) -> None:
    joints = reference_hand(1)
    affine = crop_affine(np.array([200.0, 100.0, 450.0, 350.0]), size)
    in_crop = to_25d(joints, CAMERA.transformed(affine))
    assert np.allclose(joints_to_picture(in_crop, affine), to_25d(joints, CAMERA))


def test_hand_box_has_a_margin_and_ends_at_the_picture() -> None:
    joints = np.array([[10.0, 20.0], [30.0, 25.0]])
    assert hand_box(joints, (100, 80)).tolist() == [8, 18, 32, 27]
    assert hand_box(joints, (31, 21)).tolist() == [8, 18, 30.5, 20.5]


@settings(deadline=None)
@given(st.lists(st.floats(-500, 500), min_size=4, max_size=4), st.integers(1, 300))
def test_mirroring_twice_changes_nothing(numbers: list[float], width: int) -> None:
    points = np.array(numbers).reshape(2, 2)
    assert np.allclose(mirror_points(mirror_points(points, width), width), points)
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    mirrored = mirror_box(box, width)
    assert mirrored[0] <= mirrored[2]
    assert np.allclose(mirror_box(mirrored, width), box)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((1, 2, 3), "four"),
        ((1, 2, 3, float("nan")), "four"),
        ("abcd", "four"),
        ((5, 5, 5, 9), "empty"),
        ((9, 5, 5, 9), "empty"),
        ((64, 0, 80, 20), "outside the picture of 64 x 48"),
        ((-9, 0, -1, 20), "outside"),
        ((0, 48, 20, 60), "outside"),
        ((0, -60, 20, -0.5), "outside"),
    ],
)
def test_unusable_boxes(box, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_box(box, (64, 48))


def test_boxes_that_reach_out_are_fine() -> None:
    assert check_box([-20, -20, 5, 5], (64, 48)).tolist() == [-20, -20, 5, 5]


def test_iou() -> None:
    first = np.array([0.0, 0.0, 2.0, 2.0])
    assert box_iou(first, first) == 1
    assert box_iou(first, first + 5) == 0
    assert box_iou(first, np.array([1.0, 0.0, 3.0, 2.0])) == pytest.approx(1 / 3)
    assert box_iou(np.zeros(4), np.zeros(4)) == 0
