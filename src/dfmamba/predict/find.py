"""Which looks are taken at a picture, and which of the hands they show are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfmamba.hands.affine import box_iou, box_of_points, picture_square, square_box
from dfmamba.hands.detection import Detection, merge_overlapping
from dfmamba.hands.upright import CLOSE_FACTOR
from dfmamba.predict.found import Found, Look, Sided, inside, without_doubles
from dfmamba.predict.lift import HAND_MARGIN
from dfmamba.predict.looks import UNION_IOU, Looker
from dfmamba.predict.result import SIDES
from dfmamba.predict.sides import sure_of_side

BOX_FACTOR = CLOSE_FACTOR / (1 + 2 * HAND_MARGIN)
"""Side of the first crop over a given box, which is taken to be as loose as `Hand.box_xyxy`."""

FIRST_LOOK = 0.5
"""The first look keeps hands above this share of the threshold: small hands score low in a whole picture."""

OWN_IOU = 0.1
"""A hand that a look at detections shows is theirs if its box overlaps one of them this much."""


def find_in_pictures(
    looker: Looker,
    pictures: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray | None],
    threshold: float,
    refine: bool,
) -> list[list[Sided]]:
    """At most one right and one left hand in each picture (H, W, 3) uint8, or in a box of it.

    Args:
        boxes: for each picture where its hands are, as loose as `Hand.box_xyxy`, or None.
        threshold: hands with a lower score are left out.
        refine: look again at the hands of the first look.
    """
    squares = [
        picture_square((picture.shape[1], picture.shape[0])) if box is None else square_box(box, BOX_FACTOR)
        for picture, box in zip(pictures, boxes, strict=True)
    ]
    looks = looker.look_at_boxes(pictures, squares)
    if refine:
        whole = [i for i, box in enumerate(boxes) if box is None]
        closer = looker.look_closer(
            [pictures[i] for i in whole],
            [looks[i] for i in whole],
            [squares[i] for i in whole],
            FIRST_LOOK * threshold,
        )
        for i, look in zip(whole, closer, strict=True):
            looks[i] = look
        worth = [
            _seen(look, picture, FIRST_LOOK * threshold)
            for picture, look in zip(pictures, looks, strict=True)
        ]
        looks = looker.look_upright(pictures, worth, [sure_of_side(look) for look in looks])
    return [
        without_doubles(list(_seen(look, picture, threshold).items()))
        for picture, look in zip(pictures, looks, strict=True)
    ]


def find_at_detections(
    looker: Looker,
    pictures: Sequence[np.ndarray],
    detections: Sequence[Sequence[Detection]],
    threshold: float,
    refine: bool,
) -> list[list[Sided]]:
    """The hands at detections: one at each, or up to two where detections overlap.

    The detector answers for a hand being there, so its score is the hand's; the network says which side and
    where the joints are. A detection that says the side fixes it.

    Args:
        detections: of each picture, in its pixels.
        threshold: detections with a lower score are left out.
        refine: look again, upright, at each hand.
    """
    places: list[tuple[int, np.ndarray, list[Detection]]] = []
    for index, found in enumerate(detections):
        sure = [detection for detection in found if detection.score >= threshold]
        for region in merge_overlapping([detection.box_xyxy for detection in sure], UNION_IOU):
            own = [one for one in sure if _covers(region, one.box_xyxy)]
            # A look shows one hand of each side.
            twins = _all_sided(own) and len({one.side for one in own}) < len(own)
            apart = [(np.asarray(one.box_xyxy, np.float64), [one]) for one in own]
            places += [(index, *place) for place in (apart if twins else [(region, own)])]
    shown = [pictures[index] for index, _, _ in places]
    looks = looker.look_at_boxes(shown, [square_box(region, CLOSE_FACTOR) for _, region, _ in places])
    worth = [
        _of_detections(look, picture, own, threshold)
        for look, picture, (_, _, own) in zip(looks, shown, places, strict=True)
    ]
    if refine:
        sure_sides = [
            _all_sided(own) or sure_of_side(look) for look, (_, _, own) in zip(looks, places, strict=True)
        ]
        aims = [
            _aimed(hand, look, own, picture)
            for hand, look, picture, (_, _, own) in zip(worth, looks, shown, places, strict=True)
        ]
        again = looker.look_upright(shown, aims, sure_sides)
        worth = [
            _of_detections(look, picture, own, threshold) if look else look
            for look, picture, (_, _, own) in zip(again, shown, places, strict=True)
        ]
    hands: list[list[Sided]] = [[] for _ in pictures]
    for (index, _, own), look in zip(places, worth, strict=True):
        for side, hand in look.items():
            score = max((_overlap(one, hand), one.score) for one in own)[1]
            hands[index].append((side, Found(hand.joints_25d, hand.joint_scores, score)))
    return [without_doubles(each) for each in hands]


def _seen(look: Look, picture: np.ndarray, threshold: float) -> Look:
    sure = [
        (side, found) for side, found in look.items() if found.score >= threshold and inside(found, picture)
    ]
    return dict(sorted(without_doubles(sure)))


def _of_detections(look: Look, picture: np.ndarray, own: Sequence[Detection], threshold: float) -> Look:
    """The hands of a look that belong to its detections: at most as many as those, at least one."""
    fixed = _all_sided(own)
    sides = {SIDES.index(str(one.side)) for one in own} if fixed else {0, 1}
    theirs = sorted(
        (
            (side, found)
            for side, found in look.items()
            if side in sides and inside(found, picture) and max(_overlap(one, found) for one in own) > OWN_IOU
        ),
        key=lambda hand: -hand[1].score,
    )
    kept = theirs[:1] + [
        hand for hand in theirs[1 : len(own)] if fixed or hand[1].score >= FIRST_LOOK * threshold
    ]
    return dict(sorted(without_doubles(kept)))


def _aimed(hand: Look, look: Look, own: Sequence[Detection], picture: np.ndarray) -> Look:
    """Where to look upright at a hand of a fixed side: where the network sees it, if as the other side."""
    if len(own) != 1 or not _all_sided(own):
        return hand
    side = SIDES.index(str(own[0].side))
    other = look[1 - side]
    if hand and hand[side].score >= other.score:
        return hand
    if not inside(other, picture) or _overlap(own[0], other) <= OWN_IOU:
        return hand
    return {side: Found(other.joints_25d, other.joint_scores, look[side].score)}


def _all_sided(own: Sequence[Detection]) -> bool:
    """Whether every one of some detections says its side."""
    for one in own:
        if one.side is not None and one.side not in SIDES:
            raise ValueError(f"side of a detection: expected 'right', 'left' or None, got {one.side!r}")
    return all(one.side is not None for one in own)


def _overlap(detection: Detection, found: Found) -> float:
    return box_iou(detection.box_xyxy, box_of_points(found.joints_25d[:, :2]))


def _covers(region: np.ndarray, box: np.ndarray) -> bool:
    return bool((region[:2] <= box[:2]).all() and (region[2:] >= box[2:]).all())
