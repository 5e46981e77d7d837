"""Skin, cloth, objects and lights."""

from __future__ import annotations

import numpy as np

from dfmamba.synth.appearance import (
    cloth_palette,
    object_palette,
    sample_lights,
    sample_palettes,
    skin_palette,
)
from dfmamba.synth.mesh import CLOTH, LEFT, OTHER, RIGHT, SKIN, Part


def part(instance: int, material: int, person: int) -> Part:
    return Part(np.zeros((3, 3), np.float32), np.zeros((1, 3), np.int32), np.zeros((3, 3), np.float32),
                np.zeros((3, 4), np.float32), instance, material, person)  # fmt: skip


def test_skin_is_redder_than_blue_and_spans_light_to_dark() -> None:
    palettes = [skin_palette(np.random.default_rng(i)) for i in range(200)]
    backs = np.array([p.colours[0] for p in palettes])
    palms = np.array([p.colours[1] for p in palettes])
    assert (backs[:, 0] > backs[:, 2]).mean() > 0.99
    assert (palms.mean(1) >= 0.9 * backs.mean(1)).all()
    luminance = backs.mean(1)
    assert luminance.min() < 0.06
    assert luminance.max() > 0.45
    assert all(np.isfinite(p.settings).all() for p in palettes)


def test_persons_share_skin_and_clothes() -> None:
    parts = (
        part(RIGHT, SKIN, 0),
        part(LEFT, SKIN, 0),
        part(LEFT, SKIN, 1),
        part(OTHER, CLOTH, -1),
        part(OTHER, CLOTH, -1),
    )
    palettes = sample_palettes(parts, (1, 2))
    np.testing.assert_array_equal(palettes[0].colours, palettes[1].colours)
    np.testing.assert_array_equal(palettes[3].colours, palettes[4].colours)
    assert not np.array_equal(palettes[0].colours, palettes[2].colours)
    again = sample_palettes(parts[2:], (1, 2))
    np.testing.assert_array_equal(palettes[2].colours, again[0].colours)


def test_lights_and_palettes_are_in_range() -> None:
    for i in range(100):
        rng = np.random.default_rng(i)
        lights = sample_lights(rng)
        assert 1 <= len(lights.directions) <= 3
        np.testing.assert_allclose(np.linalg.norm(lights.directions, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(lights.dome_directions, axis=1), 1, atol=1e-5)
        assert lights.colours.min() >= 0
        assert (lights.softness < 0.8).all()
        for palette in (cloth_palette(rng), object_palette(rng)):
            assert (palette.colours[:2] >= 0).all()
            assert (palette.colours[:2] <= 1).all()
            np.testing.assert_allclose(np.linalg.norm(palette.colours[2]), 1, atol=1e-5)
