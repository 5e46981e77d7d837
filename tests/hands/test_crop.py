"""Affine maps, picture resampling, and crops and flips of samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.data.sample import HandSample
from dfmamba.hands.camera import Camera, to_25d
from dfmamba.hands.crop import (
    Affine,
    box_of_points,
    crop_affine,
    crop_sample,
    flip_sample,
    sample_affine,
    square_box,
    warp_image,
)

QUICK = settings(deadline=None, max_examples=40)

SEEDS = st.integers(0, 2**32 - 1)
ANGLES = st.floats(-4, 4)


def make_sample(seed: int = 0, aspect: float = 1.0, present: tuple[bool, bool] = (True, True)) -> HandSample:
    """A sample with random joints before the camera and random pictures."""
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(40, 90, 2))
    camera = Camera(80.0, 80.0 * aspect, width / 2 + rng.uniform(-9, 9), height / 2 + rng.uniform(-9, 9))
    here = np.array(present)
    joints = rng.uniform((-90, -90, 300), (90, 90, 500), (2, 21, 3)) * here[:, None, None]
    pixels = camera.project(joints) * here[:, None, None]
    valid = (rng.random((2, 21)) < 0.9) & here[:, None]
    return HandSample(
        image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        joints_2d_px=pixels,
        joints_cam_mm=joints,
        valid=valid,
        visible=valid & (rng.random((2, 21)) < 0.5),
        present=here,
        camera=camera,
        box_xyxy=box_of_points(pixels, valid),
        mask=rng.integers(0, 5, (height, width), dtype=np.uint8),
        depth_mm=rng.uniform(0, 900, (height, width)).astype(np.float32),
        id=str(seed),
    )


@QUICK
@given(SEEDS)
def test_affine_algebra(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (Affine(rng.normal(size=(2, 3)) + np.eye(2, 3) * 3) for _ in range(2))
    points = rng.uniform(-100, 100, (4, 5, 2))
    np.testing.assert_allclose(
        second.compose(first).apply(points), second.apply(first.apply(points)), atol=1e-8
    )
    np.testing.assert_allclose(first.inverse().apply(first.apply(points)), points, atol=1e-6)
    assert second.compose(first).scale == pytest.approx(first.scale * second.scale)
    tensor = first.apply(torch.from_numpy(points).float())
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), first.apply(points), atol=1e-3)
    assert first.apply(points.astype(np.float32)).dtype == np.float32
    assert Affine(first.matrix) == first != second
    assert hash(Affine(first.matrix)) == hash(first)


@given(power=st.floats(-9, 9), angle=ANGLES)
def test_maps_of_any_scale_can_be_inverted(power: float, angle: float) -> None:
    """A hand of a fraction of a pixel, enlarged to a crop, can be carried back."""
    turn = 10**power * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    affine = Affine(np.concatenate((turn, [[3.0], [-1.0]]), axis=1))
    back = affine.inverse().compose(affine).matrix
    np.testing.assert_allclose(back[:, :2], np.eye(2), atol=1e-12)
    with pytest.raises(ValueError, match="cannot be inverted"):
        Affine(10**power * np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]))


@pytest.mark.parametrize(
    "matrix", [np.eye(3), np.zeros((2, 3)), np.full((2, 3), np.nan), [[1, 2, 0], [2, 4, 0]]]
)
def test_bad_affine(matrix) -> None:
    with pytest.raises(ValueError, match="affine matrix"):
        Affine(matrix)


def test_boxes() -> None:
    assert square_box((0, 0, 10, 20)).tolist() == [-5, 0, 15, 20]
    assert square_box((0, 0, 10, 20), 1.5).tolist() == [-10, -5, 20, 25]
    points = np.array([[1, 2], [5, -3], [100, 100]])
    assert box_of_points(points, np.array([True, True, False])).tolist() == [1, -3, 5, 2]
    assert box_of_points(points, np.zeros(3, bool)).tolist() == [0, 0, 0, 0]
    for box in ((0, 0, 0, 0), (5, 0, 1, 9), (0, 0, 1), (0, 0, math.nan, 1), (0, 0, math.inf, 1)):
        with pytest.raises(ValueError, match="box"):
            square_box(box)
    with pytest.raises(ValueError, match="empty"):
        square_box((0, 0, 1, 1), -1)
    with pytest.raises(ValueError, match="expected a square"):
        crop_affine((0, 0, 10, 20), 64)
    with pytest.raises(ValueError, match="at least 1"):
        crop_affine((0, 0, 10, 10), 0)


def test_crop_affine_maps_edges_to_edges() -> None:
    assert np.allclose(crop_affine((-0.5, -0.5, 31.5, 31.5), 32).matrix, np.eye(2, 3))
    corners = np.array([[10.0, 20], [50, 60], [30, 40]])
    mapped = crop_affine((10, 20, 50, 60), 64).apply(corners)
    np.testing.assert_allclose(mapped, [[-0.5, -0.5], [63.5, 63.5], [31.5, 31.5]])
    # A quarter turn takes x to y: right of the centre comes to lie below it.
    turned = crop_affine((10, 20, 50, 60), 40, math.pi / 2).apply(np.array([[40.0, 40.0]]))
    np.testing.assert_allclose(turned, [[19.5, 29.5]])
    flipped = crop_affine((-0.5, -0.5, 31.5, 31.5), 32, flip=True)
    assert flipped.mirrored
    np.testing.assert_allclose(flipped.apply(np.array([3.0, 4.0])), [28, 4])


@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("shape", [(31, 31), (31, 31, 3)])
def test_identity_and_quarter_turns_are_exact(shape: tuple[int, ...], nearest: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    box = (-0.5, -0.5, 30.5, 30.5)
    assert np.array_equal(warp_image(image, crop_affine(box, 31), 31, nearest=nearest), image)
    mirrored = warp_image(image, crop_affine(box, 31, flip=True), 31, nearest=nearest)
    assert np.array_equal(mirrored, image[:, ::-1])
    turned = warp_image(image, crop_affine(box, 31, math.pi / 2), 31, nearest=nearest)
    assert np.abs(turned[1:-1, 1:-1].astype(int) - np.rot90(image, -1)[1:-1, 1:-1]).max() <= 1


def test_whole_pixel_shift_and_fill() -> None:
    image = np.random.default_rng(0).integers(1, 256, (20, 30, 3), dtype=np.uint8)
    out = warp_image(image, Affine(np.array([[1.0, 0, 4], [0, 1, -3]])), (30, 20), fill=7)
    assert np.array_equal(out[:17, 4:], image[3:, :26])
    assert (out[17:] == 7).all()
    assert (out[:, :4] == 7).all()
    far = Affine(np.array([[1.0, 0, 1e9], [0, 1, 0]]))
    assert (warp_image(image, far, 8, fill=(1, 2, 3)) == (1, 2, 3)).all()
    depth = np.linspace(100, 900, 600, dtype=np.float32).reshape(20, 30)
    moved = warp_image(depth, Affine(np.array([[1.0, 0, 4], [0, 1, -3]])), (30, 20), nearest=True)
    assert moved.dtype == np.float32
    assert np.array_equal(moved[:17, 4:], depth[3:, :26])
    assert (moved[17:] == 0).all()


@QUICK
@given(st.floats(0.06, 4), st.floats(-0.7, 0.7), st.floats(-20, 20), st.floats(-20, 20))
def test_ramp_is_carried_to_the_right_place(scale: float, angle: float, x: float, y: float) -> None:
    """A linear ramp tells where each crop pixel was read, at any scale: there is no half-pixel shift."""
    side = 200
    ramp = np.tile(np.arange(side, dtype=np.float32), (side, 1))
    size = 24
    half = size / scale / 2
    centre = np.array([side / 2 + x / scale / 8, side / 2 + y / scale / 8])
    affine = crop_affine((*(centre - half), *(centre + half)), size, angle)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(float)
    where = affine.inverse().apply(grid)
    margin = 2 / scale + 2
    inner = ((where > margin) & (where < side - 1 - margin)).all(-1)
    for ramp_, wanted in ((ramp, where[..., 0]), (ramp.T.copy(), where[..., 1])):
        assert np.abs(warp_image(ramp_, affine, size) - wanted)[inner].max(initial=0) < 0.01


def test_shrinking_does_not_alias() -> None:
    checker = ((np.indices((512, 512)).sum(0) % 2) * 255).astype(np.uint8)
    for size in (256, 128, 100, 33):
        small = warp_image(checker, crop_affine((-0.5, -0.5, 511.5, 511.5), size), size)
        assert abs(float(small.mean()) - 127.5) < 2
        assert small.std() < 3


def test_warp_errors() -> None:
    for image in (
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
    ):
        with pytest.raises(ValueError, match="image is"):
            warp_image(image, Affine.identity(), 4)


@QUICK
@given(SEEDS, ANGLES, st.floats(0.9, 1.1), st.integers(8, 70), st.floats(-25, 25), st.floats(20, 150))
def test_crop_keeps_the_projection(
    seed: int, angle: float, aspect: float, size: int, shift: float, side: float
) -> None:
    aspect = 1 + (aspect - 1) / 6
    sample = make_sample(seed, aspect)
    box = square_box((shift, shift, shift + side, shift + side))
    crop = crop_sample(sample, box, size, angle)
    affine = sample_affine(sample, box, size, angle)
    there = crop.present[:, None] & np.ones((2, 21), bool)
    tolerance = 1e-3 + 1e-4 * size / side * 100
    np.testing.assert_allclose(
        crop.joints_2d_px[there], affine.apply(sample.joints_2d_px)[there], atol=tolerance
    )
    np.testing.assert_allclose(
        crop.camera.project(crop.joints_cam_mm)[there], crop.joints_2d_px[there], atol=tolerance
    )
    # Depths and lengths stay; d scales with the picture.
    np.testing.assert_array_equal(crop.joints_cam_mm[there][:, 2], sample.joints_cam_mm[there][:, 2])
    np.testing.assert_allclose(
        np.linalg.norm(crop.joints_cam_mm[there], axis=-1),
        np.linalg.norm(sample.joints_cam_mm[there], axis=-1),
        rtol=1e-5,
    )
    for hand in np.flatnonzero(crop.present):
        np.testing.assert_allclose(
            to_25d(crop.joints_cam_mm[hand], crop.camera)[:, 2],
            to_25d(sample.joints_cam_mm[hand], sample.camera)[:, 2] * size / side,
            rtol=1e-4,
            atol=1e-3,
        )
    assert crop.image.shape == (size, size, 3)
    assert crop.mask.shape == crop.depth_mm.shape == (size, size)
    assert not crop.joints_2d_px[~crop.present].any()
    assert not crop.valid[~crop.present].any()
    inside = ((crop.joints_2d_px >= -0.5) & (crop.joints_2d_px <= size - 0.5)).all(-1)
    assert not (crop.visible & ~inside).any()
    np.testing.assert_array_equal(crop.box_xyxy, box_of_points(crop.joints_2d_px, crop.valid))


def test_crop_of_everything_is_the_sample() -> None:
    sample = make_sample(1)
    side = max(sample.size)
    same = crop_sample(sample, (-0.5, -0.5, side - 0.5, side - 0.5), side)
    height, width = sample.image.shape[:2]
    for name in ("image", "mask", "depth_mm"):
        assert np.array_equal(getattr(same, name)[:height, :width], getattr(sample, name))
    np.testing.assert_allclose(same.joints_2d_px, sample.joints_2d_px, atol=1e-4)
    assert same.camera == sample.camera


def test_rotated_picture_shows_the_rotated_joints() -> None:
    """Pictures and labels turn the same way: a bright spot stays under its joint."""
    sample = make_sample(2, present=(True, False))
    image = np.zeros((*sample.image.shape[:2], 3), np.uint8)
    x, y = 21, 17
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    pixels = sample.joints_2d_px.copy()
    pixels[0, 3] = x, y
    joints = sample.joints_cam_mm.copy()
    joints[0, 3] = sample.camera.unproject(np.array([x, y], float), 400.0)
    sample = sample.replace(image=image, joints_2d_px=pixels, joints_cam_mm=joints)
    crop = crop_sample(sample, (-10, -10, 70, 70), 160, 0.6)
    rows, columns = np.nonzero(crop.image[..., 0] > 127)
    np.testing.assert_allclose([columns.mean(), rows.mean()], crop.joints_2d_px[0, 3], atol=0.3)


def test_hand_outside_the_crop_becomes_absent() -> None:
    sample = make_sample(3)
    pixels = sample.joints_2d_px.copy()
    pixels[1] += 1000
    crop = crop_sample(sample.replace(joints_2d_px=pixels), (0, 0, 60, 60), 60)
    assert crop.present.tolist() == [True, False]
    assert not crop.joints_cam_mm[1].any()
    assert not crop.visible[1].any()


def test_rotation_needs_square_pixels() -> None:
    sample = make_sample(4, aspect=1.05)
    assert crop_sample(sample, (0, 0, 20, 20), 20).camera.fy == pytest.approx(sample.camera.fy)
    with pytest.raises(ValueError, match="at most 2 %"):
        crop_sample(sample, (0, 0, 20, 20), 20, 0.1)
    no_camera = crop_sample(sample.replace(camera=None), (0, 0, 20, 20), 20, 0.1)
    assert no_camera.camera is None


@QUICK
@given(SEEDS, st.sampled_from([(True, True), (True, False), (False, True)]))
def test_flip_is_an_involution(seed: int, present: tuple[bool, bool]) -> None:
    sample = make_sample(seed, present=present)
    flipped = flip_sample(sample)
    assert flipped.present.tolist() == list(present[::-1])
    there = flipped.present
    np.testing.assert_allclose(
        flipped.camera.project(flipped.joints_cam_mm)[there], flipped.joints_2d_px[there], atol=1e-3
    )
    assert not flipped.joints_2d_px[~there].any()
    assert not flipped.joints_cam_mm[~there].any()
    back = flip_sample(flipped)
    for name in ("image", "mask", "depth_mm", "valid", "visible", "present", "joints_cam_mm"):
        np.testing.assert_array_equal(getattr(back, name), getattr(sample, name))
    np.testing.assert_allclose(back.joints_2d_px, sample.joints_2d_px, atol=1e-5)
    np.testing.assert_allclose(back.box_xyxy, sample.box_xyxy, atol=1e-5)
    assert back.camera.cx == pytest.approx(sample.camera.cx)


def test_flip_moves_everything() -> None:
    sample = make_sample(5)
    flipped = flip_sample(sample)
    width = sample.size[0]
    assert np.array_equal(flipped.image, sample.image[:, ::-1])
    assert np.array_equal(flipped.mask == 1, (sample.mask == 2)[:, ::-1])
    assert np.array_equal(flipped.mask == 3, (sample.mask == 3)[:, ::-1])
    np.testing.assert_allclose(
        flipped.joints_2d_px[1, :, 0], width - 1 - sample.joints_2d_px[0, :, 0], atol=1e-4
    )
    x0, y0, x1, y1 = sample.box_xyxy
    np.testing.assert_allclose(flipped.box_xyxy, [width - 1 - x1, y0, width - 1 - x0, y1], atol=1e-4)
    with pytest.raises(ValueError, match="width is needed"):
        flip_sample(sample.replace(image=None, mask=None, depth_mm=None))
