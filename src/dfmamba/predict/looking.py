"""How an image is looked at: a hand is found, seen straight, and seen once more upright.

Where a hand is comes from a detector, from a box that was given, or, without either, from the pose network
itself, which then sees the whole image first. A straight view of that place tells the hand's side and where
its joints lie roughly; one upright view (`dfmamba.hands.upright`), aimed by those joints, tells where they
are. Where the straight view left the side in doubt, the same upright crop is seen as one of the other side,
too, and both together decide.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from dfmamba.hands.affine import Affine, box_iou, box_of_points, crop_affine, picture_square, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.hands.detection import Detection, merge_overlapping
from dfmamba.hands.upright import CLOSE_FACTOR, UPRIGHT_FACTOR, upright_affines
from dfmamba.predict.lift import HAND_MARGIN, hand_box, joints_to_picture
from dfmamba.predict.result import SIDES

BOX_FACTOR = CLOSE_FACTOR / (1 + 2 * HAND_MARGIN)
"""Side of the straight crop over a given box, which is taken to be as loose as `Hand.box_xyxy`."""

FIRST_LOOK = 0.5
"""A view of a whole image keeps hands above this share of the threshold: small hands score low there."""

OWN_IOU = 0.1
"""A hand that is seen at detections is theirs if its box overlaps one of them this much."""

UNION_IOU = 0.3
"""Hands whose boxes overlap more than this share a straight crop."""

NEAR_ENOUGH = 1.2
"""A hand isn't seen closer where the side of that crop would be more than the first one's over this."""

AIM_FACTOR = 1.1 * UPRIGHT_FACTOR
"""Side of an upright crop over the longer side of the joints that it is aimed by, which are less exact than
the labels that crops are aimed by in training."""

SAME_HAND = 0.3
"""Two hands whose joints lie closer together than this share of the larger one's box are one.

Of 3,500 rendered pairs of hands 1.6 % are closer; a single hand that is found twice mostly is."""

SURE_SIDE = 5.0
"""A hand whose straight view leaves the other side behind by more than this logit keeps its side."""

EXCHANGE = 4.0
"""Two hands exchange sides where upright views of them, all together, prefer that by more than this logit."""


@dataclass(frozen=True)
class SeenHand:
    """A hand in one view.

    Attributes:
        joints_25d: (21, 3) u, v, d in pixels of the image.
        joint_scores: (21,) in 0..1.
        score: that the hand is there, in 0..1.
    """

    joints_25d: np.ndarray
    joint_scores: np.ndarray
    score: float


View: TypeAlias = dict[int, SeenHand]
"""What one crop showed, by the hand's side in the image: 0 right, 1 left."""

SidedHand: TypeAlias = tuple[int, SeenHand]
"""A hand of an image with its side: 0 right, 1 left."""


@dataclass(frozen=True, eq=False)
class Aim:
    """Where a hand is about to be seen.

    Attributes:
        joints_2d_px: (21, 2) pixels of the image, about where its joints are.
        side: "right" or "left".
        sure: whether that is known; else the hand is seen as one of the other side, too, and both decide.
    """

    joints_2d_px: np.ndarray
    side: str
    sure: bool = True


class CropNetwork:
    """A pose network on crops of images.

    Args:
        model: crops (B, 3, S, S) in [0, 1] to a `HandPoseOutput`.
        image_size: S.
        batch_size: crops per forward pass.
        name: of the model, for errors.
    """

    def __init__(self, model: nn.Module, image_size: int, batch_size: int = 16, name: str = "") -> None:
        self.model, self.image_size, self.batch_size, self.name = model, image_size, batch_size, name

    def see(self, images: Sequence[np.ndarray], affines: Sequence[Affine]) -> list[View]:
        """One view of each image (H, W, 3) uint8 through the map from its pixels to those of the crop.

        Raises:
            ValueError: if the network's output is not finite.
        """
        crops = [
            warp_image(image, affine, self.image_size) for image, affine in zip(images, affines, strict=True)
        ]
        return self.see_crops(crops, affines)

    def see_crops(self, crops: Sequence[np.ndarray], affines: Sequence[Affine]) -> list[View]:
        """One view of each crop (S, S, 3) uint8, cut by its map from the pixels of the image.

        Raises:
            ValueError: if the network's output is not finite.
        """
        views: list[View] = []
        for start in range(0, len(crops), self.batch_size):
            outputs = self._run(crops[start : start + self.batch_size])
            if not all(np.isfinite(values).all() for values in outputs):
                raise ValueError(f"model {self.name}: the output is not finite; are the weights damaged?")
            for affine, joints, joint_scores, scores in zip(
                affines[start : start + self.batch_size], *outputs, strict=True
            ):
                moved = joints_to_picture(joints, affine)
                views.append(
                    {
                        1 - slot if affine.mirrored else slot: SeenHand(
                            moved[slot], joint_scores[slot], float(scores[slot])
                        )
                        for slot in range(2)
                    }
                )
        return views

    def _run(self, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Joints (B, 2, 21, 3) in pixels of the crop, their scores (B, 2, 21) and the hands' (B, 2)."""
        # Not by PyTorch's operators: its threads would wait busily beside those of onnxruntime.
        x = np.stack(crops).astype(np.float32)
        x /= 255.0
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        with _evaluating(self.model), torch.inference_mode():
            output = self.model(torch.from_numpy(x).to(device).permute(0, 3, 1, 2))
        joints, joint_scores, scores = (
            values.float().cpu().numpy().astype(np.float64)
            for values in (
                output.joints_25d,
                output.joint_logits.sigmoid(),
                output.present_logits.sigmoid(),
            )
        )
        return joints, joint_scores, scores

    def see_squares(self, images: Sequence[np.ndarray], squares: Sequence[np.ndarray]) -> list[View]:
        """One straight view of a square region x0, y0, x1, y1 of each image."""
        return self.see(images, [crop_affine(square, self.image_size) for square in squares])

    def see_closer(
        self,
        images: Sequence[np.ndarray],
        views: Sequence[View],
        squares: Sequence[np.ndarray],
        threshold: float,
    ) -> list[View]:
        """A straight view around each hand above the threshold; of both together where they overlap.

        Views that saw hardly more than the closer one would (`NEAR_ENOUGH`) stay.

        Args:
            images, views: (H, W, 3) uint8 and what was seen there.
            squares: regions x0, y0, x1, y1 that those views saw.
            threshold: of the score.
        """
        places: list[tuple[int, tuple[int, ...], np.ndarray]] = []
        for index, (image, view, seen) in enumerate(zip(images, views, squares, strict=True)):
            boxes = {
                side: box_of_points(hand.joints_25d[:, :2])
                for side, hand in view.items()
                if hand.score >= threshold and inside(hand, image)
            }
            together = len(boxes) == 2 and box_iou(boxes[0], boxes[1]) > UNION_IOU
            for sides in [tuple(boxes)] if together else [(side,) for side in boxes]:
                corners = np.stack([boxes[side] for side in sides])
                union = np.concatenate([corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)])
                square = square_box(union, CLOSE_FACTOR)
                if NEAR_ENOUGH * (square[2] - square[0]) < seen[2] - seen[0]:
                    places.append((index, sides, square))
        closer = self.see_squares(
            [images[index] for index, _, _ in places], [square for _, _, square in places]
        )
        best = [dict(view) for view in views]
        for (index, sides, _), view in zip(places, closer, strict=True):
            for side in sides:
                best[index][side] = view[side]
        return best

    def see_upright(
        self, images: Sequence[np.ndarray], views: Sequence[View], sure: Sequence[bool]
    ) -> list[View]:
        """One upright view of each hand given, and, where its side isn't `sure`, one as the other side.

        A hand that is alone takes the side that both views find likelier; two hands exchange sides where they
        clearly (`EXCHANGE`) should. Joints are those of the upright view meant for the side, the score is the
        mean of both views of the hand as that side.
        """
        places, crops, affines = [], [], []
        for index, (image, view) in enumerate(zip(images, views, strict=True)):
            for side, hand in view.items():
                (affine,) = upright_affines(hand.joints_25d[:, :2], side == 1, self.image_size, (AIM_FACTOR,))
                crop = warp_image(image, affine, self.image_size)
                places.append((index, side, side))
                crops.append(crop)
                affines.append(affine)
                if not sure[index]:
                    places.append((index, side, 1 - side))
                    crops.append(crop[:, ::-1])
                    affines.append(_flip(self.image_size).compose(affine))
        seen = dict(zip(places, self.see_crops(crops, affines), strict=True))
        best = []
        for index, view in enumerate(views):
            # By the side that a hand was found as: its upright views, by the side that it was taken for.
            upright = {
                side: {taken: seen[index, side, taken] for taken in (0, 1) if (index, side, taken) in seen}
                for side in view
            }
            if view and not sure[index] and _other_side(upright):
                best.append({1 - side: _answer(upright[side], 1 - side) for side in view})
            else:
                best.append({side: _answer(upright[side], side) for side in view})
        return best


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Sets a network to evaluation, and what was in training back afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def find_in_images(
    network: CropNetwork,
    images: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray | None],
    threshold: float,
    refine: bool,
) -> list[list[SidedHand]]:
    """At most one right and one left hand in each image (H, W, 3) uint8, or in a box of it.

    Args:
        boxes: for each image where its hands are, as loose as `Hand.box_xyxy`, or None.
        threshold: hands with a lower score are left out.
        refine: see the hands of a whole image closer, and all of them upright.
    """
    squares = [
        picture_square((image.shape[1], image.shape[0])) if box is None else square_box(box, BOX_FACTOR)
        for image, box in zip(images, boxes, strict=True)
    ]
    views = network.see_squares(images, squares)
    if refine:
        whole = [i for i, box in enumerate(boxes) if box is None]
        closer = network.see_closer(
            [images[i] for i in whole],
            [views[i] for i in whole],
            [squares[i] for i in whole],
            FIRST_LOOK * threshold,
        )
        for i, view in zip(whole, closer, strict=True):
            views[i] = view
        worth = [
            dict(sorted(_shown(view, image, FIRST_LOOK * threshold)))
            for image, view in zip(images, views, strict=True)
        ]
        upright = network.see_upright(images, worth, [sure_of_side(view) for view in views])
        views = [_both(*each) for each in zip(worth, upright, strict=True)]
    return [_shown(view, image, threshold) for image, view in zip(images, views, strict=True)]


def find_at_detections(
    network: CropNetwork,
    images: Sequence[np.ndarray],
    detections: Sequence[Sequence[Detection]],
    threshold: float,
    refine: bool,
) -> list[list[SidedHand]]:
    """The hands at detections: one at each, or up to two where detections overlap.

    The detector answers for a hand being there, so its score is the hand's; the network says which side and
    where the joints are. A detection that says the side fixes it.

    Args:
        detections: of each image, in its pixels.
        threshold: detections with a lower score are left out.
        refine: see each hand upright.
    """
    places: list[tuple[int, np.ndarray, list[Detection]]] = []
    for index, found in enumerate(detections):
        sure = [detection for detection in found if detection.score >= threshold]
        for region in merge_overlapping([detection.box_xyxy for detection in sure], UNION_IOU):
            own = [one for one in sure if _covers(region, one.box_xyxy)]
            # A view shows one hand of each side.
            twins = _all_sided(own) and len({one.side for one in own}) < len(own)
            apart = [(np.asarray(one.box_xyxy, np.float64), [one]) for one in own]
            places += [(index, *place) for place in (apart if twins else [(region, own)])]
    shown = [images[index] for index, _, _ in places]
    views = network.see_squares(shown, [square_box(region, CLOSE_FACTOR) for _, region, _ in places])
    worth = [
        _of_detections(view, image, own, threshold)
        for view, image, (_, _, own) in zip(views, shown, places, strict=True)
    ]
    if refine:
        sure_sides = [
            _all_sided(own) or sure_of_side(view) for view, (_, _, own) in zip(views, places, strict=True)
        ]
        aims = [
            _aimed(hand, view, own, image)
            for hand, view, image, (_, _, own) in zip(worth, views, shown, places, strict=True)
        ]
        upright = network.see_upright(shown, aims, sure_sides)
        worth = [
            _of_detections(_both(aim, view), image, own, threshold) if view else view
            for aim, view, image, (_, _, own) in zip(aims, upright, shown, places, strict=True)
        ]
    hands: list[list[SidedHand]] = [[] for _ in images]
    for (index, _, own), view in zip(places, worth, strict=True):
        for side, hand in view.items():
            score = max((_overlap(one, hand), one.score) for one in own)[1]
            hands[index].append((side, SeenHand(hand.joints_25d, hand.joint_scores, score)))
    return [without_doubles(each) for each in hands]


def sure_of_side(view: View) -> bool:
    """Whether a view of one hand, with both sides' answers, leaves no doubt of its side."""
    return abs(_logit(view[0].score) - _logit(view[1].score)) > SURE_SIDE


def inside(hand: SeenHand, image: np.ndarray) -> bool:
    """Whether a hand has an extent and some of it is in the image."""
    x0, y0, x1, y1 = hand_box(hand.joints_25d[:, :2], (image.shape[1], image.shape[0]))
    return bool(x1 > x0 and y1 > y0)


def without_doubles(hands: Sequence[SidedHand]) -> list[SidedHand]:
    """Drops the less likely of two hands that are one: joint by joint nearly in the same place.

    A network that isn't sure of the side gives the joints of a single hand to both; and two crops may show
    the same hand. By falling score.
    """
    kept: list[SidedHand] = []
    for side, hand in sorted(hands, key=lambda hand: -hand[1].score):
        if not any(_same_hand(hand, other) for _, other in kept):
            kept.append((side, hand))
    return kept


def _same_hand(one: SeenHand, other: SeenHand) -> bool:
    apart = np.linalg.norm(one.joints_25d[:, :2] - other.joints_25d[:, :2], axis=1).mean()
    extent = max(np.ptp(hand.joints_25d[:, :2], axis=0).max() for hand in (one, other))
    return bool(apart <= SAME_HAND * extent)


def _other_side(hands: dict[int, dict[int, View]]) -> bool:
    """Whether the hands of an image, one or two, should change sides.

    Args:
        hands: by the side that a hand was found as, its upright views, by the side it was taken for.
    """
    leans = {  # to the right side
        side: sum(_logit(view[0].score) - _logit(view[1].score) for view in views.values())
        for side, views in hands.items()
    }
    if len(leans) == 2:
        return leans[0] - leans[1] < -EXCHANGE
    ((side, lean),) = leans.items()
    return side != (0 if lean >= 0 else 1)


def _answer(views: dict[int, View], side: int) -> SeenHand:
    """The hand of a side, from the view meant for that side; its score is the mean of all views of it."""
    hand = views[side][side]
    score = float(np.mean([view[side].score for view in views.values()]))
    return SeenHand(hand.joints_25d, hand.joint_scores, score)


def _both(straight: View, upright: View) -> View:
    """The hands of upright views, with the mean of both views' scores."""
    return {
        side: SeenHand(hand.joints_25d, hand.joint_scores, (hand.score + straight[side].score) / 2)
        if side in straight
        else hand
        for side, hand in upright.items()
    }


def _shown(view: View, image: np.ndarray, threshold: float) -> list[SidedHand]:
    sure = [(side, hand) for side, hand in view.items() if hand.score >= threshold and inside(hand, image)]
    return without_doubles(sure)


def _of_detections(view: View, image: np.ndarray, own: Sequence[Detection], threshold: float) -> View:
    """The hands of a view that belong to its detections: at most as many as those, at least one."""
    fixed = _all_sided(own)
    sides = {SIDES.index(str(one.side)) for one in own} if fixed else {0, 1}
    theirs = sorted(
        (
            (side, hand)
            for side, hand in view.items()
            if side in sides and inside(hand, image) and max(_overlap(one, hand) for one in own) > OWN_IOU
        ),
        key=lambda hand: -hand[1].score,
    )
    kept = theirs[:1] + [
        hand for hand in theirs[1 : len(own)] if fixed or hand[1].score >= FIRST_LOOK * threshold
    ]
    return dict(sorted(without_doubles(kept)))


def _aimed(hand: View, view: View, own: Sequence[Detection], image: np.ndarray) -> View:
    """Where to look upright at a hand of a fixed side: where the network sees it, if as the other side."""
    if len(own) != 1 or not _all_sided(own):
        return hand
    side = SIDES.index(str(own[0].side))
    other = view[1 - side]
    if hand and hand[side].score >= other.score:
        return hand
    if not inside(other, image) or _overlap(own[0], other) <= OWN_IOU:
        return hand
    return {side: SeenHand(other.joints_25d, other.joint_scores, view[side].score)}


def _all_sided(own: Sequence[Detection]) -> bool:
    """Whether every one of some detections says its side."""
    for one in own:
        if one.side is not None and one.side not in SIDES:
            raise ValueError(f"side of a detection: expected 'right', 'left' or None, got {one.side!r}")
    return all(one.side is not None for one in own)


def _overlap(detection: Detection, hand: SeenHand) -> float:
    return box_iou(detection.box_xyxy, box_of_points(hand.joints_25d[:, :2]))


def _covers(region: np.ndarray, box: np.ndarray) -> bool:
    return bool((region[:2] <= box[:2]).all() and (region[2:] >= box[2:]).all())


def _flip(size: int) -> Affine:
    """The map that mirrors a crop."""
    return Affine(np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]]))


def _logit(score: float) -> float:
    score = min(max(score, 1e-6), 1 - 1e-6)
    return math.log(score / (1 - score))
