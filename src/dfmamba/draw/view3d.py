"""Hands in space, seen from several sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dfmamba.draw.canvas import BACKGROUND, BONE_COLORS, INK, MUTED, WHITE, Canvas, joint_color, mix
from dfmamba.draw.surface import Surface, draw_surfaces, hand_surface
from dfmamba.hands.skeleton import BONES, FINGERS, NUM_JOINTS

GRID_MM = 20.0
"""Spacing of the ground grid."""

_EYE = 5.0  # distance of the eye, in radii of what is shown
_PALM = (0, *(joints[0] for joints in FINGERS.values()))


@dataclass(frozen=True)
class View:
    """A direction to look from.

    Attributes:
        title: what the caption says.
        yaw_deg: 0 looks as the camera does, 90 from the right of the picture.
        pitch_deg: 0 looks level, 90 straight down.
    """

    title: str
    yaw_deg: float
    pitch_deg: float

    @property
    def axes(self) -> np.ndarray:
        """(3, 3) rows: right, down and forward of the view, in the camera frame."""
        yaw, pitch = math.radians(self.yaw_deg), math.radians(self.pitch_deg)
        right = np.array([math.cos(yaw), 0.0, math.sin(yaw)])
        level = np.array([-math.sin(yaw), 0.0, math.cos(yaw)])
        down = np.array([0.0, 1.0, 0.0])
        forward = math.cos(pitch) * level + math.sin(pitch) * down
        return np.stack([right, math.cos(pitch) * down - math.sin(pitch) * level, forward])


VIEWS = (
    View("from the camera", 0.0, 12.0),
    View("from the right (camera on the left)", 90.0, 12.0),
    View("from above (camera below)", 0.0, 78.0),
)


def draw_view(
    hands_mm: Sequence[np.ndarray],
    view: View,
    size: tuple[int, int],
    surfaces: Sequence[tuple[np.ndarray, str]] = (),
) -> Image.Image:
    """Draw hands over a ground grid of 20 mm; what is farther away is paler and smaller.

    Args:
        hands_mm: (21, 3) mm each, all in one frame (x right, y down, z forward).
        view: where to look from.
        size: width and height of the result.
        surfaces: vertices (V, 3) mm and side of surfaces in the same frame; then joints and bones are not
            drawn.

    Returns:
        An RGB picture.
    """
    canvas = Canvas(Image.new("RGB", size, BACKGROUND))
    width, height = size
    caption = max(round(0.05 * min(size)), 10)
    if hands_mm:
        points = np.concatenate([np.asarray(hand, dtype=np.float64) for hand in hands_mm])
        scene = _Scene(points, view, (width, height - round(1.6 * caption)))
        _draw_ground(canvas, scene, hands_mm)
        if surfaces:
            canvas = Canvas(draw_surfaces(canvas.finish(), [scene.surface(*one) for one in surfaces], 1.0))
        else:
            _draw_hands(canvas, scene, hands_mm)
    canvas.text((width / 2, height - 0.5 * caption), view.title, MUTED, caption, anchor="mb")
    return canvas.finish()


class _Scene:
    """Projection of points around a common centre onto a panel."""

    def __init__(self, points_mm: np.ndarray, view: View, size: tuple[int, int]):
        low, high = points_mm.min(axis=0), points_mm.max(axis=0)
        self.center = (low + high) / 2
        self.radius = max(float(np.linalg.norm(points_mm - self.center, axis=1).max()), 1.0)
        self.ground = float(high[1]) + 0.12 * self.radius
        self.axes = view.axes
        self.zoom = 0.46 * min(size) / self.radius
        self.middle = np.array([size[0] / 2, size[1] * 0.48])

    def project(self, points_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, 3) mm -> pixels (N, 2), magnification (N,) and depth (N,), about -1 near to 1 far."""
        seen = (np.asarray(points_mm, dtype=np.float64) - self.center) @ self.axes.T
        depth = seen[:, 2] / self.radius
        magnification = _EYE / np.maximum(_EYE + depth, 0.5)
        return self.middle + seen[:, :2] * (self.zoom * magnification)[:, None], magnification, depth

    def surface(self, vertices_mm: np.ndarray, side: str) -> Surface:
        """The surface of a hand as it is seen."""
        pixels, _, depth = self.project(vertices_mm)
        return hand_surface(vertices_mm @ self.axes.T, side, pixels, depth)


def _draw_ground(canvas: Canvas, scene: _Scene, hands_mm: Sequence[np.ndarray]) -> None:
    reach = 1.05 * scene.radius
    step = GRID_MM * max(1, math.ceil(reach / GRID_MM / 12))
    count = math.ceil(reach / step)
    ticks = np.linspace(-reach, reach, 25)
    for line in range(-count, count + 1):
        for along_x in (True, False):
            offset = np.full_like(ticks, line * step)
            x, z = (ticks, offset) if along_x else (offset, ticks)
            floor = np.full_like(ticks, scene.ground)
            pixels, _, _ = scene.project(np.stack([x + scene.center[0], floor, z + scene.center[2]], axis=1))
            distance = np.hypot(x, z) / reach
            for i in range(len(ticks) - 1):
                fade = max(distance[i], distance[i + 1])
                if fade < 1:
                    canvas.line(pixels[i], pixels[i + 1], mix((196, 198, 204), BACKGROUND, fade**2), 1.0)
    for hand in hands_mm:
        shadow = np.array(hand, dtype=np.float64)
        shadow[:, 1] = scene.ground
        pixels, magnification, _ = scene.project(shadow)
        for parent, child in BONES:
            thick = 0.055 * scene.radius * scene.zoom * magnification[child]
            canvas.line(pixels[parent], pixels[child], (218, 219, 222), thick)


def _draw_hands(canvas: Canvas, scene: _Scene, hands_mm: Sequence[np.ndarray]) -> None:
    pieces: list[tuple[float, int, int, int]] = []
    seen = [scene.project(hand) for hand in hands_mm]
    for number, (_, _, depth) in enumerate(seen):
        pieces.append((float(depth[list(_PALM)].mean()) + 0.02, number, -1, -1))
        pieces += [(float(depth[[a, b]].mean()), number, a, b) for a, b in BONES]
        pieces += [(float(depth[joint]) - 0.02, number, joint, joint) for joint in range(NUM_JOINTS)]
    base = 0.06 * scene.zoom * min(scene.radius, 110.0)
    for middle, number, a, b in sorted(pieces, reverse=True):
        pixels, magnification, _ = seen[number]
        haze = float(np.clip(0.2 + 0.4 * middle, 0.0, 0.55))
        if a < 0:
            canvas.polygon(pixels[list(_PALM)], (*mix(MUTED, BACKGROUND, haze), 70))
        elif a != b:
            width = base * float(magnification[[a, b]].mean())
            color = BONE_COLORS[b - 1]
            canvas.line(pixels[a], pixels[b], mix(mix(color, INK, 0.45), BACKGROUND, haze), 1.35 * width)
            canvas.line(pixels[a], pixels[b], mix(color, BACKGROUND, haze), width)
        else:
            radius = base * float(magnification[a]) * (0.95 if a == 0 else 0.78)
            color = joint_color(a)
            canvas.disc(pixels[a], 1.2 * radius, mix(mix(color, INK, 0.45), BACKGROUND, haze))
            canvas.disc(pixels[a], radius, mix(color, BACKGROUND, haze))
            shine = pixels[a] - 0.3 * radius
            canvas.disc(shine, 0.35 * radius, mix(mix(color, WHITE, 0.6), BACKGROUND, haze))
