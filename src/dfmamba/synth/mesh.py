"""Meshes of a scene: the containers that carry them to the renderer, and the solids that are held.

All lengths are millimetres in the camera frame (x right, y down, z forward) unless a name says `rest`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from dfmamba.hands.camera import Camera

RIGHT, LEFT, OBJECT, OTHER = 1, 2, 3, 4
"""Instance labels of the mask; 0 is the background."""

SKIN, CLOTH, SOLID = 0, 1, 2
"""Materials."""


@dataclass(frozen=True)
class Part:
    """One mesh of a scene.

    Attributes:
        vertices: (V, 3) float32, mm, camera frame.
        faces: (F, 3) int32, counter-clockwise seen from outside.
        rest: (V, 3) float32, mm, positions that textures stick to (the rest pose for a hand).
        attributes: (V, 4) float32: palm, nail, redness, pattern weight, each 0..1 (zero where meaningless).
        instance: `RIGHT`, `LEFT`, `OBJECT` or `OTHER`.
        material: `SKIN`, `CLOTH` or `SOLID`.
        person: parts with the same number share skin colour (and -1 - k shares clothing).
    """

    vertices: np.ndarray
    faces: np.ndarray
    rest: np.ndarray
    attributes: np.ndarray
    instance: int
    material: int
    person: int = 0


@dataclass(frozen=True)
class SceneGeometry:
    """Meshes, joints and the camera of one picture, before anything is painted.

    Attributes:
        parts: the meshes.
        joints_cam_mm: (2, 21, 3) float32, right hand then left, OpenPose order; zeros where absent.
        present: (2,) bool, right then left.
        camera: intrinsics of the rendered picture, whose pixel centres are integers.
        size: side of the square picture in pixels.
        kind: "single", "two", "object", "ego" or "sign".
        notes: free facts for checks (gesture, view, gap).
    """

    parts: tuple[Part, ...]
    joints_cam_mm: np.ndarray
    present: np.ndarray
    camera: Camera
    size: int
    kind: str
    notes: dict[str, object] = field(default_factory=dict)


SolidKind = Literal["sphere", "turned", "box"]


@dataclass(frozen=True)
class Solid:
    """A graspable solid, centred at the origin of its own frame, its long axis along z; millimetres.

    Attributes:
        kind: "sphere", "turned" (a solid of revolution: cylinder, cone, cup) or "box".
        profile: for "turned", the convex outline (P, 2) of (radius, z), from the bottom of the axis to its
            top.
        half_size: for "box", half the edge lengths including the rounding; for "sphere", the radius three
            times.
        rounding: radius of a box's edges.
    """

    kind: SolidKind
    half_size: tuple[float, float, float]
    profile: tuple[tuple[float, float], ...] = ()
    rounding: float = 0.0

    @property
    def thickness(self) -> float:
        """Half of the smaller extent across the long axis."""
        return min(self.half_size[:2])

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distances (...) of points (..., 3) from the surface, negative inside."""
        if self.kind == "sphere":
            return np.sqrt((points * points).sum(-1)) - self.half_size[0]
        if self.kind == "box":
            q = np.abs(points) - (np.array(self.half_size) - self.rounding)
            outside = np.maximum(q, 0.0)
            return np.sqrt((outside * outside).sum(-1)) + np.minimum(q.max(-1), 0.0) - self.rounding
        radius = np.sqrt(points[..., 0] ** 2 + points[..., 1] ** 2)
        return _outline_distance(np.array(self.profile), np.stack([radius, points[..., 2]], axis=-1))

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) float32 and faces (F, 3) int32; vertices are not shared across sharp edges."""
        if self.kind == "sphere":
            vertices, faces = sphere_mesh(3)
            return (vertices * np.float32(self.half_size[0])).astype(np.float32), faces
        if self.kind == "box":
            return box_mesh(self.half_size, self.rounding)
        return turned_mesh(self.profile)


def _outline_distance(outline: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Signed distance of points (..., 2) from a convex outline (P, 2) that starts and ends on the axis."""
    start, edge = outline[:-1], np.diff(outline, axis=0)
    length2 = (edge * edge).sum(-1)
    offset = points[..., None, :] - start
    share = np.clip((offset * edge).sum(-1) / length2, 0.0, 1.0)
    gap = offset - share[..., None] * edge
    nearest = np.sqrt((gap * gap).sum(-1).min(-1))
    # Going up the outline, the outside lies to the right of every edge.
    side = (offset[..., 0] * edge[:, 1] - offset[..., 1] * edge[:, 0]).max(-1)
    return np.where(side > 0.0, nearest, -nearest)


def draw_solid(rng: np.random.Generator) -> Solid:
    """A random graspable solid: balls, cans, sticks, cups, cards, boxes with sharp or round edges."""
    kind = rng.choice(["ball", "can", "stick", "cup", "box", "flat"], p=[0.18, 0.22, 0.17, 0.13, 0.18, 0.12])
    if kind == "ball":
        radius = rng.uniform(14.0, 46.0)
        return Solid("sphere", (radius, radius, radius))
    if kind in ("can", "stick", "cup"):
        if kind == "stick":
            radius, half = rng.uniform(4.0, 12.0), rng.uniform(50.0, 130.0)
        else:
            radius, half = rng.uniform(14.0, 40.0), rng.uniform(25.0, 95.0)
        top = radius * (rng.uniform(0.55, 1.0) if kind == "cup" or rng.random() < 0.2 else 1.0)
        lower, upper = (radius, top) if rng.random() < 0.5 else (top, radius)
        profile = ((0.0, -half), (lower, -half), (upper, half), (0.0, half))
        return Solid("turned", (radius, radius, half), profile)
    if kind == "flat":
        size = (rng.uniform(2.0, 7.0), rng.uniform(25.0, 45.0), rng.uniform(35.0, 80.0))
        return Solid("box", size, rounding=float(rng.uniform(0.3, 0.9) * size[0]))
    size = (rng.uniform(8.0, 36.0), rng.uniform(8.0, 36.0), rng.uniform(12.0, 80.0))
    return Solid("box", size, rounding=float(rng.choice([0.0, rng.uniform(0.1, 0.6)]) * min(size)))


@lru_cache(maxsize=4)
def _unit_sphere(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    golden = (1.0 + 5.0**0.5) / 2.0
    points = [(-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0)]
    corners = np.array([p[k:] + p[:k] for k in (0, 2, 1) for p in points], dtype=np.float64)
    corners /= np.linalg.norm(corners[0])
    # The twenty faces are the triples of mutual neighbours.
    near = np.linalg.norm(corners[:, None] - corners, axis=-1) < 1.1
    faces = np.array(
        [
            (i, j, k)
            for i in range(12)
            for j in range(i)
            for k in range(j)
            if near[i, j] and near[j, k] and near[i, k]
        ]
    )
    for _ in range(subdivisions):
        edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        unique, inverse = np.unique(edges, axis=0, return_inverse=True)
        middles = corners[unique].mean(axis=1)
        a, b, c = faces.T
        ab, bc, ca = len(corners) + inverse.reshape(-1, 3).T
        corners = np.concatenate([corners, middles / np.linalg.norm(middles, axis=1, keepdims=True)])
        faces = np.concatenate(
            [np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        )
    normal = np.cross(
        corners[faces[:, 1]] - corners[faces[:, 0]], corners[faces[:, 2]] - corners[faces[:, 0]]
    )
    inward = (normal * corners[faces[:, 0]]).sum(-1) < 0
    faces[inward] = faces[inward][:, ::-1]
    return corners.astype(np.float32), faces.astype(np.int32)


def sphere_mesh(subdivisions: int) -> tuple[np.ndarray, np.ndarray]:
    """A unit sphere of 10 * 4**subdivisions + 2 even vertices."""
    vertices, faces = _unit_sphere(subdivisions)
    return vertices.copy(), faces.copy()


def turned_mesh(
    profile: tuple[tuple[float, float], ...], sections: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Surface of revolution of an outline of (radius, z) going up, with a hard edge at every inner point."""
    turn = np.linspace(0.0, 2.0 * np.pi, sections, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    i = np.arange(sections)
    following = (i + 1) % sections
    vertices, faces = [], []
    for band, ((r0, z0), (r1, z1)) in enumerate(pairwise(profile)):
        first = 2 * sections * band
        for radius, height in ((r0, z0), (r1, z1)):
            vertices.append(np.column_stack([circle * radius, np.full(sections, height)]))
        low, high, low_next, high_next = (
            first + i,
            first + sections + i,
            first + following,
            first + sections + following,
        )
        if r0 > 0:
            faces.append(np.stack([low, low_next, high], axis=1))
        if r1 > 0:
            faces.append(np.stack([low_next, high_next, high], axis=1))
    # On a flat cap one end of the band is a point: the triangles that would be empty are left out above.
    return np.concatenate(vertices).astype(np.float32), _outward(
        np.concatenate(vertices), np.concatenate(faces)
    )


def box_mesh(half_size: tuple[float, float, float], rounding: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A box with round edges and a smooth surface, or without `rounding` with unshared vertices."""
    half = np.array(half_size, dtype=np.float64)
    steps = np.array([-1.0, 1.0])
    if rounding > 0:
        arc = np.tan(np.linspace(-0.25 * np.pi, 0.25 * np.pi, 8))
        steps = np.concatenate([arc, [0.0]])
        steps = np.sort(np.unique(np.round(steps, 9)))
    n = len(steps)
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    a = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
    quads = np.concatenate([np.stack([a, a + 1, a + n], axis=1), np.stack([a + 1, a + n + 1, a + n], axis=1)])
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            faces.append(quads + n * n * len(vertices))
            side = np.empty((n * n, 3))
            side[:, axis] = sign
            side[:, [k for k in range(3) if k != axis]] = grid
            vertices.append(side)
    cube = np.concatenate(vertices)
    if rounding > 0:
        # Directions of the cube become directions of the rounded surface, so that corners get enough
        # vertices.
        direction = cube / np.linalg.norm(cube, axis=1, keepdims=True)
        points = np.sign(np.round(cube, 6)) * (half - rounding) + rounding * direction
    else:
        points = cube * half
    return points.astype(np.float32), _outward(points, np.concatenate(faces))


def _outward(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Makes the faces of a convex body around the origin counter-clockwise seen from outside."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    inward = (np.cross(b - a, c - a) * (a + b + c)).sum(-1) < 0
    faces = faces.copy()
    faces[inward] = faces[inward][:, ::-1]
    return faces.astype(np.int32)


def body_part(
    rng: np.random.Generator, half_size: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """A smooth lumpy ellipsoid (a head, an arm, a trunk): vertices (V, 3) float32 and faces."""
    sphere, faces = sphere_mesh(3)
    lumps = np.ones(len(sphere))
    for _ in range(3):
        wave = rng.normal(size=3) * rng.uniform(1.0, 3.0)
        lumps += 0.05 * np.sin(sphere @ wave + rng.uniform(0.0, 2.0 * np.pi))
    return (sphere * lumps[:, None] * np.array(half_size)).astype(np.float32), faces
