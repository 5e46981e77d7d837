"""Boxes and affine maps between pictures.

Pixel centres lie at integers: a picture of width W covers [-0.5, W - 0.5]. A box x0, y0, x1, y1 is a
continuous extent in these coordinates, so the box of a whole picture is (-0.5, -0.5, W - 0.5, H - 0.5).
Rotations turn x towards y: clockwise as the picture is seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dfmamba.text import quote

_FLAT = 1e-12
"""Least |det A| over the squared norm of A of a map that can be inverted, whatever its scale."""


@dataclass(frozen=True, eq=False)
class Affine:
    """A map from the pixels of one picture (the original) to those of another (the crop), p' = A p + t.

    Attributes:
        matrix: (2, 3) float64, [A | t].

    Raises:
        ValueError: if the matrix is not (2, 3), not finite, or cannot be inverted.
    """

    matrix: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
            raise ValueError(f"affine matrix is {self.matrix!r}; expected 2x3 finite numbers")
        if abs(_determinant(matrix)) <= _FLAT * float(np.square(matrix[:, :2]).sum()):
            raise ValueError(f"affine matrix {matrix.tolist()} cannot be inverted")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Affine) and bool(np.array_equal(self.matrix, other.matrix))

    def __hash__(self) -> int:
        return hash(self.matrix.tobytes())

    @classmethod
    def identity(cls) -> Affine:
        """The map that changes nothing."""
        return cls(np.eye(2, 3))

    @property
    def scale(self) -> float:
        """Crop pixels per original pixel, sqrt |det A|."""
        return math.sqrt(abs(_determinant(self.matrix)))

    @property
    def mirrored(self) -> bool:
        """Whether the map mirrors."""
        return _determinant(self.matrix) < 0

    def apply(self, points: Any) -> Any:
        """Map points.

        Args:
            points: (..., 2) numpy array or torch tensor, original pixels.

        Returns:
            (..., 2) crop pixels, the kind and floating dtype it got.
        """
        (a, b, tx), (c, d, ty) = self.matrix.tolist()
        if not isinstance(points, torch.Tensor):
            points = np.asarray(points)
        if points.shape[-1:] != (2,):
            raise ValueError(f"points have shape {tuple(points.shape)}; expected (..., 2)")
        x, y = points[..., 0], points[..., 1]
        parts = [a * x + b * y + tx, c * x + d * y + ty]
        return torch.stack(parts, -1) if isinstance(points, torch.Tensor) else np.stack(parts, -1)

    def inverse(self) -> Affine:
        """The map from crop pixels to original pixels."""
        (a, b, tx), (c, d, ty) = self.matrix.tolist()
        k = 1.0 / (a * d - b * c)
        a, b, c, d = d * k, -b * k, -c * k, a * k
        return Affine(np.array([[a, b, -a * tx - b * ty], [c, d, -c * tx - d * ty]]))

    def compose(self, first: Affine) -> Affine:
        """The map that does `first` and then this one."""
        linear = self.matrix[:, :2] @ first.matrix
        linear[:, 2] += self.matrix[:, 2]
        return Affine(linear)


def _determinant(matrix: np.ndarray) -> float:
    return float(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])


FARTHEST_PX = 1e6
"""No side of a box lies farther from the picture's corner: whole numbers of pixels are counted in 32 bits."""


def check_box(box_xyxy: Sequence[float] | np.ndarray) -> np.ndarray:
    """A box as (4,) float64 with positive width and height, within `FARTHEST_PX`."""
    try:
        box = np.asarray(box_xyxy, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"box is {quote(box_xyxy)}; expected four finite numbers x0, y0, x1, y1") from None
    if box.shape != (4,) or not np.isfinite(box).all():
        raise ValueError(f"box is {quote(box_xyxy)}; expected four finite numbers x0, y0, x1, y1")
    if np.abs(box).max() > FARTHEST_PX:
        raise ValueError(f"box {box.tolist()} is too far out; expected at most {FARTHEST_PX:g} pixels")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box {box.tolist()} is empty; expected x0 < x1 and y0 < y1")
    return box


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Read "x0,y0,x1,y1".

    Raises:
        ValueError: if it is not four finite numbers, or the box is empty.
    """
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"expected four numbers x0,y0,x1,y1, got {text!r}") from None
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise ValueError(f"expected finite numbers with x0 < x1 and y0 < y1, got {text!r}")
    return x0, y0, x1, y1


def box_of_points(points: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Tight box of points.

    Args:
        points: (..., 2) pixels.
        valid: (...) bool, the points to count; None counts all.

    Returns:
        (4,) float32 x0, y0, x1, y1; zeros if no point counts.
    """
    points = np.asarray(points, dtype=np.float32)
    chosen = points.reshape(-1, 2) if valid is None else points[np.asarray(valid, dtype=bool)]
    if len(chosen) == 0:
        return np.zeros(4, np.float32)
    return np.concatenate([chosen.min(axis=0), chosen.max(axis=0)])


def square_box(box_xyxy: Sequence[float] | np.ndarray, factor: float = 1.0) -> np.ndarray:
    """The square with the same centre and `factor` times the longer side.

    Args:
        box_xyxy: x0, y0, x1, y1 in pixels. One side may be zero.
        factor: enlargement, positive.

    Returns:
        (4,) float64 x0, y0, x1, y1; may reach outside the picture.

    Raises:
        ValueError: if the box is not four finite numbers in order, or a point.
    """
    box = np.asarray(box_xyxy, dtype=np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise ValueError(f"box is {box_xyxy!r}; expected four finite numbers x0, y0, x1, y1")
    width, height = box[2] - box[0], box[3] - box[1]
    half = factor * max(width, height) / 2
    if min(width, height) < 0 or not half > 0:
        raise ValueError(
            f"box {box.tolist()} with factor {factor} is empty; expected x0 <= x1, y0 <= y1 and an extent"
        )
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    return np.concatenate([centre - half, centre + half])


def box_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two boxes xyxy; 0 where both are empty."""
    overlap = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    shared = float(np.prod(np.maximum(overlap, 0)))
    union = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - shared
    return shared / union if union > 0 else 0.0


def picture_square(size: tuple[int, int]) -> np.ndarray:
    """The smallest square about the middle of a picture of (width, height) that holds all of it."""
    width, height = size
    return square_box(np.array([-0.5, -0.5, width - 0.5, height - 0.5]))


def extents(points: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Corners of the tight boxes of many sets of points.

    Args:
        points: (..., n, 2) pixels.
        valid: (..., n) bool, the points to count.

    Returns:
        Lowest and highest coordinates, each (..., 2); plus and minus infinity where no point counts.
    """
    mask = valid[..., None]
    low = torch.where(mask, points, torch.inf).amin(-2)
    return low, torch.where(mask, points, -torch.inf).amax(-2)


def crop_affine(
    box_xyxy: Sequence[float] | np.ndarray, size: int, rotation_rad: float = 0.0, flip: bool = False
) -> Affine:
    """The map that makes a picture of size x size pixels of a square box.

    Without rotation the box edge x0 becomes -0.5 and x1 becomes size - 0.5; the box of a whole square picture
    of width W is the identity at size W.

    Args:
        box_xyxy: square box in original pixels (see `square_box`).
        size: side of the crop in pixels.
        rotation_rad: turns the picture about the centre of the box, x towards y.
        flip: mirror the crop left to right, after the rotation.

    Raises:
        ValueError: if the box is empty or not square, or `size` is not positive.
    """
    box = check_box(box_xyxy)
    width, height = box[2] - box[0], box[3] - box[1]
    if abs(width - height) > 1e-3 * max(width, height):
        raise ValueError(f"box {box.tolist()} is {width:g} x {height:g}; expected a square, see square_box")
    if size < 1:
        raise ValueError(f"size is {size}; expected at least 1 pixel")
    linear = rotation(rotation_rad) * (size / max(width, height))
    if flip:
        linear = np.diag([-1.0, 1.0]) @ linear
    return centred(linear, box, size)


def rotation(angle: float) -> np.ndarray:
    """The 2x2 rotation by `angle` radians, x towards y."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def centred(linear: np.ndarray, box: np.ndarray, size: int) -> Affine:
    """The map with this linear part that puts the centre of the box in the centre of the crop."""
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    shift = (size - 1) / 2 - linear @ centre
    return Affine(np.concatenate([linear, shift[:, None]], axis=1))
