"""Pictures in, hands out: cropping, the network, and the way back to pixels and millimetres."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import nn

from dfmamba.hands.camera import Camera
from dfmamba.hands.crop import Affine, crop_affine, square_box, warp_image
from dfmamba.hands.skeleton import NUM_JOINTS
from dfmamba.io.images import as_picture, load_image
from dfmamba.models import check_device, load
from dfmamba.predict.lift import (
    box_iou,
    check_box,
    hand_box,
    joints_to_picture,
    lift_joints,
    mirror_box,
    mirror_points,
)
from dfmamba.predict.result import SIDES, Hand, Prediction

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
Box: TypeAlias = Sequence[float] | np.ndarray
Intrinsics: TypeAlias = Camera | tuple[float, float, float, float]

CROP_FACTOR = 1.4
"""Side of a crop over the longer side of the joints' box; the training crops scatter around it."""

BOX_FACTOR = CROP_FACTOR / 1.2
"""The same over a given box, which is taken to be as loose as `Hand.box_xyxy` (10 % on each side)."""

UNION_IOU = 0.3
"""Hands whose boxes overlap more than this are looked at together."""

SAME_HAND = 0.2
"""Two hands whose joints lie closer together than this share of the larger one's box are one."""

FIRST_LOOK = 0.5
"""The first look keeps hands above this share of the threshold: small hands score low in a whole picture."""

COMPARABLE = 0.8
"""The second look replaces the first where its score reaches this share of the first one's."""


@dataclass(frozen=True)
class _Found:
    """A hand of one look: 2.5D joints in pixels of the (unmirrored) picture, and scores."""

    joints_25d: np.ndarray
    joint_scores: np.ndarray
    score: float


_Look: TypeAlias = dict[int, _Found]
"""What one look at a crop gave, by hand index: 0 right, 1 left."""


class Predictor:
    """Finds hands in pictures with a hand pose model.

    Args:
        model: a `HandPoseModel`, or the name or folder of one. It is moved to `device` and set to evaluation.
        device: a torch device such as "cpu" or "cuda", or "auto" for the GPU where there is one.
        batch_size: how many crops go through the network at once.

    Raises:
        ValueError: if the device is unknown or not usable here, or the model is not one that takes RGB
            pictures and gives two hands with depth in pixels.
    """

    def __init__(
        self, model: nn.Module | str = "nano", device: str | torch.device = "auto", batch_size: int = 16
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.device = choose_device(device)
        if not isinstance(model, nn.Module):
            model = load(model)
        self.model = model.to(self.device).eval()
        config: Any = model.config
        _check_config(config)
        self.name = str(getattr(config, "name", type(model).__name__))
        self.image_size = int(config.image_size)
        self.batch_size = batch_size

    def predict(
        self,
        image: Picture,
        box: Box | None = None,
        camera: Intrinsics | None = None,
        mirrored: bool = False,
        threshold: float = 0.5,
        refine: bool = True,
    ) -> Prediction:
        """Find the hands in one picture.

        Args:
            image: a path, a Pillow image, or an array (H, W, 3) uint8 or floating in 0..1.
            box: where the hands are, x0, y0, x1, y1 in pixels of the picture, about as loose as
                `Hand.box_xyxy`. It may reach beyond the picture. None: look at the whole picture.
            camera: intrinsics of the picture as given: a `Camera` or fx, fy, cx, cy. With them 3D joints are
                in the camera frame, without them relative to the wrist; their size is that of a mean adult
                hand either way.
            mirrored: the picture is a mirror image, as selfie cameras make them. Sides and 3D joints are then
                those of the real hand, pixels remain those of the picture as given.
            threshold: hands with a lower score are left out, 0..1.
            refine: without a box, look a second time, closely, where the first look found hands.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if the picture, the box or the threshold is not usable.
        """
        return self.predict_batch([image], box, camera, mirrored, threshold, refine)[0]

    def predict_batch(
        self,
        images: Sequence[Picture],
        box: Box | None = None,
        camera: Intrinsics | None = None,
        mirrored: bool = False,
        threshold: float = 0.5,
        refine: bool = True,
    ) -> list[Prediction]:
        """Find the hands in several pictures, with the arguments of `predict` for all of them.

        All pictures are in memory at once; `seconds` is the mean over them.
        """
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold: expected a value from 0 to 1, got {threshold}")
        if camera is not None and not isinstance(camera, Camera):
            camera = Camera(*camera)
        start = time.perf_counter()
        pictures = [_read(image, mirrored) for image in images]
        regions = []
        for picture in pictures:
            height, width = picture.shape[:2]
            if box is None:
                regions.append(square_box(np.array([-0.5, -0.5, width - 0.5, height - 0.5]), 1.0))
            else:
                checked = check_box(np.asarray(box), (width, height))
                regions.append(square_box(mirror_box(checked, width) if mirrored else checked, BOX_FACTOR))
        looks = self._look(list(zip(pictures, regions, strict=True)))
        if box is None and refine:
            looks = self._look_closer(pictures, looks, FIRST_LOOK * threshold)
        seconds = (time.perf_counter() - start) / max(len(pictures), 1)
        return [
            Prediction(
                hands=_hands(look, picture.shape, camera, mirrored, threshold),
                image_size=(picture.shape[1], picture.shape[0]),
                camera=camera,
                model=self.name,
                image=os.fspath(image) if isinstance(image, str | os.PathLike) else None,
                seconds=seconds,
                mirrored=mirrored,
            )
            for image, picture, look in zip(images, pictures, looks, strict=True)
        ]

    def _look(self, crops: list[tuple[np.ndarray, np.ndarray]]) -> list[_Look]:
        """Run the network on square regions of pictures."""
        looks: list[_Look] = []
        for start in range(0, len(crops), self.batch_size):
            chunk = crops[start : start + self.batch_size]
            affines = [crop_affine(region, self.image_size) for _, region in chunk]
            inputs = np.stack(
                [
                    warp_image(picture, affine, self.image_size)
                    for (picture, _), affine in zip(chunk, affines, strict=True)
                ]
            )
            x = torch.from_numpy(inputs).to(self.device).permute(0, 3, 1, 2).float() / 255.0
            with torch.inference_mode():
                output = self.model(x)
            joints, joint_scores, scores = (
                values.float().cpu().numpy().astype(np.float64)
                for values in (
                    output.joints_25d,
                    output.joint_logits.sigmoid(),
                    output.present_logits.sigmoid(),
                )
            )
            if not all(np.isfinite(values).all() for values in (joints, joint_scores, scores)):
                raise ValueError(f"model {self.name}: the output is not finite; are the weights damaged?")
            looks.extend(
                _found_in_crop(joints[i], joint_scores[i], scores[i], affine)
                for i, affine in enumerate(affines)
            )
        return looks

    def _look_closer(self, pictures: list[np.ndarray], looks: list[_Look], threshold: float) -> list[_Look]:
        """Look again around each hand found, at both together where they overlap."""
        asked: list[tuple[int, tuple[int, ...]]] = []
        crops: list[tuple[np.ndarray, np.ndarray]] = []
        for index, (picture, look) in enumerate(zip(pictures, looks, strict=True)):
            size = (picture.shape[1], picture.shape[0])
            boxes = {
                side: _tight_box(found)
                for side, found in look.items()
                if found.score >= threshold and _inside(found, size)
            }
            for sides in _groups(boxes):
                together = np.stack([boxes[side] for side in sides])
                union = np.concatenate([together[:, :2].min(axis=0), together[:, 2:].max(axis=0)])
                asked.append((index, sides))
                crops.append((picture, square_box(union, CROP_FACTOR)))
        best = [dict(look) for look in looks]
        for (index, sides), closer in zip(asked, self._look(crops), strict=True):
            for side in sides:
                if closer[side].score >= COMPARABLE * best[index][side].score:
                    best[index][side] = closer[side]
        return best


def choose_device(device: str | torch.device) -> torch.device:
    """Turn a device name into a torch device that works here; "auto" is the GPU where there is one.

    Raises:
        ValueError: if the name is unknown or this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = check_device(str(device))
    if chosen.type == "meta":
        raise ValueError("device 'meta' holds no values, so nothing can be predicted on it; try cpu")
    return chosen


def _check_config(config: Any) -> None:
    head = getattr(config, "head", None)
    for owner, name, expected in (
        (config, "in_chans", 3),
        (head, "num_hands", len(SIDES)),
        (head, "num_joints", NUM_JOINTS),
        (head, "depth_unit", "px"),
    ):
        value = getattr(owner, name, expected)
        if value != expected:
            raise ValueError(f"model: its {name} is {value!r}, a model for pictures has {expected!r}")


def _read(image: Picture, mirrored: bool) -> np.ndarray:
    picture = load_image(image) if isinstance(image, str | os.PathLike) else as_picture(image)
    return np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture


def _found_in_crop(joints: np.ndarray, joint_scores: np.ndarray, scores: np.ndarray, affine: Affine) -> _Look:
    return {
        side: _Found(joints_to_picture(joints[side], affine), joint_scores[side], float(scores[side]))
        for side in range(len(SIDES))
    }


def _tight_box(found: _Found) -> np.ndarray:
    pixels = found.joints_25d[:, :2]
    return np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])


def _inside(found: _Found, size: tuple[int, int]) -> bool:
    """Whether a hand has an extent and some of it is in the picture."""
    x0, y0, x1, y1 = hand_box(found.joints_25d[:, :2], size)
    return bool(x1 > x0 and y1 > y0)


def _groups(boxes: dict[int, np.ndarray]) -> list[tuple[int, ...]]:
    """Which hands share a crop."""
    sides = tuple(boxes)
    if len(sides) == 2 and box_iou(boxes[sides[0]], boxes[sides[1]]) > UNION_IOU:
        return [sides]
    return [(side,) for side in sides]


def without_double(look: _Look) -> _Look:
    """Drops the less likely of two hands that are one: joint by joint nearly in the same place.

    A network that isn't sure of the side gives the joints of a single hand to both.
    """
    if len(look) < 2:
        return look
    right, left = (look[side].joints_25d[:, :2] for side in sorted(look))
    apart = float(np.linalg.norm(right - left, axis=1).mean())
    if apart > SAME_HAND * max(float(np.ptp(joints, axis=0).max()) for joints in (right, left)):
        return look
    best = max(look, key=lambda side: look[side].score)
    return {best: look[best]}


def _hands(
    look: _Look, shape: tuple[int, ...], camera: Camera | None, mirrored: bool, threshold: float
) -> tuple[Hand, ...]:
    height, width = shape[:2]
    if camera is not None and mirrored:
        camera = Camera(camera.fx, camera.fy, width - 1 - camera.cx, camera.cy)
    hands = []
    for side, found in without_double(look).items():
        if found.score < threshold or not _inside(found, (width, height)):
            continue
        pixels = found.joints_25d[:, :2]
        pixels = mirror_points(pixels, width) if mirrored else pixels
        hands.append(
            Hand(
                side=SIDES[side],
                score=found.score,
                box_xyxy=hand_box(pixels, (width, height)),
                joints_2d_px=pixels,
                joints_3d_mm=lift_joints(found.joints_25d, camera),
                joint_scores=found.joint_scores,
                root="wrist" if camera is None else "camera",
            )
        )
    return tuple(hands)
