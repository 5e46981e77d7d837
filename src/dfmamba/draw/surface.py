"""Surfaces drawn with a depth buffer, in NumPy: no renderer is needed to lay a hand over its photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dfmamba.draw.canvas import Color
from dfmamba.hands.camera import Camera
from dfmamba.hands.model import HandModel, mirror_faces, vertex_normals

if TYPE_CHECKING:
    from dfmamba.predict.result import Hand, Prediction

OPACITY = 0.92
USUAL_FOCAL = 1.2
"""Focal length in longer sides of the picture where none was given: it decides which hand is in front."""
HAND_COLORS: dict[str, Color] = {"right": (238, 178, 148), "left": (146, 188, 234)}
NAIL: Color = (255, 240, 232)

_LIGHT = np.array([-0.35, -0.6, -0.72])
_AMBIENT = 0.42
_FINE_PIXELS = 1_500_000
"""Pictures of up to so many pixels are drawn at twice their size for smooth edges."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh as it is seen.

    Attributes:
        pixels: (V, 2) where its vertices are in the picture, pixel centres at integers.
        depth: (V,) growing away from the viewer, in one unit for all surfaces of a picture.
        faces: (F, 3), counter-clockwise seen from outside.
        normals: (V, 3) outwards, x right, y down, z away from the viewer.
        colors: (V, 3) 0..255.
    """

    pixels: np.ndarray
    depth: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    colors: np.ndarray


def hand_surface(
    vertices_mm: np.ndarray, side: str, pixels: np.ndarray, depth: np.ndarray, mirrored: bool = False
) -> Surface:
    """A hand of `dfmamba.hands.model.HandModel`, in the colour of its side and without the forearm.

    Args:
        vertices_mm: (V, 3) in the viewer's frame.
        side: "right" or "left".
        pixels: (V, 2) and
        depth: (V,) as those of `Surface`.
        mirrored: whether `vertices_mm` are a mirror image, as a mirrored picture shows them.
    """
    faces, colors = _hand_look(side)
    faces = mirror_faces(faces) if mirrored else faces
    return Surface(pixels, depth, faces, vertex_normals(vertices_mm, faces), colors)


@lru_cache(maxsize=2)
def _hand_look(side: str) -> tuple[np.ndarray, np.ndarray]:
    model = HandModel.load()
    nail = model.attributes[:, 1:2]
    return model.faces_of(side, forearm=False), (1 - nail) * HAND_COLORS[side] + nail * np.array(NAIL)


def surface_in_picture(hand: Hand, prediction: Prediction) -> Surface:
    """The surface of a hand with a fit, as it is seen in its picture as it was given.

    With intrinsics it is projected. Without, it is scaled and shifted so that the predicted joints in space
    fall on those in the picture; how far away it is follows from how large it appears, at a usual focal
    length, and means something only beside other hands.
    """
    vertices = hand.vertices_mm().astype(np.float64)
    width, height = prediction.image_size
    camera, flip = prediction.camera, np.array([-1.0 if prediction.mirrored else 1.0, 1.0])
    start = np.array([width - 1.0 if prediction.mirrored else 0.0, 0.0])
    if hand.root == "camera" and camera is not None:
        if prediction.mirrored:
            camera = Camera(camera.fx, camera.fy, width - 1 - camera.cx, camera.cy)
        pixels, depth = camera.project(vertices), vertices[:, 2]
    else:
        joints, seen = hand.joints_3d_mm[:, :2], start + flip * hand.joints_2d_px
        weights = hand.joint_scores[:, None] ** 2 + 1e-6
        middle, goal = ((weights * points).sum(axis=0) / weights.sum() for points in (joints, seen))
        flat = joints - middle
        scale = float((weights * flat * (seen - goal)).sum() / max((weights * flat**2).sum(), 1e-9))
        scale = max(scale, 1e-6)
        pixels = (vertices[:, :2] - middle) * scale + goal
        depth = vertices[:, 2] + USUAL_FOCAL * max(width, height) / scale
    return hand_surface(vertices * [flip[0], 1.0, 1.0], hand.side, start + flip * pixels, depth, flip[0] < 0)


def draw_surfaces(image: Image.Image, surfaces: Sequence[Surface], opacity: float = OPACITY) -> Image.Image:
    """Surfaces over a picture; what is nearer hides what is farther away, pixel by pixel.

    Args:
        image: RGB; it is not changed.
        surfaces: with their pixels in it; they may leave it.
        opacity: of the surfaces, 0..1.
    """
    width, height = image.size
    shown = [one for one in surfaces if len(one.faces) and np.isfinite(one.pixels).all()]
    if not shown:
        return image.copy()
    factor = 2 if width * height <= _FINE_PIXELS else 1
    starts = np.cumsum([0, *(len(one.pixels) for one in shown)])[:-1]
    faces = np.concatenate([one.faces + start for one, start in zip(shown, starts, strict=True)])
    light = _LIGHT / np.linalg.norm(_LIGHT)
    colors = np.concatenate(
        [
            one.colors * (_AMBIENT + (1 - _AMBIENT) * np.clip(one.normals @ light, 0, 1))[:, None]
            for one in shown
        ]
    )
    pixels = (np.concatenate([one.pixels for one in shown]) + 0.5) * factor - 0.5
    depth = np.concatenate([one.depth for one in shown])
    corner = np.clip(np.floor(pixels.min(axis=0)), 0, [width * factor - 1, height * factor - 1]).astype(int)
    corner -= corner % factor
    end = np.clip(np.ceil(pixels.max(axis=0)) + 1, 1, [width * factor, height * factor]).astype(int)
    end += -end % factor
    room = np.minimum(end, [width * factor, height * factor]) - corner
    if (room <= 0).any():
        return image.copy()
    painted, covered = _rasterise(pixels - corner, depth, faces, colors, int(room[0]), int(room[1]))
    if factor > 1:
        shape = (painted.shape[0] // factor, factor, painted.shape[1] // factor, factor)
        painted = painted.reshape(*shape, 3).sum(axis=(1, 3))
        covered = covered.reshape(shape).sum(axis=(1, 3))
        painted /= np.maximum(covered, 1)[..., None]
        covered = covered / factor**2
    out = np.asarray(image.convert("RGB")).astype(np.float32)
    left, top = corner // factor
    part = out[top : top + painted.shape[0], left : left + painted.shape[1]]
    share = (opacity * covered)[..., None].astype(np.float32)
    part += share * (painted - part)
    return Image.fromarray(np.rint(out).clip(0, 255).astype(np.uint8))


def _rasterise(
    pixels: np.ndarray, depth: np.ndarray, faces: np.ndarray, colors: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Colours (H, W, 3) and what is covered (H, W), 0 or 1, of triangles that hide each other.

    Row by row of each triangle that faces the viewer: its three barycentric shares are linear along the row,
    so that they say where it begins and ends. A pixel belongs to the nearest triangle over its centre.
    """
    a, b, c = (pixels[faces[:, corner]] for corner in range(3))
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    low = np.maximum(np.ceil(np.minimum(np.minimum(a, b), c)[:, 1]), 0)
    high = np.minimum(np.floor(np.maximum(np.maximum(a, b), c)[:, 1]), height - 1)
    seen = np.flatnonzero((area < -1e-12) & (high >= low))
    a, ab, ac, area, low, high = (values[seen] for values in (a, ab, ac, area, low, high))
    corners = faces[seen]
    # Shares of b and c: v = v[0] + v[1] x + v[2] y, and likewise w; the depth is linear, too.
    v = np.stack([ab[:, 0] * 0, ac[:, 1], -ac[:, 0]]) / area
    w = np.stack([ab[:, 0] * 0, -ab[:, 1], ab[:, 0]]) / area
    for share in (v, w):
        share[0] = -share[1] * a[:, 0] - share[2] * a[:, 1]
    za, zb, zc = (depth[corners[:, corner]] for corner in range(3))
    z = v * (zb - za) + w * (zc - za)
    z[0] += za

    triangle, y = _spread((high - low + 1).astype(np.int64))
    y = y + low[triangle]
    start, end = np.zeros(len(y)), np.full(len(y), width - 1.0)
    rest = -v - w
    rest[0] += 1.0
    for share in (v, w, rest):
        fixed, slope = share[0, triangle] + share[2, triangle] * y, share[1, triangle]
        with np.errstate(divide="ignore", invalid="ignore"):
            edge = -fixed / slope
        start = np.where(slope > 0, np.maximum(start, np.ceil(edge - 1e-9)), start)
        end = np.where(slope < 0, np.minimum(end, np.floor(edge + 1e-9)), end)
        end = np.where((slope == 0) & (fixed < 0), -1.0, end)
    row, x = _spread(np.maximum(end - start + 1, 0).astype(np.int64))
    x = x + start[row].astype(np.int64)
    triangle, y = triangle[row], y[row].astype(np.int64)
    place = y * width + x
    distance = z[0, triangle] + z[1, triangle] * x + z[2, triangle] * y
    nearest = np.full(width * height, np.inf)
    np.minimum.at(nearest, place, distance)
    front = distance == nearest[place]
    owner = np.full(width * height, -1)
    owner[place[front]] = triangle[front]

    on = np.flatnonzero(owner >= 0)
    triangle, y, x = owner[on], on // width, on % width
    v, w = (share[0, triangle] + share[1, triangle] * x + share[2, triangle] * y for share in (v, w))
    ca, cb, cc = (colors[corners[triangle, corner]] for corner in range(3))
    painted = np.zeros((width * height, 3))
    painted[on] = ca + v[:, None] * (cb - ca) + w[:, None] * (cc - ca)
    return painted.reshape(height, width, 3), (owner >= 0).reshape(height, width).astype(np.float64)


def _spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each index i repeated counts[i] times, and beside it 0, 1, ... counts[i] - 1."""
    return np.repeat(np.arange(len(counts)), counts), np.arange(counts.sum()) - np.repeat(
        np.cumsum(counts) - counts, counts
    )
