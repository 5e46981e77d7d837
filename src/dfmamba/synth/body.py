"""The baked body: whole people without forearms and hands, their shape space, kinematics and skinning.

Canonical frame of the asset (the pelvis at the origin, millimetres): x to the person's left, y down, z to
the back. It is the camera frame of someone who looks into the camera. The rest pose stands with the arms
held off the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dfmamba.synth.hand import ASSETS, read_asset

LIPS, BROWS, FLUSH, SCALP = range(4)
"""Columns of `BodyModel.paint`."""


@dataclass(frozen=True)
class BodyShape:
    """One person at rest, millimetres: vertices (V, 3) float32 and bone heads (B, 3) float64."""

    vertices: np.ndarray
    bones: np.ndarray


@dataclass(frozen=True)
class PosedBody:
    """A posed person: vertices (V, 3) float32, bone heads (B, 3), orientations (B, 3, 3) from rest."""

    vertices: np.ndarray
    bones: np.ndarray
    rotations: np.ndarray


class BodyModel:
    """The body mesh with its shape basis and rig, read from `assets/body.npz`.

    Attributes:
        faces: (F, 3) int32, counter-clockwise seen from outside.
        paint: (V, 4) float32 in 0..1: lips, brows, flush, scalp.
        weights: (V, B) float32 skin weights.
        coefficients: (N, K) float32 shapes sampled from the source model, drawn as they are.
        names: the bones; sided ones end in ".R" and ".L". "wrist" and "eye" only mark places.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.mean_vertices = arrays["vertices"].astype(np.float32)
        self.mean_bones = arrays["bones"].astype(np.float64)
        self._vertex_basis = (
            arrays["vertex_basis"].astype(np.float32).reshape(len(arrays["vertex_basis"]), -1)
        )
        self._bone_basis = arrays["bone_basis"].astype(np.float64)
        self.coefficients = arrays["coefficients"].astype(np.float32)
        weights = arrays["weights"].astype(np.float32)
        self.weights = np.ascontiguousarray(weights / weights.sum(axis=1, keepdims=True))
        self.faces = arrays["faces"].astype(np.int32)
        self.paint = arrays["attributes"].astype(np.float32) / 255.0
        self.parents = arrays["parents"].astype(np.int64)
        self.names = tuple(str(name) for name in arrays["bone_names"])
        self._number = {name: k for k, name in enumerate(self.names)}

    @staticmethod
    @lru_cache(maxsize=4)
    def _load(path: str) -> BodyModel:
        return BodyModel(read_asset(path, "body"))

    @classmethod
    def load(cls, path: str | Path | None = None) -> BodyModel:
        """The model of `path` (default: the packaged asset), read once; OSError if it is missing."""
        return cls._load(str(path or ASSETS / "body.npz"))

    def bone(self, name: str) -> int:
        """Number of a bone.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self._number:
            raise ValueError(f"bone {name!r}: expected one of {', '.join(self.names)}")
        return self._number[name]

    def share(self, *names: str) -> np.ndarray:
        """(V,) summed skin weight of some bones."""
        total: np.ndarray = self.weights[:, [self.bone(name) for name in names]].sum(axis=1)
        return total

    def shape(self, coefficients: np.ndarray | None = None) -> BodyShape:
        """A person at rest.

        Args:
            coefficients: (K,) weights of the shape basis, in standard deviations (default: the mean).

        Raises:
            ValueError: `coefficients` has another length than the basis.
        """
        if coefficients is None:
            return BodyShape(self.mean_vertices, self.mean_bones)
        coefficients = np.asarray(coefficients, dtype=np.float32)
        if coefficients.shape != (len(self._vertex_basis),):
            raise ValueError(
                f"shape coefficients: got shape {coefficients.shape}, expected ({len(self._vertex_basis)},)"
            )
        vertices = self.mean_vertices + (coefficients @ self._vertex_basis).reshape(-1, 3)
        bones = self.mean_bones + np.tensordot(coefficients.astype(np.float64), self._bone_basis, 1)
        return BodyShape(vertices, bones)

    def transforms(self, bones: np.ndarray, turns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Orientations (B, 3, 3) and heads (B, 3) of posed bones.

        Args:
            bones: (B, 3) heads at rest.
            turns: rotations (3, 3) of bones relative to the bone above, about the axes of the canonical
                frame at rest; bones that are left out stay as they are.

        Raises:
            ValueError: an unknown bone.
        """
        local = {self.bone(name): np.asarray(turn) for name, turn in turns.items()}
        rotations = np.empty((len(bones), 3, 3))
        heads = np.empty((len(bones), 3))
        for k, above in enumerate(self.parents):
            if above < 0:
                rotations[k], heads[k] = local.get(k, np.eye(3)), bones[k]
                continue
            rotations[k] = rotations[above] @ local[k] if k in local else rotations[above]
            heads[k] = heads[above] + rotations[above] @ (bones[k] - bones[above])
        return rotations, heads

    def skin(self, shape: BodyShape, rotations: np.ndarray, heads: np.ndarray) -> PosedBody:
        """Linear blend skinning of a shape with what `transforms` returns."""
        shifts = heads - (rotations @ shape.bones[..., None])[..., 0]
        table = np.concatenate([rotations.reshape(-1, 9), shifts], axis=1).astype(np.float32)
        blended = self.weights @ table
        turned = np.matmul(blended[:, :9].reshape(-1, 3, 3), shape.vertices[..., None])[..., 0]
        return PosedBody(turned + blended[:, 9:], heads, rotations)


def aligning(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) that takes the direction of `start` to that of `end`."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    axis, cosine = np.cross(a, b), float(a @ b)
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if np.linalg.norm(axis) < 1e-9:  # the same or opposite: any axis across will do
        axis = np.cross(a, np.eye(3)[int(np.abs(a).argmin())])
    axis /= np.linalg.norm(axis)
    return cosine * np.eye(3) + cross + (1.0 - cosine) * np.outer(axis, axis)


def bend_arm(
    shoulder: np.ndarray, target: np.ndarray, upper: float, lower: float, swivel: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two-bone inverse kinematics of arms that all reach for one place.

    Args:
        shoulder: (3,) and
        target: (3,) mm; a target out of reach is drawn in along its ray, one too close pushed out.
        upper: length of the upper arm and
        lower: of the forearm, mm.
        swivel: (N, 3) directions to which the elbow points, as far as the circle that it can lie on allows.

    Returns:
        elbows (N, 3) and the wrist (3,), mm. The elbow is bent by 10 to 150 degrees.
    """
    bend = np.radians((150.0, 10.0))
    near, far = np.sqrt(upper**2 + lower**2 + 2.0 * upper * lower * np.cos(bend))
    gap = target - shoulder
    distance = max(float(np.linalg.norm(gap)), 1e-6)
    along = gap / distance
    distance = float(np.clip(distance, near, far))
    wrist = shoulder + along * distance
    share = (upper**2 - lower**2 + distance**2) / (2.0 * distance)
    radius = np.sqrt(max(upper**2 - share**2, 0.0))
    side = swivel - np.outer(swivel @ along, along)
    length = np.linalg.norm(side, axis=1, keepdims=True)
    helper = np.cross(along, np.eye(3)[int(np.abs(along).argmin())])
    side = np.where(length > 1e-6, side / np.maximum(length, 1e-6), helper / np.linalg.norm(helper))
    return shoulder + along * share + radius * side, wrist
