"""What the figures of trained models share: panels, marks, and the pair of a picture and its caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from dfmamba.draw.canvas import BACKGROUND, INK, Canvas, Color, text_width

GAP = 10
TEXT = 14


@dataclass(frozen=True)
class Figure:
    """A picture and what to write below it.

    Attributes:
        image: RGB.
        caption: how it was made and how to read it, in sentences.
    """

    image: Image.Image
    caption: str


@dataclass(frozen=True)
class Panel:
    """Where the pixels of a small picture are in an enlarged one.

    Attributes:
        zoom: pixels of the panel per pixel of the picture.
        margin: pixels of the picture around it.
    """

    zoom: float
    margin: float = 0.0

    def place(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) pixels of the picture as pixels of the panel; both have pixel centres at integers."""
        return (np.asarray(points, dtype=np.float64) + self.margin + 0.5) * self.zoom - 0.5

    def canvas(self, pixels: np.ndarray, fade: float = 0.0, smooth: bool = True) -> Canvas:
        """The picture (H, W, 3) uint8, enlarged and mixed with this share of white, with its margin."""
        h, w = pixels.shape[:2]
        inner = (round(w * self.zoom), round(h * self.zoom))
        how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
        picture = Image.fromarray(np.ascontiguousarray(pixels)).resize(inner, how)
        picture = Image.blend(picture, Image.new("RGB", inner, (255, 255, 255)), fade)
        edge = round(self.margin * self.zoom)
        sheet = Image.new("RGB", (inner[0] + 2 * edge, inner[1] + 2 * edge), (226, 227, 230))
        sheet.paste(picture, (edge, edge))
        return Canvas(sheet)


def ring(
    canvas: Canvas, centre: Sequence[float] | np.ndarray, radius: float, color: Color, width: float
) -> None:
    """A hollow circle."""
    angles = np.linspace(0.0, 2 * np.pi, 33)
    points = np.asarray(centre) + radius * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    for a, b in pairwise(points):
        canvas.line(a, b, color, width)


def cross(
    canvas: Canvas, centre: Sequence[float] | np.ndarray, radius: float, color: Color, width: float
) -> None:
    """Two diagonal strokes on a white rim."""
    middle = np.asarray(centre, dtype=np.float64)
    for stroke, tint in ((width + 2.0, (255, 255, 255)), (width, color)):
        for along in (np.array([radius, radius]), np.array([radius, -radius])):
            canvas.line(middle - along, middle + along, tint, stroke)


def strip(width: int, lines: Sequence[str], size: int = TEXT, color: Color = INK) -> Image.Image:
    """Centred lines of text, made smaller where one is wider than the strip."""
    image = Image.new("RGB", (width, round(1.4 * size) * len(lines)), BACKGROUND)
    canvas = Canvas(image)
    for i, line in enumerate(lines):
        fitting = next((s for s in range(size, 7, -1) if text_width(line, s) <= width - 4), 7)
        canvas.text((width / 2, (i + 0.5) * 1.4 * size), line, color, fitting, anchor="mm")
    return canvas.finish()
