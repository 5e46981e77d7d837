"""An antialiased surface, and the colours and letters that all drawings share."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfmamba.hands.skeleton import BONES, FINGER_COLORS_RGB, FINGER_NAMES

Color: TypeAlias = tuple[int, ...]
"""RGB, or RGB and opacity, 0..255."""

BACKGROUND: Color = (248, 248, 246)
INK: Color = (44, 46, 52)
MUTED: Color = (122, 126, 134)
WHITE: Color = (255, 255, 255)
SIDE_COLORS: dict[str, Color] = {"right": (196, 78, 30), "left": (28, 96, 168)}

CONFIDENT = 0.5
"""Joints that score less are drawn hollow, their bones thin."""

_MAX_WORK_PIXELS = 16_000_000


def joint_color(joint: int) -> Color:
    """Colour of a joint: its finger's, or that of the wrist."""
    return FINGER_COLORS_RGB["wrist" if joint == 0 else FINGER_NAMES[(joint - 1) // 4]]


BONE_COLORS: tuple[Color, ...] = tuple(joint_color(child) for _, child in BONES)


def mix(color: Color, other: Color, share: float) -> Color:
    """`color` with this share of `other` in it."""
    return tuple(round(a + (b - a) * share) for a, b in zip(color[:3], other[:3], strict=True))


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which is on every machine."""
    return ImageFont.load_default(size=max(size, 6))


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return round(font(size).getlength(text))


class Canvas:
    """An image that is drawn on at several times its size, so that edges come out smooth.

    Coordinates are pixels of the image with pixel centres at integers; opacity is respected. What is not
    drawn on keeps its exact values.

    Args:
        image: RGB; it is copied.
        region: x0, y0, x1, y1 of all that will be drawn, in pixels; the rest is left alone. None: all of it.
    """

    def __init__(self, image: Image.Image, region: Sequence[float] | None = None):
        width, height = self.size = image.size
        self._image = image.convert("RGB") if image.mode != "RGB" else image.copy()
        x0, y0, x1, y1 = (-0.5, -0.5, width - 0.5, height - 0.5) if region is None else region
        left, top = max(math.floor(x0 + 0.5), 0), max(math.floor(y0 + 0.5), 0)
        right, bottom = min(math.ceil(x1 + 0.5), width), min(math.ceil(y1 + 0.5), height)
        self._region = (left, top, max(right, left + 1), max(bottom, top + 1))
        part = self._image.crop(self._region)
        most = math.sqrt(_MAX_WORK_PIXELS / (part.width * part.height))
        self.factor = int(min(max(most, 1.0), 3.0))
        self._part = part.resize(
            (part.width * self.factor, part.height * self.factor), Image.Resampling.NEAREST
        )
        self._draw = ImageDraw.Draw(self._part, "RGBA")

    def line(self, start: Sequence[float], end: Sequence[float], color: Color, width: float) -> None:
        """A straight line with round ends."""
        (ax, ay), (bx, by) = a, b = self._place(start), self._place(end)
        radius = width * self.factor / 2
        length = math.hypot(bx - ax, by - ay)
        if length > 0:
            x, y = (ay - by) * radius / length, (bx - ax) * radius / length
            corners = [(ax + x, ay + y), (bx + x, by + y), (bx - x, by - y), (ax - x, ay - y)]
            self._draw.polygon(corners, fill=color)
        for point in (a, b):
            self._circle(point, radius, color)

    def disc(self, center: Sequence[float], radius: float, color: Color) -> None:
        """A filled circle."""
        self._circle(self._place(center), radius * self.factor, color)

    def polygon(self, points: np.ndarray, color: Color) -> None:
        """A filled polygon (N, 2)."""
        self._draw.polygon([self._place(point) for point in points], fill=color)

    def box(self, box_xyxy: Sequence[float], color: Color, width: float = 0.0, radius: float = 0.0) -> None:
        """A rectangle with round corners; filled where `width` is 0."""
        x0, y0 = self._place(box_xyxy[:2])
        x1, y1 = self._place(box_xyxy[2:])
        thick = max(round(width * self.factor), 1)
        fill, outline = (color, None) if width == 0 else (None, color)
        corner = min(radius * self.factor, (x1 - x0) / 2, (y1 - y0) / 2)
        self._draw.rounded_rectangle((x0, y0, x1, y1), corner, fill=fill, outline=outline, width=thick)

    def text(
        self, position: Sequence[float], text: str, color: Color, size: float, anchor: str = "la"
    ) -> None:
        """A line of text; `anchor` as Pillow's."""
        letters = font(round(size * self.factor))
        self._draw.text(self._place(position), text, fill=color, font=letters, anchor=anchor)

    def finish(self) -> Image.Image:
        """The image at its own size."""
        part = self._part if self.factor == 1 else self._part.reduce(self.factor)
        self._image.paste(part, self._region)
        return self._image

    def _place(self, point: Sequence[float]) -> tuple[float, float]:
        # Pillow cannot hold coordinates of any size; what is that far out is not seen anyway.
        x, y = (min(max(float(value), -1e5), 1e5) for value in point[:2])
        left, top, _, _ = self._region
        return (x - left + 0.5) * self.factor - 0.5, (y - top + 0.5) * self.factor - 0.5

    def _circle(self, center: tuple[float, float], radius: float, color: Color) -> None:
        x, y = center
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
