"""Drawings: what must be where, and always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from dfmamba.draw import VIEWS, draw_overlay, draw_prediction, draw_view
from dfmamba.draw.canvas import BACKGROUND, Canvas
from dfmamba.hands.skeleton import FINGER_COLORS_RGB, FINGERS
from dfmamba.predict import Hand, Prediction

GREY = np.full((200, 300, 3), 110, np.uint8)


def open_hand() -> np.ndarray:
    """An upright open hand (21, 3) mm, wrist at the origin."""
    joints = np.zeros((21, 3))
    for number, (name, indices) in enumerate(FINGERS.items()):
        angle = np.radians(-50 + 25 * number)
        for step, joint in enumerate(indices):
            length = (40 if name == "thumb" else 80) + 30 * step
            joints[joint] = length * np.sin(angle), -length * np.cos(angle), -5 * step
    return joints


def make_prediction(*sides: str, **changes: Any) -> Prediction:
    hands = []
    for number, side in enumerate(sides):
        joints = open_hand()
        pixels = joints[:, :2] * 0.7 + [90 + 120 * number, 180]
        values = {
            "side": side,
            "score": 0.97,
            "box_xyxy": np.concatenate([pixels.min(axis=0) - 5, pixels.max(axis=0) + 5]),
            "joints_2d_px": pixels,
            "joints_3d_mm": joints + np.array([200 * number, 0, 400])
            if changes.get("root") == "camera"
            else joints,
            "joint_scores": np.full(21, 0.9),
        }
        hands.append(Hand(**{**values, **changes}))
    return Prediction(tuple(hands), (300, 200), model="nano")


def differs(first: Image.Image, second: np.ndarray) -> np.ndarray:
    return (np.asarray(first) != second).any(axis=2)


def test_overlay_colours_the_fingers() -> None:
    prediction = make_prediction("right")
    drawn = np.asarray(draw_overlay(GREY, prediction))
    assert drawn.shape == GREY.shape
    pixels = prediction.hands[0].joints_2d_px
    for name, indices in FINGERS.items():
        u, v = np.rint(pixels[list(indices[1:3])].mean(axis=0)).astype(int)
        around = drawn[v - 2 : v + 3, u - 2 : u + 3].reshape(-1, 3).astype(int)
        assert np.abs(around - FINGER_COLORS_RGB[name]).sum(axis=1).min() < 30, name


def test_overlay_leaves_the_rest_of_the_picture_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, GREY.shape, dtype=np.uint8)
    changed = differs(draw_overlay(noise, make_prediction("right")), noise)
    assert 0.01 < changed.mean() < 0.4
    assert not changed[:, 200:].any()
    assert not differs(draw_overlay(noise, make_prediction()), noise).any()


def test_unsure_joints_are_thin() -> None:
    sure = differs(draw_overlay(GREY, make_prediction("right")), GREY).sum()
    unsure = differs(draw_overlay(GREY, make_prediction("right", joint_scores=np.zeros(21))), GREY).sum()
    assert unsure < 0.92 * sure


def test_overlay_scales() -> None:
    assert draw_overlay(GREY, make_prediction("left"), scale=2.0).size == (600, 400)
    assert draw_overlay(Image.fromarray(GREY), make_prediction("left"), scale=0.5).size == (150, 100)


def test_overlay_checks_the_size() -> None:
    with pytest.raises(ValueError, match="300"):
        draw_overlay(GREY[:100], make_prediction("left"))


@pytest.mark.parametrize("sides", [(), ("right",), ("right", "left")], ids=len)
@pytest.mark.parametrize("root", ["wrist", "camera"])
def test_sheet_is_drawn_and_always_the_same(sides: tuple[str, ...], root: str) -> None:
    first = draw_prediction(GREY, make_prediction(*sides, root=root), height=240)
    again = draw_prediction(GREY, make_prediction(*sides, root=root), height=240)
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    pixels = np.asarray(first)
    assert tuple(pixels[0, 0]) == BACKGROUND
    assert differs(first, np.broadcast_to(np.uint8(BACKGROUND), pixels.shape)).mean() > 0.1


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.title)
def test_views_look_from_where_they_say(view) -> None:
    right, down, forward = view.axes
    assert np.allclose(view.axes @ view.axes.T, np.eye(3))
    assert np.allclose(np.cross(right, down), forward)
    drawn = draw_view([open_hand()], view, (200, 160))
    assert drawn.size == (200, 160)
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 50


def test_directions_of_the_views() -> None:
    front, side, above = (view.axes for view in VIEWS)
    toward = np.array([0.0, 0.0, -1.0])
    assert front[2] @ toward < -0.9
    assert side[0] @ toward < -0.9  # the camera is on the left
    assert above[1] @ toward > 0.9  # the camera is below
    assert above[2] @ np.array([0.0, 1.0, 0.0]) > 0.9


@pytest.mark.parametrize(
    "pixels", [np.full((21, 2), 50.0), np.full((21, 2), 1e6), np.linspace(-4000, 4000, 42).reshape(21, 2)]
)
def test_odd_hands_do_no_harm(pixels: np.ndarray) -> None:
    prediction = make_prediction(
        "right", joints_2d_px=pixels, joints_3d_mm=np.zeros((21, 3)), box_xyxy=np.zeros(4)
    )
    draw_prediction(GREY, prediction, height=120)


@pytest.mark.parametrize("size", [(1, 1), (3, 400), (400, 3)])
def test_odd_pictures_do_no_harm(size: tuple[int, int]) -> None:
    prediction = Prediction(make_prediction("right", "left").hands, size)
    draw_prediction(np.zeros((size[1], size[0], 3), np.uint8), prediction, height=120)


def test_canvas_keeps_what_is_not_drawn_on() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    canvas = Canvas(Image.fromarray(noise))
    assert canvas.factor > 1
    assert not differs(canvas.finish(), noise).any()
