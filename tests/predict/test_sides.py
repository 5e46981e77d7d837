"""Right or left, by upright looks at hands taken for one of each side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from torch import nn

from dfmamba.hands.affine import Affine
from dfmamba.predict.found import Found, Look
from dfmamba.predict.looks import UPRIGHT_FACTORS, Looker
from dfmamba.predict.sides import EXCHANGE, Taken, answer, should_change, sure_of_side

SIZE = 32
PICTURE = np.zeros((200, 300, 3), np.uint8)
JOINTS = np.random.default_rng(0).uniform((0, 0, -9), (80, 90, 9), (21, 3))
PLACES = {0: np.array([40.0, 50.0, 0.0]), 1: np.array([190.0, 60.0, 0.0])}
"""Where the stub sees a hand: two places."""


def look(right: float, left: float, mark: float = 0.0) -> Look:
    """A look with these logits; its joints are told by a number."""
    return {
        side: Found(np.full((21, 3), mark + side), np.ones(21), 1 / (1 + np.exp(-logit)))
        for side, logit in enumerate((right, left))
    }


def views(*pairs: tuple[Look, Look]) -> dict[Taken, Look]:
    """Looks at hands that were found as side 0, 1: each taken for a right and for a left one."""
    return {(0, found_as, side): pair[side] for found_as, pair in enumerate(pairs) for side in (0, 1)}


@pytest.mark.parametrize(("left", "side"), [(2.0, 1), (0.5, 0)])
def test_a_lone_hand_takes_the_side_that_both_looks_find_likelier(left: float, side: int) -> None:
    seen = views((look(1.0, 0.0, 10), look(0.0, left, 20)))
    assert should_change(seen, 0, {0: seen[0, 0, 0][0]}) == (side == 1)
    found = answer(seen, 0, 0, side)
    assert found.joints_25d[0, 0] == (21 if side else 10)
    scores = [seen[0, 0, taken][side].score for taken in (0, 1)]
    assert found.score == pytest.approx(np.mean(scores))


@pytest.mark.parametrize("more", [-0.1, 0.1])
def test_two_hands_exchange_sides_where_they_clearly_should(more: float) -> None:
    """A quarter of the preference comes from each look."""
    lean = (EXCHANGE + more) / 4
    seen = views((look(0, lean), look(0, lean)), (look(lean, 0), look(lean, 0)))
    assert should_change(seen, 0, {0: seen[0, 0, 0][0], 1: seen[0, 1, 1][1]}) == (more > 0)


def test_the_unseen_other_side_counts_nothing() -> None:
    seen = {(0, 0, 0): look(0.9, 0.4, 10)}
    assert not should_change(seen, 0, {0: seen[0, 0, 0][0]})
    assert answer(seen, 0, 0, 0).score == seen[0, 0, 0][0].score


def test_sure_of_a_side() -> None:
    assert sure_of_side(look(3, -3))
    assert sure_of_side(look(-3, 3))
    assert not sure_of_side(look(2, -2))


class Knowing(Looker):
    """Sees at either place a hand whose side it leans to; the joints of the wrong side are off."""

    def __init__(self, truth: dict[int, int], lean: float) -> None:
        super().__init__(nn.Identity(), SIZE)
        self.truth, self.lean, self.cuts = truth, lean, list[Affine]()

    def look_at_crops(self, crops: Sequence[np.ndarray], affines: Sequence[Affine]) -> list[Look]:
        self.cuts += affines
        looks = []
        for affine in affines:
            middle = affine.inverse().matrix @ [(SIZE - 1) / 2, (SIZE - 1) / 2, 1.0]
            place = min(PLACES, key=lambda k: abs(PLACES[k][0] + 40 - middle[0]))
            side = self.truth[place]
            score = {side: 1 / (1 + np.exp(-self.lean / 2)), 1 - side: 1 / (1 + np.exp(self.lean / 2))}
            looks.append({s: Found(JOINTS + PLACES[place], np.ones(21), score[s]) for s in (0, 1)})
        return looks


def _found(places: dict[int, int]) -> Look:
    return {side: Found(JOINTS + PLACES[place], np.ones(21), 0.6) for side, place in places.items()}


def test_two_hands_that_were_taken_for_each_other() -> None:
    looker = Knowing({0: 0, 1: 1}, lean=3.0)
    (best,) = looker.look_upright([PICTURE], [_found({0: 1, 1: 0})], [False])
    for side in (0, 1):
        np.testing.assert_allclose(best[side].joints_25d, JOINTS + PLACES[side])
    assert len(looker.cuts) == 2 * 2 * len(UPRIGHT_FACTORS)


@pytest.mark.parametrize("sure", [False, True])
@pytest.mark.parametrize("truth", [{0: 0, 1: 1}, {0: 0, 1: 0}])
def test_two_hands_keep_their_sides_without_a_clear_reason(truth: dict[int, int], sure: bool) -> None:
    """Of two hands that both look like a right one, the one found as a left one stays one."""
    looker = Knowing(truth, lean=3.0)
    (best,) = looker.look_upright([PICTURE], [_found({0: 0, 1: 1})], [sure])
    for side in (0, 1):
        np.testing.assert_allclose(best[side].joints_25d, JOINTS + PLACES[side])
    each = len(UPRIGHT_FACTORS) + (0 if sure else 1)  # the other side at one size only
    assert len(looker.cuts) == 2 * each


def test_the_hands_of_a_picture_stay_where_an_exchange_would_lose_one() -> None:
    """Nothing changes unless the looks at both hands as the other side are good enough."""
    looker = Knowing({0: 0, 1: 1}, lean=2.5)
    certain = {
        side: Found(one.joints_25d, one.joint_scores, 1.0) for side, one in _found({0: 1, 1: 0}).items()
    }
    (best,) = looker.look_upright([PICTURE], [certain], [False])
    for side in (0, 1):
        assert best[side] is certain[side]
