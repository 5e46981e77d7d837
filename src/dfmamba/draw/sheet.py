"""One picture that shows a whole prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dfmamba.draw.canvas import BACKGROUND, INK, MUTED, SIDE_COLORS, Canvas, text_width
from dfmamba.draw.overlay import draw_overlay
from dfmamba.draw.view3d import GRID_MM, VIEWS, draw_view
from dfmamba.hands.skeleton import FINGER_COLORS_RGB, FINGER_NAMES
from dfmamba.io.images import as_picture

if TYPE_CHECKING:
    from dfmamba.predict.result import Hand, Prediction

_MARGIN = 20
_HEADER = 34
_FOOTER = 40
_TEXT = 15


def draw_prediction(
    image: Image.Image | np.ndarray, prediction: Prediction, height: int = 780
) -> Image.Image:
    """Draw a prediction as a sheet: the picture with its hands on the left, the hands in space on the right.

    Hands in the camera frame share their views. Hands relative to their own wrists have a column each, since
    where one is from the other is not known.

    Args:
        image: the picture that was predicted: a Pillow image or an array (H, W, 3).
        prediction: its hands.
        height: of the overlay and the column of views, in pixels.

    Returns:
        An RGB picture, the same for the same input.
    """
    picture = as_picture(image)
    scale = min(height / picture.shape[0], 1.6 * height / picture.shape[1])
    overlay = draw_overlay(picture, prediction, scale)
    columns = _columns(prediction)
    cell = (height - 2 * (_MARGIN // 2)) // 3
    cell_width = round(cell * (1.05 if len(columns) > 1 else 1.4))
    width = _MARGIN + overlay.width + (_MARGIN + cell_width) * len(columns) + _MARGIN
    width = max(width, 760)
    sheet = Image.new("RGB", (width, _HEADER + height + _FOOTER), BACKGROUND)
    sheet.paste(overlay, (_MARGIN, _HEADER + (height - overlay.height) // 2))
    header = Canvas(Image.new("RGB", (width, _HEADER), BACKGROUND))
    footer = Canvas(Image.new("RGB", (width, _FOOTER), BACKGROUND))
    _draw_header(header, prediction, overlay.width)
    _draw_footer(footer, prediction)
    left = _MARGIN + overlay.width + _MARGIN
    for name, hands in columns:
        title = f"{name} hand" if name in SIDE_COLORS else name
        color = SIDE_COLORS.get(name, INK)
        header.text((left + cell_width / 2, _HEADER / 2), title, color, _TEXT + 1, anchor="mm")
        for row, view in enumerate(VIEWS):
            joints = [hand.joints_3d_mm for hand in hands]
            surfaces = [(hand.vertices_mm(), hand.side) for hand in hands if hand.fit is not None]
            panel = draw_view(joints, view, (cell_width, cell), surfaces)
            sheet.paste(panel, (left, _HEADER + row * (cell + _MARGIN // 2)))
        left += cell_width + _MARGIN
    sheet.paste(header.finish(), (0, 0))
    sheet.paste(footer.finish(), (0, _HEADER + height))
    return sheet


def _columns(prediction: Prediction) -> list[tuple[str, list[Hand]]]:
    """Title and hands of each column of views."""
    hands = prediction.hands
    if len(hands) > 1 and all(hand.root == "camera" for hand in hands):
        return [("both hands", list(hands))]
    return [(hand.side, [hand]) for hand in hands]


def _draw_header(canvas: Canvas, prediction: Prediction, room: int) -> None:
    width, height = prediction.image_size
    parts = [f"{width} x {height}", f"model {prediction.model}" if prediction.model else ""]
    parts.append("mirror image" if prediction.mirrored else "")
    parts.append("" if prediction.hands else "no hands found")
    text = "   ".join(part for part in parts if part)
    if text_width(text, _TEXT) <= room or not prediction.hands:
        canvas.text((_MARGIN, _HEADER / 2), text, MUTED, _TEXT, anchor="lm")


def _draw_footer(canvas: Canvas, prediction: Prediction) -> None:
    y = _FOOTER / 2
    x = float(_MARGIN)
    bare = not prediction.hands or any(hand.fit is None for hand in prediction.hands)
    for name in FINGER_NAMES if bare else ():
        canvas.line((x, y), (x + 16, y), FINGER_COLORS_RGB[name], 6)
        canvas.text((x + 26, y), name, INK, _TEXT, anchor="lm")
        x += 26 + text_width(name, _TEXT) + 18
    if bare:
        canvas.disc((x + 5, y), 6, INK)
        canvas.disc((x + 5, y), 4, BACKGROUND)
        canvas.text((x + 17, y), "unsure", INK, _TEXT, anchor="lm")
    note = f"grid {GRID_MM:g} mm, size of a mean adult hand"
    if prediction.hands:
        canvas.text((canvas.size[0] - _MARGIN, y), note, MUTED, _TEXT, anchor="rm")
