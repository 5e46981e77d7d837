"""Plain containers that pass a scene from its geometry to the renderer.

All lengths are millimetres in the camera frame (x right, y down, z forward) unless a name says `rest`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
