"""Upright looks: once more where the first one found the hand elsewhere than it was aimed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from torch import nn

from dfmamba.hands.affine import Affine
from dfmamba.hands.upright import upright_affines
from dfmamba.predict.found import Found, Look
from dfmamba.predict.looks import OFF_AIM, UPRIGHT_FACTORS, Looker

SIZE = 32
PICTURE = np.zeros((200, 200, 3), np.uint8)
HAND = np.random.default_rng(0).uniform((60, 50, -9), (140, 150, 9), (21, 3))
EXTENT = np.ptp(HAND[:, :2], axis=0).max()


class Seeing(Looker):
    """Sees the same hand in every crop, and remembers how the crops were cut."""

    def __init__(self, score: float = 0.9) -> None:
        super().__init__(nn.Identity(), SIZE)
        self.score, self.cuts = score, list[Affine]()

    def look_at_crops(self, crops: Sequence[np.ndarray], affines: Sequence[Affine]) -> list[Look]:
        self.cuts += affines
        return [{side: _hand(HAND, self.score * (1 - side)) for side in (0, 1)} for _ in crops]


def _hand(joints: np.ndarray, score: float = 0.9) -> Found:
    return Found(joints, np.full(21, 0.5), score)


def _shifted(share: float) -> Found:
    return _hand(HAND + np.array([share * EXTENT, 0.0, 0.0]))


@pytest.mark.parametrize("share", [0.0, 0.9 * OFF_AIM])
def test_a_well_aimed_hand_is_looked_at_once(share: float) -> None:
    looker = Seeing()
    looker.look_upright([PICTURE], [{0: _shifted(share)}], [True])
    assert len(looker.cuts) == len(UPRIGHT_FACTORS)


def test_a_hand_found_elsewhere_is_looked_at_again_where_it_was_found() -> None:
    looker = Seeing()
    looks = [{0: _shifted(0.02)}, {0: _shifted(1.2 * OFF_AIM)}]
    best = looker.look_upright([PICTURE] * 2, looks, [True, True])
    assert len(looker.cuts) == 3 * len(UPRIGHT_FACTORS)
    aims = upright_affines(HAND[:, :2], False, SIZE, UPRIGHT_FACTORS)
    for cut, aim in zip(looker.cuts[-len(aims) :], aims, strict=True):
        np.testing.assert_allclose(cut.matrix, aim.matrix)
    for look in best:
        np.testing.assert_allclose(look[0].joints_25d, HAND)


def test_a_hand_of_changed_side_is_compared_with_what_its_look_was_aimed_by() -> None:
    looker = Seeing()
    (look,) = looker.look_upright([PICTURE], [{1: _shifted(1.2 * OFF_AIM)}], [False])
    assert list(look) == [0]
    np.testing.assert_allclose(look[0].joints_25d, HAND)
    # As a left hand and as a right one, at all sizes each; then again as a right one.
    assert len(looker.cuts) == 3 * len(UPRIGHT_FACTORS)
    assert not any(cut.mirrored for cut in looker.cuts[-len(UPRIGHT_FACTORS) :])


def test_a_look_that_lost_the_hand_asks_for_no_other() -> None:
    looker = Seeing(score=0.1)
    aimed = _shifted(0.5)
    (look,) = looker.look_upright([PICTURE], [{0: aimed}], [True])
    assert look[0] is aimed
    assert len(looker.cuts) == len(UPRIGHT_FACTORS)
