"""Hand poses: joint limits, named gestures, the raw prior and the bank that scenes draw from.

A pose is a vector of 25 angles (degrees; see `hand.THUMB`, `hand.FINGERS`, `hand.CUP`, `hand.WRIST`); the
bank stores the first 22, the wrist is drawn on line because it moves the forearm only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dfmamba.hands.model import (
    CONVERGENCE_DEG,
    CUP,
    FINGERS,
    HIGH,
    LOW,
    NUM_ANGLES,
    NUM_HAND_ANGLES,
    THUMB,
    clamp,
)

ASSETS = Path(__file__).parent / "assets"
SIGNS = ASSETS / "signs.npz"
"""The bank of hands that sign: a thumb on folded fingers, or stretched."""

Finger = tuple[float, float, float, float]


def _bent(mcp: float, pip: float, dip: float | None = None, abduction: float = 0.0) -> Finger:
    return (mcp, abduction, pip, 0.67 * pip if dip is None else dip)


def _spread(*abductions: float) -> tuple[Finger, ...]:
    return tuple(_bent(-3, 3, 2, a) for a in abductions)


_UP = _bent(-3, 3, 2)
_FIST = _bent(72, 98, 55)
_SOFT_FIST = _bent(58, 82, 45)
_HALF = _bent(30, 50)
_REST = _bent(18, 30, 18)

# Thumbs: CMC flexion, palmar abduction, twist, MCP flexion, IP flexion.
_OUT = (-12, 5, 0, 0, -5)
_IN = (28, 8, 10, 35, 35)
_ACROSS = (32, 18, 18, 40, 45)
_LOOSE = (5, 12, 5, 12, 12)
_OPPOSED = (20, 38, 25, 15, 20)
_ALONG = (15, -5, 0, 8, 5)
_HITCH = (-15, 0, 0, -5, -12)
_TO_INDEX = (16, 34, 24, 20, 30)
_TO_LITTLE = (32, 38, 34, 30, 30)
_TUCKED = (35, 20, 15, 45, 55)
_FORWARD = (0, 35, 12, 5, 0)


@dataclass(frozen=True)
class Gesture:
    """A named hand shape: thumb (5), fingers (4 x 4), both in degrees, and how often the prior picks it."""

    thumb: tuple[float, ...]
    fingers: tuple[Finger, ...]
    weight: float

    @property
    def angles(self) -> np.ndarray:
        """(22,) angles without convergence and cupping."""
        return np.array([*self.thumb, *(v for finger in self.fingers for v in finger), 0.0])


GESTURES: dict[str, Gesture] = {
    # everyday hands
    "open": Gesture(_OUT, _spread(8, 2, -4, -10), 3),
    "splay": Gesture(_HITCH, _spread(14, 3, -9, -18), 2),
    "flat": Gesture(_ALONG, _spread(-6, -2, 4, 8), 2),
    "flat_thumb_in": Gesture(_ACROSS, _spread(-5, -1, 3, 7), 1),
    "relaxed": Gesture(_LOOSE, (_REST, _bent(22, 36), _bent(26, 40), _bent(28, 38)), 4),
    "relaxed_open": Gesture(
        _LOOSE, (_bent(8, 15, 8, 4), _bent(10, 18), _bent(12, 22, 12, -2), _bent(14, 24, 12, -5)), 3
    ),
    "relaxed_bent": Gesture(_LOOSE, (_bent(26, 42), _bent(34, 52), _bent(40, 58), _bent(42, 58)), 3),
    "fist": Gesture(_IN, (_FIST,) * 4, 3),
    "soft_fist": Gesture((22, 12, 10, 28, 30), (_SOFT_FIST,) * 4, 2),
    "fist_thumb_beside": Gesture((15, -5, 0, 15, 30), (_FIST,) * 4, 1),
    "fist_thumb_inside": Gesture(_TUCKED, (_bent(62, 88, 45),) * 4, 0.7),
    "hook": Gesture(_LOOSE, (_bent(5, 95, 60),) * 4, 1),
    "claw": Gesture(_OUT, (_bent(-5, 70, 50),) * 4, 1),
    "soft_claw": Gesture((0, 25, 8, 10, 25), tuple(_bent(5, 48, 30, a) for a in (9, 3, -4, -11)), 1.5),
    "tabletop": Gesture(_ALONG, (_bent(75, 10, 5),) * 4, 1),
    "typing": Gesture((8, 22, 10, 8, 12), tuple(_bent(15, 38, 20, a) for a in (6, 2, -3, -8)), 1.5),
    "mouse": Gesture(
        (8, 18, 8, 10, 10), (_bent(12, 22, 10, 4), _bent(12, 22, 10, -2), _bent(25, 35), _bent(28, 38)), 0.7
    ),
    # grasps
    "cup": Gesture(_OPPOSED, (_bent(30, 25, 15),) * 4, 1.5),
    "cylinder": Gesture(_OPPOSED, (_bent(45, 50, 30),) * 4, 2.5),
    "cylinder_tight": Gesture((28, 35, 22, 25, 35), (_bent(58, 70, 40),) * 4, 1.5),
    "sphere": Gesture((5, 40, 22, 12, 22), tuple(_bent(28, 42, 26, a) for a in (10, 3, -5, -14)), 2),
    "tripod": Gesture(
        (15, 35, 25, 20, 30), (_bent(48, 45, 20), _bent(55, 50, 25), _bent(62, 65, 40), _bent(65, 70, 45)), 2
    ),
    "pen": Gesture(
        (14, 30, 22, 26, 36),
        (_bent(38, 58, 28, 2), _bent(48, 66, 34), _bent(58, 76, 42), _bent(62, 78, 44)),
        1.5,
    ),
    "key": Gesture((20, 0, 5, 15, 30), (_bent(55, 75, 40),) * 4, 1.5),
    "phone": Gesture(
        (-2, 35, 15, 8, 12), (_bent(30, 38, 18, 3), _bent(35, 45), _bent(40, 52), _bent(42, 55)), 1.5
    ),
    "plate": Gesture((2, 20, 10, 5, 5), (_bent(55, 12, 6),) * 4, 0.7),
    "duck": Gesture(_OPPOSED, (_bent(55, 15, 8),) * 4, 1),
    # thumb against fingers
    "pinch": Gesture(_TO_INDEX, (_bent(45, 50, 22), _bent(30, 35), _bent(26, 34), _bent(22, 30)), 2),
    "pinch_others_bent": Gesture(_TO_INDEX, (_bent(48, 48, 20), _SOFT_FIST, _SOFT_FIST, _SOFT_FIST), 1.5),
    "ok": Gesture(_TO_INDEX, (_bent(48, 52, 25), *_spread(-1, -6, -14)), 2),
    "pinch_open": Gesture((4, 36, 18, 5, 10), (_bent(28, 25, 10), _HALF, _bent(40, 58), _bent(45, 62)), 1.5),
    "touch_middle": Gesture((20, 37, 28, 20, 26), (_UP, _bent(52, 52, 24), *_spread(-6, -13)), 0.8),
    "touch_ring": Gesture(
        (26, 38, 31, 24, 28), (*_spread(8, 1), _bent(56, 56, 28), _bent(-3, 3, 2, -12)), 0.7
    ),
    "touch_little": Gesture(_TO_LITTLE, (*_spread(8, 1, -5), _bent(58, 56, 28)), 0.7),
    "all_tips": Gesture((18, 38, 26, 16, 20), tuple(_bent(50, 42, 20, a) for a in (-5, 0, 4, 8)), 1),
    # pointing and counting, with different thumbs
    "point": Gesture(_IN, (_UP, _FIST, _FIST, _FIST), 2.5),
    "point_thumb_along": Gesture(_ALONG, (_UP, _FIST, _FIST, _FIST), 1.2),
    "point_loose": Gesture(_LOOSE, (_bent(5, 10, 5), _bent(45, 65), _bent(52, 72), _bent(52, 70)), 2),
    "point_soft": Gesture(_OPPOSED, (_bent(8, 14, 8), _SOFT_FIST, _SOFT_FIST, _SOFT_FIST), 1.2),
    "point_bent": Gesture(_IN, (_bent(35, 12, 5), _FIST, _FIST, _FIST), 0.8),
    "gun": Gesture(_HITCH, (_UP, _FIST, _FIST, _FIST), 1.5),
    "gun_two": Gesture(_HITCH, (*_spread(-5, 3), _FIST, _FIST), 0.7),
    "victory": Gesture(_IN, (*_spread(10, -8), _FIST, _FIST), 2),
    "two_together": Gesture(_IN, (*_spread(-6, 3), _FIST, _FIST), 1.2),
    "two_thumb_out": Gesture(_OUT, (*_spread(10, -6), _FIST, _FIST), 0.7),
    "three": Gesture(_IN, (_bent(-3, 3, 2, 8), _UP, _bent(-3, 3, 2, -8), _FIST), 1.5),
    "three_thumb": Gesture(_HITCH, (_bent(-3, 3, 2, 8), _UP, _FIST, _FIST), 1),
    "three_last": Gesture(_TO_INDEX, (_SOFT_FIST, *_spread(3, -5, -13)), 0.8),
    "four": Gesture(_IN, _spread(8, 2, -4, -10), 1.5),
    "four_together": Gesture(_ACROSS, _spread(-6, -1, 4, 8), 0.7),
    "thumb_up": Gesture(_HITCH, (_bent(70, 100),) * 4, 2),
    "horns": Gesture(_IN, (_UP, _FIST, _FIST, _UP), 1),
    "shaka": Gesture(_HITCH, (_FIST, _FIST, _FIST, _bent(-3, 3, 2, -12)), 1),
    "i_love_you": Gesture(_HITCH, (_UP, _FIST, _FIST, _UP), 1),
    "little": Gesture(_IN, (_FIST, _FIST, _FIST, _UP), 0.8),
    "middle": Gesture(_IN, (_FIST, _UP, _FIST, _FIST), 0.4),
    # shapes of finger alphabets
    "letter_c": Gesture((0, 42, 20, 8, 12), (_bent(32, 40, 24),) * 4, 0.8),
    "letter_d": Gesture(
        (22, 36, 28, 18, 24), (_UP, _bent(52, 50, 25), _bent(55, 52, 26), _bent(56, 52, 26)), 0.8
    ),
    "letter_e": Gesture((30, 22, 16, 34, 45), (_bent(28, 100, 60),) * 4, 0.7),
    "letter_g": Gesture((8, 20, 6, 10, 5), (_bent(45, 12, 5), _FIST, _FIST, _FIST), 0.7),
    "letter_k": Gesture((6, 26, 14, 8, 5), (_bent(-3, 3, 2, 8), _bent(38, 8, 4, -3), _FIST, _FIST), 0.7),
    "letter_m": Gesture(_TUCKED, (_bent(62, 62, 30), _bent(62, 62, 30), _bent(62, 62, 30), _FIST), 0.4),
    "letter_n": Gesture((30, 16, 14, 40, 50), (_bent(62, 60, 30), _bent(62, 60, 30), _FIST, _FIST), 0.4),
    "letter_r": Gesture(_ACROSS, (_bent(-2, 4, 2, -9), _bent(6, 8, 4, 8), _FIST, _FIST), 0.5),
    "letter_t": Gesture((18, 8, 8, 30, 25), (_bent(60, 75, 40), _FIST, _FIST, _FIST), 0.5),
    "letter_x": Gesture(_IN, (_bent(8, 80, 45), _FIST, _FIST, _FIST), 0.8),
    "bent_v": Gesture(_IN, (_bent(8, 70, 40, 8), _bent(8, 70, 40, -7), _FIST, _FIST), 0.7),
    "forward_thumb": Gesture(_FORWARD, (_HALF, _HALF, _HALF, _HALF), 0.7),
}

NAMES = tuple(GESTURES)
_TABLE = np.stack([gesture.angles for gesture in GESTURES.values()])
_WEIGHTS = np.array([gesture.weight for gesture in GESTURES.values()])
_WEIGHTS /= _WEIGHTS.sum()

KINDS = ("gesture", "blend", "mixed", "curled", "cascade", "random")
"""How the prior makes a pose; the mixture's shares are below."""
_KIND_SHARES = (0.38, 0.20, 0.13, 0.12, 0.09, 0.08)


class PosePrior:
    """Raw poses within the limits; fingers may run through each other (the bank's builder resolves that)."""

    def sample(self, rng: np.random.Generator, gesture: str | None = None) -> tuple[np.ndarray, str]:
        """Angles (22,) in degrees and the name of the gesture or kind they came from.

        Args:
            rng: source of randomness.
            gesture: a name of `GESTURES` to draw around (default: the whole mixture).

        Raises:
            ValueError: unknown gesture.
        """
        if gesture is not None:
            if gesture not in GESTURES:
                raise ValueError(f"gesture {gesture!r} is unknown; expected one of {', '.join(NAMES)}")
            angles, name, noise = GESTURES[gesture].angles, gesture, 1.0
        else:
            kind = KINDS[int(rng.choice(len(KINDS), p=_KIND_SHARES))]
            angles, name, noise = getattr(self, f"_{kind}")(rng)
        angles = clamp(angles + self._noise(rng, noise))
        fingers = angles[FINGERS].reshape(4, 4)
        fingers[:, 1] += CONVERGENCE_DEG * np.clip(fingers[:, 0] / 90.0, 0.0, 1.0)
        angles[CUP] = np.clip(fingers[:, 0].mean() / 80.0, 0.0, 1.0) * rng.uniform(0.4, 1.0)
        return clamp(angles), name

    @staticmethod
    def _noise(rng: np.random.Generator, scale: float) -> np.ndarray:
        out = np.zeros(NUM_HAND_ANGLES)
        out[THUMB] = rng.normal(size=5) * (6, 6, 5, 7, 9)
        fingers = out[FINGERS].reshape(4, 4)
        fingers[:, 0] = 5.0 * rng.normal() + 6.0 * rng.normal(size=4)
        fingers[:, 1] = 3.5 * rng.normal(size=4)
        fingers[:, 2] = 8.0 * rng.normal(size=4)
        fingers[:, 3] = 0.67 * fingers[:, 2] + 4.0 * rng.normal(size=4)
        return out * scale

    @staticmethod
    def _pick(rng: np.random.Generator) -> int:
        return int(rng.choice(len(NAMES), p=_WEIGHTS))

    def _gesture(self, rng: np.random.Generator) -> tuple[np.ndarray, str, float]:
        index = self._pick(rng)
        return _TABLE[index].copy(), NAMES[index], 1.0

    def _blend(self, rng: np.random.Generator) -> tuple[np.ndarray, str, float]:
        first, second = _TABLE[self._pick(rng)], _TABLE[self._pick(rng)]
        share = rng.random()
        out = first + share * (second - first)
        thumb_share = np.clip(share + 0.2 * rng.normal(), 0.0, 1.0)
        out[THUMB] = first[THUMB] + thumb_share * (second - first)[THUMB]
        return out, "blend", 1.2

    def _mixed(self, rng: np.random.Generator) -> tuple[np.ndarray, str, float]:
        out = _TABLE[self._pick(rng)].copy()
        for finger in range(4):
            columns = slice(5 + 4 * finger, 9 + 4 * finger)
            out[columns] = _TABLE[self._pick(rng), columns]
        return out, "mixed", 1.0

    def _curled(self, rng: np.random.Generator) -> tuple[np.ndarray, str, float]:
        """An everyday hand of which one to three fingers bend on their own, each joint by its own share."""
        base = rng.choice(["open", "relaxed", "relaxed_open", "fist", "soft_fist", "four", "typing"])
        out = GESTURES[str(base)].angles
        fingers = out[FINGERS].reshape(4, 4)
        for finger in rng.choice(4, size=int(rng.integers(1, 4)), replace=False):
            curl = rng.random()
            mcp = np.clip(curl + 0.35 * rng.normal(), 0.0, 1.0)
            fingers[finger] = (-10 + 90 * mcp, fingers[finger, 1], 105 * curl, 70 * curl)
        return out, "curled", 0.8

    def _cascade(self, rng: np.random.Generator) -> tuple[np.ndarray, str, float]:
        """A relaxed hand at any tone: every finger a little more bent than its radial neighbour."""
        tone, slope = rng.uniform(0.0, 0.75), rng.uniform(0.0, 0.10)
        level = np.clip(tone + slope * np.arange(4), 0.0, 1.0)
        out = np.zeros(NUM_HAND_ANGLES)
        spread = rng.uniform(-0.5, 1.0) * np.array([8.0, 2.0, -4.0, -10.0])
        mcp, pip = rng.uniform(0.4, 1.0, size=2)
        out[FINGERS] = np.stack(
            [80 * level * mcp, spread, 100 * level * pip, 60 * level * pip], axis=1
        ).ravel()
        thumb = np.array(_LOOSE) + rng.random() * (np.array(_OPPOSED) - _LOOSE) * min(1.0, 1.5 * tone)
        out[THUMB] = thumb
        return out, "cascade", 0.8

    def _random(self, rng: np.random.Generator) -> tuple[np.ndarray, str, float]:
        curl = np.clip(rng.random() + 0.25 * np.cumsum(rng.normal(size=4)), 0.0, 1.0)
        mcp = np.clip(curl + 0.3 * rng.normal(size=4), 0.0, 1.0)
        out = np.zeros(NUM_HAND_ANGLES)
        out[FINGERS] = np.stack(
            [-15 + 100 * mcp, rng.uniform(-10, 10, 4), 105 * curl, 70 * curl], axis=1
        ).ravel()
        out[THUMB] = rng.uniform((-15, -10, -10, -5, -15), (35, 42, 30, 50, 70))
        return out, "random", 0.6


def draw_wrist(rng: np.random.Generator) -> np.ndarray:
    """Wrist flexion, deviation and forearm twist (3,) in degrees."""
    return np.clip(rng.normal(size=3) * (24.0, 9.0, 25.0), LOW[22:], HIGH[22:])


class PoseBank:
    """Poses without self-penetration, made by `tools/build_pose_bank.py`.

    Attributes:
        angles: (N, 22) float32, degrees.
        labels: (N,) index into `names`.
        names: gesture or kind that each pose came from ("pinch:..." for solved finger contacts).
    """

    def __init__(self, angles: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> None:
        self.angles = angles.astype(np.float32)
        self.labels = labels.astype(np.int64)
        self.names = names

    @staticmethod
    @lru_cache(maxsize=4)
    def _load(path: str) -> PoseBank:
        try:
            with np.load(path) as archive:
                return PoseBank(archive["angles"], archive["labels"], tuple(str(n) for n in archive["names"]))
        except FileNotFoundError as error:
            raise OSError(
                f"pose bank {path} not found; reinstall dfmamba, or build it with tools/build_pose_bank.py"
            ) from error

    @classmethod
    def load(cls, path: str | Path | None = None) -> PoseBank:
        """The bank of `path` (default: the packaged asset), read once; OSError if it is missing."""
        return cls._load(str(path or ASSETS / "poses.npz"))

    def __len__(self) -> int:
        return len(self.angles)

    def sample(self, rng: np.random.Generator, jitter_deg: float = 1.5) -> tuple[np.ndarray, str]:
        """Angles (25,) of a random pose with small noise and a random wrist, and the pose's name."""
        index = int(rng.integers(len(self.angles)))
        out = np.empty(NUM_ANGLES)
        out[:NUM_HAND_ANGLES] = self.angles[index] + jitter_deg * rng.normal(size=NUM_HAND_ANGLES)
        out[CUP] = self.angles[index, CUP]
        out[22:] = draw_wrist(rng)
        return clamp(out), self.names[self.labels[index]]
