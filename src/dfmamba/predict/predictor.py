"""Pictures in, hands out: cropping, the network, and the way back to pixels and millimetres."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import nn

from dfmamba.hands.affine import picture_square, square_box
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import NUM_JOINTS
from dfmamba.hands.upright import CLOSE_FACTOR
from dfmamba.io.images import as_picture, load_image
from dfmamba.models import check_device, load
from dfmamba.predict.lift import (
    HAND_MARGIN,
    check_box,
    hand_box,
    lift_joints,
    mirror_box,
    mirror_points,
)
from dfmamba.predict.looks import Look, Looker, inside, sure_of_side, without_double
from dfmamba.predict.result import SIDES, Hand, Prediction

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
Box: TypeAlias = Sequence[float] | np.ndarray
Intrinsics: TypeAlias = Camera | tuple[float, float, float, float]

BOX_FACTOR = CLOSE_FACTOR / (1 + 2 * HAND_MARGIN)
"""Side of the first crop over a given box, which is taken to be as loose as `Hand.box_xyxy`."""

FIRST_LOOK = 0.5
"""The first look keeps hands above this share of the threshold: small hands score low in a whole picture."""


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
        network: Any = model if isinstance(model, nn.Module) else load(model)
        self.model = network.to(self.device).eval()
        config = network.config
        _check_config(config)
        self.name = str(getattr(config, "name", type(network).__name__))
        self.image_size = int(config.image_size)
        self.looker = Looker(self.model, self.image_size, batch_size, self.name)

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
            refine: look again, closely and upright, at the hands that the first look found
                (`dfmamba.predict.looks`).

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
                regions.append(picture_square((width, height)))
            else:
                checked = check_box(np.asarray(box), (width, height))
                regions.append(square_box(mirror_box(checked, width) if mirrored else checked, BOX_FACTOR))
        looks = self.looker.look_at_boxes(pictures, regions)
        if refine:
            if box is None:
                looks = self.looker.look_closer(pictures, looks, FIRST_LOOK * threshold)
            worth = [
                {
                    side: found
                    for side, found in without_double(look).items()
                    if found.score >= FIRST_LOOK * threshold and inside(found, picture)
                }
                for picture, look in zip(pictures, looks, strict=True)
            ]
            looks = self.looker.look_upright(pictures, worth, [sure_of_side(look) for look in looks])
        seconds = (time.perf_counter() - start) / max(len(pictures), 1)
        return [
            Prediction(
                hands=_hands(look, picture, camera, mirrored, threshold),
                image_size=(picture.shape[1], picture.shape[0]),
                camera=camera,
                model=self.name,
                image=os.fspath(image) if isinstance(image, str | os.PathLike) else None,
                seconds=seconds,
                mirrored=mirrored,
            )
            for image, picture, look in zip(images, pictures, looks, strict=True)
        ]


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


def _hands(
    look: Look, picture: np.ndarray, camera: Camera | None, mirrored: bool, threshold: float
) -> tuple[Hand, ...]:
    height, width = picture.shape[:2]
    if camera is not None and mirrored:
        camera = Camera(camera.fx, camera.fy, width - 1 - camera.cx, camera.cy)
    hands = []
    for side, found in without_double(look).items():
        if found.score < threshold or not inside(found, picture):
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
