"""Backgrounds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dfmamba.synth.background import KINDS, sample_background, smooth_noise


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("size", [33, 64])
def test_every_kind(kind: str, size: int) -> None:
    pictures = [sample_background(np.random.default_rng([size, i]), size, kind=kind) for i in range(4)]
    assert all(p.shape == (size, size, 3) and p.dtype == np.uint8 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == 4
    np.testing.assert_array_equal(
        pictures[1], sample_background(np.random.default_rng([size, 1]), size, kind=kind)
    )


def test_mixture_is_bright_enough_and_mostly_grey() -> None:
    pictures = np.stack([sample_background(np.random.default_rng(i), 48) for i in range(80)]).astype(float)
    assert 70 < pictures.mean() < 170
    saturation = (pictures.max(-1) - pictures.min(-1)) / np.maximum(pictures.max(-1), 1)
    assert saturation.mean() < 0.4


def test_photos_of_a_folder(tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), (10, 200, 30)).save(tmp_path / "a.png")
    greens = 0
    for i in range(24):
        picture = sample_background(np.random.default_rng(i), 32, tmp_path).astype(int)
        greens += int(np.median(picture[..., 1]) > 2 * np.median(picture[..., 0]) + 40)
    assert 4 <= greens <= 20


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown background"):
        sample_background(np.random.default_rng(0), 32, kind="moon")
    draw = partial(list, (sample_background(np.random.default_rng(i), 32, tmp_path) for i in range(9)))
    with pytest.raises(OSError, match="no photographs"):
        draw()


def test_smooth_noise_fills_the_unit_range() -> None:
    noise = smooth_noise(np.random.default_rng(0), 50, 3)
    assert noise.shape == (50, 50, 3)
    assert noise.min() == 0
    assert noise.max() == pytest.approx(1)
