"""People for backgrounds (faces, torsos, bare arms, skin-coloured blobs) and colours of indoor things."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]


def fill_colour(values: np.ndarray) -> Colour:
    """Whole numbers in 0..255, as Pillow wants them."""
    r, g, b = np.clip(values, 0, 255).astype(int).tolist()
    return r, g, b


def muted_colour(rng: np.random.Generator, low: float = 15, high: float = 240) -> np.ndarray:
    """(3,) a colour as indoor things have it: any lightness, mostly little saturation."""
    value = rng.uniform(low, high)
    hue = rng.random(3)
    saturation = rng.beta(1.0, 4.0)
    return value * (1.0 - saturation + saturation * hue / hue.max())


def add_person(rng: np.random.Generator, image: Image.Image, tone: np.ndarray) -> Image.Image:
    """Draws a face with hair, a torso, or bare arms and blobs of skin colour (`tone`, sRGB) over the
    picture."""
    side = image.width * 2
    layer = Image.new("RGB", (side, side))
    mask = Image.new("L", (side, side), 0)
    draw, cover = ImageDraw.Draw(layer), ImageDraw.Draw(mask)
    skin = np.asarray(tone) * rng.uniform(0.6, 1.15)
    what = rng.random()

    def ellipse(x: float, y: float, rx: float, ry: float, colour: np.ndarray) -> None:
        box = [x - rx, y - ry, x + rx, y + ry]
        draw.ellipse(box, fill=fill_colour(colour))
        cover.ellipse(box, fill=255)

    def limb(x0: float, y0: float, x1: float, y1: float, width: float, colour: np.ndarray) -> None:
        for k, share in enumerate((1.0, 0.75, 0.45)):
            draw.line(
                [x0, y0, x1, y1],
                fill=fill_colour(colour * (0.8 + 0.13 * k)),
                width=max(2, int(width * share)),
            )
        cover.line([x0, y0, x1, y1], fill=255, width=max(2, int(width)))

    if what < 0.55:
        x, y, r = rng.uniform(-0.1, 1.1) * side, rng.uniform(-0.1, 0.8) * side, rng.uniform(0.1, 0.4) * side
        cloth = muted_colour(rng)
        ellipse(x + rng.normal() * 0.2 * r, y + 3.2 * r, 2.1 * r, 2.1 * r, cloth)
        limb(x, y, x, y + 1.5 * r, 0.9 * r, skin * 0.85)
        ellipse(x, y - 0.25 * r, 0.95 * r, 1.2 * r, rng.uniform(5, 110) * np.array([1.0, 0.85, 0.7]))
        ellipse(x, y + 0.1 * r, 0.78 * r, r, skin)
        turn = rng.normal() * 0.25 * r
        for ex in (-0.32 * r, 0.32 * r):
            ellipse(x + turn + ex, y - 0.05 * r, 0.12 * r, 0.07 * r, skin * 0.25)
        ellipse(x + turn, y + 0.6 * r, 0.25 * r, 0.07 * r, skin * np.array([0.75, 0.5, 0.5]))
        if rng.random() < 0.5:
            limb(
                x - 1.6 * r,
                y + 2.2 * r,
                x + rng.normal() * 2 * r,
                y + 4.5 * r,
                0.7 * r,
                skin if rng.random() < 0.5 else cloth * 0.85,
            )
    if what > 0.4:
        for _ in range(rng.integers(1, 4)):
            x0, y0 = rng.uniform(-0.2, 1.2, 2) * side
            angle, length = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.2, 0.9)
            x1, y1 = x0 + length * np.cos(angle), y0 + length * np.sin(angle)
            width = side * rng.uniform(0.03, 0.2)
            limb(x0, y0, x1, y1, width, skin)
            if rng.random() < 0.4:
                limb(x0, y0, (x0 + x1) / 2, (y0 + y1) / 2, width * 1.3, muted_colour(rng))
            if rng.random() < 0.6:
                ellipse(x1, y1, width * 0.7, width * rng.uniform(0.6, 1.1), skin)
    image = image.copy()
    soft = image.width * rng.uniform(0.002, 0.015)
    image.paste(
        layer.reduce(2).filter(ImageFilter.GaussianBlur(soft)),
        (0, 0),
        mask.reduce(2).filter(ImageFilter.GaussianBlur(soft)),
    )
    return image
