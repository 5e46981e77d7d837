"""The protocols of the single-hand depth benchmarks, for predictions as (u, v, d).

Sources: NYU (Tompson et al. 2014; 14 of 36 joints, camera 1) and ICVL (Tang et al. 2014; 16 joints), scored
as in the comparisons of that literature: errors in mm in the camera, without alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLDS_MM = np.arange(85)
"""Of the success curves: 0 to 84 mm."""

_FINGERS = ("thumb", "index", "middle", "ring", "little")


@dataclass(frozen=True)
class DepthBenchmark:
    """One data set's protocol.

    Attributes:
        name: for messages.
        joints: names of the joints, in the order of its files.
        fx, fy, u0, v0: of the depth camera, in pixels.
    """

    name: str
    joints: tuple[str, ...]
    fx: float
    fy: float
    u0: float
    v0: float

    def to_mm(self, uvd: np.ndarray) -> np.ndarray:
        """Pixels and depth in mm (..., 3) to the camera's x right, y down, z forward in mm, float64."""
        u, v, d = np.moveaxis(np.asarray(uvd, dtype=np.float64), -1, 0)
        return np.stack(((u - self.u0) * d / self.fx, (v - self.v0) * d / self.fy, d), axis=-1)

    def from_mm(self, joints_cam_mm: np.ndarray) -> np.ndarray:
        """The inverse of `to_mm`."""
        x, y, z = np.moveaxis(np.asarray(joints_cam_mm, dtype=np.float64), -1, 0)
        return np.stack((x * self.fx / z + self.u0, y * self.fy / z + self.v0, z), axis=-1)


DEPTH_BENCHMARKS: dict[str, DepthBenchmark] = {
    "nyu": DepthBenchmark(
        "nyu",
        (
            *(
                f"{finger}_{part}"
                for finger in ("little", "ring", "middle", "index")
                for part in ("tip", "root")
            ),
            *("thumb_tip", "thumb_r2", "thumb_r1", "wrist_2", "wrist_1", "palm"),
        ),
        588.03,
        587.07,
        320.0,
        240.0,
    ),
    "icvl": DepthBenchmark(
        "icvl",
        ("palm", *(f"{finger}_{part}" for finger in _FINGERS for part in ("root", "mid", "tip"))),
        240.99,
        240.96,
        160.0,
        120.0,
    ),
}


def score_depth(benchmark: DepthBenchmark, predicted_uvd: np.ndarray, true_uvd: np.ndarray) -> dict[str, Any]:
    """Errors of predictions by a benchmark's protocol.

    Args:
        benchmark: one of `DEPTH_BENCHMARKS`.
        predicted_uvd: (frames, joints, 3), u and v in pixels, d in mm.
        true_uvd: the same of the ground truth.

    Returns:
        ``mean_error_mm`` over all frames and joints, ``median_error_mm``, ``per_joint_mean_error_mm`` by
        name, ``mean_of_frame_max_error_mm``, and the success curves at ``thresholds_mm``: the shares of
        frames whose largest error, of frames whose mean error, and of joints whose error is at most that.

    Raises:
        ValueError: shapes differ or don't fit the benchmark, or there are no frames.
    """
    shape = (len(true_uvd), len(benchmark.joints), 3)
    if predicted_uvd.shape != shape or true_uvd.shape != shape or not shape[0]:
        raise ValueError(
            f"{benchmark.name}: predictions {predicted_uvd.shape} and ground truth {true_uvd.shape}; "
            f"expected the same number of frames x {shape[1]} joints x 3"
        )
    errors = np.linalg.norm(benchmark.to_mm(predicted_uvd) - benchmark.to_mm(true_uvd), axis=-1)
    largest = errors.max(axis=1)

    def curve(values: np.ndarray) -> list[float]:
        return [float((values <= threshold).mean()) for threshold in THRESHOLDS_MM]

    return {
        "frames": shape[0],
        "joints": shape[1],
        "mean_error_mm": float(errors.mean()),
        "median_error_mm": float(np.median(errors)),
        "mean_of_frame_max_error_mm": float(largest.mean()),
        "per_joint_mean_error_mm": dict(zip(benchmark.joints, errors.mean(axis=0).tolist(), strict=True)),
        "thresholds_mm": THRESHOLDS_MM.tolist(),
        "fraction_of_frames_with_max_error_le_threshold": curve(largest),
        "fraction_of_frames_with_mean_error_le_threshold": curve(errors.mean(axis=1)),
        "fraction_of_joints_with_error_le_threshold": curve(errors),
    }
