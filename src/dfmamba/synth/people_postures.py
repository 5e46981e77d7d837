"""Everyday postures: where wrists go, which way palms face and what hands do.

Everything is in the body's canonical frame (x to the person's left, y down, z back, millimetres) and for a
right arm; a left arm is the right arm of the mirrored person.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

FLIP = np.array([-1.0, 1.0, 1.0])
_FORWARD, _DOWN, _INWARD = np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
_ELBOW = np.array([-0.55, 0.8, 0.25])
"""Where a right elbow points when nothing is in the way: out, down and a little back."""


@dataclass(frozen=True)
class Reach:
    """What a right arm is to do.

    Attributes:
        wrist: (3,) mm.
        palm: direction that the palm should face, or None for any.
        gestures: names (or their beginnings) of poses to draw from; empty for the whole bank.
        elbow: where the elbow points.
        hidden: the hand is out of sight (in a pocket): its skin is left out.
    """

    wrist: np.ndarray
    palm: np.ndarray | None = None
    gestures: tuple[str, ...] = ()
    elbow: np.ndarray = field(default_factory=_ELBOW.copy)
    hidden: bool = False


@dataclass(frozen=True)
class Places:
    """Points of a right-hand side that postures refer to (mm), the arm's reach and the person's scale."""

    shoulder: np.ndarray
    chest: np.ndarray
    head: np.ndarray
    hip: np.ndarray
    pelvis: np.ndarray
    reach: float
    scale: float


_RELAXED = ("relaxed", "cascade", "hook", "soft_fist")
_OPEN = ("open", "splay", "flat", "relaxed_open", "four")

POSTURES: dict[str, float] = {
    "hang": 0.09, "wave": 0.14, "show": 0.17, "gesture": 0.20, "point": 0.05, "face": 0.09, "head": 0.03,
    "ear": 0.04, "hips": 0.03, "desk": 0.09, "up": 0.04, "side": 0.03,
}  # fmt: skip
"""Postures of one arm and their weights."""
PAIRED: dict[str, float] = {"together": 0.6, "crossed": 0.25, "chin": 0.15}
"""Postures of both arms and their weights."""


def draw_reach(rng: np.random.Generator, posture: str, at: Places) -> Reach:
    """The wrist target of a right arm in a posture.

    Raises:
        ValueError: an unknown posture.
    """
    u, n = rng.uniform, rng.normal(size=3)
    reach, scale = at.reach, at.scale
    if posture == "hang":
        wrist = at.shoulder + reach * np.array([u(-0.3, 0.0), u(0.85, 0.97), u(-0.3, 0.08)])
        return Reach(wrist, _INWARD + 0.3 * n, _RELAXED, np.array([-0.5, 0.0, 1.0]))
    if posture == "wave":
        wrist = at.shoulder + reach * np.array([u(-0.55, 0.0), u(-0.55, 0.1), u(-0.6, -0.15)])
        palm = _FORWARD + 0.35 * n if rng.random() < 0.75 else None
        return Reach(wrist, palm, _OPEN if rng.random() < 0.5 else ())
    if posture == "show":
        wrist = at.shoulder + reach * np.array([u(-0.3, 0.5), u(-0.4, 0.35), u(-0.9, -0.4)])
        return Reach(wrist, _FORWARD + 0.6 * n if rng.random() < 0.4 else None)
    if posture == "gesture":
        wrist = at.shoulder + reach * np.array([u(-0.3, 0.4), u(0.1, 0.65), u(-0.65, -0.3)])
        return Reach(wrist)
    if posture == "point":
        toward = np.array([u(-1.0, 0.5), u(-0.7, 0.4), u(-1.0, -0.2)])
        return Reach(
            at.shoulder + toward / np.linalg.norm(toward) * reach * u(0.7, 1.0), None, ("point", "gun")
        )
    if posture == "face":
        wrist = at.head + scale * np.array([u(-120, 40), u(60, 170), u(-150, -90)])
        return Reach(wrist, at.head - wrist + 40.0 * n, (), np.array([-0.4, 1.0, -0.3]))
    if posture == "head":
        wrist = at.head + scale * np.array([u(-190, -120), u(-120, 20), u(-60, 80)])
        return Reach(wrist, at.head - wrist + 40.0 * n, _RELAXED + _OPEN, np.array([-1.0, -0.2, 0.0]))
    if posture == "ear":
        wrist = at.head + scale * np.array([u(-135, -100), u(50, 110), u(-70, -10)])
        return Reach(wrist, _INWARD + 0.3 * n, ("phone", "cup", "relaxed"), np.array([-0.7, 0.8, -0.2]))
    if posture == "hips":
        wrist = at.hip + scale * np.array([u(-110, -70), u(-150, -60), u(-50, 30)])
        return Reach(wrist, _INWARD + 0.5 * n, (), np.array([-1.0, 0.1, 0.4]))
    if posture == "desk":
        wrist = at.shoulder + reach * np.array([u(-0.15, 0.5), u(0.4, 0.65), u(-0.7, -0.4)])
        return Reach(wrist, _DOWN + 0.3 * n, ())
    if posture == "up":
        wrist = at.shoulder + reach * np.array([u(-0.4, 0.15), u(-0.95, -0.6), u(-0.4, 0.0)])
        return Reach(wrist, None, _OPEN if rng.random() < 0.5 else ())
    if posture == "side":
        return Reach(at.shoulder + reach * np.array([u(-0.95, -0.7), u(-0.4, 0.4), u(-0.45, 0.0)]))
    if posture == "behind":
        wrist = at.pelvis + scale * np.array([u(-60, 20), u(-130, -30), u(190, 220)])
        return Reach(wrist, None, _RELAXED, np.array([-0.8, 0.0, 0.8]))
    if posture == "pocket":
        wrist = at.hip + scale * np.array([u(-85, -60), u(-60, -20), u(-70, -30)])
        return Reach(wrist, _INWARD, ("flat",), np.array([-0.8, 0.2, 0.8]), True)
    raise ValueError(f"posture {posture!r}: expected one of {', '.join((*POSTURES, 'behind', 'pocket'))}")


def draw_pair(rng: np.random.Generator, posture: str, right: Places, left: Places) -> tuple[Reach, Reach]:
    """Targets of both arms (the left one in the mirrored person's frame) in a posture of `PAIRED`."""
    u, scale = rng.uniform, right.scale
    if posture == "crossed":
        out = []
        for at, lift in ((right, 0.0), (left, 45.0)):
            wrist = at.chest + scale * np.array([u(80, 130), u(-30, 10) + lift, u(-230, -200)])
            out.append(Reach(wrist, -_FORWARD, (*_RELAXED, "flat"), np.array([-0.7, 0.9, -0.1])))
        return out[0], out[1]
    if posture == "chin":
        wrist = right.head + scale * np.array([u(-60, -40), u(190, 220), u(-150, -110)])
        other = wrist * FLIP + scale * np.array([-90.0, 0.0, 0.0])
        return Reach(wrist, _INWARD), Reach(other, _INWARD)
    middle = right.chest + right.reach * np.array([u(-0.2, 0.2), u(-0.3, 0.5), u(-0.7, -0.42)])
    gap = scale * (u(25, 55) if rng.random() < 0.7 else u(55, 160))
    tilt = rng.normal(size=(2, 3)) * (25.0 * scale, 35.0 * scale, 30.0 * scale)
    wrists = middle + np.array([-gap, 0.0, 0.0]) + tilt[0], middle * FLIP + [-gap, 0.0, 0.0] + tilt[1]
    facing = _INWARD + 0.4 * rng.normal(size=(2, 3)) if rng.random() < 0.7 else (None, None)
    return Reach(wrists[0], facing[0]), Reach(wrists[1], facing[1])


def mirrored_places(at: Places) -> Places:
    """The places of the mirrored person (points negated in x)."""
    points = {name: getattr(at, name) * FLIP for name in ("shoulder", "chest", "head", "hip", "pelvis")}
    return replace(at, **points)
