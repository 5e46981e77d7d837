"""Views of hands: which crops are seen, and what they say of a hand's side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from torch import nn

from dfmamba.hands.affine import Affine
from dfmamba.hands.upright import upright_affines
from dfmamba.predict.looking import AIM_FACTOR, EXCHANGE, CropNetwork, SeenHand, View, sure_of_side

SIZE = 32
IMAGE = np.zeros((200, 300, 3), np.uint8)
JOINTS = np.random.default_rng(0).uniform((0, 0, -9), (80, 90, 9), (21, 3))
PLACES = {0: np.array([40.0, 50.0, 0.0]), 1: np.array([190.0, 60.0, 0.0])}
"""Where the stub sees a hand: two places."""


def probability(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


class Knowing(CropNetwork):
    """Sees a hand at either place, whose logits of both sides it knows; remembers how crops were cut."""

    def __init__(self, logits: dict[int, tuple[float, float]]) -> None:
        super().__init__(nn.Identity(), SIZE)
        self.logits, self.cuts = logits, list[Affine]()

    def see_crops(self, crops: Sequence[np.ndarray], affines: Sequence[Affine]) -> list[View]:
        self.cuts += affines
        views = []
        for affine in affines:
            middle = affine.inverse().matrix @ [(SIZE - 1) / 2, (SIZE - 1) / 2, 1.0]
            place = min(PLACES, key=lambda k: abs(PLACES[k][0] + 40 - middle[0]))
            scores = map(probability, self.logits[place])
            joints = JOINTS + PLACES[place]
            views.append(
                {side: SeenHand(joints + side, np.ones(21), score) for side, score in enumerate(scores)}
            )
        return views


def found(places: dict[int, int]) -> View:
    return {side: SeenHand(JOINTS + PLACES[place], np.ones(21), 0.6) for side, place in places.items()}


def test_a_hand_of_a_sure_side_costs_one_upright_crop() -> None:
    network = Knowing({0: (2.0, -2.0), 1: (0.0, 0.0)})
    (view,) = network.see_upright([IMAGE], [found({0: 0})], [True])
    (cut,) = network.cuts
    (aim,) = upright_affines((JOINTS + PLACES[0])[:, :2], False, SIZE, (AIM_FACTOR,))
    np.testing.assert_allclose(cut.matrix, aim.matrix)
    np.testing.assert_allclose(view[0].joints_25d, JOINTS + PLACES[0])
    assert view[0].score == pytest.approx(probability(2.0))


@pytest.mark.parametrize(("lean", "side"), [(1.0, 0), (-1.0, 1)])
@pytest.mark.parametrize("found_as", [0, 1])
def test_a_lone_hand_takes_the_side_that_both_views_find_likelier(
    found_as: int, lean: float, side: int
) -> None:
    network = Knowing({0: (lean, 0.0), 1: (0.0, 0.0)})
    (view,) = network.see_upright([IMAGE], [found({found_as: 0})], [False])
    assert list(view) == [side]
    assert [cut.mirrored for cut in network.cuts] == [found_as == 1, found_as == 0]
    np.testing.assert_allclose(view[side].joints_25d, JOINTS + PLACES[0] + side)


@pytest.mark.parametrize("more", [-0.1, 0.1])
def test_two_hands_exchange_sides_where_they_clearly_should(more: float) -> None:
    """A quarter of the preference comes from each of the four views."""
    lean = (EXCHANGE + more) / 4
    network = Knowing({0: (lean, 0.0), 1: (0.0, lean)})
    (view,) = network.see_upright([IMAGE], [found({0: 1, 1: 0})], [False])
    for side in (0, 1):
        place = side if more > 0 else 1 - side
        np.testing.assert_allclose(view[side].joints_25d, JOINTS + PLACES[place] + side)
    assert len(network.cuts) == 4


def test_two_hands_that_both_look_like_a_right_one_keep_their_sides() -> None:
    network = Knowing({0: (3.0, 0.0), 1: (3.0, 0.0)})
    (view,) = network.see_upright([IMAGE], [found({0: 0, 1: 1})], [False])
    for side in (0, 1):
        np.testing.assert_allclose(view[side].joints_25d, JOINTS + PLACES[side] + side)


def test_images_without_hands_cost_nothing() -> None:
    network = Knowing({0: (0.0, 0.0), 1: (0.0, 0.0)})
    views = network.see_upright([IMAGE] * 3, [{}, found({1: 1}), {}], [False, True, True])
    assert [list(view) for view in views] == [[], [1], []]
    assert len(network.cuts) == 1


@pytest.mark.parametrize("places", [{0: 0, 1: 1}, {0: 0}])
def test_hands_that_are_small_in_an_image_are_seen_closer(places: dict[int, int]) -> None:
    network = Knowing({0: (3.0, 0.0), 1: (0.0, 3.0)})
    near, far = np.array([0.0, 0.0, 120.0, 120.0]), np.array([0.0, 0.0, 300.0, 300.0])
    network.see_closer([IMAGE], [found(places)], [near], 0.5)
    assert not network.cuts
    (view,) = network.see_closer([IMAGE], [found(places)], [far], 0.5)
    assert len(network.cuts) == len(places)
    for side, place in places.items():
        np.testing.assert_allclose(view[side].joints_25d, JOINTS + PLACES[place] + side)


def test_overlapping_hands_share_a_crop() -> None:
    network = Knowing({0: (3.0, 3.0), 1: (0.0, 0.0)})
    network.see_closer([IMAGE], [found({0: 0, 1: 0})], [np.array([0.0, 0.0, 300.0, 300.0])], 0.5)
    assert len(network.cuts) == 1


def test_sure_of_a_side() -> None:
    for right, left in itertools.product((3.0, -3.0), repeat=2):
        view = {
            side: SeenHand(JOINTS, np.ones(21), probability(logit))
            for side, logit in enumerate((right, left))
        }
        assert sure_of_side(view) == (right != left)
