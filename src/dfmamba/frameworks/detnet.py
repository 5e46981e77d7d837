"""The regression framework of Zhou et al. (CVPR 2020), as its PyTorch port and the hand-pose work at the
University of Tokyo use it for DexYCB and AssemblyHands: one right hand a crop, heat, delta and location maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from dfmamba.data.sample import LEFT, RIGHT, HandSample
from dfmamba.frameworks.base import Example, Framework
from dfmamba.hands.affine import box_of_points, square_box
from dfmamba.hands.crop import crop_sample, flip_sample
from dfmamba.hands.skeleton import BONES, NUM_JOINTS, PARENTS, REFERENCE_BONES_MM, WRIST
from dfmamba.heads.detnet import DetNetConfig, DetNetLossConfig, DetNetOutput, detnet_loss, read_out
from dfmamba.models import ModelConfig

KNUCKLE = 9
"""The middle finger's knuckle: the bone from the wrist to it is the unit of length."""

REFERENCE_MM = float(REFERENCE_BONES_MM[BONES.index((WRIST, KNUCKLE))])

STRIDE = 4
"""Pixels of the crop per cell of the maps."""

_BONE = "; length from wrist to middle knuckle"
_GIVEN = {
    "joints": "hand side; box of the 2D joints; wrist position",
    "labelled": "hand side; labelled box; wrist position",
}


@dataclass(frozen=True)
class DetNet(Framework):
    """Settings of the framework; the defaults are the published ones, for DexYCB set `factor=1.75`, for
    AssemblyHands `box="labelled", factor=1.75, least_px=100, integer_centre=False`.

    Attributes:
        image_size: side of the crop in pixels.
        width: channels of neck and heads.
        root: joint at the origin of the location maps: 0, the wrist, in the variant with exchangeable
            backbones; 9, the middle knuckle, in the original.
        box: what the crop is built on: the box of the valid 2D joints, or the sample's labelled box.
        factor: side of the crop relative to the longer side of that box.
        least_px: smallest side of the crop in pixels of the picture.
        integer_centre: round the box's centre down to whole pixels, as published.
        shift: largest jitter of the crop's centre, relative to its side.
        zoom: standard deviation of the jitter of the crop's side, and the bound that it is cut off at.
        rotation_deg: largest rotation.
        brightness: largest relative change.
        contrast: likewise.
        saturation: likewise.
        hue: largest shift, as a share of the colour circle.
        blur_px: largest radius of the Gaussian blur, in pixels of the crop.
        scale: where the length from wrist to middle knuckle comes from in `joints_cam_mm`: "truth", as
            published, or "reference", that of a mean hand, which leaves the error of the scale in.
        heat_weight: weight of the heat maps' loss.
        delta_weight: of the delta maps'.
        location_weight: of the location maps'.
        loss_form: "norm" or "squared", see `DetNetLossConfig`.

    Raises:
        ValueError: an unusable value.
    """

    NAME: ClassVar[str] = "detnet"
    GIVEN: ClassVar[str] = _GIVEN["joints"] + _BONE
    """That of the default settings; an instance has its own."""

    image_size: int = 128
    width: int = 256
    root: int = WRIST
    box: Literal["joints", "labelled"] = "joints"
    factor: float = 2.0
    least_px: float = 0.0
    integer_centre: bool = True
    shift: float = 0.1
    zoom: float = 0.1
    rotation_deg: float = 90.0
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.15
    blur_px: float = 0.5
    scale: Literal["truth", "reference"] = "truth"
    heat_weight: float = 100.0
    delta_weight: float = 1.0
    location_weight: float = 10.0
    loss_form: Literal["norm", "squared"] = "norm"

    def __post_init__(self) -> None:
        if self.image_size < STRIDE or self.image_size % STRIDE:
            raise ValueError(f"DetNet.image_size is {self.image_size}; it must be a multiple of {STRIDE}")
        if not self.factor > 0:
            raise ValueError(f"DetNet.factor is {self.factor}; it must be positive")
        for name, most in (
            ("least_px", math.inf),
            ("shift", math.inf),
            ("zoom", 0.99),
            ("rotation_deg", 180.0),
            ("brightness", 1.0),
            ("contrast", 1.0),
            ("saturation", 1.0),
            ("hue", 0.5),
            ("blur_px", math.inf),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"DetNet.{name} is {getattr(self, name)}; expected 0 to {most:g}")
        for name, known in (
            ("root", (WRIST, KNUCKLE)),
            ("box", ("joints", "labelled")),
            ("scale", ("truth", "reference")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"DetNet.{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, known))}"
                )
        self._loss_config()
        object.__setattr__(self, "GIVEN", _GIVEN[self.box] + (_BONE if self.scale == "truth" else ""))

    def _loss_config(self) -> DetNetLossConfig:
        return DetNetLossConfig(self.heat_weight, self.delta_weight, self.location_weight, self.loss_form)

    def model_config(self, backbone: str, **backbone_args: Any) -> ModelConfig:
        """The network on a backbone, whose last map has stride 32; the picture enters it as x / 255 - 0.5.

        Raises:
            ValueError: unknown backbone or argument.
        """
        head = DetNetConfig(self.image_size, self.image_size // STRIDE, self.width, NUM_JOINTS)
        return ModelConfig(
            name=f"detnet_{backbone}",
            backbone=backbone,
            backbone_args=backbone_args,
            out_indices=(3,),
            head=head,
            input_scale=1.0,
            input_shift=-0.5,
            framework=self.to_dict(),
        )

    def example(self, sample: HandSample, rng: np.random.Generator | None) -> Example:
        """Crop and target of the one hand of a sample; a left hand is mirrored to a right one.

        Pixels are mirrored at x' = W - 1 - x. (The published DexYCB loader takes W - x, which puts the joints
        one pixel beside the picture.)

        Args:
            sample: with picture, 21 joints in OpenPose order, exactly one hand present.
            rng: source of the jitter; None for none.

        Returns:
            (3, S, S) float32 RGB, 0 to 1; `cell` (21, 2) int64 column and row, `location` and `delta` (21, 3)
            as in `DetNetOutput`, `labelled` and `has_delta` (21,) bool; for the read-out `wrist_mm` (3,) in
            the camera of the sample, `bone_mm` () the true length from wrist to middle knuckle, `left` ()
            bool.

        Raises:
            ValueError: no picture, another joint order, not exactly one hand, no label of the wrist or
                the middle knuckle, a box without extent, no joint in the crop, or pixels that are not square
                and to be rotated.
        """
        sample.require_mm("framework detnet")
        hand = self._check(sample)
        right = sample.replace(mask=None, depth_mm=None)
        if hand == LEFT:
            right = flip_sample(right)
        box = self._crop_box(right)
        angle = 0.0
        if rng is not None:
            box = self._jittered(box, rng)
            angle = math.radians(rng.uniform(-self.rotation_deg, self.rotation_deg))
        try:
            crop = crop_sample(right, box, self.image_size, angle)
        except ValueError as error:
            raise ValueError(f"sample {sample.id!r}: can't be cropped ({error})") from error
        assert crop.image is not None
        if not crop.present[RIGHT]:
            raise ValueError(f"sample {sample.id!r}: no joint lies in the crop ({box.round(1).tolist()})")
        image = crop.image if rng is None else self._recoloured(crop.image, rng)
        picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
        target = self._target(crop.joints_2d_px[RIGHT], crop.joints_cam_mm[RIGHT], crop.valid[RIGHT])
        target["wrist_mm"] = torch.from_numpy(sample.joints_cam_mm[hand, WRIST].copy())
        target["left"] = torch.tensor(hand == LEFT)
        return Example(picture, target)

    def _check(self, sample: HandSample) -> int:
        hand = int(sample.present.argmax())
        wrist, knuckle = sample.joints_cam_mm[hand, [WRIST, KNUCKLE]]
        fault = ""
        if sample.image is None:
            fault = "no picture; detnet needs RGB"
        elif sample.order != "openpose":
            fault = f"joints in order {sample.order!r}; detnet needs 'openpose'"
        elif sample.present.sum() != 1:
            fault = "not exactly one hand; detnet takes one a sample"
        elif not sample.valid[hand, [WRIST, KNUCKLE]].all():
            fault = "no label of the wrist or of the middle knuckle; detnet needs both"
        elif not np.linalg.norm(knuckle - wrist) > 0:
            fault = "wrist and middle knuckle are one point; detnet takes their distance as unit"
        if fault:
            raise ValueError(f"sample {sample.id!r}: {fault}")
        return hand

    def _crop_box(self, right: HandSample) -> np.ndarray:
        """The square crop (4,) float64 x0, y0, x1, y1 in the picture of a right hand."""
        box = np.asarray(box_of_points(right.joints_2d_px[RIGHT], right.valid[RIGHT]), np.float64)
        if self.box == "labelled":
            box = right.box_xyxy.astype(np.float64)
        try:
            square = square_box(box, self.factor)
        except ValueError as error:
            raise ValueError(f"sample {right.id!r}: the box has no extent ({error})") from error
        centre, side = (square[:2] + square[2:]) / 2, max(square[2] - square[0], self.least_px)
        if self.integer_centre:
            centre = np.floor(centre)
        return np.concatenate([centre - side / 2, centre + side / 2])

    def _jittered(self, box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        centre, side = (box[:2] + box[2:]) / 2, box[2] - box[0]
        centre = centre + rng.uniform(-self.shift, self.shift, 2) * side
        side *= float(np.clip(1 + self.zoom * rng.standard_normal(), 1 - self.zoom, 1 + self.zoom))
        return np.concatenate([centre - side / 2, centre + side / 2])

    def _recoloured(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Brightness, contrast, saturation and hue in random order, then blur; (S, S, 3) uint8."""
        picture = Image.fromarray(image)
        for part in rng.permutation(["Brightness", "Contrast", "Color", "hue"]).tolist():
            if part == "hue":
                turn = round(255 * rng.uniform(-self.hue, self.hue))
                if turn == 0:  # the way to HSV and back isn't exact
                    continue
                hue, saturation, value = picture.convert("HSV").split()
                hue = hue.point([(level + turn) % 256 for level in range(256)])
                picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
                continue
            strengths = {"Brightness": self.brightness, "Contrast": self.contrast, "Color": self.saturation}
            factor = 1 + rng.uniform(-strengths[part], strengths[part])
            picture = getattr(ImageEnhance, part)(picture).enhance(factor)
        radius = rng.uniform(0, self.blur_px)
        return np.array(picture.filter(ImageFilter.GaussianBlur(radius)))

    def _target(self, pixels: np.ndarray, joints_mm: np.ndarray, valid: np.ndarray) -> dict[str, Tensor]:
        """Target of a right hand: pixels (21, 2) of the crop, joints (21, 3) mm, valid (21,)."""
        pixels, joints = (np.where(valid[:, None], a, 0).astype(np.float64) for a in (pixels, joints_mm))
        bone = float(np.linalg.norm(joints[KNUCKLE] - joints[WRIST]))
        location = (joints - joints[self.root]) / bone * valid[:, None]
        delta, has_delta = np.zeros_like(location), valid.copy()
        for joint, parent in enumerate(PARENTS):
            if parent < 0:
                continue
            step = location[joint] - location[parent]
            length = np.linalg.norm(step)
            has_delta[joint] = valid[joint] and valid[parent] and length > 0
            if has_delta[joint]:
                delta[joint] = step / length
        cell = np.floor((pixels + 0.5) / STRIDE).astype(np.int64)
        return {
            "cell": torch.from_numpy(cell),
            "location": torch.from_numpy(location).float(),
            "delta": torch.from_numpy(delta).float(),
            "labelled": torch.from_numpy(valid.copy()),
            "has_delta": torch.from_numpy(has_delta),
            "bone_mm": torch.tensor(bone, dtype=torch.float32),
        }

    def loss(self, output: DetNetOutput, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars "total", "heat", "delta", "location"; see `detnet_loss`."""
        return detnet_loss(output, target, self._loss_config())

    def joints_cam_mm(self, output: DetNetOutput, target: Mapping[str, Tensor]) -> Tensor:
        """Joints in the camera of the sample: the location maps at the argmax of the heat maps, moved so that
        the wrist is the true one, and scaled about it so that the bone from wrist to middle knuckle has the
        length that `scale` says.

        Returns:
            (B, 2, 21, 3) float32 mm, right then left, OpenPose order; zeros for the other hand.
        """
        location = read_out(output).location.float()
        joints = location - location[:, WRIST : WRIST + 1]
        length = joints[:, KNUCKLE].norm(dim=-1).clamp_min(1e-12)
        wanted = torch.full_like(length, REFERENCE_MM)
        if self.scale == "truth":
            wanted = target["bone_mm"].to(length)
        left = target["left"].to(length.device).bool()
        signs = joints.new_tensor([-1.0, 1.0, 1.0])
        joints = joints * (wanted / length)[:, None, None]
        joints = torch.where(left[:, None, None], joints * signs, joints)
        joints = joints + target["wrist_mm"].to(joints)[:, None]
        hands = torch.stack((~left, left), 1)[..., None, None]
        return torch.where(hands, joints[:, None], 0.0)
