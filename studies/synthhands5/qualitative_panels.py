"""The panels of the qualitative figure: joints over a picture, and in space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from dfmamba.draw.canvas import BONE_COLORS, MUTED, WHITE, Canvas, Color, joint_color, text_width
from dfmamba.draw.view3d import View
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import BONES, HAND_NAMES, JOINT_NAMES
from studies.synthhands5.drawing import TEXT, Panel, ring
from studies.synthhands5.pictures import Pictures

TRUTH: Color = (0, 0, 0)
WORST: Color = (208, 0, 90)
_SCALE_MM = 50.0


@dataclass(frozen=True)
class Worst:
    """The joint with the largest error of a picture."""

    hand: int
    joint: int
    error_mm: float

    @property
    def text(self) -> str:
        """Size and joint."""
        return f"{self.error_mm:.0f} mm ({HAND_NAMES[self.hand]} {JOINT_NAMES[self.joint].replace('_', ' ')})"


def largest_error(errors: Tensor) -> Worst:
    """Of the errors (2, 21) in mm; NaN doesn't count."""
    hand, joint = divmod(int(errors.nan_to_num(-1.0).argmax()), errors.shape[1])
    return Worst(hand, joint, float(errors[hand, joint]))


def projected(joints_mm: np.ndarray, camera: Sequence[float]) -> np.ndarray:
    """(2, 21, 2) pixels of joints (2, 21, 3) in mm, camera frame; NaN where an absent hand's zeros are."""
    seen = joints_mm[..., 2] > 0
    pixels = np.full((*joints_mm.shape[:2], 2), np.nan)
    pixels[seen] = Camera(*camera).project(joints_mm[seen])
    return pixels


def overlay(pictures: Pictures, i: int, joints_mm: Tensor, worst: Worst, side: int) -> Image.Image:
    """Picture `i` with predicted joints (2, 21, 3) mm, camera frame, and the truth, `side` pixels wide."""
    panel = Panel(side / pictures.pixels.shape[1])
    canvas = panel.canvas(pictures.pixels[i].numpy())
    pixels = panel.place(projected(joints_mm.double().numpy(), pictures.camera[i].tolist()))
    truth = panel.place(pictures.joints_2d_px[i].numpy())
    valid = pictures.valid[i].numpy()
    for hand in np.flatnonzero(valid.any(-1)):
        _predicted(canvas, pixels[hand], 3.0)
        _true(canvas, truth[hand], valid[hand], rim=True)
    _mark(canvas, pixels[worst.hand, worst.joint], truth[worst.hand, worst.joint], worst)
    return canvas.finish()


def _predicted(canvas: Canvas, pixels: np.ndarray, width: float) -> None:
    for (parent, child), color in zip(BONES, BONE_COLORS, strict=True):
        canvas.line(pixels[parent], pixels[child], color, width)
    for joint, place in enumerate(pixels):
        canvas.disc(place, 1.1 * width, joint_color(joint))


def _true(canvas: Canvas, pixels: np.ndarray, valid: np.ndarray, rim: bool) -> None:
    strokes = (((*WHITE, 170), 2.6), (TRUTH, 1.1)) if rim else ((TRUTH, 1.1),)
    for color, width in strokes:
        for parent, child in BONES:
            if valid[parent] and valid[child]:
                canvas.line(pixels[parent], pixels[child], color, width)
    for place in pixels[valid]:
        canvas.disc(place, 1.7, TRUTH)


def _mark(canvas: Canvas, found: np.ndarray, truth: np.ndarray, worst: Worst, top: float = 0.0) -> None:
    """A circle around the predicted joint, a line to the true one, and the error's size below `top`."""
    canvas.line(found.tolist(), truth.tolist(), WORST, 1.4)
    ring(canvas, found, 7.5, WHITE, 3.6)
    ring(canvas, found, 7.5, WORST, 1.8)
    text = f"{worst.error_mm:.0f} mm"
    wide, (width, height) = text_width(text, TEXT - 2) + 6, canvas.size
    upwards = (found[1] <= truth[1] and found[1] > top + 28) or found[1] > height - 28
    x = float(np.clip(found[0] - wide / 2, 0, width - wide))
    y = float(np.clip(found[1] - 27 if upwards else found[1] + 11, top, height - 17))
    canvas.box((x, y, x + wide, y + 16), (*WHITE, 215), radius=3)
    canvas.text((x + wide / 2, y + 8), text, WORST, TEXT - 2, anchor="mm")


@dataclass(frozen=True)
class Space:
    """The hands of a picture in mm, which several panels show at one scale.

    Attributes:
        truth: (2, 21, 3) camera frame.
        valid: (2, 21) bool.
        centres: (2, 3) of each hand.
        radius: around them within which all is that is shown.
    """

    truth: np.ndarray
    valid: np.ndarray
    centres: np.ndarray
    radius: float

    @classmethod
    def around(cls, truth: np.ndarray, predictions: Iterable[np.ndarray], valid: np.ndarray) -> Space:
        """A scene that holds truth and predictions (2, 21, 3) of the hands that are there."""
        centres, radius = np.zeros((2, 3)), 1.0
        predictions = list(predictions)
        for hand in np.flatnonzero(valid.any(-1)):
            joints = truth[hand][valid[hand]]
            centres[hand] = (joints.min(0) + joints.max(0)) / 2
            shown = np.concatenate([joints, *(found[hand] for found in predictions)])
            radius = max(radius, float(np.linalg.norm(shown - centres[hand], axis=-1).max()))
        return cls(truth, valid, centres, radius)

    def draw(
        self, hand: int, view: View, joints_mm: np.ndarray, worst: Worst, size: tuple[int, int]
    ) -> Image.Image:
        """One hand's prediction (21, 3) and truth from one side, without perspective."""
        canvas = Canvas(Image.new("RGB", size, WHITE))
        head, foot = round(1.5 * TEXT), round(1.4 * TEXT)
        room = (size[0], size[1] - head - foot)
        zoom = 0.47 * min(room) / self.radius
        middle = np.array([room[0] / 2, head + room[1] / 2])

        def place(points: np.ndarray) -> np.ndarray:
            return middle + zoom * ((points - self.centres[hand]) @ view.axes.T)[..., :2]

        _predicted(canvas, place(joints_mm), 2.6)
        _true(canvas, place(self.truth[hand]), self.valid[hand], rim=False)
        if worst.hand == hand:
            true = place(self.truth[hand, worst.joint])
            _mark(canvas, place(joints_mm[worst.joint]), true, worst, head)
        canvas.line((8, size[1] - 8), (8 + zoom * _SCALE_MM, size[1] - 8), MUTED, 2.0)
        canvas.text((14 + zoom * _SCALE_MM, size[1] - 8), f"{_SCALE_MM:g} mm", MUTED, TEXT - 3, anchor="lm")
        name = f"{HAND_NAMES[hand]} hand, seen {view.title.split(' (')[0]}"
        canvas.text((size[0] / 2, 4), name, MUTED, TEXT - 2, anchor="ma")
        return canvas.finish()
