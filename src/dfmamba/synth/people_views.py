"""Where the camera is in scenes with people, and what it shows."""

from __future__ import annotations

import numpy as np

from dfmamba.hands.camera import Camera
from dfmamba.synth.body import BodyModel
from dfmamba.synth.people_arms import Person
from dfmamba.synth.staging import euler

SHOTS: dict[str, float] = {
    "face": 0.08, "bust": 0.27, "half": 0.25, "full": 0.10, "hand": 0.14, "ego": 0.08, "none": 0.08,
}  # fmt: skip
"""What the picture is aimed at and how often; "none" is a scene without a visible hand."""

_LARGEST, _SMALLEST = 0.6, 0.035
"""Bounds of a hand's box relative to the picture's side."""


def aim(
    view: np.random.Generator, people: list[Person], shot: str, size: int
) -> tuple[list[np.ndarray], list[np.ndarray], Camera]:
    """Turns people to the camera and frames what a shot is to show.

    Args:
        view: the camera's stream.
        people: the first is who the picture is of, or who wears the camera.
        shot: one of `SHOTS`.
        size: side of the picture in pixels.

    Returns:
        orientation (3, 3) and shift (3,) of every person into the camera frame, and the camera.
    """
    main = people[0]
    if shot == "ego":
        return _aim_ego(view, people, size)
    back = shot not in ("hand", "none") and view.random() < 0.08
    turns: list[np.ndarray] = []
    shifts: list[np.ndarray] = []
    tilt = euler(0.06 * view.normal(), 0.1 + 0.15 * view.normal(), 0.0)
    target = _region(view, main, shot)
    extent = float(np.ptp(target[:, :2], axis=0).max())
    for k in range(len(people)):
        yaw = np.clip(view.normal() * 0.5, -1.4, 1.4) + (
            np.pi if back or (k and view.random() < 0.1) else 0.0
        )
        turns.append(tilt @ euler(0.0, 0.0, yaw))
        side = view.choice([-1.0, 1.0]) if k < 2 else -np.sign(shifts[1][0] or 1.0)
        away = np.array(
            [side * view.uniform(380.0, 750.0), 60.0 * view.normal(), view.uniform(-100.0, 900.0)]
        )
        shifts.append(tilt @ away if k else np.zeros(3))
    points = target @ turns[0].T
    reach = max(float(np.ptp(points[:, :2], axis=0).max()), 0.5 * extent, 120.0)
    spread = np.tan(np.radians(view.uniform(24.0, 75.0)) / 2.0)
    nearest = min(
        float((one @ turn.T + shift)[:, 2].min())
        for person, turn, shift in zip(people, turns, shifts, strict=True)
        for one in (person.body.vertices[::5], *(actor.joints for actor in person.actors))
    )
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    distance = max(reach / (2.0 * spread), middle[2] - nearest + 260.0)
    shift = np.array([0.0, 0.0, distance]) - middle
    shifts = [one + shift for one in shifts]
    flat = points + shift
    flat = flat[:, :2] / flat[:, 2:]
    low, high = flat.min(axis=0), flat.max(axis=0)
    low_fill, high_fill = {"hand": (0.3, 0.6), "none": (0.7, 1.1)}.get(shot, (0.55, 1.02))
    fill = view.uniform(low_fill, high_fill)
    focal = size * fill / float((high - low).max())
    if shot != "none":
        focal = _bounded(focal, main, turns[0], shift, size)
    slack = view.uniform(-0.5, 0.5, 2) * size * (abs(1.0 - fill) * 0.8 + 0.06)
    centre = 0.5 * (size - 1) - 0.5 * (low + high) * focal + slack
    return turns, shifts, Camera(focal, focal, float(centre[0]), float(centre[1]))


def _bounded(focal: float, person: Person, turn: np.ndarray, shift: np.ndarray, size: int) -> float:
    """The focal length, changed so that a person's largest hand is neither too large nor too small."""
    sides = []
    for actor in person.actors:
        joints = actor.joints @ turn.T + shift
        sides.append(float(np.ptp(joints[:, :2] / np.maximum(joints[:, 2:], 50.0), axis=0).max()))
    return float(np.clip(focal, _SMALLEST * size / max(sides), _LARGEST * size / max(sides)))


def _aim_ego(
    view: np.random.Generator, people: list[Person], size: int
) -> tuple[list[np.ndarray], list[np.ndarray], Camera]:
    """The wearer's camera looks from between the eyes at the hands; others stand before it."""
    model, main = BodyModel.load(), people[0]
    eyes = 0.5 * (main.body.bones[model.bone("eye.R")] + main.body.bones[model.bone("eye.L")])
    place = eyes + np.array([0.0, -15.0, -50.0]) + 15.0 * view.normal(size=3)
    hands = np.mean([actor.joints.mean(axis=0) for actor in main.actors], axis=0)
    gaze = hands - place
    gaze = gaze / np.linalg.norm(gaze) + view.normal(size=3) * 0.14 + np.array([0.0, -0.08, -0.1])
    gaze /= np.linalg.norm(gaze)
    right = np.cross(np.array([0.0, 1.0, 0.0]), gaze)
    right /= np.linalg.norm(right)
    turn = euler(0.06 * view.normal(), 0.0, 0.0) @ np.stack([right, np.cross(gaze, right), gaze])
    turns, shifts = [turn], [-turn @ place]
    for _ in people[1:]:
        # Another person faces the wearer.
        yaw = euler(0.0, 0.0, np.pi + 0.3 * view.normal())
        turns.append(turn @ yaw)
        away = np.array([250.0 * view.normal(), 50.0 * view.normal(), -view.uniform(900.0, 1800.0)])
        shifts.append(turn @ away + shifts[0])
    spread = np.tan(np.radians(view.uniform(62.0, 105.0)) / 2.0)
    focal = _bounded(0.5 * size / spread, main, turns[0], shifts[0], size)
    middle = 0.5 * (size - 1)
    return turns, shifts, Camera(focal, focal, middle, middle)


def _region(view: np.random.Generator, person: Person, shot: str) -> np.ndarray:
    """Points (P, 3) of the body frame that the picture is to show."""
    model, body = BodyModel.load(), person.body
    head = body.vertices[_head()]
    names = {
        "face": (), "bust": ("upperarm.R", "upperarm.L", "chest"),
        "half": ("upperarm.R", "upperarm.L", "pelvis"), "full": ("foot.R", "foot.L"),
        "none": ("upperarm.R", "upperarm.L", "chest"),
    }.get(shot, ())  # fmt: skip
    joints = [actor.joints for actor in person.actors]
    if shot == "hand":
        # Mostly the one in front, which the body does not hide.
        ahead = int(joints[1][:, 2].mean() < joints[0][:, 2].mean())
        return joints[ahead if view.random() < 0.8 else 1 - ahead]
    if shot == "none" and view.random() < 0.3:
        names = ("pelvis", "upperarm.R", "upperarm.L")
    points = [head, *(body.bones[[model.bone(name)]] for name in names)]
    if shot in ("bust", "half", "full", "face"):
        bound = _joined(points)
        for one in joints:
            # Hands that hang below a portrait's edge stay outside of it.
            near = one[:, 1].min() < bound[:, 1].max() + 80.0
            if view.random() < (0.88 if near else 0.5 if shot != "face" else 0.0):
                points.append(one)
    return _joined(points)


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """All points (P, 3) of some lists, float64."""
    return np.concatenate(pieces).astype(np.float64)


def _head() -> np.ndarray:
    return np.nonzero(BodyModel.load().share("head") > 0.6)[0][::7]
