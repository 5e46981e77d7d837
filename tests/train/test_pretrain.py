"""Masked-image pre-training: masks, crops, the loss of covered pixels, a backbone that others can take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from dfmamba.models import MODELS, HandPoseModel
from dfmamba.train.engine import train
from dfmamba.train.pretrain import MaskedTask, Masking, PretrainRun, picture_source, random_crop
from dfmamba.train.transfer import load_backbone


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six smooth pictures of different sizes, and a damaged one."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(6):
        small = Image.fromarray(rng.integers(0, 255, (3, 3, 3), dtype=np.uint8))
        small.resize((80 + 9 * i, 70), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def config(pictures: Path, out: Path, **changes) -> PretrainRun:
    base = PretrainRun(
        out=str(out), pictures=str(pictures), backbone="dfmamba_test", image_size=64, patch=16, batch_size=4,
        steps=60, warmup=5, lr=3e-3, ema=0.9,
    )  # fmt: skip
    return replace(base, **changes)


def fit(run: PretrainRun, **options):
    return train(run, picture_source(run), cast(Any, MaskedTask(run)), **options)


def test_loss_falls_and_the_backbone_fits_a_pose_model(pictures: Path, tmp_path: Path) -> None:
    run = config(pictures, tmp_path, steps=30, ema=0.0)
    task = MaskedTask(run)
    seen, target = picture_source(replace(run, seed=5)).batch(0)
    torch.manual_seed(0)
    before = task.loss(task.build()(seen), target)["total"].item()
    after = task.loss(fit(run)(seen), target)["total"].item()
    assert after < 0.8 * before, (before, after)
    model = HandPoseModel(MODELS["test"])
    found = load_backbone(model.backbone, tmp_path / "last")
    assert (found.missing, found.left) == ([], [])
    assert json.loads((tmp_path / "last" / "config.json").read_text())["backbone"] == "dfmamba_test"


def test_a_resumed_run_ends_with_the_same_bits(pictures: Path, tmp_path: Path) -> None:
    whole, parts = config(pictures, tmp_path / "a", steps=6), config(pictures, tmp_path / "b", steps=6)
    a = fit(whole).state_dict()
    fit(parts, until=3)
    b = fit(parts, resume=True).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_batch_is_covered_by_patches(pictures: Path, tmp_path: Path) -> None:
    run = config(pictures, tmp_path)
    x, target = picture_source(run).batch(3)
    again, _ = picture_source(run).batch(3)
    assert torch.equal(x, again)
    assert x.shape == target["picture"].shape == (4, 3, 64, 64)
    assert target["mask"].shape == (4, 4, 4)
    assert target["mask"].sum((1, 2)).tolist() == [10] * 4  # 60 % of 16 patches, rounded up
    mask = torch.nn.functional.interpolate(target["mask"][:, None].float(), scale_factor=16) > 0
    mask = mask.expand_as(x)
    assert (x[mask] == 0.5).all()
    assert torch.equal(x[~mask], target["picture"][~mask])


def test_only_covered_pixels_count(tmp_path: Path) -> None:
    task = MaskedTask(PretrainRun(image_size=64, patch=32))
    mask = torch.tensor([[[True, False], [False, False]]])
    picture = torch.zeros(1, 3, 64, 64)
    output = torch.full_like(picture, 9.0)
    output[:, :, :32, :32] = 0.25
    assert task.loss(output, {"picture": picture, "mask": mask})["total"].item() == pytest.approx(0.25)


@pytest.mark.parametrize("shape", [(64, 64), (1, 300), (300, 1), (7, 5)])
def test_crops_of_any_picture(shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 77, np.uint8)
    for seed in range(5):
        crop = random_crop(picture, 32, np.random.default_rng(seed))
        assert crop.shape == (32, 32, 3)
        assert (crop == 77).all()


def test_crops_show_most_of_the_picture_and_are_mirrored_half_of_the_time() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    crops = [random_crop(ramp, 50, np.random.default_rng(seed)).astype(float) for seed in range(200)]
    spans = np.array([abs(crop[25, -1, 0] - crop[25, 0, 0]) for crop in crops])
    mirrored = np.mean([crop[25, -1, 0] < crop[25, 0, 0] for crop in crops])
    assert spans.min() > 200 * (0.67 * 0.75) ** 0.5 * 0.95
    assert 0.35 < mirrored < 0.65


def test_a_damaged_picture_is_replaced_and_counted(pictures: Path, tmp_path: Path) -> None:
    for file in pictures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "9.png").write_bytes(b"no picture")
    source = picture_source(config(tmp_path, tmp_path / "run"))
    for step in range(2):
        assert torch.isfinite(source.batch(step)[0]).all()
    assert "1" in "".join(source.report.lines[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 72}, "image_size is 72; expected a multiple of the patch, 16"),
        ({"image_size": 48}, "image_size is 48; expected a multiple of the stride, 32"),
        ({"patch": 0}, "expected a multiple of the patch, 0"),
        ({"mask": 1.0}, "mask is 1.0; expected a share"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_unusable_settings_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, tmp_path, **changes)


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures in this folder"):
        picture_source(config(tmp_path, tmp_path))
    with pytest.raises(FileNotFoundError, match="absent"):
        picture_source(config(tmp_path / "absent", tmp_path))
    with pytest.raises(ValueError, match="no pictures are named"):
        picture_source(replace(config(tmp_path, tmp_path), pictures=""))


def test_masks_differ_between_pictures() -> None:
    masking = Masking(PretrainRun(image_size=64, patch=16))
    picture = np.zeros((64, 64, 3), np.uint8)
    masks = [masking.example(picture, np.random.default_rng(i)).target["mask"] for i in range(8)]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 6
