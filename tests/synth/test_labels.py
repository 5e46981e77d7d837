"""Visibility of joints on constructed pictures."""

from __future__ import annotations

import numpy as np

from dfmamba.synth.post import FLESH_MM, visible_joints


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A right hand as a plate 500 mm away whose 21 joints lie in a row 5 mm under its surface."""
    pixels = np.zeros((2, 21, 2), np.float32)
    pixels[0] = np.stack([np.arange(21) + 4.0, np.full(21, 10.0)], 1)
    joints = np.zeros((2, 21, 3), np.float32)
    joints[0, :, 2] = 505
    depth, instance = np.full((32, 32), 500, np.float32), np.full((32, 32), 1, np.uint8)
    return pixels, joints, np.array([True, False]), depth, instance


def test_joints_under_their_own_skin_are_visible() -> None:
    assert visible_joints(*scene())[0].all()
    assert not visible_joints(*scene())[1].any()


def test_each_joint_has_its_own_thickness() -> None:
    pixels, joints, present, depth, instance = scene()
    joints[0, :, 2] = 500 + FLESH_MM + 1
    assert not visible_joints(pixels, joints, present, depth, instance)[0].any()
    joints[0, :, 2] = 500 + FLESH_MM - 1
    assert visible_joints(pixels, joints, present, depth, instance)[0].all()
    assert FLESH_MM[[0, 1, 2, 4, 5, 6, 7, 8]].tolist() == [30, 25, 22, 10, 22, 14, 12, 10]


def test_another_surface_hides() -> None:
    pixels, joints, present, depth, instance = scene()
    for label in (2, 3, 4):
        instance[:, 10] = label
        seen = visible_joints(pixels, joints, present, depth, instance)[0]
        assert not seen[6]
        assert seen.sum() == 20


def test_outside_the_picture_is_not_visible() -> None:
    pixels, joints, present, depth, instance = scene()
    pixels[0, 0], pixels[0, 1], pixels[0, 2], pixels[0, 3] = (-0.6, 5), (-0.4, 5), (31.4, 5), (31.6, 5)
    assert visible_joints(pixels, joints, present, depth, instance)[0, :4].tolist() == [
        False,
        True,
        True,
        False,
    ]


def test_joint_beside_the_outline() -> None:
    pixels, joints, present, depth, instance = scene()
    depth[:11], instance[:11] = 0, 0
    assert visible_joints(pixels, joints, present, depth, instance)[0].all()
    depth[:12], instance[:12] = 0, 0
    assert not visible_joints(pixels, joints, present, depth, instance)[0].any()
