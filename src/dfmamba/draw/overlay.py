"""Hands drawn over their picture."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dfmamba.draw.canvas import (
    BONE_COLORS,
    CONFIDENT,
    INK,
    SIDE_COLORS,
    WHITE,
    Canvas,
    joint_color,
    mix,
    text_width,
)
from dfmamba.draw.surface import draw_surfaces, surface_in_picture
from dfmamba.hands.skeleton import BONES, NUM_JOINTS
from dfmamba.io.images import as_picture

if TYPE_CHECKING:
    from dfmamba.predict.result import Hand, Prediction


def draw_overlay(image: Image.Image | np.ndarray, prediction: Prediction, scale: float = 1.0) -> Image.Image:
    """Draw bones and joints, coloured by finger, and a label for each hand.

    Joints that score below 0.5 are hollow and their bones thin. Hands with a fit are drawn as surfaces in the
    colour of their side instead, each hiding what is behind it.

    Args:
        image: the picture that was predicted, as it was given: a Pillow image or an array (H, W, 3).
        prediction: its hands.
        scale: size of the result relative to the picture.

    Returns:
        An RGB picture.

    Raises:
        ValueError: if picture and prediction differ in size.
    """
    photo = Image.fromarray(as_picture(image))
    if photo.size != tuple(prediction.image_size):
        raise ValueError(f"image: it has {photo.size} pixels, the prediction {prediction.image_size}")
    width, height = (max(round(side * scale), 1) for side in photo.size)
    if (width, height) != photo.size:
        photo = photo.resize(
            (width, height), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        )
    surfaces = [surface_in_picture(hand, prediction) for hand in prediction.hands if hand.fit is not None]
    photo = draw_surfaces(
        photo, [dataclasses.replace(one, pixels=(one.pixels + 0.5) * scale - 0.5) for one in surfaces]
    )
    canvas = Canvas(photo)
    for hand in prediction.hands:
        if hand.fit is not None:
            continue
        _draw_hand(canvas, hand, (hand.joints_2d_px + 0.5) * scale - 0.5)
    taken: list[tuple[float, float, float, float]] = []
    for hand in prediction.hands:
        _draw_label(canvas, hand, (hand.box_xyxy + 0.5) * scale - 0.5, taken)
    return canvas.finish()


def _stroke(canvas: Canvas, pixels: np.ndarray) -> float:
    """Width of a bone: a share of the hand's size, within what is readable on the picture."""
    side = float(np.ptp(pixels, axis=0).max())
    longest = max(canvas.size)
    return float(np.clip(0.022 * side, 0.0025 * longest, 0.011 * longest))


def _draw_hand(canvas: Canvas, hand: Hand, pixels: np.ndarray) -> None:
    stroke = _stroke(canvas, pixels)
    sure = hand.joint_scores >= CONFIDENT
    widths = [stroke if sure[parent] and sure[child] else 0.45 * stroke for parent, child in BONES]
    radii = [stroke * (1.25 if joint == 0 else 0.95) for joint in range(NUM_JOINTS)]
    edge = 0.35 * stroke
    for (parent, child), width in zip(BONES, widths, strict=True):
        canvas.line(pixels[parent], pixels[child], (*INK, 150), width + 2 * edge)
    for joint, radius in enumerate(radii):
        canvas.disc(pixels[joint], radius + edge, (*INK, 150))
    for (parent, child), width, color in zip(BONES, widths, BONE_COLORS, strict=True):
        canvas.line(pixels[parent], pixels[child], color, width)
    for joint, radius in enumerate(radii):
        canvas.disc(pixels[joint], radius, WHITE if sure[joint] else joint_color(joint))
        inner = mix(joint_color(joint), INK, 0.12) if sure[joint] else WHITE
        canvas.disc(pixels[joint], 0.68 * radius, inner)


def _draw_label(
    canvas: Canvas, hand: Hand, box: np.ndarray, taken: list[tuple[float, float, float, float]]
) -> None:
    width, height = canvas.size
    size = max(round(0.021 * max(width, height)), 9)
    text = f"{hand.side} {hand.score:.2f}"
    pad = 0.45 * size
    wide, high = text_width(text, size) + 2 * pad, 1.5 * size
    color = SIDE_COLORS[hand.side]
    canvas.box(box.tolist(), (*color, 210), width=max(0.09 * size, 1.0), radius=0.4 * size)
    x = float(np.clip(box[0], 0, max(width - wide, 0)))
    y = float(box[1] - high - 0.2 * size)
    if y < 0:  # no room above the box
        x, y = x + 0.3 * size, max(float(box[1]), 0.0) + 0.3 * size
    while any(x < x1 and x + wide > x0 and y < y1 and y + high > y0 for x0, y0, x1, y1 in taken):
        y += high + 0.2 * size
    taken.append((x, y, x + wide, y + high))
    canvas.box((x, y, x + wide, y + high), (*color, 235), radius=0.4 * size)
    canvas.text((x + wide / 2, y + high / 2), text, WHITE, size, anchor="mm")
