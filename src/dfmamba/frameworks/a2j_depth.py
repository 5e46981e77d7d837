"""A2J-Transformer (Jiang et al., CVPR 2023) on depth maps of one hand: NYU.

Crop, normalisation and augmentation are those of A2J (Xiong et al., ICCV 2019), which the released code takes
over. What differs from the release, all of it deliberate:

* the map from picture to crop is exact, not rounded to whole pixels, and applied once: the release resizes
  the crop and then turns and scales the result, so that what was outside of it stays empty;
* the anchors cover the crop's 176 pixels, 11 x 11 x 3 of them; the release's reach to 247.5, and its
  reference points are divided by 256 (their places on the maps are wrong by 256 / 176);
* the crop is padded on the right and below to 192 pixels (`multiple`), so that maps of all strides cover the
  same square; of 176 pixels the map of stride 32 covers 192 and the others don't;
* offsets count in 176 px and 300 mm, which is the extent of the crop, not in 256 of both;
* (x, y) are never swapped.

Kept: joints that the augmentation moves out of the crop still count, and "random erasing" adds noise to a
rectangle. The release's depth noise, which it draws and then doesn't apply, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dfmamba.data.sample import RIGHT, HandSample
from dfmamba.frameworks.a2j import AnchorTarget, AnchorTau, network, published_loss
from dfmamba.frameworks.base import Example, Framework
from dfmamba.hands.affine import Affine, box_of_points, centred, rotation
from dfmamba.hands.camera import Camera
from dfmamba.hands.crop import warp_image
from dfmamba.hands.skeleton import joint_order
from dfmamba.heads import HandPoseOutput, HeadConfig, LossConfig, pose_loss
from dfmamba.models import ModelConfig
from dfmamba.settings import from_values

ORDER = "nyu14"

PUBLISHED_HEAD = HeadConfig(
    image_size=176,
    anchor_depths=(-75.0, 0.0, 75.0),
    depth_unit="mm",
    depth_range=300.0,
    num_hands=1,
    num_joints=len(joint_order(ORDER).joints),
    root_joint=None,
)
"""6 + 6 layers, 363 anchors; depth in mm relative to the centre of the hand."""

ERASED_SHARE = (0.02, 0.4)
ERASED_ASPECT = (0.3, 3.3)


@dataclass(frozen=True)
class DepthAugmentation:
    """How training crops vary; the defaults are A2J's, zeros switch a part off.

    Attributes:
        shift_px: each edge of the crop moves on its own, by whole pixels in [-shift_px, shift_px).
        rotation_deg: rotation about the middle by a whole number of degrees in [-rotation_deg, rotation_deg).
        scale: zoom by a factor in [1 - scale, 1 + scale) about the middle; depths are multiplied as well.
        noise: probability of noise in one random rectangle, of standard deviation 1 after normalisation.

    Raises:
        ValueError: a value is negative or too large.
    """

    shift_px: int = 5
    rotation_deg: int = 180
    scale: float = 0.5
    noise: float = 0.5

    def __post_init__(self) -> None:
        most = {"shift_px": math.inf, "rotation_deg": 180, "scale": 0.99, "noise": 1.0}
        for name, limit in most.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"augmentation {name} is {getattr(self, name)}; expected 0 to {limit:g}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DepthAugmentation:
        """From plain values.

        Raises:
            ValueError: an unknown name or an unusable value.
        """
        return from_values(cls, values, "augmentation")


@dataclass(frozen=True)
class Change:
    """One draw of the augmentation; the defaults change nothing."""

    edges_px: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    rotation_rad: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class A2JDepth(Framework):
    """A2J-Transformer for depth, with its settings; the defaults are the published ones, see the module.

    Attributes:
        head: the network above the backbone: one hand of 14 joints, depth in mm. Given as plain values, what
            is not named keeps its published value.
        half_mm: half of the crop's width and height, at the depth of the centre.
        depth_mm: depths that differ from the centre's by this or more count as background.
        mean_mm: depth relative to the centre that the network sees as 0.
        std_mm: and the difference that it sees as 1.
        channels: 1, or 3 alike for backbones trained on RGB, as published.
        multiple: the crop is padded with background, right and below, to a multiple of this; 1 leaves it.
        augmentation: A2J's.
        anchor_tau: see `a2j_network.AnchorTau`.
        anchor_target: see `a2j_network.AnchorTarget`.

    Raises:
        ValueError: an unusable setting.
    """

    NAME: ClassVar[str] = "a2j_depth"
    GIVEN: ClassVar[str] = (
        "centre of the hand (from the file of centres, else the mean of the labelled joints); intrinsics"
    )

    head: HeadConfig = PUBLISHED_HEAD
    half_mm: float = 110.0
    depth_mm: float = 150.0
    mean_mm: float = -0.66877532
    std_mm: float = 28.32958208
    channels: int = 1
    multiple: int = 32
    augmentation: DepthAugmentation = DepthAugmentation()
    anchor_tau: AnchorTau = "code"
    anchor_target: AnchorTarget = "truth"

    def __post_init__(self) -> None:
        if isinstance(self.head, Mapping):
            values = {**PUBLISHED_HEAD.to_dict(), **self.head}
            object.__setattr__(self, "head", HeadConfig.from_dict(values))
        if isinstance(self.augmentation, Mapping):
            object.__setattr__(self, "augmentation", DepthAugmentation.from_dict(self.augmentation))
        head = self.head
        shape = (head.num_hands, head.num_joints, head.depth_unit, head.root_joint)
        if shape != (1, PUBLISHED_HEAD.num_joints, "mm", None):
            raise ValueError(
                f"framework a2j_depth has {shape[0]} hands, {shape[1]} joints, depth in {shape[2]} and root "
                f"joint {shape[3]}; it needs 1, {PUBLISHED_HEAD.num_joints}, 'mm' and None"
            )
        for name in ("half_mm", "depth_mm", "std_mm", "multiple"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; use 1 or 3")
        _ = self.loss_config  # checks the anchor term's settings

    @property
    def loss_config(self) -> LossConfig:
        """Weights and thresholds of the loss; confidences and presence aren't trained.

        It counts in pixels of the crop and in mm: with 256 "bins" in 256, a bin is one of either.
        """
        return published_loss(256.0, 256.0, self.anchor_tau, self.anchor_target)

    def model_config(self, backbone: str, **backbone_args: Any) -> ModelConfig:
        """The network on a backbone; it normalises mm relative to the centre. See `a2j_network.network`.

        Raises:
            ValueError: unknown backbone or argument.
        """
        scale, shift = 1.0 / self.std_mm, -self.mean_mm / self.std_mm
        return network(self, self.head, backbone, backbone_args, self.channels, scale, shift)

    def example(self, sample: HandSample, rng: np.random.Generator | None) -> Example:
        """Crop and target of a sample with a depth map, a camera and a right hand in the order "nyu14".

        The crop lies around the sample's `centre_mm`, or the mean of its labelled joints. The
        picture holds mm relative to the centre's depth, 0 where there is background or nothing was measured.
        The target holds `joints_25d` (1, 14, 3): u, v in crop pixels, depth relative to the centre in mm,
        times the zoom of the augmentation; `valid` (1, 14), `present` (1,), `box_size_px` (1,); and for the
        read-out `crop_to_picture` (2, 3), `camera` (4,) fx, fy, cx, cy, `centre_z_mm` and `zoom`.

        Raises:
            ValueError: the sample has no depth, camera or labelled right hand, or another order of joints.
        """
        if sample.order != ORDER:
            raise ValueError(f"sample {sample.id!r} has joints in order {sample.order!r}; expected {ORDER!r}")
        if sample.depth_mm is None or sample.camera is None or not sample.valid[RIGHT].any():
            missing = (
                "depth map" if sample.depth_mm is None else "camera" if sample.camera is None else "hand"
            )
            raise ValueError(f"sample {sample.id!r} has no {missing}; framework a2j_depth needs it")
        sample.require_mm("framework a2j_depth")
        valid = sample.valid[RIGHT]
        centre = sample.centre_mm
        if centre is None:
            centre = sample.joints_cam_mm[RIGHT][valid].mean(axis=0)
        change = Change() if rng is None else self._draw(rng)
        size = self.head.image_size
        affine = crop_map(centre, sample.camera, self.half_mm, size, change)
        depth = warp_image(sample.depth_mm, affine, size, nearest=True)
        picture = self._relative(depth, float(centre[2])) * np.float32(change.scale)
        if rng is not None:
            self._add_noise(picture, rng)

        pixels = affine.apply(sample.joints_2d_px[RIGHT].astype(np.float64))
        relative = (sample.joints_cam_mm[RIGHT, :, 2:] - float(centre[2])) * change.scale
        joints = np.where(valid[:, None], np.concatenate([pixels, relative], axis=1), 0.0)
        low, high = np.split(box_of_points(pixels, valid), 2)
        camera = sample.camera
        numbers = {
            "joints_25d": joints[None],
            "box_size_px": [max(float((high - low).max()), 1.0)],
            "crop_to_picture": affine.inverse().matrix,
            "camera": [camera.fx, camera.fy, camera.cx, camera.cy],
            "centre_z_mm": float(centre[2]),
            "zoom": change.scale,
        }
        target = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in numbers.items()}
        target["valid"] = torch.from_numpy(valid[None].copy())
        target["present"] = torch.ones(1, dtype=torch.bool)
        pad = -size % self.multiple
        padded = F.pad(torch.from_numpy(picture), (0, pad, 0, pad))
        return Example(padded.expand(self.channels, -1, -1).contiguous(), target)

    def _relative(self, depth_mm: np.ndarray, centre_mm: float) -> np.ndarray:
        relative = depth_mm - np.float32(centre_mm)
        return np.where((depth_mm > 0) & (np.abs(relative) < self.depth_mm), relative, np.float32(0))

    def _draw(self, rng: np.random.Generator) -> Change:
        how = self.augmentation
        left, top, right, bottom = (
            rng.integers(-how.shift_px, how.shift_px, 4).tolist() if how.shift_px else [0] * 4
        )
        degrees = int(rng.integers(-how.rotation_deg, how.rotation_deg)) if how.rotation_deg else 0
        scale = float(rng.uniform(1.0 - how.scale, 1.0 + how.scale))
        return Change((left, top, right, bottom), math.radians(degrees), scale)

    def _add_noise(self, picture: np.ndarray, rng: np.random.Generator) -> None:
        if rng.random() >= self.augmentation.noise:
            return
        size = len(picture)
        area = rng.uniform(*ERASED_SHARE) * size * size
        aspect = rng.uniform(*ERASED_ASPECT)
        height, width = (min(size, max(1, round(math.sqrt(area * ratio)))) for ratio in (aspect, 1 / aspect))
        top, left = (int(rng.integers(size - side + 1)) for side in (height, width))
        noise = rng.standard_normal((height, width)) * self.std_mm
        picture[top : top + height, left : left + width] += noise.astype(np.float32)

    def loss(self, output: HandPoseOutput, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars of `pose_loss`: 3 * joint + anchor, means over the decoder's layers."""
        return pose_loss(output, target, self.loss_config)

    def joints_cam_mm(self, output: HandPoseOutput, target: Mapping[str, Tensor]) -> Tensor:
        """Estimated joints in the camera of the original picture, given the centre of the hand.

        Z = d / zoom + Z_centre; u and v go back through the crop's map; X and Y by the intrinsics.

        Args:
            output: of the network for a batch.
            target: of the same batch; `crop_to_picture`, `camera`, `centre_z_mm` and `zoom` are used.

        Returns:
            (B, 2, 14, 3) mm, order "nyu14", as hand 0; hand 1 holds zeros.
        """
        joints = output.joints_25d.float()
        back, camera = target["crop_to_picture"].to(joints), target["camera"].to(joints)
        centre, zoom = target["centre_z_mm"].to(joints), target["zoom"].to(joints)
        linear, offset = back[:, None, None, :, :2], back[:, None, None, :, 2]
        # Sums, not matrix products: those may round to fewer digits.
        pixels = (linear * joints[..., None, :2]).sum(-1) + offset
        z = joints[..., 2:] / zoom[:, None, None, None] + centre[:, None, None, None]
        focal, principal = camera[:, None, None, :2], camera[:, None, None, 2:]
        hand = torch.cat(((pixels - principal) / focal * z, z), dim=-1)
        return torch.cat((hand, torch.zeros_like(hand)), dim=1)


def crop_map(centre_mm: np.ndarray, camera: Camera, half_mm: float, size: int, change: Change) -> Affine:
    """The map from the picture to the crop.

    Args:
        centre_mm: (3,) in the camera frame; its depth gives the crop's extent in pixels.
        camera: intrinsics of the picture.
        half_mm: half of the crop's width and height.
        size: side of the crop in pixels.
        change: augmentation. Shifts move the edges in the picture; rotation and zoom are about the middle.

    Raises:
        ValueError: the shifts leave nothing of the crop.
    """
    middle = camera.project(np.asarray(centre_mm, np.float64))
    half = half_mm * np.array([camera.fx, camera.fy]) / float(centre_mm[2])
    box = np.concatenate([middle - half, middle + half]) + change.edges_px
    extent = box[2:] - box[:2]
    if not (extent >= 1).all():
        raise ValueError(f"the crop is {extent[0]:.3g} x {extent[1]:.3g} pixels of the picture; too small")
    return centred(rotation(change.rotation_rad) * change.scale @ np.diag(size / extent), box, size)
