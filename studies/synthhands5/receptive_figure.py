"""Effective receptive fields of several models beside each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image
from torch import Tensor

from dfmamba.draw.canvas import BACKGROUND, MUTED, Canvas
from dfmamba.models import HandPoseModel
from studies.synthhands5.drawing import GAP, TEXT, Figure, Panel, strip
from studies.synthhands5.insight import effective_receptive_field
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.training import HEAD

SHARES = (0.5, 0.9)
"""Of the mass of an effective receptive field, whose smallest areas are told."""

_RAMP = ((13, 14, 34), (64, 31, 104), (150, 44, 104), (226, 90, 62), (249, 172, 60), (255, 250, 214))
_SIDE = 288


def smallest_areas(field: Tensor) -> dict[float, float]:
    """For each of `SHARES`: the smallest share of the pixels that holds this share of the field's sum.

    Raises:
        ValueError: the field is zero everywhere, negative or not finite somewhere.
    """
    mass = field.flatten().double().sort(descending=True).values
    total = float(mass.sum())
    if not (0 < total < float("inf")) or float(mass[-1]) < 0:
        raise ValueError("a receptive field must be finite, not negative and somewhere positive")
    held = mass.cumsum(0) / total
    # A pixel's worth of rounding must not count as missing mass.
    return {share: (int((held < share - 1e-12).sum()) + 1) / len(mass) for share in SHARES}


def ramp(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as colours (..., 3) uint8, from dark to light."""
    places = np.linspace(0.0, 1.0, len(_RAMP))
    return (
        np.stack([np.interp(values, places, [color[c] for color in _RAMP]) for c in range(3)], axis=-1)
        .round()
        .astype(np.uint8)
    )


def receptive_fields(
    models: Mapping[str, HandPoseModel],
    pictures: Pictures,
    stride: int = 16,
    count: int = 48,
    columns: int = 5,
) -> tuple[Figure, dict[str, dict[str, float]]]:
    """Effective receptive fields side by side; see `effective_receptive_field`.

    Args:
        models: by title.
        pictures: to take gradients of.
        stride: of the map.
        count: at most how many pictures.
        columns: panels in a row.

    Returns:
        The figure, and for each title `area_50`, `area_90`: smallest share of the pixels that holds 50 and
        90 % of the field.

    Raises:
        ValueError: no models, or as `effective_receptive_field`.
    """
    if not models:
        raise ValueError("no models to draw receptive fields of; pass at least one")
    columns = min(columns, len(models))
    zoom = max(_SIDE // HEAD.image_size, 1)
    side = HEAD.image_size * zoom
    cell = (side + GAP, side + round(4.2 * TEXT) + GAP)
    rows = -(-len(models) // columns)
    foot = round(3.6 * TEXT)
    sheet = Image.new("RGB", (max(columns * cell[0] + GAP, 520), rows * cell[1] + foot + GAP), BACKGROUND)
    figures: dict[str, dict[str, float]] = {}
    for i, (title, model) in enumerate(models.items()):
        field = effective_receptive_field(model, pictures, stride, count)
        areas = smallest_areas(field)
        figures[title] = {f"area_{round(100 * share)}": areas[share] for share in SHARES}
        left, top = GAP + i % columns * cell[0], GAP + i // columns * cell[1]
        sheet.paste(strip(side, (title,)), (left, top))
        shown = ramp((field / field.max()).sqrt().numpy())
        sheet.paste(Panel(float(zoom)).canvas(shown, smooth=False).finish(), (left, top + round(1.4 * TEXT)))
        told = [f"{100 * share:g} % in {100 * areas[share]:.1f} % of the pixels" for share in SHARES]
        sheet.paste(strip(side, told, TEXT - 1, MUTED), (left, top + side + round(1.4 * TEXT)))
    sheet.paste(_scale(sheet.width, foot), (0, sheet.height - foot))
    shown_count = min(count, len(pictures))
    caption = (
        f"Effective receptive field of the central cell of the map of stride {stride}: absolute gradient "
        f"with respect to the {HEAD.image_size}-pixel crop, summed over colours, mean of {shown_count} "
        "test crops (evenly spaced); the cell's channels are added with random signs. Colours show the "
        "square root of the gradient relative to each model's own maximum, so panels compare in extent, not "
        "in strength. Below each: the smallest share of the crop's pixels that holds 50 and 90 % of the "
        "gradient. One trained model each."
    )
    return Figure(sheet, caption), figures


def _scale(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), BACKGROUND)
    long = min(width - 2 * GAP, 360)
    left = (width - long) // 2
    bar = ramp(np.sqrt(np.tile(np.linspace(0.0, 1.0, long), (12, 1))))
    image.paste(Image.fromarray(bar), (left, 2))
    canvas = Canvas(image)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        canvas.text((left + share * (long - 1), 18), f"{share:g}", MUTED, TEXT - 2, anchor="ma")
    title = "gradient relative to the panel's maximum (colour: power 0.5)"
    canvas.text((width / 2, height - 2), title, MUTED, TEXT - 2, anchor="mb")
    return canvas.finish()
