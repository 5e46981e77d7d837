"""Labels from a teacher: what another hand finder sees alike in several views of a photograph.

A photograph is shown to the teacher as it is, mirrored, turned and scaled. A hand is kept if nearly all views
agree on its joints and its side; it is labelled with the mean of the views and with their disagreement. The
file has the own format (docs/train/own_data.md), its joints are in pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dfmamba.data.index import Report
from dfmamba.data.own_format import header
from dfmamba.hands.affine import Affine, box_of_points, crop_affine, rotation, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.hands.skeleton import HAND_NAMES, NUM_JOINTS
from dfmamba.io.files import write_atomic
from dfmamba.io.images import load_image
from dfmamba.synth.background import photo_files
from dfmamba.train.augment import LEAST_JOINTS
from dfmamba.train.pool import ROOM

MARGIN = 0.15
"""Grey border around every view, relative to the longer side of the photograph."""

LARGEST_VIEW = 1280
"""Longer side of a view in pixels at most."""

SAME_HAND = 0.3
"""Hands of two views are one if their joints are nearer to each other in the mean, in sides of the box."""


@dataclass(frozen=True)
class View:
    """How a photograph is shown to the teacher.

    Attributes:
        mirrored: left to right.
        turn_deg: about the middle, clockwise.
        scale: relative to the photograph (or to what `LARGEST_VIEW` leaves of it).
    """

    mirrored: bool = False
    turn_deg: float = 0.0
    scale: float = 1.0

    def affine(self, width: int, height: int) -> tuple[Affine, tuple[int, int]]:
        """From the pixels of a photograph to those of the view, and the view's width and height."""
        border = 2 * MARGIN * max(width, height)
        scale = self.scale * min(1.0, LARGEST_VIEW / (max(width, height) + border))
        size = (
            max(16, round((width + border) * scale)),
            max(16, round((height + border) * scale)),
        )
        linear = rotation(math.radians(self.turn_deg)) * scale
        if self.mirrored:
            linear = np.diag([-1.0, 1.0]) @ linear
        middle = (np.array([width, height]) - 1) / 2
        shift = (np.array(size) - 1) / 2 - linear @ middle
        return Affine(np.concatenate([linear, shift[:, None]], axis=1)), size


VIEWS = (View(), View(mirrored=True), View(turn_deg=20), View(True, -20), View(scale=0.7))


@dataclass(frozen=True)
class TaughtHand:
    """A hand as a teacher sees it.

    Attributes:
        side: 0 right, 1 left, of the image as it is.
        joints_25d: (21, 3) u, v, d in pixels; d relative to the wrist.
    """

    side: int
    joints_25d: np.ndarray


class Teacher(Protocol):
    """Finds hands in one image."""

    name: str

    def find(self, image: np.ndarray) -> list[TaughtHand]:
        """All hands of an image (H, W, 3) uint8."""
        ...


def make_teacher(name: str, device: str = "auto") -> Teacher:
    """A teacher by name: "mediapipe", or the name or folder of a model.

    Raises:
        ImportError: MediaPipe is missing, or a version without its models.
        OSError, ValueError: no such model, or an unusable one.
    """
    return MediaPipeTeacher() if name == "mediapipe" else ModelTeacher(name, device)


class MediaPipeTeacher:
    """MediaPipe Hands, whose models come with its wheel up to version 0.10.21.

    Raises:
        ImportError: it is missing, or a version without `solutions`.
    """

    def __init__(self) -> None:
        try:
            import mediapipe
            from mediapipe import solutions
        except ImportError as error:
            raise ImportError(
                "--teacher mediapipe needs a MediaPipe that ships its models: pip install 'dfmamba[teacher]'"
            ) from error
        self.name = f"MediaPipe Hands {mediapipe.__version__}"
        self._hands: Any = solutions.hands.Hands(
            static_image_mode=True, max_num_hands=8, min_detection_confidence=0.4, model_complexity=1
        )

    def find(self, image: np.ndarray) -> list[TaughtHand]:
        """See `Teacher.find`. Depth is that of its world landmarks."""
        height, width = image.shape[:2]
        result = self._hands.process(np.ascontiguousarray(image))
        found = []
        for marks, world, side in zip(
            result.multi_hand_landmarks or [],
            result.multi_hand_world_landmarks or [],
            result.multi_handedness or [],
            strict=True,
        ):
            pixels = np.array([[m.x * width - 0.5, m.y * height - 0.5] for m in marks.landmark])
            metres = np.array([[m.x, m.y, m.z] for m in world.landmark])
            # It takes the image for a mirror image, so its "Left" is a right hand.
            right = side.classification[0].label == "Left"
            found.append(TaughtHand(0 if right else 1, with_depth(pixels, metres)))
        return found


class ModelTeacher:
    """A model of this package with its predictor.

    Args:
        model: its name or folder.
        device: torch device, or "auto".

    Raises:
        OSError, ValueError: see `dfmamba.predict.Predictor`.
    """

    def __init__(self, model: str, device: str = "auto") -> None:
        from dfmamba.predict import Predictor

        self.name = f"dfmamba {model}"
        self._predictor = Predictor(model, device, detector="built-in")

    def find(self, image: np.ndarray) -> list[TaughtHand]:
        """See `Teacher.find`."""
        return [
            TaughtHand(HAND_NAMES.index(hand.side), with_depth(hand.joints_2d_px, hand.joints_3d_mm))
            for hand in self._predictor.predict(image).hands
        ]


def with_depth(joints_2d_px: np.ndarray, joints_3d: np.ndarray) -> np.ndarray:
    """2.5D joints (21, 3) from pixels (21, 2) and joints (21, 3) of any unit, x right, y down, z forward.

    The unit of depth becomes that of the pixels by least squares over x and y.
    """
    flat, deep = joints_2d_px - joints_2d_px.mean(0), joints_3d[:, :2] - joints_3d[:, :2].mean(0)
    scale = float((flat * deep).sum() / max(float((deep * deep).sum()), 1e-12))
    depth = scale * (joints_3d[:, 2:] - joints_3d[:1, 2:])
    return np.concatenate([joints_2d_px, depth], axis=1).astype(np.float64)


@dataclass(frozen=True)
class AgreedHand:
    """What the views say of a hand.

    Attributes:
        side: 0 right, 1 left; that of most views.
        joints_25d: (21, 3) pixels of the photograph; the mean over the views.
        disagreement: mean 2D distance of the views from that, in sides of the box.
        fault: why it isn't used; "" if it is.
    """

    side: int
    joints_25d: np.ndarray
    disagreement: float
    fault: str


def ask(
    teacher: Teacher, image: np.ndarray, views: Sequence[View] = VIEWS, most: float = 0.05
) -> list[AgreedHand]:
    """The hands of a photograph, those on which the views don't agree among them.

    Args:
        teacher: who is asked.
        image: (H, W, 3) uint8.
        views: how it is shown.
        most: largest disagreement of a hand that is used.
    """
    height, width = image.shape[:2]
    groups: list[list[TaughtHand]] = []
    for view in views:
        affine, size = view.affine(width, height)
        back = affine.inverse()
        free = list(groups)  # each takes one hand of a view at most
        for hand in teacher.find(warp_image(image, affine, size, fill=128)):
            joints = np.concatenate(
                [back.apply(hand.joints_25d[:, :2]), hand.joints_25d[:, 2:] / affine.scale], axis=1
            )
            here = TaughtHand(1 - hand.side if view.mirrored else hand.side, joints)
            near = [_distance(here, group[0]) for group in free]
            if near and min(near) < SAME_HAND:
                free.pop(near.index(min(near))).append(here)
            else:
                groups.append([here])
    needed = math.ceil(0.75 * len(views))
    return [_agreed(group, needed, len(views), most) for group in groups]


def _distance(one: TaughtHand, other: TaughtHand) -> float:
    """Mean 2D distance of joints in sides of the larger box."""
    side = max(float(np.ptp(hand.joints_25d[:, :2], axis=0).max()) for hand in (one, other))
    apart = np.linalg.norm(one.joints_25d[:, :2] - other.joints_25d[:, :2], axis=-1)
    return float(apart.mean()) / max(side, 1.0)


def _agreed(group: list[TaughtHand], needed: int, views: int, most: float) -> AgreedHand:
    joints = np.stack([hand.joints_25d for hand in group])
    mean = joints.mean(0)
    side = max(float(np.ptp(mean[:, :2], axis=0).max()), 1.0)
    disagreement = float(np.linalg.norm(joints[..., :2] - mean[:, :2], axis=-1).mean()) / side
    sides = [hand.side for hand in group]
    fault = ""
    if len(group) < needed:
        fault = f"a hand seen in fewer than {needed} of {views} views"
    elif len(set(sides)) > 1:
        fault = "views disagree on the side"
    elif disagreement > most:
        fault = "views disagree on the joints"
    return AgreedHand(round(float(np.mean(sides))), mean, disagreement, fault)


def label_photographs(
    teacher: Teacher,
    folder: str | Path,
    out: str | Path,
    most: float = 0.05,
    tell: Callable[[int, int], object] | None = None,
) -> Report:
    """Writes the labels of a folder's photographs, those in folders below it included.

    The file has the own format; its images are relative to `folder`. Read it with
    `open_dataset("own", folder, "train", labels=out)`.

    Args:
        teacher: who labels.
        folder: of the photographs.
        out: file to write.
        most: largest disagreement of the hands that are kept.
        tell: hears how many of how many photographs are done.

    Returns:
        How many hands were kept, and what was left out and why.

    Raises:
        OSError: there are no photographs, or the file can't be written.
        ValueError: no hand was kept.
    """
    files, report = photo_files(folder), Report()
    samples: list[dict[str, Any]] = []
    for number, file in enumerate(files):
        if tell is not None:
            tell(number, len(files))
        name = file.relative_to(folder).as_posix()
        try:
            image = load_image(file)
        except (OSError, ValueError) as error:
            report.leave_out(name, f"not read: {str(error).split(': ', 1)[-1]}")
            continue
        hands = ask(teacher, image, most=most)
        if not hands:
            report.leave_out(name, "no hand found")
        for hand in hands:
            if hand.fault:
                report.leave_out(name, hand.fault)
        samples += _entries(name, (image.shape[1], image.shape[0]), hands)
    report.kept = len(samples)
    if not samples:
        raise ValueError(f"{folder}: no hand to keep; {'; '.join(report.lines[1:])}")
    content = {**header(), "teacher": teacher.name, "samples": samples}
    write_atomic(Path(out), json.dumps(content).encode())
    return report


def _entries(name: str, size: tuple[int, int], hands: Sequence[AgreedHand]) -> Iterator[dict[str, Any]]:
    """An entry for each hand that is used, with what is known of the other one in its surroundings."""
    for number, hand in enumerate(hands):
        if hand.fault:
            continue
        labels = [_label(hand)]
        others = [other for other in hands if other is not hand and _reaches_into(other, hand)]
        second = [other for other in others if not other.fault and other.side != hand.side]
        if len(second) == 1:
            labels.append(_label(second[0]))
        elif any(other.fault or other.side != hand.side for other in others):
            labels.append(
                {
                    "side": HAND_NAMES[1 - hand.side],
                    "joints_2d_px": [[0.0, 0.0]] * NUM_JOINTS,
                    "valid": [False] * NUM_JOINTS,
                }
            )
        yield {"id": f"{name}#{number}", "picture": name, "size": list(size), "hands": labels}


def _reaches_into(other: AgreedHand, hand: AgreedHand) -> bool:
    """Whether enough joints of another hand lie in the square that training cuts around a hand."""
    affine = crop_affine(square_box(box_of_points(hand.joints_25d[:, :2]), ROOM), 2)
    inside = (np.abs(affine.apply(other.joints_25d[:, :2]) - 0.5) < 1.0).all(-1)
    return int(inside.sum()) >= LEAST_JOINTS


def _label(hand: AgreedHand) -> dict[str, Any]:
    return {
        "side": HAND_NAMES[hand.side],
        "joints_2d_px": hand.joints_25d[:, :2].round(2).tolist(),
        "depth_px": (hand.joints_25d[:, 2] - hand.joints_25d[0, 2]).round(2).tolist(),
        "disagreement": round(hand.disagreement, 4),
    }
