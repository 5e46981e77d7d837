"""Pinhole camera and the 2.5D coordinates in which a hand is predicted.

Frame: camera x right, y down, z forward, millimetres. Pixels: u right, v down, pixel centres at integers, so
that a picture of width W covers [-0.5, W - 0.5].

2.5D is (u, v, d) per joint. u and v are pixels; d is the depth relative to the hand's root (its wrist),
measured in pixels at the depth of the root:

    d = (Z - Z_root) * f / Z_root,    f = sqrt(fx * fy).

It follows that Z = Z_root (1 + d / f), X = (u - cx) / fx * Z and Y = (v - cy) / fy * Z: the whole hand is
known up to one factor, Z_root, which only its true size can give.

Every function takes numpy arrays or torch tensors, unless its docstring says otherwise, and returns the kind
it got.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from dfmamba.hands.skeleton import BONES, WRIST

if TYPE_CHECKING:
    from dfmamba.hands.affine import Affine

Array: TypeAlias = Any
"""A numpy array or a torch tensor of floating-point numbers."""


def _stack(parts: list[Array]) -> Array:
    """Join arrays along a new last axis."""
    if isinstance(parts[0], torch.Tensor):
        return torch.stack(parts, dim=-1)
    return np.stack(parts, axis=-1)


def _as_array(values: Array, last: tuple[int | None, ...], name: str) -> Array:
    """Check the trailing sizes of an array (None: any size) and turn sequences into numpy."""
    array = values if isinstance(values, torch.Tensor) else np.asarray(values)
    shape = tuple(array.shape)
    wrong = len(shape) < len(last) or any(
        want is not None and have != want
        for have, want in zip(shape[len(shape) - len(last) :], last, strict=False)
    )
    if wrong:
        expected = ", ".join("any" if size is None else str(size) for size in last)
        raise ValueError(f"{name} has shape {shape}; expected (..., {expected})")
    if not isinstance(array, torch.Tensor) and not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    return array


def _divide(numerator: Array, denominator: Array) -> Array:
    """Quotient that is 0 where the denominator is 0 (the zeros that stand for an absent hand)."""
    empty = denominator == 0
    return numerator / (denominator + empty) * ~empty


@dataclass(frozen=True)
class Camera:
    """Intrinsics of a pinhole camera without distortion, in pixels: u = fx X / Z + cx, v = fy Y / Z + cy.

    Attributes:
        fx: focal length along u.
        fy: focal length along v.
        cx: principal point, u.
        cy: principal point, v.

    Raises:
        ValueError: if a value is not finite or a focal length is not positive.
    """

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        for name in ("fx", "fy", "cx", "cy"):
            value = float(getattr(self, name))
            if not math.isfinite(value):
                raise ValueError(f"camera {name} is {value}; expected a finite number of pixels")
            object.__setattr__(self, name, value)
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"camera focal lengths are fx={self.fx}, fy={self.fy}; expected positive pixels")

    @classmethod
    def parse(cls, text: str) -> Camera:
        """Read "fx,fy,cx,cy".

        Raises:
            ValueError: if there are not four finite numbers, or a focal length is not positive.
        """
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 4:
            raise ValueError(f"camera {text!r} not understood; expected four numbers in pixels: fx,fy,cx,cy")
        return cls(*numbers)

    @classmethod
    def of(cls, value: Intrinsics) -> Camera:
        """A camera from any form of intrinsics: a `Camera`, fx, fy, cx, cy, or a 3x3 matrix.

        Raises:
            ValueError: if it is none of these, or its values aren't usable.
        """
        if isinstance(value, Camera):
            return value
        expected = "expected a Camera, four numbers fx, fy, cx, cy, or a 3 x 3 matrix"
        try:
            plain = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
            numbers = np.asarray(plain, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"camera: got {str(value)[:80]!r}; {expected}") from None
        if numbers.shape == (3, 3):
            return cls.from_matrix(numbers)
        if numbers.shape != (4,):
            raise ValueError(f"camera: got an array of shape {numbers.shape}; {expected}")
        return cls(*numbers.tolist())

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> Camera:
        """Take over a 3x3 intrinsic matrix.

        Raises:
            ValueError: if the matrix is not 3x3, or has skew or a last row other than (0, 0, 1).
        """
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.shape != (3, 3):
            raise ValueError(f"camera matrix has shape {matrix.shape}; expected (3, 3)")
        if abs(matrix[0, 1]) > 1e-6 or matrix[1, 0] != 0 or not np.allclose(matrix[2], (0, 0, 1)):
            raise ValueError(
                f"camera matrix {matrix.tolist()} has skew or a last row other than 0, 0, 1; "
                "expected fx, 0, cx; 0, fy, cy; 0, 0, 1"
            )
        return cls(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])

    @property
    def matrix(self) -> np.ndarray:
        """The 3x3 intrinsic matrix, float64."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def focal(self) -> float:
        """The one focal length of 2.5D, sqrt(fx fy), pixels."""
        return math.sqrt(self.fx * self.fy)

    def project(self, joints_cam_mm: Array) -> Array:
        """Project points of the camera frame.

        Args:
            joints_cam_mm: (..., 3) mm. Points of depth 0 (absent hands) give (0, 0); points behind the camera
                (z < 0) are not treated: check z where it matters.

        Returns:
            (..., 2) pixels.
        """
        points = _as_array(joints_cam_mm, (3,), "joints_cam_mm")
        z = points[..., 2]
        here = z != 0
        u = (_divide(points[..., 0], z) * self.fx + self.cx) * here
        v = (_divide(points[..., 1], z) * self.fy + self.cy) * here
        return _stack([u, v])

    def unproject(self, uv: Array, z_mm: Array) -> Array:
        """Lift pixels to the camera frame.

        Args:
            uv: (..., 2) pixels.
            z_mm: (...) depth in mm, or one number.

        Returns:
            (..., 3) mm.
        """
        uv = _as_array(uv, (2,), "uv")
        z = z_mm + 0 * uv[..., 0]
        return _stack([(uv[..., 0] - self.cx) / self.fx * z, (uv[..., 1] - self.cy) / self.fy * z, z])

    def transformed(self, affine: Affine) -> Camera:
        """The camera of the picture that `affine` makes of this camera's picture.

        Args:
            affine: from the pixels of this camera's picture to the new ones; positive scale and shift only.

        Raises:
            ValueError: if `affine` rotates, shears or mirrors: then the 3D points change too (see
                `dfmamba.hands.crop.crop_sample` and `flip_sample`).
        """
        (a, b, tx), (c, d, ty) = np.asarray(affine.matrix, dtype=np.float64).tolist()
        if max(abs(b), abs(c)) > 1e-9 * max(abs(a), abs(d)) or a <= 0 or d <= 0:
            raise ValueError(
                f"affine {[[a, b, tx], [c, d, ty]]} rotates, shears or mirrors: no camera alone follows it; "
                "use crop_sample or flip_sample, which turn the 3D joints as well"
            )
        return Camera(self.fx * a, self.fy * d, self.cx * a + tx, self.cy * d + ty)


Intrinsics: TypeAlias = Camera | Sequence[float] | np.ndarray | torch.Tensor
"""What `Camera.of` takes: a `Camera`, (4,) fx, fy, cx, cy, or a matrix (3, 3)."""


def to_25d(joints_cam_mm: Array, camera: Intrinsics) -> Array:
    """Camera-frame joints to 2.5D.

    Args:
        joints_cam_mm: (..., 21, 3) mm, wrist first. All-zero hands give zeros.
        camera: intrinsics of the picture whose pixels u, v and d are to be in.

    Returns:
        (..., 21, 3) u, v, d in pixels; d of the wrist is 0.
    """
    joints = _as_array(joints_cam_mm, (None, 3), "joints_cam_mm")
    camera = Camera.of(camera)
    uv = camera.project(joints)
    z_root = joints[..., WRIST : WRIST + 1, 2]
    d = _divide((joints[..., 2] - z_root) * camera.focal, z_root)
    return _stack([uv[..., 0], uv[..., 1], d])


def from_25d(joints_25d: Array, camera: Intrinsics, z_root_mm: Array) -> Array:
    """2.5D to camera-frame joints, the inverse of `to_25d`.

    Args:
        joints_25d: (..., 21, 3) u, v, d in pixels of the camera's picture.
        camera: intrinsics of that picture.
        z_root_mm: (...) depth of the wrist in mm, or one number. With 1 the result is in units of that depth.

    Returns:
        (..., 21, 3) mm.
    """
    joints = _as_array(joints_25d, (None, 3), "joints_25d")
    camera = Camera.of(camera)
    z_root = z_root_mm if isinstance(z_root_mm, torch.Tensor) else np.asarray(z_root_mm, dtype=np.float64)
    if isinstance(joints, torch.Tensor):
        z_root = torch.as_tensor(z_root, dtype=joints.dtype, device=joints.device)
    else:
        z_root = np.asarray(z_root, dtype=joints.dtype)
    return camera.unproject(joints[..., :2], z_root[..., None] * (1 + joints[..., 2] / camera.focal))


def from_25d_weak(joints_25d: Array) -> Array:
    """2.5D to root-relative joints without intrinsics, by weak perspective.

    Exact for a camera infinitely far away; at 400 mm a hand's joints are off by 5 mm in the mean.

    Args:
        joints_25d: (..., 21, 3) u, v, d in pixels.

    Returns:
        (..., 21, 3) u - u_root, v - v_root, d - d_root, in pixels: a shape to be scaled by the caller.
    """
    joints = _as_array(joints_25d, (None, 3), "joints_25d")
    return joints - joints[..., WRIST : WRIST + 1, :]


def bone_lengths(joints: Array) -> Array:
    """Lengths of the 20 bones of `skeleton.BONES`, (..., 21, 3) -> (..., 20), in the unit of the joints."""
    joints = _as_array(joints, (21, 3), "joints")
    parents, children = [bone[0] for bone in BONES], [bone[1] for bone in BONES]
    bones = joints[..., children, :] - joints[..., parents, :]
    return (bones**2).sum(-1) ** 0.5


def scale_to_reference(joints_any_unit: np.ndarray, reference_bone_mm: np.ndarray) -> np.ndarray:
    """The factor that gives a hand the size of a reference hand, by robust least squares over its bones.

    Minimises sum_i w_i (s l_i - r_i)^2 with Huber weights w_i, five rounds, scale 1.5 times the median
    residual, so that a few badly predicted bones do not count in full. With `from_25d(..., z_root_mm=1)` the
    factor is the depth of the wrist in mm.

    Args:
        joints_any_unit: (..., 21, 3) numpy, any unit.
        reference_bone_mm: (20,) mm, in the order of `skeleton.BONES`.

    Returns:
        (...) float64, mm per unit; 1 for a hand without extent.

    Raises:
        ValueError: on wrong shapes or a reference that is not positive.
    """
    lengths = bone_lengths(np.asarray(joints_any_unit, dtype=np.float64))
    reference = np.asarray(reference_bone_mm, dtype=np.float64)
    if reference.shape != (len(BONES),) or not (reference > 0).all():
        raise ValueError(
            f"reference_bone_mm has shape {reference.shape}; expected ({len(BONES)},) positive lengths"
        )
    weights = np.ones_like(lengths)
    factor = np.ones(lengths.shape[:-1])
    for _ in range(5):
        factor = _divide((weights * lengths * reference).sum(-1), (weights * lengths**2).sum(-1))
        residual = np.abs(factor[..., None] * lengths - reference)
        bound = np.maximum(1.5 * np.median(residual, axis=-1, keepdims=True), 1e-9)
        weights = bound / np.maximum(residual, bound)
    return np.where(lengths.sum(-1) > 0, factor, 1.0)


def solve_translation(
    joints_2d_px: np.ndarray,
    joints_root_rel_mm: np.ndarray,
    camera: Intrinsics,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Where a hand of known shape must be for its joints to fall on given pixels.

    Linear least squares of w |(u - cx)(Z + tz) - fx (X + tx)|^2 and the same for v, followed by two rounds
    that divide each row by its joint's depth, which turns the error into pixels.

    Args:
        joints_2d_px: (..., N, 2) numpy, pixels.
        joints_root_rel_mm: (..., N, 3) numpy, mm; the wrist at the origin, though any origin will do.
        camera: intrinsics of the picture.
        weights: (..., N) not negative, for instance confidences or a validity mask; None counts all joints
            alike.

    Returns:
        (..., 3) float64 t in mm, so that `camera.project(joints_root_rel_mm + t)` is near the pixels. Check
        that its depth is plausible before use: pixels that fit no such hand can give any depth.

    Raises:
        ValueError: if shapes disagree, or fewer than two different pixels have weight.
    """
    pixels = np.asarray(_as_array(joints_2d_px, (None, 2), "joints_2d_px"), dtype=np.float64)
    joints = np.asarray(_as_array(joints_root_rel_mm, (None, 3), "joints_root_rel_mm"), dtype=np.float64)
    if pixels.shape[:-1] != joints.shape[:-1]:
        raise ValueError(
            f"joints_2d_px {pixels.shape} and joints_root_rel_mm {joints.shape} differ in their joints"
        )
    if weights is None:
        weight = np.ones(pixels.shape[:-1])
    else:
        weight = np.asarray(weights, dtype=np.float64)
        if weight.shape != pixels.shape[:-1] or not (weight >= 0).all():
            raise ValueError(
                f"weights have shape {weight.shape}; expected {pixels.shape[:-1]}, none negative"
            )

    camera = Camera.of(camera)
    # Rows (1, 0, -a) t = a Z - X and (0, 1, -b) t = b Z - Y with a, b the viewing ray of the joint.
    ray = np.stack(
        [(pixels[..., 0] - camera.cx) / camera.fx, (pixels[..., 1] - camera.cy) / camera.fy], axis=-1
    )
    rows = np.zeros((*ray.shape, 3))
    rows[..., 0, 0] = rows[..., 1, 1] = 1.0
    rows[..., 2] = -ray
    right = ray * joints[..., 2:] - joints[..., :2]

    t = np.zeros((*ray.shape[:-2], 3))
    row_weight = weight
    for _ in range(3):
        weighted = rows * row_weight[..., None, None]
        normal = np.einsum("...nij,...nik->...jk", weighted, rows)
        vector = np.einsum("...nij,...ni->...j", weighted, right)
        if not np.isfinite(normal).all() or (np.linalg.cond(normal) > 1e14).any():
            raise ValueError(
                "the translation is not determined: give at least two joints at different pixels with weight"
            )
        t = np.linalg.solve(normal, vector[..., None])[..., 0]
        depth = joints[..., 2] + t[..., 2:]
        usable = (depth > 1e-6).all(axis=-1, keepdims=True)
        relative = np.where(usable, depth / np.where(usable, depth.mean(-1, keepdims=True), 1.0), 1.0)
        row_weight = weight / relative**2
    return t
