"""Draws the page of the hand model's degrees of freedom: each at its lower and its upper limit.

python tools/draw_degrees_of_freedom.py docs/images/degrees_of_freedom.png
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

from dfmamba.draw.canvas import BACKGROUND, INK, MUTED, Canvas
from dfmamba.draw.surface import HAND_COLORS, Surface, draw_surfaces
from dfmamba.hands.model import CUP, DEGREES_OF_FREEDOM, HIGH, LOW, WRIST, HandModel, vertex_normals

WIDTH, HEIGHT, COLUMNS = 300, 210, 5
MOVED = np.array([226.0, 96.0, 52.0])
"""Colour of what moves, the more the farther."""

REST = np.zeros(25)
REST[[0, 1, 3, 4]] = (0.0, 8.0, 5.0, 5.0)
# Rows: right, down and away from the viewer, in the canonical frame (dorsal, distal, radial).
PALM = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
EDGE = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]])


def turned(view: np.ndarray, yaw_deg: float) -> np.ndarray:
    """The view from further round the vertical axis."""
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]]) @ view


def surface(
    model: HandModel, pose: np.ndarray, view: np.ndarray, size: tuple[int, int], zoom: float
) -> Surface:
    """A right hand in a panel, coloured by how far it is from rest."""
    vertices = model(pose[None]).vertices[0].astype(np.float64)
    away = np.linalg.norm(vertices - model(REST[None]).vertices[0], axis=1)
    share = np.clip(away / 25.0, 0.0, 1.0)[:, None]
    seen = (vertices - [0.0, 92.0, 0.0]) @ view.T
    pixels = zoom * seen[:, :2] + np.array(size) / 2
    faces = model.faces if pose[WRIST].any() else model.faces_of("right", forearm=False)
    colors = (1 - share) * HAND_COLORS["right"] + share * MOVED
    return Surface(pixels, seen[:, 2], faces, vertex_normals(seen, faces), colors)


def cell(model: HandModel, number: int) -> Image.Image:
    """One degree of freedom at its limits, side by side."""
    name = DEGREES_OF_FREEDOM[number]
    sideways = name.endswith(("abduction", "deviation", "twist")) and not name.startswith("thumb")
    view = turned(PALM, -12.0) if sideways else turned(EDGE, -35.0)
    if name.startswith("thumb"):
        view = turned(PALM, 40.0)
    forearm = number >= WRIST.start
    panel = (WIDTH // 2, HEIGHT - 40)
    out = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    for side, limit in enumerate((LOW[number], HIGH[number])):
        pose = REST.copy()
        pose[number] = limit
        image = Image.new("RGB", panel, BACKGROUND)
        shown = surface(model, pose, view, panel, 0.4 if forearm else 0.66)
        out.paste(draw_surfaces(image, [shown], 1.0), (side * panel[0], 34))
    canvas = Canvas(out)
    canvas.text((WIDTH / 2, 14), f"{number}  {name}", INK, 13, anchor="mm")
    unit = "" if number == CUP else "°"
    for side, limit in enumerate((LOW[number], HIGH[number])):
        canvas.text(((0.25 + 0.5 * side) * WIDTH, 32), f"{limit:g}{unit}", MUTED, 12, anchor="mm")
    return canvas.finish()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output")
    options = parser.parse_args()
    model = HandModel.load()
    rows = -(-len(DEGREES_OF_FREEDOM) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * WIDTH, rows * HEIGHT), BACKGROUND)
    for number in range(len(DEGREES_OF_FREEDOM)):
        row, column = divmod(number, COLUMNS)
        sheet.paste(cell(model, number), (column * WIDTH, row * HEIGHT))
    sheet.quantize(128).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
