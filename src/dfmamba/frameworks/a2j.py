"""A2J-Transformer (Jiang et al., CVPR 2023): network, loss, and its use on pictures of up to two hands.

Crop, augmentation and 2.5D target of InterHand2.6M and RHP are InterNet's (`dfmamba.frameworks.internet`).
The network is the transformer head on any backbone. `docs/train/frameworks.md` says what of the release's
quirks is an option here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dfmamba.data.sample import HandSample
from dfmamba.frameworks.base import Example, Framework
from dfmamba.frameworks.internet import (
    Augmentation,
    Change,
    crop_map,
    crop_picture,
    draw_change,
    target_25d,
    trainable,
)
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.crop import flip_sample
from dfmamba.hands.skeleton import JOINT_NAMES, WRIST
from dfmamba.heads import HandPoseOutput, HeadConfig, LossConfig, pose_loss
from dfmamba.models import ModelConfig

STAGES = (1, 2, 3)
"""The backbone's maps that the head gets: strides 8, 16 and 32 (or 16 again, dilated)."""

AnchorTau: TypeAlias = Literal["code", "paper"]
"""Threshold of the anchor term in depth: 1 as released, 3 as printed."""

AnchorTarget: TypeAlias = Literal["truth", "prediction"]
"""What the anchors shall surround: the labelled joint or the estimate; the paper leaves it open."""


def published_loss(image_size: float, depth_range: float, tau: AnchorTau, target: AnchorTarget) -> LossConfig:
    """The published weights and thresholds; confidences and presence aren't trained.

    Args:
        image_size: pixels that count as 256 bins.
        depth_range: mm that count as 256 bins.
        tau: see `AnchorTau`.
        target: see `AnchorTarget`.

    Raises:
        ValueError: unknown `tau` or `target`.
    """
    if tau not in ("code", "paper"):
        raise ValueError(f"anchor_tau is {tau!r}; use 'code' or 'paper'")
    return LossConfig(
        image_size=image_size,
        depth_range=depth_range,
        joint=3.0,
        anchor=1.0,
        confidence=0.0,
        presence=0.0,
        tau_xy=1.0,
        tau_z=3.0,
        anchor_tau_z=1.0 if tau == "code" else 3.0,
        anchor_target=target,
    )


def network(
    framework: Framework,
    head: HeadConfig,
    backbone: str,
    backbone_args: Mapping[str, Any],
    in_chans: int = 3,
    input_scale: float = 1.0,
    input_shift: float = 0.0,
) -> ModelConfig:
    """The head on a backbone. ResNet-50's last stage is dilated as published unless `output_stride` differs.

    Raises:
        ValueError: unknown backbone or argument.
    """
    if backbone == "resnet50":
        backbone_args = {"output_stride": 16, **backbone_args}
    return ModelConfig(
        name=f"{framework.NAME}_{backbone}",
        backbone=backbone,
        backbone_args=backbone_args,
        out_indices=STAGES,
        in_chans=in_chans,
        head=head,
        input_scale=input_scale,
        input_shift=input_shift,
        framework=framework.to_dict(),
    )


PUBLISHED_HEAD = HeadConfig(depth_unit="mm", root_joint=None)
"""256 px, 400 mm, 6 + 6 layers, 768 anchors; the wrist's depth is estimated like that of other joints."""

PUBLISHED_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class A2J(Framework):
    """A2J-Transformer with its settings; the defaults are the published ones, quirks aside.

    Attributes:
        head: the network above the backbone: two hands of 21 joints, depth in mm. Given as plain values, what
            is not named keeps its published value.
        box_factor: side of the crop relative to the longer side of the labelled box.
        augmentation: InterNet's.
        anchor_tau: see `a2j_network.AnchorTau`.
        anchor_target: see `a2j_network.AnchorTarget`.
        black_level: in training, no joint of a picture without a value above this (of 255) is valid: the
            release skips (almost) black pictures. The bound is ours; a negative one switches the rule off.

    Raises:
        ValueError: an unusable setting.
    """

    NAME: ClassVar[str] = "a2j"
    GIVEN: ClassVar[str] = "labelled box; depth of each hand's wrist; intrinsics"

    head: HeadConfig = PUBLISHED_HEAD
    box_factor: float = 1.25
    augmentation: Augmentation = PUBLISHED_AUGMENTATION
    anchor_tau: AnchorTau = "code"
    anchor_target: AnchorTarget = "truth"
    black_level: float = 10.0

    def __post_init__(self) -> None:
        if isinstance(self.head, Mapping):  # JSON and YAML give plain values
            values = {**PUBLISHED_HEAD.to_dict(), **self.head}
            object.__setattr__(self, "head", HeadConfig.from_dict(values))
        if isinstance(self.augmentation, Mapping):
            object.__setattr__(self, "augmentation", Augmentation.from_dict(self.augmentation))
        head = self.head
        shape = (head.num_hands, head.num_joints, head.depth_unit)
        if shape != (2, len(JOINT_NAMES), "mm") or head.root_joint not in (None, WRIST):
            raise ValueError(
                f"framework a2j has {shape[0]} hands, {shape[1]} joints, depth in {shape[2]} and root joint "
                f"{head.root_joint}; it needs 2, 21, 'mm', and None or 0"
            )
        if not self.box_factor > 0:
            raise ValueError(f"box_factor is {self.box_factor}; it must be positive")
        _ = self.loss_config  # checks the anchor term's settings

    @classmethod
    def as_released(cls) -> A2J:
        """With the quirks of the released network: moving anchors, biased offsets, idle box heads."""
        values = PUBLISHED_HEAD.to_dict()
        quirks = {"learned_anchors": True, "offset_bias": -2.0, "box_heads": True}
        return cls(head=HeadConfig.from_dict({**values, **quirks}))

    @property
    def loss_config(self) -> LossConfig:
        """Weights and thresholds of the loss; confidences and presence aren't trained."""
        size = float(self.head.image_size)
        return published_loss(size, self.head.depth_extent, self.anchor_tau, self.anchor_target)

    def model_config(self, backbone: str, **backbone_args: Any) -> ModelConfig:
        """The network on a backbone, which gets pictures in [0, 1] as they are; see `a2j_network.network`.

        Raises:
            ValueError: unknown backbone or argument.
        """
        return network(self, self.head, backbone, backbone_args)

    def example(self, sample: HandSample, rng: np.random.Generator | None) -> Example:
        """Crop and target of a sample with picture and camera, joints in OpenPose order.

        The target holds `joints_25d` (2, 21, 3) u, v in crop pixels and Z - Z_wrist in mm; `valid` (2, 21),
        the joints that the loss counts; `present` (2,); `box_size_px` (2,); and for the read-out
        `crop_to_picture` (2, 3), `camera` (4,) fx, fy, cx, cy, `wrist_z_mm` (2,). With a mirrored crop all of
        it belongs to the mirrored picture.

        Raises:
            ValueError: the sample has no picture, no camera, another order of joints or an empty box.
        """
        if sample.image is None or sample.camera is None:
            missing = "picture" if sample.image is None else "camera"
            raise ValueError(f"sample {sample.id!r} has no {missing}; framework a2j needs it")
        if sample.order != "openpose":
            raise ValueError(f"sample {sample.id!r} has joints in order {sample.order!r}; needs 'openpose'")
        change = Change() if rng is None else draw_change(self.augmentation, rng)
        if change.flip:
            sample = flip_sample(sample)
        assert sample.image is not None
        assert sample.camera is not None
        size = self.head.image_size
        try:
            affine = crop_map(sample.box_xyxy, size, self.box_factor, change)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r} can't be cropped: {error}") from error
        picture = crop_picture(sample.image, affine, size, change.colour)
        joints = target_25d(sample, affine)
        valid = trainable(joints, sample.valid, size, self.head.depth_extent / 2)
        if rng is not None and sample.image.max() <= self.black_level:
            valid[:] = False
        boxes = np.stack([box_of_points(joints[hand, :, :2], sample.valid[hand]) for hand in range(2)])
        camera = sample.camera
        numbers = {
            "joints_25d": np.where(sample.valid[..., None], joints, 0.0),
            "box_size_px": np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1), 1.0),
            "crop_to_picture": affine.inverse().matrix,
            "camera": np.array([camera.fx, camera.fy, camera.cx, camera.cy]),
            "wrist_z_mm": sample.joints_cam_mm[:, WRIST, 2],
        }
        target = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in numbers.items()}
        target["valid"] = torch.from_numpy(valid)
        target["present"] = torch.from_numpy(np.array(sample.present))
        return Example(torch.from_numpy(picture), target)

    def loss(self, output: HandPoseOutput, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars of `pose_loss`: 3 * joint + anchor, means over the decoder's layers."""
        return pose_loss(output, target, self.loss_config)

    def joints_cam_mm(self, output: HandPoseOutput, target: Mapping[str, Tensor]) -> Tensor:
        """Estimated joints in the camera of the original picture, given each wrist's depth.

        Z = d + Z_wrist; u and v go back through the crop's map; X and Y by the intrinsics.

        Args:
            output: of the network for a batch.
            target: of the same batch; `crop_to_picture`, `camera` and `wrist_z_mm` are used.

        Returns:
            (B, 2, 21, 3) mm, right then left, OpenPose order; hands without a labelled wrist hold anything.
        """
        joints = output.joints_25d.float()
        back, camera = target["crop_to_picture"].to(joints), target["camera"].to(joints)
        linear, offset = back[:, None, None, :, :2], back[:, None, None, :, 2]
        focal, centre = camera[:, None, None, :2], camera[:, None, None, 2:]
        # Sums, not matrix products: those may round to fewer digits.
        pixels = (linear * joints[..., None, :2]).sum(-1) + offset
        z = joints[..., 2:] + target["wrist_z_mm"].to(joints)[..., None, None]
        return torch.cat(((pixels - centre) / focal * z, z), dim=-1)
