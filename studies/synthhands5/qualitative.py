"""Predictions of two models beside each other on pictures chosen by a rule (DF-Mamba's Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from dfmamba.draw.canvas import BACKGROUND, INK, Canvas, text_width
from dfmamba.draw.view3d import VIEWS, View
from dfmamba.hands.skeleton import FINGER_COLORS_RGB, FINGER_NAMES
from dfmamba.metrics.pose import joint_errors, root_aligned
from dfmamba.models import HandPoseModel
from studies.synthhands5.drawing import GAP, TEXT, Figure, ring, strip
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.qualitative_panels import TRUTH, WORST, Space, largest_error, overlay
from studies.synthhands5.training import predict

PERCENTILES = (10, 50, 90)
"""Of the error of a picture, mean of both models, at which pictures are shown."""

_SIDE = 250
_VIEW_WIDTH = 204


@dataclass(frozen=True)
class Choice:
    """A picture of the sheet.

    Attributes:
        picture: index.
        reason: why it is shown.
    """

    picture: int
    reason: str


def joint_errors_mm(joints_mm: Tensor, pictures: Pictures) -> Tensor:
    """(n, 2, 21) error of each joint of predictions (n, 2, 21, 3) in mm, camera frame, with wrists aligned.

    NaN where none counts: wrists, absent hands, unlabelled joints.
    """
    truth = pictures.joints_mm.double()
    errors = joint_errors(root_aligned(joints_mm.double(), truth), truth)
    counted = pictures.valid.clone()
    counted[:, :, 0] = False
    return errors.masked_fill(~counted, float("nan"))


def choose_pictures(first_mm: np.ndarray, second_mm: np.ndarray, names: tuple[str, str]) -> list[Choice]:
    """Which pictures are shown: those at `PERCENTILES` of the error, and the largest difference each way.

    Args:
        first_mm: (n,) error of each picture under one model; NaN where it has none.
        second_mm: (n,) under the other.
        names: of the models.

    Raises:
        ValueError: no picture has an error.
    """
    usable = np.flatnonzero(np.isfinite(first_mm) & np.isfinite(second_mm))
    if len(usable) == 0:
        raise ValueError("no picture has labelled joints to choose by")
    mean, difference = (first_mm + second_mm)[usable] / 2, (first_mm - second_mm)[usable]
    order = usable[np.argsort(mean, kind="stable")]
    chosen = [
        Choice(int(order[round(percent / 100 * (len(order) - 1))]), f"percentile {percent} of the mean error")
        for percent in PERCENTILES
    ]
    for name, worst in zip(names, (difference.argmin(), difference.argmax()), strict=True):
        chosen.append(Choice(int(usable[worst]), f"largest difference in favour of {name}"))
    return chosen


def qualitative_sheet(
    models: Mapping[str, HandPoseModel], pictures: Pictures, choices: Sequence[Choice] | None = None
) -> Figure:
    """Joints over the picture and rotated views in space, for two models on chosen pictures.

    Args:
        models: two, by title.
        pictures: to predict.
        choices: pictures to show; None for `choose_pictures`.

    Returns:
        The figure, about 1360 pixels wide.

    Raises:
        ValueError: not two models, or nothing to show.
    """
    if len(models) != 2:
        raise ValueError(f"expected two models to compare, got {len(models)} ({', '.join(models)})")
    first, second = models
    found = {title: predict(model.eval(), pictures) for title, model in models.items()}
    errors = {title: joint_errors_mm(joints, pictures) for title, joints in found.items()}
    of_picture = {title: e.flatten(1).nanmean(1).numpy() for title, e in errors.items()}
    ruled = choices is None
    if choices is None:
        choices = choose_pictures(of_picture[first], of_picture[second], (first, second))
    if not choices:
        raise ValueError("no picture to show; pass at least one choice")

    block = _SIDE + 2 * (_VIEW_WIDTH + GAP // 2)
    head, title_height = round(1.6 * TEXT), round(1.4 * TEXT)
    row_height = head + title_height + _SIDE + 2 * GAP
    width = 2 * block + 4 * GAP
    foot = 2 * TEXT + GAP
    sheet = Image.new("RGB", (width, GAP + len(choices) * row_height + foot), BACKGROUND)
    for row, choice in enumerate(choices):
        top = GAP + row * row_height
        i = choice.picture
        if not np.isfinite(of_picture[first][i]):
            raise ValueError(f"picture {i} has no labelled joints besides wrists; choose another")
        sheet.paste(_row_title(width, head, choice), (0, top))
        aligned = {
            title: root_aligned(found[title][i].double(), pictures.joints_mm[i].double()).numpy()
            for title in models
        }
        space = Space.around(pictures.joints_mm[i].numpy(), aligned.values(), pictures.valid[i].numpy())
        for column, title in enumerate(models):
            left = GAP + column * (block + 2 * GAP)
            worst = largest_error(errors[title][i])
            mean = float(of_picture[title][i])
            told = f"{title}: mean {mean:.1f} mm, largest {worst.text}"
            sheet.paste(strip(block, (told,)), (left, top + head))
            below = top + head + title_height
            sheet.paste(overlay(pictures, i, found[title][i], worst, _SIDE), (left, below))
            for k, (hand, view) in enumerate(_views(pictures.valid[i])):
                drawn = space.draw(hand, view, aligned[title][hand], worst, (_VIEW_WIDTH, _SIDE))
                sheet.paste(drawn, (left + _SIDE + GAP // 2 + k * (_VIEW_WIDTH + GAP // 2), below))
    sheet.paste(_legend(width, foot), (0, sheet.height - foot))
    rule = (
        f"Pictures are chosen by rule: those at the percentiles {', '.join(map(str, PERCENTILES))} of the "
        f"mean error of both models on {len(pictures)} pictures, then, as labelled, the largest difference "
        "each way. "
    )
    caption = (
        "Prediction by finger, ground truth in black. Left of each block: joints projected with the known "
        "camera onto the whole picture. Right: each hand turned in space, with the wrists aligned as the "
        "error is measured; a row has one scale. Circled: the joint with the largest error, with a line to "
        "its true place, and the size of the error. One trained model each."
    )
    return Figure(sheet, (rule if ruled else "") + caption)


def _views(valid: Tensor) -> list[tuple[int, View]]:
    """Hand and view of both panels: each hand from the right, or one hand also from above."""
    present = valid.any(-1).nonzero().flatten().tolist()
    return (
        [(hand, VIEWS[1]) for hand in present] if len(present) > 1 else [(present[0], v) for v in VIEWS[1:]]
    )


def _row_title(width: int, height: int, choice: Choice) -> Image.Image:
    canvas = Canvas(Image.new("RGB", (width, height), BACKGROUND))
    canvas.line((GAP, 1), (width - GAP, 1), (214, 215, 219), 1.0)
    text = f"{choice.reason} (picture {choice.picture})"
    canvas.text((GAP, height / 2 + 2), text[0].upper() + text[1:], INK, TEXT + 1, anchor="lm")
    return canvas.finish()


def _legend(width: int, height: int) -> Image.Image:
    canvas = Canvas(Image.new("RGB", (width, height), BACKGROUND))
    x, y = float(GAP), height / 2
    entries = [(name, FINGER_COLORS_RGB[name], 5.0) for name in FINGER_NAMES]
    for text, color, thick in [*entries, ("ground truth", TRUTH, 1.4)]:
        canvas.line((x, y), (x + 16, y), color, thick)
        canvas.text((x + 24, y), text, INK, TEXT, anchor="lm")
        x += 24 + text_width(text, TEXT) + 20
    ring(canvas, (x + 6, y), 6.0, WORST, 1.8)
    canvas.text((x + 18, y), "largest joint error (wrists aligned)", INK, TEXT, anchor="lm")
    return canvas.finish()
