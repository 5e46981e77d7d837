"""Batches, their labels, and the way back from crops to millimetres."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dfmamba.hands.affine import box_of_points
from dfmamba.train.augment import AugmentConfig
from studies.synthhands5 import training
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.settings import CROP_FACTOR, MARGIN, PICTURE, SETTINGS
from studies.synthhands5.training import (
    AUGMENT,
    HEAD,
    Batches,
    BenchmarkRun,
    BenchmarkTask,
    centre_crops,
    predict,
)

SIZE = HEAD.image_size
STILL = AugmentConfig(rotation_deg=0, spin=0, scale=0, zoom_out=0, shift=0, flip=0, colour=0, blur=0, noise=0)
DOT = 9
"""The joint that shows in `dotted` pictures."""


@pytest.fixture(scope="module")
def dotted(blank) -> Pictures:
    """A red dot on one joint of each right hand, a blue one on that of each left hand."""
    n = 16
    pictures = blank(n)
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(n, 2, 2, generator=generator) * 50 + 39
    pictures.joints_2d_px[:] = places[:, :, None]
    pictures.joints_mm[..., 2] = 400
    pictures.joints_mm[:, :, DOT, 2] = 440
    pictures.valid[:] = True
    y, x = torch.meshgrid(torch.arange(PICTURE), torch.arange(PICTURE), indexing="ij")
    for hand, channel in ((0, 0), (1, 2)):
        u, v = (places[:, hand, k, None, None] for k in (0, 1))
        pictures.pixels[..., channel] = (255 * torch.exp(-((x - u) ** 2 + (y - v) ** 2) / 8)).round().byte()
    return pictures


def centroids(x: Tensor) -> Tensor:
    """(n, 2, 2) pixels of the red and of the blue dot in crops (n, 3, S, S)."""
    steps = torch.arange(x.shape[-1], dtype=x.dtype)
    weight = x[:, [0, 2]]
    total = weight.sum((-1, -2))
    return torch.stack(((weight.sum(-2) @ steps) / total, (weight.sum(-1) @ steps) / total), dim=-1)


def in_crop(joints_25d: Tensor) -> Tensor:
    """Labels in the pixels of the test crops."""
    crop = centre_crops(1, SIZE)[0]
    zoom = crop[0, 0]
    return torch.cat(((joints_25d[..., :2] - crop[:, 2]) / zoom, joints_25d[..., 2:] / zoom), dim=-1)


def test_a_batch_is_a_function_of_seed_and_step(dotted: Pictures) -> None:
    source = Batches(dotted, 4, 7)
    wanted = {step: source.batch(step) for step in (0, 1, 5)}
    torch.manual_seed(99)  # a row that draws more numbers for its weights changes nothing
    state = torch.get_rng_state()
    again = Batches(dotted, 4, 7)
    for step in (5, 0, 1):
        x, target = again.batch(step)
        assert torch.equal(x, wanted[step][0])
        assert all(torch.equal(target[name], values) for name, values in wanted[step][1].items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(Batches(dotted, 4, 8).batch(0)[0], wanted[0][0])
    assert not torch.equal(wanted[1][0], wanted[0][0])


def test_each_picture_once_an_epoch(dotted: Pictures) -> None:
    source = Batches(dotted, 5, 0)
    first, second = (
        [int(i) for step in steps for i in source.chosen(step)] for steps in (range(3), range(3, 6))
    )
    assert len(set(first)) == len(set(second)) == 15
    assert first != second
    assert [int(i) for i in source.chosen(0)] == first[:5]


def test_fewer_pictures_than_a_batch_are_refused(dotted: Pictures) -> None:
    with pytest.raises(ValueError, match="16 pictures are fewer than a batch of 17"):
        Batches(dotted, 17, 0)


def test_crops_without_augmentation_are_the_test_crops(
    dotted: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "AUGMENT", STILL)
    source = Batches(dotted, 16, 0)
    index = torch.from_numpy(source.chosen(0))
    x, target = source.batch(0)
    assert x.shape == (16, 3, SIZE, SIZE)
    torch.testing.assert_close(target["joints_25d"], in_crop(dotted.joints_25d[index]), atol=1e-4, rtol=0)
    torch.testing.assert_close(centroids(x), target["joints_25d"][:, :, DOT, :2], atol=0.05, rtol=0)
    depth = 300 * 40 / 400 * SIZE / (PICTURE * CROP_FACTOR / MARGIN)
    torch.testing.assert_close(target["joints_25d"][:, :, DOT, 2], torch.full((16, 2), depth))


def test_labels_follow_augmented_pictures(dotted: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "AUGMENT", replace(AUGMENT, colour=0.0))
    x, target = Batches(dotted, 16, 3).batch(0)
    joints = target["joints_25d"][:, :, DOT, :2]
    seen = centroids(x)
    inside = ((joints > 6) & (joints < SIZE - 7)).all(-1).all(-1)
    straight, swapped = ((joints - dots).norm(dim=-1).amax(-1) for dots in (seen, seen.flip(1)))
    assert int(inside.sum()) > 8
    assert torch.minimum(straight, swapped)[inside].max() < 0.3
    assert 0 < int((swapped < straight).sum()) < 16  # a mirrored right hand is a left hand


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip_swaps_hands(blank, monkeypatch: pytest.MonkeyPatch, flip: float) -> None:
    monkeypatch.setattr(training, "AUGMENT", replace(STILL, flip=flip))
    pictures = blank(2)
    pictures.valid[:, 0] = True
    pictures.joints_mm[:, 0, :, 2] = 400
    pictures.joints_2d_px[:, 0] = torch.tensor([40.0, 70.0])
    _, target = Batches(pictures, 2, 0).batch(0)
    shown = int(flip)
    assert target["present"].tolist() == [[not flip, bool(flip)]] * 2
    wanted = in_crop(pictures.joints_25d)[:, 0]
    if flip:
        wanted[..., 0] = SIZE - 1 - wanted[..., 0]
    torch.testing.assert_close(target["joints_25d"][:, shown], wanted, atol=1e-4, rtol=0)
    # The absent hand's output is taught the same joints, but not that there is a hand.
    assert torch.equal(target["joints_25d"][:, 1 - shown], target["joints_25d"][:, shown])
    assert target["valid"].all()


def extent(pictures: Pictures, i: int, hand: int) -> float:
    """Longer side of a hand's box in pixels."""
    x0, y0, x1, y1 = box_of_points(pictures.joints_2d_px[i, hand].numpy(), pictures.valid[i, hand].numpy())
    return float(max(x1 - x0, y1 - y0))


def test_box_sides_are_those_of_the_crop(load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "AUGMENT", STILL)
    pictures = load("two")
    source = Batches(pictures, len(pictures), 0)
    index = torch.from_numpy(source.chosen(0))
    zoom = PICTURE * CROP_FACTOR / MARGIN / SIZE
    sides = [[extent(pictures, int(i), hand) for hand in range(2)] for i in index]
    torch.testing.assert_close(
        source.batch(0)[1]["box_size_px"], torch.tensor(sides) / zoom, atol=1e-3, rtol=0
    )


def answering(answer: Tensor, seen: list[Tensor] | None = None) -> Callable[[Tensor], SimpleNamespace]:
    """A model that gives one answer after the other, whatever it is shown."""
    rest = list(answer)

    def model(x: Tensor) -> SimpleNamespace:
        if seen is not None:
            seen.append(x)
        return SimpleNamespace(joints_25d=torch.stack([rest.pop(0) for _ in x]))

    return model


@pytest.mark.parametrize("setting", SETTINGS)
def test_true_labels_give_the_true_joints(setting: str, load) -> None:
    pictures = load(setting)
    found = predict(answering(in_crop(pictures.joints_25d)), pictures, batch=3)
    torch.testing.assert_close(found, pictures.joints_mm, atol=0.02, rtol=0)


def test_only_the_wrists_depth_is_taken_from_the_truth(load) -> None:
    pictures = load("distractors")
    answer = in_crop(pictures.joints_25d)
    joints = pictures.joints_mm.clone()
    joints[:, :, 1:] += 50
    other = replace(pictures, joints_mm=joints, joints_2d_px=pictures.joints_2d_px + 9)
    assert torch.equal(predict(answering(answer), other), predict(answering(answer), pictures))
    absent = ~pictures.valid.any(-1)
    assert absent.any()
    assert not predict(answering(answer + 5), pictures)[absent].any()


def test_models_see_the_centre(dotted: Pictures) -> None:
    seen: list[Tensor] = []
    predict(answering(in_crop(dotted.joints_25d), seen), dotted, batch=6)
    assert [len(x) for x in seen] == [6, 6, 4]
    x = torch.cat(seen)
    assert x.shape[1:] == (3, SIZE, SIZE)
    torch.testing.assert_close(centroids(x), in_crop(dotted.joints_25d)[:, :, DOT, :2], atol=0.05, rtol=0)


def test_test_crops_hold_all_joints(load) -> None:
    for setting in SETTINGS:
        pictures = load(setting)
        joints = in_crop(pictures.joints_25d)[..., :2][pictures.valid]
        assert joints.min() > 0
        assert joints.max() < SIZE - 1


def test_rows_share_head_and_loss() -> None:
    task = BenchmarkTask(BenchmarkRun(entry="tiny", backbone="dfmamba_test"))
    model = task.build()
    assert model.config.head == HEAD
    assert model.config.name == "synthhands5-tiny"
    assert task.loss_config.image_size == SIZE


def test_the_loss_is_least_for_the_labels(load) -> None:
    pictures = load("two")
    task = BenchmarkTask(BenchmarkRun(backbone="dfmamba_test"))
    x, target = Batches(pictures, 4, 0).batch(0)
    output = task.build()(x)
    terms = task.loss(output, target)
    assert all(bool(term.isfinite()) for term in terms.values())
    layer = output.layers[-1]._replace(joints_25d=target["joints_25d"])
    better = task.loss(output._replace(joints_25d=target["joints_25d"], layers=(layer,)), target)
    assert better["joint"] < 0.05 * terms["joint"]
