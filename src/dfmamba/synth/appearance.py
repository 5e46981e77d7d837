"""Colours and lights: skin tones, cloth, objects, lamps. All linear RGB but for tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dfmamba.synth.mesh import CLOTH, SKIN, Part

SKIN_RAMP_SRGB = np.array(
    [
        [236, 196, 174], [229, 183, 157], [220, 171, 142], [206, 154, 123], [188, 132, 101],
        [158, 106, 79], [130, 84, 62], [104, 68, 50], [82, 54, 42], [64, 44, 36],
    ],
    dtype=np.float64,
)  # fmt: skip
"""Ten tones of photographed skin on the back of the hand, light to dark."""

PLAIN, STRIPES, CHECKER, BLOTCHES = 0, 1, 2, 3

_DOME = np.array([[0.0, -1.0, -0.3], [0.85, -0.1, -0.6], [-0.85, -0.1, -0.6], [0.0, 0.8, -0.4]])
_DOME /= np.linalg.norm(_DOME, axis=1, keepdims=True)


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..255 to linear in 0..1 (IEC 61966-2-1)."""
    x = np.asarray(srgb, dtype=np.float64) / 255.0
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


@dataclass(frozen=True)
class Palette:
    """How one part is painted.

    Attributes:
        colours: (4, 3) float32, linear. Skin: back of the hand, palm, nail, added redness.
            Others: colour, second colour, pattern axis (a unit vector), unused.
        settings: (8,) float32: pattern kind, cycles per mm, grain, specular strength, specular exponent,
            wrap of the diffuse term (cheap subsurface look), crease strength, unused.
    """

    colours: np.ndarray
    settings: np.ndarray


@dataclass(frozen=True)
class Lights:
    """Lamps of a scene.

    Attributes:
        directions: (n, 3) float32 unit vectors towards the lights, camera frame.
        colours: (n, 3) float32, linear.
        softness: (n,) float32, 0 = sharp shadows, 0.8 = very soft ones.
        dome_directions: (m, 3) float32, directions from which ambient light comes and can be blocked.
        dome_colours: (m, 3) float32.
        flat: (3,) float32, ambient light that nothing blocks.
    """

    directions: np.ndarray
    colours: np.ndarray
    softness: np.ndarray
    dome_directions: np.ndarray
    dome_colours: np.ndarray
    flat: np.ndarray


def skin_tone(rng: np.random.Generator) -> np.ndarray:
    """(3,) sRGB 0..255 of the back of a hand; lighter half a little more often than the darker one."""
    place = 9.0 * rng.beta(1.0, 1.35)
    low = int(place)
    share = place - low
    ramp = to_linear(SKIN_RAMP_SRGB)
    tone = ramp[low] * (1.0 - share) + ramp[min(low + 1, 9)] * share
    ruddy = rng.uniform(-0.05, 0.22)
    tone = tone * np.exp(
        rng.normal(size=3) * np.array([0.06, 0.05, 0.08]) + ruddy * np.array([0.3, -0.8, -0.7])
    )
    return 255.0 * _to_srgb(tone)


def skin_palette(rng: np.random.Generator, tone_srgb: np.ndarray | None = None) -> Palette:
    """Skin of one person: tone, palm, nails (12 % varnished), redness, mottling, gloss and creases."""
    base = skin_tone(rng) if tone_srgb is None else np.asarray(tone_srgb, dtype=np.float64)
    share = rng.uniform(0.35, 0.6)
    palm = (1.0 - share) * base + share * np.array(
        [222.0, rng.uniform(138.0, 166.0), rng.uniform(118.0, 144.0)]
    )
    palm = np.clip(np.maximum(palm, 1.02 * base), 0, 250)
    nail = np.clip(0.45 * base + 0.55 * np.array([238.0, 194.0, 182.0]), 0, 255)
    varnished = rng.random() < 0.12
    paint = rng.uniform(15, 245, 3)
    if varnished:
        nail = paint
    back = to_linear(base)
    redness = np.array([0.13, -0.035, -0.025]) * back.mean() * rng.uniform(0.4, 1.7)
    settings = [
        0,
        0,
        rng.uniform(0.03, 0.10),
        rng.uniform(0.1, 0.8),
        rng.uniform(6, 22),
        rng.uniform(0.15, 0.5),
    ]
    settings += [rng.uniform(0.0, 0.35), 0]
    colours = np.stack([back, to_linear(palm), to_linear(nail), redness])
    return Palette(colours.astype(np.float32), np.array(settings, dtype=np.float32))


def _cloth_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) sRGB: mostly muted colours, greys, blacks and whites."""
    value = rng.uniform(12, 240)
    saturation = rng.beta(1.2, 2.5)
    hue = rng.random(3)
    hue = hue / hue.max()
    return value * (1.0 - saturation + saturation * hue)


def cloth_palette(rng: np.random.Generator) -> Palette:
    """Cloth of one garment: plain, striped or blotched; rough."""
    kind = rng.choice([PLAIN, STRIPES, BLOTCHES], p=[0.6, 0.25, 0.15])
    axis = np.array([0.0, 1.0, 0.0]) if rng.random() < 0.6 else rng.normal(size=3)
    first = _cloth_colour(rng)
    second = first + rng.beta(1.0, 1.5) * (_cloth_colour(rng) - first)
    colours = np.stack([to_linear(first), to_linear(second), axis / np.linalg.norm(axis), np.zeros(3)])
    settings = [kind, rng.uniform(0.03, 0.25), rng.uniform(0.05, 0.35), rng.uniform(0.0, 0.08), 6, 0.1, 0, 0]
    return Palette(colours.astype(np.float32), np.array(settings, dtype=np.float32))


def object_palette(rng: np.random.Generator) -> Palette:
    """An object: plain, striped, checkered or blotched; matt to glossy."""
    kind = rng.choice([PLAIN, STRIPES, CHECKER, BLOTCHES], p=[0.4, 0.2, 0.15, 0.25])
    axis = np.eye(3)[rng.integers(3)] if rng.random() < 0.7 else rng.normal(size=3)
    first = rng.uniform(8, 247, 3) if rng.random() < 0.5 else _cloth_colour(rng)
    second = rng.uniform(8, 247, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(10, 245))
    colours = np.stack([to_linear(first), to_linear(second), axis / np.linalg.norm(axis), np.zeros(3)])
    settings = [
        kind,
        rng.uniform(0.01, 0.12),
        rng.uniform(0.0, 0.2),
        rng.uniform(0.0, 1.5),
        rng.uniform(8, 60),
        0.0,
        0,
        0,
    ]
    return Palette(colours.astype(np.float32), np.array(settings, dtype=np.float32))


def sample_palettes(parts: Sequence[Part], seed: Sequence[int]) -> list[Palette]:
    """One palette per part.

    Skin and cloth parts with the same `person` share a palette. Every palette has its own generator,
    derived from `seed` and from the person (or from the place among the solid parts), so that a part more
    or less elsewhere in the scene changes nothing.
    """
    palettes: list[Palette] = []
    solids = 0
    for part in parts:
        if part.material == SKIN:
            palettes.append(skin_palette(np.random.default_rng([*seed, 0, part.person % 2**32])))
        elif part.material == CLOTH:
            palettes.append(cloth_palette(np.random.default_rng([*seed, 1, part.person % 2**32])))
        else:
            palettes.append(object_palette(np.random.default_rng([*seed, 2, solids])))
            solids += 1
    return palettes


def sample_lights(rng: np.random.Generator) -> Lights:
    """Light of a room or of the open air.

    70 % indoor light (1-3 soft lamps, strong ambient), 18 % one strong side light, 12 % harsh light with
    weak ambient.
    """
    style = rng.choice(["indoor", "side", "harsh"], p=[0.7, 0.18, 0.12])
    count = int(rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25])) if style == "indoor" else int(rng.integers(1, 3))
    total = {"indoor": rng.uniform(0.35, 1.0), "side": rng.uniform(0.8, 1.5), "harsh": rng.uniform(1.2, 2.2)}[
        style
    ]
    share = rng.dirichlet(np.full(count, 1.2 if style == "indoor" else 0.5)) * total
    directions, colours, softness = [], [], []
    for i in range(count):
        d = rng.normal(size=3)
        d[1] = -1.2 * abs(d[1]) - 0.1 if rng.random() < 0.85 else d[1]
        d[2] = -abs(d[2]) if rng.random() < 0.85 else d[2]
        if style == "side" and i == 0:
            d = np.array([rng.choice([-1.0, 1.0]), rng.normal() * 0.4, rng.normal() * 0.4])
        warmth = 0.10 * rng.normal()
        directions.append(d / np.linalg.norm(d))
        colours.append(share[i] * np.array([1.0 + warmth, 1.0 + 0.03 * rng.normal(), 1.0 - warmth]))
        softness.append(rng.uniform(0.0, 0.25) if style == "harsh" else rng.uniform(0.25, 0.75))
    tint = 0.07 * rng.normal()
    level = rng.uniform(0.2, 0.45) if style == "harsh" else rng.uniform(0.3, 0.8)
    top = level * np.array([1.0 + tint, 1.0, 1.0 - tint])
    bottom = level * rng.uniform(0.4, 0.95) * np.array([1.0 - tint, 1.0, 1.0 + tint])
    upward = 0.5 - 0.5 * _DOME[:, 1:2]
    dome_colours = (top * upward + bottom * (1.0 - upward)) * (0.85 * 4.0 / 3.0 / len(_DOME))
    return Lights(
        directions=np.array(directions, dtype=np.float32),
        colours=np.maximum(np.array(colours, dtype=np.float32), 0.0),
        softness=np.array(softness, dtype=np.float32),
        dome_directions=_DOME.astype(np.float32),
        dome_colours=dome_colours.astype(np.float32),
        flat=(0.15 * 0.5 * (top + bottom)).astype(np.float32),
    )


def _to_srgb(linear: np.ndarray) -> np.ndarray:
    x = np.clip(linear, 0.0, 1.0)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
