"""Scenes that the hand detector learns from: what is laid over what, and which hands are to be found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dfmamba.heads.detector import HAND, IGNORED
from dfmamba.models import HandPoseModel
from dfmamba.train.augment import AugmentConfig
from dfmamba.train.detector import DetectorPool, DetectorRun, DetectorTask, Layers, judge, open_pool
from dfmamba.train.engine import train

PLAIN = AugmentConfig(colour=0.0, blur=0.0, noise=0.0)
GRID = np.stack(np.meshgrid(np.linspace(20, 36, 7), np.linspace(24, 40, 3)), -1).reshape(21, 2)


class OneHand(Layers):
    """A white rectangle where the joints are, on nothing."""

    size = 64

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        picture = np.zeros((64, 64, 4), np.uint8)
        picture[24:41, 20:37] = 255
        return picture, GRID[None].astype(np.float32), np.ones((1, 21), np.float32)


def pool(**changes) -> DetectorPool:
    config = DetectorRun(
        **{"model": "test_detector", "batch_size": 16, "ahead": 0, "augment": PLAIN, "seed": 3, **changes}
    )
    return DetectorPool(config, 64, OneHand(), OneHand(), np.zeros((2, 48, 48, 3), np.uint8))


def test_boxes_lie_on_the_hands_that_are_laid_over_black() -> None:
    x, target = pool(close=0.0, empty=0.0).compose(0)
    found = 0
    for picture, boxes, kinds in zip(x, target["boxes"], target["kinds"], strict=True):
        bright = (picture.mean(0) > 0.3).nonzero().float()
        for box in boxes[kinds == HAND]:
            # Turned rectangles have the box of their corners, as the joints have.
            low, high = bright.amin(0).flip(0), bright.amax(0).flip(0)
            assert torch.allclose(box[:2].clamp(min=0), low, atol=2.5)
            assert torch.allclose(box[2:].clamp(max=63), high, atol=2.5)
            found += 1
    assert found >= 8


def test_batches_depend_on_the_step_alone() -> None:
    one, two = pool(), pool()
    two.compose(7)
    (xa, ta), (xb, tb) = one.compose(4), two.compose(4)
    assert torch.equal(xa, xb)
    assert torch.equal(ta["boxes"], tb["boxes"])
    assert not torch.equal(one.compose(5)[0], xa)
    assert torch.equal(one.batch(4)[0], xa)


def test_empty_pictures_have_no_boxes() -> None:
    _, target = pool(close=0.0, empty=1.0).compose(0)
    assert not target["kinds"].any()


def test_which_hands_are_to_be_found() -> None:
    points = torch.from_numpy(GRID).float()
    seen = torch.ones(21)
    tiny = points[:1] + (points - points[:1]) / 10
    half_out = points - torch.tensor([30.0, 0.0])

    def kinds(points: torch.Tensor, seen: torch.Tensor) -> list[int]:
        return judge([(points, seen)], 64)[1].tolist()

    assert kinds(points, seen) == [HAND]
    assert kinds(tiny, seen) == [IGNORED]
    assert kinds(half_out, seen) == [IGNORED]
    assert kinds(points, 0.1 * seen) == [IGNORED]
    assert kinds(points, 0.03 * seen) == []
    assert kinds(points - 100, seen) == []
    boxes, _ = judge([(tiny, seen), (points, seen)], 64)
    assert boxes[0].tolist() == [20, 24, 36, 40]  # the largest first


def test_a_hand_that_is_covered_is_no_longer_to_be_found() -> None:
    source = pool()
    x = torch.zeros(3, 64, 64)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    from dfmamba.train.detector import CLOSE

    still = replace(CLOSE, zoom=(0.25, 0.25), reach=0.0)
    below = [(torch.full((21, 2), 32.0), torch.ones(21))]
    (_, seen), _ = source._lay(x, source.hands, still, below, rng, generator)
    assert not seen.any()


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no backgrounds"):
        open_pool(DetectorRun(hands=str(tmp_path)), 64)


def test_the_detector_learns(tmp_path: Path) -> None:
    source = pool(close=0.0, empty=0.1, out=str(tmp_path), steps=30, lr=5e-3, warmup=5, ema=0.8)
    losses = []

    class Told(DetectorTask):
        def loss(self, output, target):
            found = super().loss(output, target)
            losses.append(float(found["total"].detach()))
            return found

    model = train(source.config, source, Told(source.config))
    assert isinstance(model, HandPoseModel)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert model.config.head.to_dict()["kind"] == "detector"


def test_only_detectors_are_trained_so() -> None:
    with pytest.raises(ValueError, match="no detector"):
        DetectorTask(DetectorRun(model="nano"))
