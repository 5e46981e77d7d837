"""Backgrounds: dead leaves, noise, walls, rooms, shelves, foliage, textures, people; photos from a folder.

Pictures are drawn with Pillow at the final size or at twice that size, so that one costs a few milliseconds
at 128 x 128.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dfmamba.io.images import SUFFIXES, load_image
from dfmamba.synth.appearance import skin_tone
from dfmamba.text import printable

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


KINDS: dict[str, float] = {
    "leaves": 0.20,
    "noise": 0.08,
    "gradient": 0.05,
    "wall": 0.12,
    "room": 0.22,
    "shelf": 0.12,
    "foliage": 0.07,
    "tiles": 0.06,
    "wood": 0.05,
    "cloth": 0.03,
}
"""Kinds of drawn backgrounds and their weights."""

_COLOURFUL = {"leaves", "noise", "gradient", "tiles"}


def _wall(rng: np.random.Generator) -> np.ndarray:
    """(3,) a wall colour: light, slightly tinted."""
    return rng.uniform(90, 245) * (1.0 + rng.normal(size=3) * 0.05)


def smooth_noise(
    rng: np.random.Generator, size: int, channels: int = 1, first: int = 3, decay: float = 0.6
) -> np.ndarray:
    """(size, size, channels) float32 fractal noise in 0..1: grids of doubling resolution, each `decay` as
    strong."""
    side, strength = first, 1.0
    grid = rng.random((side, side, channels), dtype=np.float32)
    while side < size:
        side = min(2 * side, size)
        strength *= decay
        grid = _resize(grid, side, side)
        if strength > 0.02:
            grid += strength * (rng.random((side, side, channels), dtype=np.float32) - 0.5)
    low, high = float(grid.min()), float(grid.max())
    return (grid - low) / max(high - low, 1e-6)


def _resize(grid: np.ndarray, width: int, height: int) -> np.ndarray:
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(grid[..., c])).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for c in range(grid.shape[2])
    ]
    return np.stack(planes, axis=2)


def _leaves(
    rng: np.random.Generator,
    size: int,
    palette: np.ndarray,
    count: int,
    power: float = 1.6,
    largest: float = 0.35,
) -> Image.Image:
    """Discs, boxes and polygons of `palette` colours whose radii follow a power law, big ones first."""
    side = 2 * size
    image = Image.new("RGB", (side, side), fill_colour(palette[0]))
    draw = ImageDraw.Draw(image)
    radii = np.sort(np.clip(side * 0.3 * (rng.pareto(power, count) + 0.04), 2, side * largest))[::-1]
    centres = rng.uniform(-0.1 * side, 1.1 * side, (count, 2))
    colours = np.clip(
        palette[rng.integers(len(palette), size=count)] + rng.normal(size=(count, 3)) * 12, 0, 255
    )
    shapes = rng.integers(3, size=count)
    angles = rng.uniform(0, 2 * np.pi, (count, 6))
    stretch = rng.uniform(0.3, 1.4, (count, 6))
    corners = np.array([0.25, 0.75, 1.25, 1.75]) * np.pi
    for r, (x, y), colour, shape, angle, factor in zip(
        radii, centres, colours.astype(int).tolist(), shapes, angles, stretch, strict=True
    ):
        fill = tuple(colour)
        if shape == 0:
            draw.ellipse((x - r, y - r * factor[0], x + r, y + r * factor[0]), fill=fill)
            continue
        if shape == 1:
            px, py = r * factor[0] * np.sign(np.cos(corners)), r * factor[1] * np.sign(np.sin(corners))
            c, s = np.cos(angle[0]), np.sin(angle[0])
            outline = np.stack([x + c * px - s * py, y + s * px + c * py], axis=1)
        else:
            turn = np.sort(angle)
            outline = np.stack([x + r * factor * np.cos(turn), y + r * factor * np.sin(turn)], axis=1)
        draw.polygon(outline.ravel().tolist(), fill=fill)
    return image.reduce(2)


def _draw_leaves(rng: np.random.Generator, size: int) -> Image.Image:
    palette = rng.random((7, 3)) * 255 * rng.uniform(0.3, 1.0) + rng.uniform(0, 60)
    return _leaves(rng, size, palette, int(rng.integers(20, 110)))


def _draw_noise(rng: np.random.Generator, size: int) -> Image.Image:
    noise = smooth_noise(rng, size, 3, int(rng.integers(2, 6)), rng.uniform(0.4, 0.85))
    values = 255 * (rng.random(3) * 0.5 + noise * rng.uniform(0.2, 0.8))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 1) float32 in 0..1 along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    ramp = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    return ((ramp - ramp.min()) / (ramp.max() - ramp.min()))[..., None].astype(np.float32)


def _draw_gradient(rng: np.random.Generator, size: int) -> Image.Image:
    ramp = _ramp(rng, size)
    values = ramp * (rng.random(3) * 255).astype(np.float32) + (1 - ramp) * (rng.random(3) * 255).astype(
        np.float32
    )
    return Image.fromarray(values.astype(np.uint8))


def _draw_wall(rng: np.random.Generator, size: int) -> Image.Image:
    """A plain wall with a soft change of light, sometimes grainy."""
    colour = _wall(rng) if rng.random() < 0.7 else muted_colour(rng)
    light = 1.0 + rng.uniform(0, 0.5) * (_ramp(rng, size) - 0.5)
    if rng.random() < 0.5:
        light = light + rng.uniform(0.02, 0.2) * (smooth_noise(rng, size, 1, 4, 0.85) - 0.5)
    return Image.fromarray(np.clip(light * colour.astype(np.float32), 0, 255).astype(np.uint8))


def _draw_room(rng: np.random.Generator, size: int) -> Image.Image:
    """Wall, floor or table line, doors, windows, screens, frames and furniture as boxes."""
    side = 2 * size
    image = Image.new("RGB", (side, side), fill_colour(_wall(rng)))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.7:
        edge = side * rng.uniform(0.3, 0.95)
        tilt = side * rng.normal() * 0.08
        draw.polygon(
            [0, edge - tilt, side, edge + tilt, side, side, 0, side], fill=fill_colour(muted_colour(rng))
        )
    for _ in range(rng.integers(2, 10)):
        x, y = rng.uniform(-0.2, 1.0, 2) * side
        w, h = side * np.clip(rng.pareto(1.5, 2) * 0.15 + 0.05, 0, 0.9)
        lean = side * rng.normal() * 0.02
        fill = fill_colour(muted_colour(rng) if rng.random() < 0.85 else np.full(3, rng.uniform(230, 255)))
        box = [x, y, x + w, y + lean, x + w + lean, y + h + lean, x + lean, y + h]
        frame = rng.random()
        draw.polygon(
            box,
            fill=fill,
            outline=fill_colour(muted_colour(rng)) if frame < 0.4 else None,
            width=int(rng.integers(2, 9)),
        )
        if frame > 0.75:
            bars = int(rng.integers(2, 9))
            shade = fill_colour(muted_colour(rng))
            for k in range(1, bars):
                if frame > 0.88:
                    draw.line(
                        [x, y + h * k / bars, x + w, y + h * k / bars + lean],
                        fill=shade,
                        width=int(rng.integers(1, 5)),
                    )
                else:
                    draw.line(
                        [x + w * k / bars, y, x + w * k / bars + lean, y + h],
                        fill=shade,
                        width=int(rng.integers(1, 5)),
                    )
    if rng.random() < 0.5:
        for _ in range(rng.integers(2, 12)):
            x, y = rng.uniform(0, 1.0, 2) * side
            r = side * rng.uniform(0.01, 0.08)
            fill = fill_colour(rng.random(3) * 255 if rng.random() < 0.3 else muted_colour(rng))
            draw.ellipse([x - r, y - r * rng.uniform(0.4, 2), x + r, y + r], fill=fill)
    return image.reduce(2)


def _draw_shelf(rng: np.random.Generator, size: int) -> Image.Image:
    """Rows of similar upright things (books, bottles, cans, boxes), between boards and door frames."""
    side = 2 * size
    image = Image.new("RGB", (side, side), fill_colour(muted_colour(rng, 10, 150)))
    draw = ImageDraw.Draw(image)
    rows = int(rng.integers(2, 7))
    pitch = side / rows * rng.uniform(0.8, 1.2)
    board = fill_colour(muted_colour(rng, 40, 230))
    y = -rng.random() * pitch
    while y < side:
        colours = [
            muted_colour(rng) if rng.random() < 0.6 else rng.random(3) * 220
            for _ in range(int(rng.integers(1, 4)))
        ]
        width = pitch * rng.uniform(0.15, 0.6)
        height = pitch * rng.uniform(0.5, 0.9)
        jitter = rng.uniform(0, 0.5)
        x = -rng.random() * width
        steps = rng.random((64, 2))
        for k in range(64):
            w = width * (1.0 + jitter * (steps[k, 0] - 0.5))
            h = height * (1.0 - 0.5 * jitter * steps[k, 1])
            base = colours[int(steps[k, 1] * 997) % len(colours)] * (0.8 + 0.4 * steps[k, 0])
            top = y + pitch - h
            draw.rectangle([x, top, x + 0.9 * w, y + pitch], fill=fill_colour(base))
            draw.rectangle([x + 0.2 * w, top, x + 0.35 * w, y + pitch], fill=fill_colour(base * 1.3 + 25))
            draw.rectangle([x, top + 0.3 * h, x + 0.9 * w, top + 0.5 * h], fill=fill_colour(255 - 0.6 * base))
            x += w
            if x > side:
                break
        y += pitch
        draw.rectangle([0, y - 0.06 * pitch, side, y], fill=board)
    for _ in range(rng.integers(0, 4)):
        x = rng.uniform(-0.1, 1.0) * side
        draw.rectangle([x, 0, x + side * rng.uniform(0.02, 0.3), side], fill=fill_colour(muted_colour(rng)))
    if rng.random() < 0.5:
        veil = Image.new("RGB", image.size, fill_colour(muted_colour(rng)))
        image = Image.blend(image, veil, rng.uniform(0.05, 0.5))
    image = image.reduce(2)
    return (
        image.rotate(rng.normal() * 5, Image.Resampling.BILINEAR, fillcolor=board)
        if rng.random() < 0.4
        else image
    )


def _draw_foliage(rng: np.random.Generator, size: int) -> Image.Image:
    """Leaves, grass or gravel: many small patches of related colours, with sky or shade in between."""
    base = np.array([rng.uniform(40, 140), rng.uniform(60, 150), rng.uniform(20, 110)])
    palette = base * rng.uniform(0.3, 1.5, (6, 1)) * (1.0 + 0.15 * rng.normal(size=(6, 3)))
    if rng.random() < 0.5:
        palette[-1] = rng.uniform(190, 255) * np.array([0.95, 1.0, 1.02])
    return _leaves(rng, size, palette, int(rng.integers(90, 190)), rng.uniform(2.2, 4.0), 0.15)


def _draw_tiles(rng: np.random.Generator, size: int) -> Image.Image:
    """A small random picture repeated: wallpaper, printed cloth, tiles."""
    cell = int(rng.integers(max(4, size // 12), max(6, size // 3)))
    palette = np.stack([muted_colour(rng) for _ in range(3)] + [rng.random(3) * 255])
    tile = np.asarray(_leaves(rng, cell, palette, int(rng.integers(3, 14))))
    repeats = -(-2 * size // cell)
    image = Image.fromarray(np.tile(tile, (repeats, repeats, 1)))
    image = image.rotate(rng.normal() * 12, Image.Resampling.BILINEAR)
    edge = (image.width - size) // 2
    return image.crop((edge, edge, edge + size, edge + size))


def _draw_wood(rng: np.random.Generator, size: int) -> Image.Image:
    """Stretched noise as wood grain or brushed metal, sometimes with board joints."""
    noise = smooth_noise(rng, size, 1, 4, 0.8)[..., 0]
    stretch = int(rng.integers(6, 20))
    strip = np.asarray(
        Image.fromarray(noise[: max(2, size // stretch)]).resize((size, size), Image.Resampling.BICUBIC)
    )
    grain = strip + 0.2 * np.sin(strip * rng.uniform(10, 60))
    colour = np.array([rng.uniform(90, 210), 0, 0])
    colour[1] = colour[0] * rng.uniform(0.65, 0.95)
    colour[2] = colour[1] * rng.uniform(0.6, 0.98)
    values = colour * (1.0 + rng.uniform(0.1, 0.6) * (grain[..., None] - 0.5))
    if rng.random() < 0.5:
        values[:, :: max(8, size // int(rng.integers(2, 7)))] *= 0.5
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.ROTATE_90)
    return image


def _draw_cloth(rng: np.random.Generator, size: int) -> Image.Image:
    """Folded, woven or striped cloth."""
    folds = smooth_noise(rng, size, 1, 3, 0.45)
    axis = np.arange(size, dtype=np.float32)
    angle = rng.uniform(0, np.pi)
    phase = (np.cos(angle) * axis[None] + np.sin(angle) * axis[:, None]) * rng.uniform(0.1, 2.0)
    stripes = np.sin(phase + 4 * folds[..., 0])[..., None]
    share = np.clip(0.5 + stripes * rng.uniform(0.2, 2.0), 0, 1) * (rng.random() < 0.5)
    values = (muted_colour(rng) * (1 - share) + muted_colour(rng) * share) * (0.55 + 0.7 * folds)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


_PAINTERS: dict[str, Callable[[np.random.Generator, int], Image.Image]] = {
    "leaves": _draw_leaves,
    "noise": _draw_noise,
    "gradient": _draw_gradient,
    "wall": _draw_wall,
    "room": _draw_room,
    "shelf": _draw_shelf,
    "foliage": _draw_foliage,
    "tiles": _draw_tiles,
    "wood": _draw_wood,
    "cloth": _draw_cloth,
}


@lru_cache(maxsize=8)
def photo_files(folder: str | Path) -> tuple[Path, ...]:
    """The photographs in a folder and in those below it, by name.

    Raises:
        OSError: there are none.
    """
    paths = tuple(
        path
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise OSError(
            f"no photographs ({' '.join(sorted(SUFFIXES))}) under {folder}; give a folder that has some"
        )
    return paths


@lru_cache(maxsize=64)
def _photo(path: Path) -> Image.Image | str:
    """A small copy of a photograph, or why it can't be read."""
    try:
        small = Image.fromarray(load_image(path))
    except (OSError, ValueError) as error:
        return str(error)
    small.thumbnail((640, 640))
    return small


def cut_photo(rng: np.random.Generator, size: int, path: Path) -> np.ndarray:
    """(size, size, 3) uint8: a square cut out of a photograph at random, mirrored half of the time.

    Raises:
        ValueError: it can't be read.
    """
    image = _photo(path)
    if isinstance(image, str):
        raise ValueError(image)
    side = max(1, int(min(image.size) * rng.uniform(0.3, 1.0)))
    x, y = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image)


def _cut_photo(rng: np.random.Generator, size: int, folder: str | Path) -> np.ndarray:
    """As `cut_photo`, of one of the photographs of a folder; the next one where that can't be read."""
    paths = photo_files(folder)
    first = int(rng.integers(len(paths)))
    for i in range(len(paths)):
        try:
            return cut_photo(rng, size, paths[first - i])
        except ValueError as error:
            _tell(f"background left out: {printable(error)}")
    raise ValueError(f"{folder}: none of its {len(paths)} photographs can be read; give another folder")


@cache
def _tell(line: str) -> None:
    """Writes a line on standard error, once."""
    print(line, file=sys.stderr)


def sample_background(
    rng: np.random.Generator,
    size: int,
    photos: str | Path | None = None,
    person_tone: np.ndarray | None = None,
    kind: str | None = None,
) -> np.ndarray:
    """(size, size, 3) uint8 sRGB background.

    Random colours are desaturated (scaled by a Beta(1.2, 4) draw), 30 % get people or skin-coloured shapes,
    40 % uneven light and 60 % a blur.

    Args:
        rng: generator of the background's own stream.
        size: side in pixels.
        photos: folder of pictures; used for half of the backgrounds when given.
        person_tone: (3,) sRGB skin colour of the person in front; shared by half of the people behind.
        kind: one of `KINDS`, or None to draw it.

    Raises:
        ValueError: unknown kind, or none of the photographs can be read.
        OSError: the folder holds no photographs.
    """
    if kind is not None and kind not in _PAINTERS:
        raise ValueError(f"unknown background {kind!r}; expected one of {sorted(_PAINTERS)}")
    drawn = str(rng.choice(list(KINDS), p=np.array(list(KINDS.values())) / sum(KINDS.values())))
    from_photo = rng.random() < 0.5
    if kind is None and photos is not None and from_photo:
        image, drawn = Image.fromarray(_cut_photo(rng, size, photos)), "photo"
    else:
        drawn = kind or drawn
        image = _PAINTERS[drawn](rng, size)
    keep = rng.beta(1.2, 4.0)
    if drawn in _COLOURFUL and rng.random() < 0.85:
        image = Image.blend(image.convert("L").convert("RGB"), image, keep)
    if rng.random() < 0.3:
        own = rng.random() < 0.5 and person_tone is not None
        other = skin_tone(rng)
        image = add_person(rng, image, person_tone if own and person_tone is not None else other)
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(size * 0.02 * rng.beta(1.0, 2.0) + 0.2))
    if rng.random() < 0.4:
        light = _ramp(rng, size) if rng.random() < 0.5 else smooth_noise(rng, size, 1, 2, 0.3)
        low, high = np.sort(rng.uniform(0.35, 1.25, 2)).astype(np.float32)
        return np.clip(np.asarray(image) * (low + (high - low) * light), 0, 255).astype(np.uint8)
    return np.asarray(image).copy()
