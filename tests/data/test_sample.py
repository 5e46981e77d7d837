"""Checks that HandSample makes of its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfmamba.data.sample import HandSample
from dfmamba.hands.camera import Camera


def parts(**changes: Any) -> dict[str, Any]:
    valid = np.zeros((2, 21), bool)
    valid[1] = True
    pixels = np.zeros((2, 21, 2))
    pixels[1] = np.arange(42).reshape(21, 2)
    return {
        "image": np.zeros((30, 40, 3), np.uint8),
        "joints_2d_px": pixels,
        "joints_cam_mm": np.zeros((2, 21, 3)),
        "valid": valid,
        "visible": valid,
        "present": [False, True],
        "camera": Camera(50, 50, 20, 15),
        "box_xyxy": (0, 1, 40, 41),
    } | changes


def test_types_are_made_uniform() -> None:
    sample = HandSample(**parts())
    assert sample.joints_2d_px.dtype == sample.joints_cam_mm.dtype == sample.box_xyxy.dtype == np.float32
    assert sample.valid.dtype == sample.present.dtype == bool
    assert sample.size == (40, 30)
    assert sample.box_of(1).tolist() == [0, 1, 40, 41]
    assert sample.box_of(0).tolist() == [0, 0, 0, 0]
    assert sample.replace(id="x").id == "x"
    with pytest.raises(ValueError, match="hand is 2"):
        sample.box_of(2)


def test_depth_only() -> None:
    sample = HandSample(**parts(image=None, depth_mm=np.zeros((5, 6), np.float32), kind="depth"))
    assert sample.size == (6, 5)
    assert HandSample(**parts(image=None)).size is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints_2d_px": np.zeros((21, 2))}, r"joints_2d_px has shape \(21, 2\); expected \(2, 21, 2\)"),
        ({"joints_cam_mm": np.zeros((2, 21, 2))}, "joints_cam_mm"),
        ({"valid": np.zeros(42)}, "valid has shape"),
        ({"present": True}, "present has shape"),
        ({"box_xyxy": [1, 2]}, "box_xyxy"),
        ({"image": np.zeros((30, 40, 3))}, r"image is float64 \(30, 40, 3\); expected a uint8"),
        ({"image": np.zeros((30, 40), np.uint8)}, "image is uint8"),
        ({"image": np.zeros((30, 40, 4), np.uint8)}, r"expected \(H, W, 3\)"),
        ({"image": np.zeros((0, 40, 3), np.uint8)}, "image is"),
        ({"image": "picture.png"}, "image is str"),
        ({"mask": np.zeros((30, 41), np.uint8)}, r"mask is \(30, 41\)"),
        ({"mask": np.zeros((30, 40), np.int64)}, "mask is int64"),
        ({"depth_mm": np.zeros((30, 40))}, "depth_mm is float64"),
        ({"kind": "dog"}, "kind is 'dog'"),
        ({"present": [True, False]}, "not present has valid joints"),
        ({"joints_cam_mm": np.full((2, 21, 3), np.nan)}, "not finite"),
    ],
)
def test_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HandSample(**parts(**changes))
