"""Pictures in, hands out: cropping, the network, and the way back to pixels and millimetres."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import nn

from dfmamba.detect.build import BUILT_IN, make_detector
from dfmamba.detect.given import GivenBoxes
from dfmamba.hands.camera import Camera, Intrinsics
from dfmamba.hands.detection import Detection, Detector
from dfmamba.hands.skeleton import NUM_JOINTS
from dfmamba.io.images import as_picture, load_image
from dfmamba.machine import choose_device
from dfmamba.models import load, unwrapped
from dfmamba.models.native import inference_form
from dfmamba.predict.lift import (
    check_box,
    hand_box,
    lift_joints,
    mirror_box,
    mirror_picture,
    mirror_points,
)
from dfmamba.predict.looking import (
    Aim,
    CropNetwork,
    SeenHand,
    SidedHand,
    find_at_detections,
    find_in_images,
)
from dfmamba.predict.result import SIDES, Hand, Prediction
from dfmamba.predict.track import Frame, TrackConfig, track_film

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
Box: TypeAlias = Sequence[float] | np.ndarray


class Predictor:
    """Finds hands in images with a hand pose model.

    On a CPU the network runs in the quickest form there is (`dfmamba.models.native.inference_form`), with
    copies of the weights: a model that is trained further needs a new predictor. The model stays as it is.

    Args:
        model: a `HandPoseModel`, or the name or folder of one.
        device: a torch device such as "cpu" or "cuda", or "auto" for the GPU where there is one.
        batch_size: how many crops go through the network at once.
        detector: finds the hands of an image for which no box is given, any number of them: a name for
            `dfmamba.detect.build.make_detector`, or what that gives. Boxes from a file go by the path of the
            image.
            None: the network itself looks at the whole image, and finds at most one right and one left
            hand, if they fill much of it.

    Raises:
        OSError: no such model or detector.
        ValueError: if the device is unknown or not usable here, or the model is not one that takes RGB
            images and gives two hands with depth in pixels.
    """

    def __init__(
        self,
        model: nn.Module | str = "nano",
        device: str | torch.device = "auto",
        batch_size: int = 16,
        detector: Detector | GivenBoxes | str | None = BUILT_IN,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.device = choose_device(device)
        network: Any = unwrapped(model) if isinstance(model, nn.Module) else load(model)
        config = network.config
        _check_config(config)
        self.model = inference_form(network, self.device)
        self.name = str(getattr(config, "name", type(network).__name__))
        self.image_size = int(config.image_size)
        self.network = CropNetwork(self.model, self.image_size, batch_size, self.name)
        self.detector = make_detector(detector, str(self.device)) if isinstance(detector, str) else detector

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
                `Hand.box_xyxy`. It may reach beyond the picture. None: look at the whole picture, with the
                detector if there is one.
            camera: intrinsics of the picture as given: a `Camera`, fx, fy, cx, cy, or a 3 x 3 matrix. With
                them 3D joints are in the camera frame, without them relative to the wrist; their size is that
                of a mean adult hand either way.
            mirrored: the picture is a mirror image, as selfie cameras make them. Sides and 3D joints are then
                those of the real hand, pixels remain those of the picture as given.
            threshold: hands with a lower score are left out, 0..1.
            refine: look again, closely and upright, at the hands that the first look found
                (`dfmamba.predict.looking`).

        Raises:
            OSError: if the file cannot be read.
            ValueError: if the picture, the box, the camera or the threshold is not usable.
        """
        return self.predict_batch([image], box, camera, mirrored, threshold, refine)[0]

    def predict_batch(
        self,
        images: Iterable[Picture],
        box: Box | None = None,
        camera: Intrinsics | None = None,
        mirrored: bool = False,
        threshold: float = 0.5,
        refine: bool = True,
    ) -> list[Prediction]:
        """Find the hands in several pictures, with the arguments of `predict` for all of them.

        All pictures are in memory at once; `seconds` is the mean over them.
        """
        images = _several(images)
        detector = self.detector if box is None else None
        if isinstance(detector, GivenBoxes):
            given = [detector.of(image) for image in images]
            detector.require(images)
            return self.predict_at(images, given, camera, mirrored, threshold, refine)
        start = time.perf_counter()
        camera = _check(threshold, camera)
        pictures = [_read(image, mirrored) for image in images]
        if detector is not None:
            detections = detector.detect(pictures)
            found = find_at_detections(self.network, pictures, detections, threshold, refine)
        else:
            boxes = [_region(box, picture, mirrored) for picture in pictures]
            found = find_in_images(self.network, pictures, boxes, threshold, refine)
        return self._predictions(images, pictures, found, camera, mirrored, start)

    def predict_at(
        self,
        images: Iterable[Picture],
        detections: Sequence[Sequence[Detection]],
        camera: Intrinsics | None = None,
        mirrored: bool = False,
        threshold: float = 0.5,
        refine: bool = True,
    ) -> list[Prediction]:
        """The hands at places that are known: from a file, another detector or the picture before.

        Args:
            images: as for `predict`.
            detections: those of each picture, in its pixels as given. Each gives one hand, with the
                detection's score; those that overlap are looked at together.
            camera, mirrored, threshold, refine: as for `predict`.

        Raises:
            OSError, ValueError: as for `predict`; a box is not usable.
        """
        start = time.perf_counter()
        images = _several(images)
        camera = _check(threshold, camera)
        pictures = [_read(image, mirrored) for image in images]
        placed = [
            [
                Detection(region, one.score, one.side)
                for one in each
                if (region := _region(one.box_xyxy, picture, mirrored)) is not None
            ]
            for picture, each in zip(pictures, detections, strict=True)
        ]
        found = find_at_detections(self.network, pictures, placed, threshold, refine)
        return self._predictions(images, pictures, found, camera, mirrored, start)

    def predict_near(
        self,
        image: Picture,
        aims: Sequence[Aim],
        camera: Intrinsics | None = None,
        mirrored: bool = False,
    ) -> list[Hand]:
        """Hands that are about where they were a moment ago: one upright view of each.

        Args:
            image: as for `predict`.
            aims: about where the joints of each hand are, in pixels of the image as given.
            camera, mirrored: as for `predict`.

        Returns:
            A hand for each aim, however unsure: see `Hand.score` and `Hand.joint_scores`.

        Raises:
            OSError, ValueError: as for `predict`.
        """
        camera = _check(0.0, camera)
        pixels = _read(image, mirrored)
        width = pixels.shape[1]
        views = []
        for aim in aims:
            at = mirror_points(aim.joints_2d_px, width) if mirrored else np.asarray(aim.joints_2d_px)
            joints = np.concatenate([at, np.zeros((NUM_JOINTS, 1))], axis=1)
            views.append({SIDES.index(aim.side): SeenHand(joints, np.zeros(NUM_JOINTS), 1.0)})
        seen = self.network.see_upright([pixels] * len(views), views, [aim.sure for aim in aims])
        return [_hands(list(view.items()), pixels, camera, mirrored)[0] for view in seen]

    def stream(
        self, pictures: Iterable[Picture | Frame], fps: float = 30.0, config: TrackConfig | None = None
    ) -> Iterator[Prediction]:
        """Follow hands through pictures in their order, as in a film (`dfmamba.predict.track`).

        Args:
            pictures: as for `predict`, or a film's frames.
            fps: pictures a second, for those that are no `Frame` and so have no time.
            config: how hands are followed.

        Yields:
            A prediction for each picture; `Hand.track` numbers the hands.

        Raises:
            OSError, ValueError: as for `predict`.
        """
        frames = (
            one if isinstance(one, Frame) else Frame(index, index / fps, _read(one, False))
            for index, one in enumerate(pictures)
        )
        for tracked in track_film(self, frames, config):
            yield tracked.prediction

    def _predictions(
        self,
        images: Sequence[Picture],
        pictures: Sequence[np.ndarray],
        found: Sequence[Sequence[SidedHand]],
        camera: Camera | None,
        mirrored: bool,
        start: float,
    ) -> list[Prediction]:
        results = [
            _hands(hands, picture, camera, mirrored) for hands, picture in zip(found, pictures, strict=True)
        ]
        seconds = (time.perf_counter() - start) / max(len(pictures), 1)
        return [
            Prediction(
                hands=hands,
                image_size=(picture.shape[1], picture.shape[0]),
                camera=camera,
                model=self.name,
                image=os.fspath(image) if isinstance(image, str | os.PathLike) else None,
                seconds=seconds,
                mirrored=mirrored,
            )
            for image, picture, hands in zip(images, pictures, results, strict=True)
        ]


def _check_config(config: Any) -> None:
    head = getattr(config, "head", None)
    if head is not None and not hasattr(head, "num_joints"):
        raise ValueError(
            f"model: {getattr(config, 'name', '?')!r} finds no joints (its head is a {type(head).__name__})"
        )
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
    return mirror_picture(picture) if mirrored else picture


def _check(threshold: float, camera: Intrinsics | None) -> Camera | None:
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold: expected a value from 0 to 1, got {threshold}")
    return None if camera is None else Camera.of(camera)


def _several(images: Iterable[Picture]) -> list[Picture]:
    one = isinstance(images, np.ndarray) and (images.ndim < 3 or (images.ndim == 3 and images.shape[2] == 3))
    if one or isinstance(images, str | os.PathLike | Image.Image):
        raise ValueError(f"images: expected several pictures, got one {type(images).__name__}; use predict")
    return list(images)


def _region(box: Box | None, picture: np.ndarray, mirrored: bool) -> np.ndarray | None:
    """A box of the picture as given, on the unmirrored picture."""
    if box is None:
        return None
    height, width = picture.shape[:2]
    checked = check_box(np.asarray(box), (width, height))
    return mirror_box(checked, width) if mirrored else checked


def _hands(
    found: Sequence[SidedHand], picture: np.ndarray, camera: Camera | None, mirrored: bool
) -> tuple[Hand, ...]:
    height, width = picture.shape[:2]
    if camera is not None and mirrored:
        camera = Camera(camera.fx, camera.fy, width - 1 - camera.cx, camera.cy)
    hands = []
    for side, hand in sorted(found, key=lambda one: (one[0], -one[1].score)):
        pixels = hand.joints_25d[:, :2]
        pixels = mirror_points(pixels, width) if mirrored else pixels
        hands.append(
            Hand(
                side=SIDES[side],
                score=hand.score,
                box_xyxy=hand_box(pixels, (width, height)),
                joints_2d_px=pixels,
                joints_3d_mm=lift_joints(hand.joints_25d, camera),
                joint_scores=hand.joint_scores,
                root="wrist" if camera is None else "camera",
            )
        )
    return tuple(hands)
