"""Contact sheets: many labelled samples at a glance, to see whether the labels of a data set are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dfmamba.data.sample import HandSample, encode_depth
from dfmamba.draw.canvas import BACKGROUND, INK, MUTED, SIDE_COLORS, WHITE, Canvas, Color, mix, text_width
from dfmamba.hands.affine import box_of_points, crop_affine, picture_square, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.hands.skeleton import BONES, FINGER_COLORS_RGB, FINGER_NAMES, HAND_NAMES, joint_order

CONTEXT = 1.2
"""Side of the square that a cell shows, in longer sides of the box around the labelled box and all joints."""

BOX_COLOR: Color = (255, 225, 90)

_GAP = 8
_CAPTION = 20
_HEADER = 34
_FOOTER = 36
_TEXT = 14
_SMALL = 11


@dataclass(frozen=True)
class Drawing:
    """How the joints of an order are drawn.

    Attributes:
        fingers: of each joint, "wrist" for those of the palm.
        bones: pairs of joints; each has the colour of the second.
        root: the joint where the hand's side is written.
    """

    fingers: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    root: int


_NYU_FINGERS = {"F1": "little", "F2": "ring", "F3": "middle", "F4": "index", "TH": "thumb", "PALM": "wrist"}
_NYU_BONES = (
    *((13, 1), (1, 0), (13, 3), (3, 2), (13, 5), (5, 4), (13, 7), (7, 6)),
    *((13, 10), (10, 9), (9, 8), (13, 11), (13, 12)),
)


def drawing_of(order: str) -> Drawing:
    """Fingers and bones of a joint order.

    Args:
        order: one whose single hand has all of the 21 joints, or "nyu14".

    Raises:
        ValueError: another order.
    """
    known = joint_order(order)
    if order == "nyu14":
        fingers = tuple(_NYU_FINGERS[label.split("_")[0]] for label in known.labels)
        return Drawing(fingers, _NYU_BONES, 12)
    joints = [str(joint) for joint in joint_order("openpose").joints]
    if sorted(str(joint) for joint in known.joints) != sorted(joints):
        raise ValueError(f"joint order {order!r} can't be drawn; expected 21 joints of a hand, or nyu14")
    place = [known.joints.index(joint) for joint in joints]
    bones = tuple((place[parent], place[child]) for parent, child in BONES)
    return Drawing(tuple(str(joint).split("_")[0] for joint in known.joints), bones, place[0])


def draw_contact(
    samples: Sequence[HandSample], title: str = "", columns: int = 5, cell: int = 220
) -> Image.Image:
    """A grid of samples, each cut around its labels, with joints coloured by finger.

    A joint that is labelled but not visible is hollow. R and L stand at the wrists; the labelled box is
    yellow; the sample's name is below. Depth maps are grey: near is bright.

    Args:
        samples: with picture or depth map.
        title: a line above the grid.
        columns: cells a row.
        cell: side of a cell in pixels.

    Returns:
        An RGB picture, the same for the same input.

    Raises:
        ValueError: there is no sample, or one can't be drawn.
    """
    if not samples or columns < 1:
        raise ValueError(f"{len(samples)} samples in {columns} columns; expected at least one of each")
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    width = max(_GAP + columns * (cell + _GAP), 680)
    height = _HEADER + rows * (cell + _CAPTION + _GAP) + _FOOTER
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    for i, sample in enumerate(samples):
        row, column = divmod(i, columns)
        left, top = _GAP + column * (cell + _GAP), _HEADER + row * (cell + _CAPTION + _GAP)
        sheet.paste(draw_labels(sample, cell), (left, top))
        caption = Canvas(Image.new("RGB", (cell, _CAPTION), BACKGROUND))
        text = _shortened(sample.id, cell - 16)
        caption.text((cell / 2, _CAPTION / 2), text, MUTED, _SMALL, anchor="mm")
        sheet.paste(caption.finish(), (left, top + cell))
    header = Canvas(Image.new("RGB", (width, _HEADER), BACKGROUND))
    header.text((_GAP, _HEADER / 2), _shortened(title, width - 2 * _GAP, _TEXT + 1), INK, _TEXT + 1, "lm")
    sheet.paste(header.finish(), (0, 0))
    footer = Canvas(Image.new("RGB", (width, _FOOTER), BACKGROUND))
    _draw_legend(footer)
    sheet.paste(footer.finish(), (0, height - _FOOTER))
    return sheet


def draw_labels(sample: HandSample, size: int = 220) -> Image.Image:
    """One sample, cut around its labels, with what is labelled drawn on it.

    Args:
        sample: with picture or depth map.
        size: side of the result in pixels.

    Raises:
        ValueError: the sample has neither, or its joint order can't be drawn.
    """
    drawing = drawing_of(sample.order)
    affine = crop_affine(_view(sample), size)
    canvas = Canvas(Image.fromarray(warp_image(_picture(sample), affine, size, fill=40)))
    corners = affine.apply(sample.box_xyxy.astype(np.float64).reshape(2, 2))
    if (corners[1] > corners[0]).all():
        canvas.box(np.clip(corners, -2, size + 1).ravel().tolist(), (*BOX_COLOR, 240), width=1.7)
    for hand, side in enumerate(HAND_NAMES):
        if sample.valid[hand].any():
            pixels = affine.apply(sample.joints_2d_px[hand].astype(np.float64))
            _draw_hand(canvas, drawing, pixels, sample.valid[hand], sample.visible[hand])
            _draw_side(canvas, drawing, pixels, sample.valid[hand], side)
    return canvas.finish()


def _view(sample: HandSample) -> np.ndarray:
    """The square that is shown, in pixels of the sample."""
    boxes = [sample.box_xyxy, box_of_points(sample.joints_2d_px, sample.valid)]
    points = [box.reshape(2, 2) for box in boxes if (box[2:] > box[:2]).all()]
    if points:
        return square_box(box_of_points(np.concatenate(points)), CONTEXT)
    assert sample.size is not None
    return picture_square(sample.size)


def _picture(sample: HandSample) -> np.ndarray:
    if sample.image is not None:
        return sample.image
    if sample.depth_mm is None:
        raise ValueError(f"sample {sample.id!r} has neither picture nor depth map; open it with its picture")
    depths = sample.joints_cam_mm[..., 2][sample.valid & (sample.joints_cam_mm[..., 2] > 0)]
    return encode_depth(sample.depth_mm, float(np.median(depths)) if len(depths) else None)


def _draw_hand(
    canvas: Canvas, drawing: Drawing, pixels: np.ndarray, valid: np.ndarray, visible: np.ndarray
) -> None:
    stroke = float(np.clip(0.02 * np.ptp(pixels[valid], axis=0).max(), 1.4, 4.0))
    colors = [FINGER_COLORS_RGB[finger] for finger in drawing.fingers]
    bones = [(a, b) for a, b in drawing.bones if valid[a] and valid[b]]
    joints = np.flatnonzero(valid)
    for a, b in bones:
        canvas.line(pixels[a], pixels[b], (*INK, 150), stroke + 1.2)
    for joint in joints:
        canvas.disc(pixels[joint], 1.2 * stroke + 0.6, (*INK, 170))
    for a, b in bones:
        canvas.line(pixels[a], pixels[b], colors[b], stroke)
    for joint in joints:
        canvas.disc(pixels[joint], 1.2 * stroke, colors[joint])
        inner = mix(colors[joint], INK, 0.25) if visible[joint] else WHITE
        canvas.disc(pixels[joint], 0.65 * stroke, inner)


def _draw_side(canvas: Canvas, drawing: Drawing, pixels: np.ndarray, valid: np.ndarray, side: str) -> None:
    """The letter R or L beside the wrist, away from the fingers."""
    middle = pixels[valid].mean(0)
    wrist = pixels[drawing.root] if valid[drawing.root] else middle
    away = wrist - middle
    length = float(np.hypot(*away))
    place = wrist + (away / length * 15 if length > 0 else np.zeros(2))
    place = np.clip(place, 10, np.array(canvas.size) - 11)
    canvas.disc(place, 8.5, (*WHITE, 235))
    canvas.disc(place, 7.5, SIDE_COLORS[side])
    canvas.text(place.tolist(), side[0].upper(), WHITE, 11, anchor="mm")


def _draw_legend(canvas: Canvas) -> None:
    x, y = float(_GAP), _FOOTER / 2
    for name in (*FINGER_NAMES, "wrist"):
        canvas.disc((x + 6, y), 5, FINGER_COLORS_RGB[name])
        x = _label(canvas, x + 15, y, name)
    canvas.disc((x + 6, y), 5, INK)
    canvas.disc((x + 6, y), 2.8, WHITE)
    x = _label(canvas, x + 15, y, "not visible")
    canvas.box((x, y - 5, x + 12, y + 5), mix(BOX_COLOR, INK, 0.2), width=1.5)
    x = _label(canvas, x + 17, y, "labelled box")
    for side in HAND_NAMES:
        canvas.disc((x + 7, y), 7.5, SIDE_COLORS[side])
        canvas.text((x + 7, y), side[0].upper(), WHITE, 11, anchor="mm")
        x = _label(canvas, x + 18, y, side)


def _label(canvas: Canvas, x: float, y: float, text: str) -> float:
    """Writes a word of the legend; returns where the next entry begins."""
    canvas.text((x, y), text, INK, _TEXT - 1, anchor="lm")
    return x + text_width(text, _TEXT - 1) + 14


def _shortened(text: str, room: int, size: int = _SMALL) -> str:
    """The end of a text that is too long for its place."""
    if text_width(text, size) <= room:
        return text
    while text and text_width("..." + text, size) > room:
        text = text[1:]
    return "..." + text
