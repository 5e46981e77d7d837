"""Hands that a look showed: which of two is newer, and which are one and the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dfmamba.predict.lift import hand_box

SAME_HAND = 0.3
"""Two hands whose joints lie closer together than this share of the larger one's box are one.

Of 3,500 rendered pairs of hands 1.6 % are closer; a single hand that is found twice mostly is."""

COMPARABLE = 0.8
"""A look replaces an earlier one where its score reaches this share of the earlier one's."""


@dataclass(frozen=True)
class Found:
    """A hand of one look.

    Attributes:
        joints_25d: (21, 3) u, v, d in pixels of the picture.
        joint_scores: (21,) in 0..1.
        score: that the hand is there, in 0..1.
    """

    joints_25d: np.ndarray
    joint_scores: np.ndarray
    score: float


Look: TypeAlias = dict[int, Found]
"""What one look at a crop gave, by the hand's side in the picture: 0 right, 1 left."""

Sided: TypeAlias = tuple[int, Found]
"""A hand of a picture with its side: 0 right, 1 left."""


def newer(before: Found, after: Found) -> Found:
    """The later of two looks at a hand, unless it is much less sure of it."""
    return after if after.score >= COMPARABLE * before.score else before


def averaged(looks: Sequence[Look]) -> Look:
    """The mean of several looks at the same hands, side by side."""
    return {
        side: Found(
            np.mean([look[side].joints_25d for look in looks], axis=0),
            np.mean([look[side].joint_scores for look in looks], axis=0),
            float(np.mean([look[side].score for look in looks])),
        )
        for side in looks[0]
    }


def inside(found: Found, picture: np.ndarray) -> bool:
    """Whether a hand has an extent and some of it is in the picture."""
    size = (picture.shape[1], picture.shape[0])
    x0, y0, x1, y1 = hand_box(found.joints_25d[:, :2], size)
    return bool(x1 > x0 and y1 > y0)


def without_doubles(hands: Sequence[Sided]) -> list[Sided]:
    """Drops the less likely of two hands that are one: joint by joint nearly in the same place.

    A network that isn't sure of the side gives the joints of a single hand to both; and two crops may show
    the same hand. By falling score.
    """
    kept: list[Sided] = []
    for side, found in sorted(hands, key=lambda hand: -hand[1].score):
        if not any(_same_hand(found, other) for _, other in kept):
            kept.append((side, found))
    return kept


def _same_hand(one: Found, other: Found) -> bool:
    return apart(one, other) <= SAME_HAND * max(extent(one), extent(other))


def apart(one: Found, other: Found) -> float:
    """Mean distance of the joints of two hands in pixels."""
    return float(np.linalg.norm(one.joints_25d[:, :2] - other.joints_25d[:, :2], axis=1).mean())


def extent(hand: Found) -> float:
    """Longer side of the box of a hand's joints in pixels."""
    return float(np.ptp(hand.joints_25d[:, :2], axis=0).max())
