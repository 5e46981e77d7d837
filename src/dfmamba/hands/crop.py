"""Crops and flips of pictures and of whole samples.

Conventions of pixels, boxes and rotations: see `dfmamba.hands.affine`, whose names are also offered here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dfmamba.hands.affine import (
    Affine,
    box_of_points,
    centred,
    check_box,
    crop_affine,
    rotation,
    square_box,
)
from dfmamba.hands.camera import Camera

if TYPE_CHECKING:
    from dfmamba.data.sample import HandSample

__all__ = [
    "Affine",
    "box_of_points",
    "crop_affine",
    "crop_sample",
    "flip_sample",
    "sample_affine",
    "square_box",
    "warp_image",
]

_MAX_ASPECT = 0.02
"""Largest |fx / fy - 1| at which pixels count as square."""


def warp_image(
    image: np.ndarray,
    affine: Affine,
    size: int | tuple[int, int],
    fill: float | tuple[int, ...] = 0,
    nearest: bool = False,
) -> np.ndarray:
    """Resample a picture.

    Bilinear. Where the map shrinks by two or more, the picture is first averaged over blocks of whole pixels,
    so that nothing aliases. Crop pixels whose centre lies outside the picture's extent take `fill`.

    Args:
        image: (H, W) or (H, W, 3) uint8, or (H, W) float32 (depth).
        affine: from pixels of `image` to pixels of the result.
        size: side of the result, or its (width, height).
        fill: value outside the picture.
        nearest: take the nearest pixel instead: for masks and depth.

    Returns:
        Array of the result's size, the channels and dtype of `image`.

    Raises:
        ValueError: on another shape or dtype.
    """
    width, height = size if isinstance(size, tuple) else (size, size)
    colour = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    grey = image.ndim == 2 and image.dtype in (np.uint8, np.float32)
    if not (colour or grey) or 0 in image.shape:
        raise ValueError(
            f"image is {image.dtype} {image.shape}; expected uint8 (H, W), (H, W, 3) or float32 (H, W)"
        )
    back = affine.inverse()
    corners = back.apply(
        np.array([[-0.5, -0.5], [width - 0.5, -0.5], [-0.5, height - 0.5], [width - 0.5, height - 0.5]])
    )
    corners = np.clip(corners, -4.0, max(image.shape) + 4.0)
    step = 1 if nearest else max(1, math.floor(back.scale + 1e-6))
    low = np.maximum(np.floor(corners.min(axis=0) + 0.5).astype(int) - step - 1, 0)
    low -= low % step  # the same blocks for crops that differ by a fraction of a pixel
    high = np.minimum(
        np.ceil(corners.max(axis=0) + 0.5).astype(int) + step + 1, (image.shape[1], image.shape[0])
    )
    if (low >= high).any():
        return np.full((height, width, *image.shape[2:]), fill, image.dtype)

    # Only what the crop sees is read, and shrunk by whole blocks.
    source = Image.fromarray(np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]]))
    if step > 1:
        source = source.reduce(step)

    # Pillow counts from the picture's corner, so its coordinates are ours plus one half.
    linear = back.matrix[:, :2] / step
    shift = (back.matrix[:, 2] + 0.5 - low) / step - linear.sum(axis=1) * 0.5
    data = (linear[0, 0], linear[0, 1], shift[0], linear[1, 0], linear[1, 1], shift[1])
    filter_ = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    colour_fill = (int(fill),) * 3 if colour and not isinstance(fill, tuple) else fill
    warped = source.transform((width, height), Image.Transform.AFFINE, data, filter_, fillcolor=colour_fill)
    return np.array(warped)


def sample_affine(
    sample: HandSample, box_xyxy: Sequence[float] | np.ndarray, size: int, rotation_rad: float = 0.0
) -> Affine:
    """The map that `crop_sample` applies to the picture.

    It is `crop_affine`, except that a rotated crop of a picture with fx != fy is also stretched to square
    pixels (fx = fy): only then do rotating the picture and rotating the 3D joints mean the same.

    Raises:
        ValueError: on a bad box or size, or on rotation if fx and fy differ by more than 2 %.
    """
    affine = crop_affine(box_xyxy, size, rotation_rad)
    camera = sample.camera
    if rotation_rad == 0 or camera is None:
        return affine
    if abs(camera.fx / camera.fy - 1) > _MAX_ASPECT:
        raise ValueError(
            f"camera has fx={camera.fx:g}, fy={camera.fy:g}; to rotate, they may differ by at most 2 %"
        )
    stretch = np.array([camera.focal / camera.fx, camera.focal / camera.fy])
    return centred(affine.matrix[:, :2] * stretch, check_box(box_xyxy), size)


def crop_sample(
    sample: HandSample, box_xyxy: Sequence[float] | np.ndarray, size: int, rotation_rad: float = 0.0
) -> HandSample:
    """Cut a square out of a sample, scale it, and turn it about the viewing axis.

    Picture, mask, depth, joints, box and camera change together, so that the new camera projects the new 3D
    joints on the new 2D joints. A rotation turns `joints_cam_mm` about the camera's z axis; depths stay as
    they are. Joints outside the crop stay valid but are not visible; a hand with no valid joint inside the
    crop becomes absent.

    Args:
        sample: what to crop.
        box_xyxy: square box in the sample's pixels; may reach outside the picture, which is then black.
        size: side of the crop in pixels.
        rotation_rad: rotation of the picture about the centre of the box, x towards y.

    Raises:
        ValueError: see `sample_affine`.
    """
    affine = sample_affine(sample, box_xyxy, size, rotation_rad)
    joints_2d = affine.apply(sample.joints_2d_px.astype(np.float64)).astype(np.float32)
    joints_cam = sample.joints_cam_mm.astype(np.float64)
    joints_cam[..., :2] = joints_cam[..., :2] @ rotation(rotation_rad).T

    inside = ((joints_2d >= -0.5) & (joints_2d <= size - 0.5)).all(axis=-1)
    labelled = sample.valid.any(axis=1)
    present = sample.present & (~labelled | (inside & sample.valid).any(axis=1))
    valid = sample.valid & present[:, None]
    here = present[:, None, None]

    camera = sample.camera
    if camera is not None:
        centre = affine.apply(np.array([camera.cx, camera.cy]))
        fx, fy = (camera.focal,) * 2 if rotation_rad else (camera.fx, camera.fy)
        camera = Camera(fx * affine.scale, fy * affine.scale, centre[0], centre[1])
    joints_2d = np.where(here, joints_2d, np.float32(0))
    depth_px = None if sample.depth_px is None else sample.depth_px * np.float32(affine.scale)
    return sample.replace(
        depth_px=depth_px,
        image=None if sample.image is None else warp_image(sample.image, affine, size),
        mask=None if sample.mask is None else warp_image(sample.mask, affine, size, nearest=True),
        depth_mm=None if sample.depth_mm is None else warp_image(sample.depth_mm, affine, size, nearest=True),
        joints_2d_px=joints_2d,
        joints_cam_mm=np.where(here, joints_cam, 0.0).astype(np.float32),
        valid=valid,
        visible=sample.visible & inside & here[..., 0],
        present=present,
        camera=camera,
        box_xyxy=box_of_points(joints_2d, valid),
    )


def flip_sample(sample: HandSample) -> HandSample:
    """Mirror a sample left to right: x' = W - 1 - x, X' = -X, and a right hand becomes a left hand.

    Raises:
        ValueError: if the sample has neither picture, mask nor depth, so that its width is not known.
    """
    if sample.size is None:
        raise ValueError(
            f"sample {sample.id!r} has no picture, mask or depth; its width is needed to mirror it"
        )
    last = sample.size[0] - 1
    x0, y0, x1, y1 = sample.box_xyxy.tolist()
    box = (last - x1, y0, last - x0, y1) if sample.box_xyxy.any() else sample.box_xyxy
    present = sample.present[::-1]
    here = present[:, None, None]
    joints_2d = sample.joints_2d_px[::-1].astype(np.float64)
    joints_2d[..., 0] = last - joints_2d[..., 0]
    joints_2d = np.where(here, joints_2d, 0.0).astype(np.float32)
    joints_cam = sample.joints_cam_mm[::-1] * np.array([-1, 1, 1], np.float32)
    valid = sample.valid[::-1]
    camera = sample.camera
    mask = None
    if sample.mask is not None:
        swap = np.arange(256, dtype=np.uint8)
        swap[[1, 2]] = 2, 1
        mask = swap[sample.mask[:, ::-1]]
    return sample.replace(
        depth_px=None if sample.depth_px is None else sample.depth_px[::-1].copy(),
        image=None if sample.image is None else np.ascontiguousarray(sample.image[:, ::-1]),
        mask=mask,
        depth_mm=None if sample.depth_mm is None else np.ascontiguousarray(sample.depth_mm[:, ::-1]),
        joints_2d_px=joints_2d,
        joints_cam_mm=np.where(here, joints_cam, np.float32(0)),
        valid=valid.copy(),
        visible=sample.visible[::-1].copy(),
        present=present.copy(),
        camera=None if camera is None else Camera(camera.fx, camera.fy, last - camera.cx, camera.cy),
        box_xyxy=np.asarray(box, np.float32),
    )
