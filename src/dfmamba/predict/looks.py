"""Looks of a network at pictures: each is a crop, and the next one is aimed by what the last one showed.

The first look sees the picture, or the box that was given. Hands found there are looked at closely, then
upright (`dfmamba.hands.upright`), as a right hand and as a left one, which also decides the side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from dfmamba.hands.affine import Affine, box_iou, box_of_points, crop_affine, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.hands.upright import CLOSE_FACTOR, UPRIGHT_FACTOR, upright_affines
from dfmamba.predict.lift import hand_box, joints_to_picture

UNION_IOU = 0.3
"""Hands whose boxes overlap more than this are looked at together when the look is not upright."""

SAME_HAND = 0.3
"""Two hands whose joints lie closer together than this share of the larger one's box are one.

Of 3,500 rendered pairs of hands 1.6 % are closer; a single hand that is found twice mostly is."""

COMPARABLE = 0.8
"""A look replaces an earlier one where its score reaches this share of the earlier one's."""

NEAR_ENOUGH = 1.2
"""A hand isn't looked at closer where the side of that look would be more than the first one's over this."""

SURE_SIDE = 5.0
"""A hand whose first looks leave the other side behind by more than this logit keeps its side.

Among 260 single hands, rendered and photographed, 48 % were that sure, and all of those right."""

UPRIGHT_FACTORS = (0.88 * UPRIGHT_FACTOR, 1.04 * UPRIGHT_FACTOR, 1.2 * UPRIGHT_FACTOR)
"""Sizes of the upright crops of a hand (see `upright_maps`), whose answers are averaged."""

MIDDLE = 1
"""The one of `UPRIGHT_FACTORS` that stands for all."""

OFF_AIM = 0.1
"""A hand is looked at upright once more where its joints lie further than this share of their box, on
average, from those that the look was aimed by: then it wasn't upright, or not in the middle.

Of 500 hands, rendered and photographed, a quarter were found so far off."""


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

Cut: TypeAlias = tuple[np.ndarray, Affine]
"""A crop (S, S, 3) uint8 and the map that it was cut by, from the pixels of the picture."""


class Looker:
    """Runs a network on crops of pictures.

    Args:
        model: crops (B, 3, S, S) in [0, 1] to a `HandPoseOutput`.
        image_size: S.
        batch_size: crops per forward pass.
        name: of the model, for errors.
    """

    def __init__(self, model: nn.Module, image_size: int, batch_size: int = 16, name: str = "") -> None:
        self.model, self.image_size, self.batch_size, self.name = model, image_size, batch_size, name

    def look(self, pictures: Sequence[np.ndarray], affines: Sequence[Affine]) -> list[Look]:
        """One look at each picture (H, W, 3) uint8 through the map from its pixels to those of the crop.

        Raises:
            ValueError: if the network's output is not finite.
        """
        crops = [
            warp_image(picture, affine, self.image_size)
            for picture, affine in zip(pictures, affines, strict=True)
        ]
        return self.look_at_crops(crops, affines)

    def look_at_crops(self, crops: Sequence[np.ndarray], affines: Sequence[Affine]) -> list[Look]:
        """One look at each crop (S, S, 3) uint8, cut by its map from the pixels of the picture.

        Raises:
            ValueError: if the network's output is not finite.
        """
        looks: list[Look] = []
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        for start in range(0, len(crops), self.batch_size):
            part = affines[start : start + self.batch_size]
            # Not by PyTorch's operators: its threads would wait busily beside those of onnxruntime.
            x = np.stack(crops[start : start + self.batch_size]).astype(np.float32)
            x /= 255.0
            with torch.inference_mode():
                output = self.model(torch.from_numpy(x).to(device).permute(0, 3, 1, 2))
            joints, joint_scores, scores = (
                values.float().cpu().numpy().astype(np.float64)
                for values in (
                    output.joints_25d,
                    output.joint_logits.sigmoid(),
                    output.present_logits.sigmoid(),
                )
            )
            if not all(np.isfinite(values).all() for values in (joints, joint_scores, scores)):
                raise ValueError(f"model {self.name}: the output is not finite; are the weights damaged?")
            for i, affine in enumerate(part):
                moved = joints_to_picture(joints[i], affine)
                looks.append(
                    {
                        1 - slot if affine.mirrored else slot: Found(
                            moved[slot], joint_scores[i, slot], float(scores[i, slot])
                        )
                        for slot in range(2)
                    }
                )
        return looks

    def look_at_boxes(self, pictures: Sequence[np.ndarray], squares: Sequence[np.ndarray]) -> list[Look]:
        """One look at a square region x0, y0, x1, y1 of each picture."""
        return self.look(pictures, [crop_affine(square, self.image_size) for square in squares])

    def look_closer(
        self,
        pictures: Sequence[np.ndarray],
        looks: Sequence[Look],
        squares: Sequence[np.ndarray],
        threshold: float,
    ) -> list[Look]:
        """Look again, straight, around each hand above the threshold; at both together where they overlap.

        A look that saw hardly more than the closer one would (`NEAR_ENOUGH`) stays.

        Args:
            pictures, looks: (H, W, 3) uint8 and what was seen there.
            squares: regions x0, y0, x1, y1 that those looks saw.
            threshold: of the score.
        """
        asked: list[tuple[int, tuple[int, ...]]] = []
        closer = []
        for index, (picture, look, seen) in enumerate(zip(pictures, looks, squares, strict=True)):
            boxes = {
                side: box_of_points(found.joints_25d[:, :2])
                for side, found in look.items()
                if found.score >= threshold and inside(found, picture)
            }
            for sides in _groups(boxes):
                together = np.stack([boxes[side] for side in sides])
                union = np.concatenate([together[:, :2].min(axis=0), together[:, 2:].max(axis=0)])
                square = square_box(union, CLOSE_FACTOR)
                if NEAR_ENOUGH * (square[2] - square[0]) < seen[2] - seen[0]:
                    asked.append((index, sides))
                    closer.append(square)
        best = [dict(look) for look in looks]
        answers = self.look_at_boxes([pictures[index] for index, _ in asked], closer)
        for (index, sides), look in zip(asked, answers, strict=True):
            for side in sides:
                best[index][side] = newer(best[index][side], look[side])
        return best

    def look_upright(
        self, pictures: Sequence[np.ndarray], looks: Sequence[Look], sure: Sequence[bool]
    ) -> list[Look]:
        """Look upright at every hand given, at several sizes (`UPRIGHT_FACTORS`).

        A hand that is found elsewhere than the look was aimed (`OFF_AIM`) is looked at once more.

        A hand that is alone may change its side unless that is `sure`: it is also looked at as the other
        hand, at one size and, where that makes the other side likelier, at every size; then the side that
        both find likelier is kept.
        """
        best = self._look_upright_once(pictures, looks, sure)
        moved = [
            {
                side: found
                for side, found in after.items()
                if off_aim(before[side] if side in before else next(iter(before.values())), found)
            }
            for before, after in zip(looks, best, strict=True)
        ]
        again = self._look_upright_once(pictures, moved, [True] * len(moved))
        return [look | better for look, better in zip(best, again, strict=True)]

    def _look_upright_once(
        self, pictures: Sequence[np.ndarray], looks: Sequence[Look], sure: Sequence[bool]
    ) -> list[Look]:
        cuts = {
            (index, side): self._cut_upright(pictures[index], found, side)
            for index, look in enumerate(looks)
            for side, found in look.items()
        }
        doubtful = {index for index, look in enumerate(looks) if len(look) == 1 and not sure[index]}
        others = {
            (index, 1 - side): [_mirrored(cut) for cut in own]
            for (index, side), own in cuts.items()
            if index in doubtful
        }
        seen = self._look_at_cuts(cuts | {key: [cut[MIDDLE]] for key, cut in others.items()})
        views = {key: averaged(each) for key, each in seen.items()}
        turned = [key for key in others if key[1] in better_side(views[key[0], 0], views[key[0], 1])]
        again = self._look_at_cuts(
            {key: [cut for i, cut in enumerate(others[key]) if i != MIDDLE] for key in turned}
        )
        views |= {key: averaged([*seen[key], *each]) for key, each in again.items()}

        best: list[Look] = []
        for index, look in enumerate(looks):
            if index in doubtful:
                (before,) = look.values()
                after = better_side(views[index, 0], views[index, 1])
                (found,) = after.values()
                best.append(dict(look) if newer(before, found) is before else after)
            else:
                best.append({side: newer(found, views[index, side][side]) for side, found in look.items()})
        return best

    def _cut_upright(self, picture: np.ndarray, found: Found, side: int) -> list[Cut]:
        aims = upright_affines(found.joints_25d[:, :2], side == 1, self.image_size, UPRIGHT_FACTORS)
        return [(warp_image(picture, aim, self.image_size), aim) for aim in aims]

    def _look_at_cuts(
        self, cuts: Mapping[tuple[int, int], Sequence[Cut]]
    ) -> dict[tuple[int, int], list[Look]]:
        every = [cut for each in cuts.values() for cut in each]
        looks = iter(self.look_at_crops([crop for crop, _ in every], [aim for _, aim in every]))
        return {key: list(islice(looks, len(each))) for key, each in cuts.items()}


def sure_of_side(look: Look) -> bool:
    """Whether a look at one hand, with both sides' answers, leaves no doubt of its side."""
    return abs(_logit(look[0].score) - _logit(look[1].score)) > SURE_SIDE


def _mirrored(cut: Cut) -> Cut:
    """The crop of the same hand, taken for one of the other side."""
    crop, aim = cut
    flip = Affine(np.array([[-1.0, 0.0, len(crop) - 1.0], [0.0, 1.0, 0.0]]))
    return crop[:, ::-1], flip.compose(aim)


def newer(before: Found, after: Found) -> Found:
    """The later of two looks at a hand, unless it is much less sure of it."""
    return after if after.score >= COMPARABLE * before.score else before


def off_aim(aim: Found, found: Found) -> bool:
    """Whether a hand lies elsewhere than the joints that its upright crop was aimed by."""
    return _apart(aim, found) > OFF_AIM * _extent(found)


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


def _logit(score: float) -> float:
    score = min(max(score, 1e-6), 1 - 1e-6)
    return float(np.log(score / (1 - score)))


def better_side(as_right: Look, as_left: Look) -> Look:
    """The likelier side by upright looks at one hand, with the joints of the look meant for that side."""
    margin = sum(_logit(look[0].score) - _logit(look[1].score) for look in (as_right, as_left))
    side = 0 if margin >= 0 else 1
    found = (as_right, as_left)[side][side]
    score = (as_right[side].score + as_left[side].score) / 2
    return {side: Found(found.joints_25d, found.joint_scores, score)}


def inside(found: Found, picture: np.ndarray) -> bool:
    """Whether a hand has an extent and some of it is in the picture."""
    size = (picture.shape[1], picture.shape[0])
    x0, y0, x1, y1 = hand_box(found.joints_25d[:, :2], size)
    return bool(x1 > x0 and y1 > y0)


def _groups(boxes: dict[int, np.ndarray]) -> list[tuple[int, ...]]:
    """Which hands share a crop."""
    sides = tuple(boxes)
    if len(sides) == 2 and box_iou(boxes[sides[0]], boxes[sides[1]]) > UNION_IOU:
        return [sides]
    return [(side,) for side in sides]


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
    return _apart(one, other) <= SAME_HAND * max(_extent(one), _extent(other))


def _apart(one: Found, other: Found) -> float:
    """Mean distance of the joints of two hands in pixels."""
    return float(np.linalg.norm(one.joints_25d[:, :2] - other.joints_25d[:, :2], axis=1).mean())


def _extent(hand: Found) -> float:
    """Longer side of the box of a hand's joints in pixels."""
    return float(np.ptp(hand.joints_25d[:, :2], axis=0).max())
