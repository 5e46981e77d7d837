"""Projection, 2.5D, scale and translation."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.hands.camera import (
    Camera,
    bone_lengths,
    from_25d,
    from_25d_weak,
    scale_to_reference,
    solve_translation,
    to_25d,
)
from dfmamba.hands.crop import Affine, crop_affine
from dfmamba.hands.skeleton import BONES, REFERENCE_BONES_MM

QUICK = settings(deadline=None, max_examples=40)

CAMERAS = st.builds(
    Camera, st.floats(150, 1500), st.floats(150, 1500), st.floats(-100, 700), st.floats(-100, 700)
)
SEEDS = st.integers(0, 2**32 - 1)


def random_hand(seed: int, hands: tuple[int, ...] = ()) -> np.ndarray:
    """Chains of bones of the reference lengths in random directions, at a random place before the camera."""
    rng = np.random.default_rng(seed)
    joints = np.zeros((*hands, 21, 3))
    for bone, (parent, child) in enumerate(BONES):
        direction = rng.normal(size=(*hands, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        joints[..., child, :] = joints[..., parent, :] + REFERENCE_BONES_MM[bone] * direction
    place = rng.uniform((-150, -150, 350), (150, 150, 1200), size=(*hands, 3))
    return joints + place[..., None, :]


@QUICK
@given(CAMERAS, SEEDS)
def test_projection_is_the_matrix(camera: Camera, seed: int) -> None:
    joints = random_hand(seed, (2,))
    homogeneous = joints @ camera.matrix.T
    pixels = camera.project(joints)
    np.testing.assert_allclose(pixels, homogeneous[..., :2] / homogeneous[..., 2:], atol=1e-9)
    np.testing.assert_allclose(camera.unproject(pixels, joints[..., 2]), joints, atol=1e-9)
    assert Camera.from_matrix(camera.matrix) == camera


@QUICK
@given(CAMERAS, SEEDS)
def test_25d_round_trip(camera: Camera, seed: int) -> None:
    joints = random_hand(seed, (3, 2))
    flat = to_25d(joints, camera)
    assert (flat[..., 0, 2] == 0).all()
    np.testing.assert_allclose(flat[..., :2], camera.project(joints), atol=1e-12)
    np.testing.assert_allclose(from_25d(flat, camera, joints[..., 0, 2]), joints, atol=1e-8)
    # One factor is all that is missing.
    unit = from_25d(flat, camera, 1.0)
    np.testing.assert_allclose(unit * joints[..., :1, 2:], joints, atol=1e-8)
    np.testing.assert_allclose(scale_to_reference(unit, REFERENCE_BONES_MM), joints[..., 0, 2], rtol=1e-9)


@QUICK
@given(CAMERAS, SEEDS)
def test_torch_agrees_with_numpy(camera: Camera, seed: int) -> None:
    joints = random_hand(seed, (2,))
    tensor = torch.from_numpy(joints)
    flat = to_25d(tensor, camera)
    assert isinstance(flat, torch.Tensor)
    assert flat.dtype == torch.float64
    np.testing.assert_allclose(flat.numpy(), to_25d(joints, camera), atol=1e-9)
    np.testing.assert_allclose(from_25d(flat, camera, tensor[..., 0, 2]).numpy(), joints, atol=1e-8)
    np.testing.assert_allclose(bone_lengths(tensor).numpy(), np.tile(REFERENCE_BONES_MM, (2, 1)), atol=1e-9)
    assert to_25d(tensor.float(), camera).dtype == torch.float32
    assert to_25d(joints.astype(np.float32), camera).dtype == np.float32
    assert from_25d(flat.float(), camera, 400.0).dtype == torch.float32


def test_25d_unit_is_pixels_at_the_root() -> None:
    """A joint as far behind the wrist as another is beside it has the same d as that one's pixel offset."""
    camera = Camera(500.0, 500.0, 128.0, 128.0)
    joints = np.tile([0.0, 0.0, 400.0], (21, 1))
    joints[1] += (40, 0, 0)
    joints[2] += (0, 0, 40)
    flat = to_25d(joints, camera)
    assert flat[1, 0] - flat[0, 0] == pytest.approx(50) == flat[2, 2]


def test_absent_hands_stay_zero() -> None:
    camera = Camera(500.0, 500.0, 128.0, 128.0)
    for zeros in (np.zeros((2, 21, 3), np.float32), torch.zeros(2, 21, 3)):
        assert float(abs(to_25d(zeros, camera)).max()) == 0.0


@QUICK
@given(CAMERAS, SEEDS, st.floats(0.05, 8), st.floats(-300, 300), st.floats(-300, 300))
def test_transformed_camera_projects_into_the_new_picture(
    camera: Camera, seed: int, scale: float, x: float, y: float
) -> None:
    affine = Affine(np.array([[scale, 0, x], [0, scale, y]]))
    joints = random_hand(seed)
    moved = camera.transformed(affine)
    np.testing.assert_allclose(moved.project(joints), affine.apply(camera.project(joints)), atol=1e-7)
    # d scales with the picture, as pixels do.
    np.testing.assert_allclose(to_25d(joints, moved)[:, 2], scale * to_25d(joints, camera)[:, 2], atol=1e-7)


@pytest.mark.parametrize(
    "affine", [crop_affine((0, 0, 9, 9), 9, 0.1), crop_affine((0, 0, 9, 9), 9, flip=True)]
)
def test_transformed_refuses_rotation_and_mirror(affine: Affine) -> None:
    with pytest.raises(ValueError, match="rotates, shears or mirrors"):
        Camera(500, 500, 10, 10).transformed(affine)


@QUICK
@given(CAMERAS, SEEDS)
def test_translation_is_exact_without_noise(camera: Camera, seed: int) -> None:
    joints = random_hand(seed, (2,))
    pixels = camera.project(joints)
    relative = joints - joints[:, :1]
    np.testing.assert_allclose(
        solve_translation(pixels, relative, camera), joints[:, 0], rtol=1e-6, atol=1e-6
    )
    # Joints of weight 0 do not matter.
    weights = np.ones((2, 21))
    weights[:, 5:9] = 0
    pixels[:, 5:9] += 50
    np.testing.assert_allclose(
        solve_translation(pixels, relative, camera, weights), joints[:, 0], rtol=1e-6, atol=1e-6
    )


@QUICK
@given(SEEDS)
def test_translation_is_good_with_noise(seed: int) -> None:
    camera = Camera(600.0, 600.0, 320.0, 240.0)
    joints = random_hand(seed)
    rng = np.random.default_rng(seed)
    pixels = camera.project(joints) + rng.normal(0, 0.5, (21, 2))
    t = solve_translation(pixels, joints - joints[0], camera)
    assert np.linalg.norm(t - joints[0]) < 0.03 * joints[0, 2]


def test_translation_errors() -> None:
    camera = Camera(600.0, 600.0, 320.0, 240.0)
    joints = random_hand(1)
    pixels = camera.project(joints)
    with pytest.raises(ValueError, match="differ in their joints"):
        solve_translation(pixels[:20], joints, camera)
    with pytest.raises(ValueError, match="not determined"):
        solve_translation(pixels, joints, camera, np.zeros(21))
    with pytest.raises(ValueError, match="not determined"):
        solve_translation(np.ones((21, 2)), joints, camera)
    with pytest.raises(ValueError, match="weights"):
        solve_translation(pixels, joints, camera, -np.ones(21))


def test_weak_perspective_is_root_relative_and_tends_to_the_truth() -> None:
    relative = random_hand(3) - random_hand(3)[0]
    errors = []
    for distance in (400.0, 4000.0, 40000.0):
        camera = Camera(distance, distance, 100.0, 100.0)
        weak = from_25d_weak(to_25d(relative + np.array([0, 0, distance]), camera))
        assert (weak[0] == 0).all()
        errors.append(np.linalg.norm(weak - relative, axis=-1).max())
    assert errors[0] > 9 * errors[1] > 80 * errors[2] > 0
    assert errors[2] < 1.0


@QUICK
@given(SEEDS, st.floats(0.01, 100))
def test_scale_is_robust(seed: int, scale: float) -> None:
    joints = random_hand(seed) / scale
    assert scale_to_reference(joints, REFERENCE_BONES_MM) == pytest.approx(scale, rel=1e-6)
    joints[4] += 3 * (joints[4] - joints[3])
    assert scale_to_reference(joints, REFERENCE_BONES_MM) == pytest.approx(scale, rel=0.03)


def test_scale_edge_cases() -> None:
    assert scale_to_reference(np.zeros((2, 21, 3)), REFERENCE_BONES_MM).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="expected \\(20,\\) positive"):
        scale_to_reference(np.zeros((21, 3)), np.ones(21))
    with pytest.raises(ValueError, match="21, 3"):
        scale_to_reference(np.zeros((20, 3)), REFERENCE_BONES_MM)


def test_parse() -> None:
    assert Camera.parse(" 500, 501.5,128,1e2") == Camera(500.0, 501.5, 128.0, 100.0)
    for text in ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "500;500;1;1"):
        with pytest.raises(ValueError, match="fx,fy,cx,cy"):
            Camera.parse(text)
    with pytest.raises(ValueError, match="finite"):
        Camera.parse("nan,1,1,1")
    with pytest.raises(ValueError, match="positive"):
        Camera.parse("500,-500,1,1")
    with pytest.raises(ValueError, match="skew"):
        Camera.from_matrix(np.array([[500, 2, 1], [0, 500, 1], [0, 0, 1]]))


@QUICK
@given(st.text("0123456789.,-+einfax _", max_size=30))
def test_parse_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(ValueError):
        Camera.parse(text)


def test_wrong_shapes() -> None:
    camera = Camera(500, 500, 1, 1)
    with pytest.raises(ValueError, match=r"\(21, 2\); expected \(\.\.\., 3\)"):
        camera.project(np.zeros((21, 2)))
    with pytest.raises(ValueError, match="joints_25d"):
        from_25d(np.zeros(3), camera, 1.0)
    assert camera.project([0, 0, 100]).tolist() == [1.0, 1.0]
