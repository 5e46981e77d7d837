"""Predictions that look like hands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dfmamba.hands.camera import Camera
from dfmamba.hands.model import HandModel
from dfmamba.hands.skeleton import BONES, REFERENCE_BONES_MM
from dfmamba.predict import Hand, Prediction
from dfmamba.synth.pose import PoseBank

CAMERA = Camera(500.0, 520.0, 320.0, 240.0)


def bent_hand(seed: int) -> np.ndarray:
    """(21, 3) mm relative to the wrist: fingers that spread and bend at random, bones of the mean hand."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    joints = np.zeros((21, 3))
    for finger in range(5):
        angle = 0.35 * (finger - 2)
        bend = 0.0
        for k in range(4):
            bend += rng.uniform(0, 0.7) * (k > 0)
            along = (np.sin(angle) * np.cos(bend), -np.cos(angle) * np.cos(bend), np.sin(bend))
            joint = 1 + 4 * finger + k
            joints[joint] = joints[BONES[joint - 1][0]] + REFERENCE_BONES_MM[joint - 1] * np.array(along)
    return joints @ turn.T


def model_hand(seed: int = 0, side: str = "right", place_mm: Any = None, **changes: Any) -> Hand:
    """A hand that the hand model can have, in a pose of the bank."""
    rng = np.random.default_rng(seed)
    pose = np.zeros((1, 25))
    pose[0, :22] = PoseBank.load().angles[seed]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    joints = HandModel.load()(pose, side=side, rotation=turn * np.sign(np.linalg.det(turn))).joints[0]
    return make_hand(seed, side, place_mm, joints=joints - joints[0], **changes)


def make_hand(
    seed: int = 0,
    side: str = "right",
    place_mm: Any = None,
    joints: np.ndarray | None = None,
    **changes: Any,
) -> Hand:
    """A hand, in the camera at a place, or relative to its wrist and drawn with 1.5 pixels a millimetre."""
    joints = bent_hand(seed) if joints is None else joints
    if place_mm is not None:
        joints = joints + np.asarray(place_mm, dtype=float)
    pixels = (320.0, 240.0) + 1.5 * joints[:, :2] if place_mm is None else CAMERA.project(joints)
    values: dict[str, Any] = {
        "side": side,
        "score": 0.9 - 0.01 * (seed % 50),
        "box_xyxy": [*pixels.min(axis=0), *pixels.max(axis=0)],
        "joints_2d_px": pixels,
        "joints_3d_mm": joints,
        "joint_scores": np.linspace(0.5, 1, 21),
        "root": "wrist" if place_mm is None else "camera",
    }
    return Hand(**{**values, **changes})


def make_prediction(*hands: Hand, **changes: Any) -> Prediction:
    """A picture of 640 x 480 with these hands."""
    inside = any(hand.root == "camera" for hand in hands)
    values: dict[str, Any] = {"image_size": (640, 480), "camera": CAMERA if inside else None}
    return Prediction(hands=hands, **{**values, "model": "nano", "image": "photos/a.jpg", **changes})


@pytest.fixture
def hand() -> Callable[..., Hand]:
    """`make_hand`."""
    return make_hand


@pytest.fixture
def real_hand() -> Callable[..., Hand]:
    """`model_hand`."""
    return model_hand


@pytest.fixture
def prediction() -> Callable[..., Prediction]:
    """`make_prediction`."""
    return make_prediction


@pytest.fixture
def two_hands() -> Prediction:
    """A right and a left hand in the camera."""
    return make_prediction(model_hand(1, "right", (-90, 20, 450)), model_hand(2, "left", (100, 0, 520)))
