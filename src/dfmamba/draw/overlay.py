"""Hands drawn over their picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
    hands = [
        (hand, (hand.joints_2d_px + 0.5) * scale - 0.5, (hand.box_xyxy + 0.5) * scale - 0.5)
        for hand in prediction.hands
    ]
    if not hands:
        return photo
    labels = _place_labels([(hand, box) for hand, _, box in hands], (width, height))
    margin = 2 * max(_stroke(pixels, (width, height)) for _, pixels, _ in hands)
    corners = [[pixels.min(axis=0), pixels.max(axis=0), box[:2], box[2:]] for _, pixels, box in hands]
    points = np.concatenate([*corners, np.reshape(labels, (-1, 2))])
    canvas = Canvas(photo, [*(points.min(axis=0) - margin), *(points.max(axis=0) + margin)])
    for hand, pixels, _ in hands:
        if hand.fit is None:
            _draw_hand(canvas, hand, pixels)
    for (hand, _, box), label in zip(hands, labels, strict=True):
        _draw_label(canvas, hand, box, label)
    return canvas.finish()


def _stroke(pixels: np.ndarray, size: tuple[int, int]) -> float:
    """Width of a bone: a share of the hand's size, within what is readable on the picture."""
    side = float(np.ptp(pixels, axis=0).max())
    longest = max(size)
    return min(max(0.022 * side, 0.0025 * longest), 0.011 * longest)


def _draw_hand(canvas: Canvas, hand: Hand, pixels: np.ndarray) -> None:
    stroke = _stroke(pixels, canvas.size)
    points = pixels.tolist()
    sure = hand.joint_scores >= CONFIDENT
    widths = [stroke if sure[parent] and sure[child] else 0.45 * stroke for parent, child in BONES]
    radii = [stroke * (1.25 if joint == 0 else 0.95) for joint in range(NUM_JOINTS)]
    edge = 0.35 * stroke
    for (parent, child), width in zip(BONES, widths, strict=True):
        canvas.line(points[parent], points[child], (*INK, 150), width + 2 * edge)
    for joint, radius in enumerate(radii):
        canvas.disc(points[joint], radius + edge, (*INK, 150))
    for (parent, child), width, color in zip(BONES, widths, BONE_COLORS, strict=True):
        canvas.line(points[parent], points[child], color, width)
    for joint, radius in enumerate(radii):
        canvas.disc(points[joint], radius, WHITE if sure[joint] else joint_color(joint))
        inner = mix(joint_color(joint), INK, 0.12) if sure[joint] else WHITE
        canvas.disc(points[joint], 0.68 * radius, inner)


def _letters(size: tuple[int, int]) -> int:
    """Size of letters on an image of this width and height."""
    return max(round(0.021 * max(size)), 9)


def _text(hand: Hand) -> str:
    return f"{hand.side} {hand.score:.2f}"


def _place_labels(
    hands: Sequence[tuple[Hand, np.ndarray]], size: tuple[int, int]
) -> list[tuple[float, float, float, float]]:
    """A plate x0, y0, x1, y1 for each hand's label, at its box and off the others."""
    letters = _letters(size)
    plates: list[tuple[float, float, float, float]] = []
    for hand, box in hands:
        wide, high = text_width(_text(hand), letters) + 0.9 * letters, 1.5 * letters
        x = min(max(float(box[0]), 0.0), max(size[0] - wide, 0.0))
        y = float(box[1]) - high - 0.2 * letters
        if y < 0:  # no room above the box
            x, y = x + 0.3 * letters, max(float(box[1]), 0.0) + 0.3 * letters
        while any(x < x1 and x + wide > x0 and y < y1 and y + high > y0 for x0, y0, x1, y1 in plates):
            y += high + 0.2 * letters
        plates.append((x, y, x + wide, y + high))
    return plates


def _draw_label(
    canvas: Canvas, hand: Hand, box: np.ndarray, plate: tuple[float, float, float, float]
) -> None:
    size, color = _letters(canvas.size), SIDE_COLORS[hand.side]
    canvas.box(box.tolist(), (*color, 210), width=max(0.09 * size, 1.0), radius=0.4 * size)
    canvas.box(plate, (*color, 235), radius=0.4 * size)
    x0, y0, x1, y1 = plate
    canvas.text(((x0 + x1) / 2, (y0 + y1) / 2), _text(hand), WHITE, size, anchor="mm")
