"""Crop, augmentation and 2.5D target of InterNet (Moon et al., ECCV 2020), which A2J-Transformer takes over.

Two details differ from the released loader. Its affine map puts the centre of the box on pixel index S/2;
here it comes to the middle of the crop, (S - 1)/2 in coordinates whose pixel centres are integers. Picture,
joints and inverse share one map either way, so this only moves the window by half a crop pixel. And its
translation changes the stored box, which drifts from epoch to epoch; here nothing of a sample is changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from dfmamba.data.sample import HandSample
from dfmamba.hands.affine import Affine, crop_affine, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.hands.skeleton import WRIST
from dfmamba.settings import from_values


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; zeros switch a part off.

    Attributes:
        translation: largest shift of the box along each axis, relative to its side.
        scale: the box's side is multiplied by 1 + scale * clip(N(0, 1), -1, 1).
        rotation_deg: the picture is turned by rotation_deg * clip(N(0, 1), -2, 2).
        rotation_share: probability of turning it at all.
        flip: probability of mirroring, which exchanges right and left.
        colour: each channel is multiplied by a factor from U(1 - colour, 1 + colour).

    Raises:
        ValueError: a range is negative, or a probability, shift or factor above 1.
    """

    translation: float = 0.15
    scale: float = 0.25
    rotation_deg: float = 45.0
    rotation_share: float = 0.6
    flip: float = 0.5
    colour: float = 0.2

    def __post_init__(self) -> None:
        for field in fields(self):
            value, largest = getattr(self, field.name), 180.0 if field.name == "rotation_deg" else 1.0
            if not 0.0 <= value <= largest or (field.name == "scale" and value == 1.0):
                raise ValueError(f"Augmentation.{field.name} is {value}; expected 0 to {largest:g}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Augmentation:
        """Builds from plain values.

        Raises:
            ValueError: an unknown key or an unusable value.
        """
        return from_values(cls, values, "augmentation")


class Change(NamedTuple):
    """One draw of an `Augmentation`; as it stands, no change.

    Attributes:
        shift: of the box along x and y, relative to its side.
        scale: factor of the box's side; above 1 the hand becomes smaller.
        rotation_rad: turns the crop's axes in the picture from x towards y, and so what it shows the other
            way round.
        flip: mirror the picture before all else.
        colour: factor of each channel.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    rotation_rad: float = 0.0
    flip: bool = False
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


def draw_change(augmentation: Augmentation, rng: np.random.Generator) -> Change:
    """Draws the random change of one sample."""
    a = augmentation
    shift = rng.uniform(-a.translation, a.translation, 2)
    scale = 1.0 + a.scale * float(np.clip(rng.standard_normal(), -1, 1))
    angle = math.radians(a.rotation_deg) * float(np.clip(rng.standard_normal(), -2, 2))
    turned = rng.random() < a.rotation_share
    flip = bool(rng.random() < a.flip)
    colour = rng.uniform(1 - a.colour, 1 + a.colour, 3)
    return Change(
        (float(shift[0]), float(shift[1])),
        scale,
        angle if turned else 0.0,
        flip,
        (float(colour[0]), float(colour[1]), float(colour[2])),
    )


def crop_map(box_xyxy: np.ndarray, size: int, factor: float, change: Change) -> Affine:
    """The map from the pixels of a picture, mirrored already if it is to be, to those of the crop.

    The crop shows the square about the box's centre with `factor` times its longer side. It may reach outside
    the picture.

    Args:
        box_xyxy: labelled box in pixels of that picture.
        size: side of the crop in pixels.
        factor: enlargement of the box.
        change: shift, scale and rotation.

    Raises:
        ValueError: the box is empty.
    """
    x0, y0, x1, y1 = square_box(box_xyxy, factor)
    side = x1 - x0
    centre = np.array([x0 + x1, y0 + y1]) / 2 + side * np.array(change.shift)
    half = side * change.scale / 2
    return crop_affine(np.concatenate([centre - half, centre + half]), size, -change.rotation_rad)


def crop_picture(
    image: np.ndarray, affine: Affine, size: int, colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> np.ndarray:
    """The crop of a picture as a network gets it: (3, size, size) float32 in [0, 1], black outside.

    Args:
        image: (H, W, 3) uint8.
        affine: from its pixels to those of the crop.
        size: side of the crop in pixels.
        colour: factor of each channel; values beyond 255 are cut.
    """
    crop = warp_image(image, affine, size).astype(np.float32) * np.array(colour, np.float32)
    return np.ascontiguousarray(np.clip(crop, 0.0, 255.0).transpose(2, 0, 1)) / np.float32(255.0)


def wrist_masked(valid: np.ndarray) -> np.ndarray:
    """Validity (2, 21) by which figures are counted: without its wrist, no joint of a hand is valid."""
    return valid & valid[:, WRIST : WRIST + 1]


def target_25d(sample: HandSample, affine: Affine) -> np.ndarray:
    """Joints as a network is to find them: pixel in the crop, and depth relative to the hand's own wrist.

    Args:
        sample: mirrored already if it is to be.
        affine: from its pixels to those of the crop.

    Returns:
        (2, 21, 3) float32 u, v (pixels), Z - Z_wrist (mm); anything where not valid.
    """
    sample.require_mm("this framework")
    pixels = affine.apply(sample.joints_2d_px.astype(np.float64))
    depth = sample.joints_cam_mm[..., 2].astype(np.float64)
    relative = depth - depth[:, WRIST : WRIST + 1]
    return np.concatenate([pixels, relative[..., None]], axis=-1).astype(np.float32)


def trainable(joints_25d: np.ndarray, valid: np.ndarray, size: int, depth_mm: float) -> np.ndarray:
    """Validity (2, 21) by which the loss is counted.

    Invalid are the joints outside the crop, those at least `depth_mm` behind their wrist or more than that in
    front of it, and all joints of a hand whose wrist isn't labelled.

    Args:
        joints_25d: (2, 21, 3) of `target_25d`.
        valid: (2, 21) labels.
        size: side of the crop in pixels.
        depth_mm: half the extent of depth.
    """
    pixels, depth = joints_25d[..., :2], joints_25d[..., 2]
    inside = ((pixels >= -0.5) & (pixels < size - 0.5)).all(-1)
    return wrist_masked(valid) & inside & (depth >= -depth_mm) & (depth < depth_mm)
