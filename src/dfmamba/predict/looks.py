"""Looks of a network at pictures: each is a crop, and the next one is aimed by what the last one showed.

The first look sees the picture, or the box that was given. Hands found there are looked at closely, then
upright (`dfmamba.hands.upright`), as a right hand and as a left one, which also decides the side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from dfmamba.hands.affine import Affine, box_iou, box_of_points, crop_affine, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.hands.upright import CLOSE_FACTOR, UPRIGHT_FACTOR, upright_affines
from dfmamba.predict.found import Found, Look, apart, averaged, extent, inside, newer
from dfmamba.predict.lift import joints_to_picture
from dfmamba.predict.sides import Taken, answer, should_change

UNION_IOU = 0.3
"""Hands whose boxes overlap more than this are looked at together when the look is not upright."""

NEAR_ENOUGH = 1.2
"""A hand isn't looked at closer where the side of that look would be more than the first one's over this."""

UPRIGHT_FACTORS = (0.88 * UPRIGHT_FACTOR, 1.04 * UPRIGHT_FACTOR, 1.2 * UPRIGHT_FACTOR)
"""Sizes of the upright crops of a hand (see `upright_maps`), whose answers are averaged."""

MIDDLE = 1
"""The one of `UPRIGHT_FACTORS` that stands for all."""

OFF_AIM = 0.1
"""A hand is looked at upright once more where its joints lie further than this share of their box, on
average, from those that the look was aimed by: then it wasn't upright, or not in the middle.

Of 500 hands, rendered and photographed, a quarter were found so far off."""


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

        Sides may change unless they are `sure`: each hand is also looked at as one of the other side, at one
        size and, where it changes, at every size. A hand that is alone takes the side that both looks find
        likelier; two hands exchange sides where they clearly (`EXCHANGE`) should.
        """
        best = self._look_upright_once(pictures, looks, sure)
        moved = [
            {side: found for side, found in after.items() if off_aim(before, found)}
            for before, after in zip(looks, best, strict=True)
        ]
        again = self._look_upright_once(pictures, moved, [True] * len(moved))
        return [look | better for look, better in zip(best, again, strict=True)]

    def _look_upright_once(
        self, pictures: Sequence[np.ndarray], looks: Sequence[Look], sure: Sequence[bool]
    ) -> list[Look]:
        own = {
            (index, side, side): self._cut_upright(pictures[index], found, side)
            for index, look in enumerate(looks)
            for side, found in look.items()
        }
        others = {
            (index, side, 1 - side): [_mirrored(cut) for cut in cuts]
            for (index, side, _), cuts in own.items()
            if not sure[index]
        }
        seen = self._look_at_cuts(own | {key: [cuts[MIDDLE]] for key, cuts in others.items()})
        views = {key: averaged(each) for key, each in seen.items()}
        doubtful = [index for index, look in enumerate(looks) if look and not sure[index]]
        changed = {index for index in doubtful if should_change(views, index, looks[index])}
        again = self._look_at_cuts(
            {
                key: [cut for i, cut in enumerate(cuts) if i != MIDDLE]
                for key, cuts in others.items()
                if key[0] in changed
            }
        )
        views |= {key: averaged([*seen[key], *each]) for key, each in again.items()}
        best = [
            {side: newer(found, answer(views, index, side, side)) for side, found in look.items()}
            for index, look in enumerate(looks)
        ]
        for index in changed:
            look = looks[index]
            if should_change(views, index, look):
                after = {1 - side: answer(views, index, side, 1 - side) for side in look}
                if all(newer(found, after[1 - side]) is not found for side, found in look.items()):
                    best[index] = after
        return best

    def _cut_upright(self, picture: np.ndarray, found: Found, side: int) -> list[Cut]:
        aims = upright_affines(found.joints_25d[:, :2], side == 1, self.image_size, UPRIGHT_FACTORS)
        return [(warp_image(picture, aim, self.image_size), aim) for aim in aims]

    def _look_at_cuts(self, cuts: Mapping[Taken, Sequence[Cut]]) -> dict[Taken, list[Look]]:
        every = [cut for each in cuts.values() for cut in each]
        looks = iter(self.look_at_crops([crop for crop, _ in every], [aim for _, aim in every]))
        return {key: list(islice(looks, len(each))) for key, each in cuts.items()}


def _mirrored(cut: Cut) -> Cut:
    """The crop of the same hand, taken for one of the other side."""
    crop, aim = cut
    flip = Affine(np.array([[-1.0, 0.0, len(crop) - 1.0], [0.0, 1.0, 0.0]]))
    return crop[:, ::-1], flip.compose(aim)


def _groups(boxes: dict[int, np.ndarray]) -> list[tuple[int, ...]]:
    """Which hands share a crop."""
    sides = tuple(boxes)
    if len(sides) == 2 and box_iou(boxes[sides[0]], boxes[sides[1]]) > UNION_IOU:
        return [sides]
    return [(side,) for side in sides]


def off_aim(aims: Look, found: Found) -> bool:
    """Whether a hand lies elsewhere than the joints that its upright crop was aimed by."""
    return min(apart(aim, found) for aim in aims.values()) > OFF_AIM * extent(found)
