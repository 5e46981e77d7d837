"""Training on a mixture of rendered hands and labelled sets: exact resume, processes, faults of sets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from process_group import run_processes

pytest.importorskip("warp", reason="the renderer needs the extra 'synthetic'")

from dfmamba.data.registry import open_dataset
from dfmamba.fixtures import write_fixture
from dfmamba.hands.affine import square_box
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.train import pool as pool_module
from dfmamba.train.config import DataConfig, SetConfig, TrainConfig
from dfmamba.train.engine import train
from dfmamba.train.parallel import Ranks
from dfmamba.train.pool import (
    ROOM,
    Pool,
    PoseTask,
    cut_hands,
    open_backgrounds,
    open_set,
    render,
    train_pose,
)

SIZE = 64


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fixtures of FreiHAND and the own format."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("freihand", "own"):
        write_fixture(name, folder / name, count=9, seed=4)
    return folder


@pytest.fixture(scope="module")
def config(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A rendered pool, both sets, and folders of photographs with one that is broken."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pool_module, "SHARD", 6)
    folder = tmp_path_factory.mktemp("cache")
    patch.setenv("XDG_CACHE_HOME", str(folder))
    photos = sets / "photos"
    for i, place in enumerate(("", "rooms", "rooms/old")):
        (photos / place).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 70), (40 * i + 10, 250, 7)).save(photos / place / f"{i}.png")
    (photos / "rooms" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    data = DataConfig(
        pictures=6, first=6, size=48, kinds={"single": 0.5, "depth": 0.5}, backgrounds=8, workers=0,
        photos=str(photos), photo_share=0.5,
        sets=(
            SetConfig("freihand", str(sets / "freihand"), 0.25, size=80, options={"versions": "gs"}),
            SetConfig("own", str(sets / "own"), 0.5, size=96),
        ),
    )  # fmt: skip
    render(data, 0, 6)
    yield TrainConfig(
        model="test", steps=4, batch_size=8, warmup=1, save_every=2, ema=0.5, threads=1, data=data
    )
    patch.undo()


def fit(config: TrainConfig, ranks: Ranks | None = None, workers: int = 0, **options) -> None:
    source = Pool(config, MODELS["test"].image_size, ranks, workers=workers)
    train(config, source, PoseTask(config), ranks=ranks, **options)


def differing(one: Path, other: Path) -> list[str]:
    """Names of the weights of two runs that aren't the same bits."""
    a, b = (HandPoseModel.from_pretrained(folder / "last").state_dict() for folder in (one, other))
    return [name for name in a if not torch.equal(a[name], b[name])]


def test_a_batch_has_all_sources_and_depends_on_the_step_alone(config: TrainConfig) -> None:
    pools = [Pool(config, SIZE), Pool(config, SIZE, workers=1)]
    sizes = set()
    for step in (3, 0):
        parts = pools[0].draw(step)[0]
        sizes |= {part.images.shape[1] for part in parts}
        (x, target), (again, labels) = (pool.batch(step) for pool in pools)
        assert torch.equal(x, again)
        assert all(torch.equal(target[name], labels[name]) for name in target)
        assert x.shape == (8, 3, SIZE, SIZE)
    assert sizes == {48, 80, 96}


def test_shares_are_kept_in_the_mean(config: TrainConfig) -> None:
    pool = Pool(replace(config, batch_size=100), SIZE)
    counts = {48: 0, 80: 0, 96: 0}
    for step in range(5):
        for part in pool.draw(step)[0]:
            counts[part.images.shape[1]] += len(part.rows)
    shares = [count / 500 for count in counts.values()]
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.08)


def test_a_resumed_mixture_has_the_same_bits(config: TrainConfig, tmp_path: Path) -> None:
    whole, parts = (replace(config, out=str(tmp_path / name)) for name in "ab")
    fit(whole, workers=1)
    fit(parts, until=2)
    fit(parts, resume=True)
    assert differing(tmp_path / "a", tmp_path / "b") == []
    other = replace(config.data, sets=(replace(config.data.sets[0], share=0.1), config.data.sets[1]))
    with pytest.raises(ValueError, match=r"another data\.sets\.0\.share"):
        fit(replace(parts, data=other), resume=True)


def test_two_processes_resume_exactly(config: TrainConfig, tmp_path: Path) -> None:
    run_processes(_member, config, str(tmp_path))
    assert differing(tmp_path / "a", tmp_path / "b") == []


def _member(rank: int, config: TrainConfig, folder: str) -> None:
    pool_module.SHARD = 6
    ranks = Ranks.from_environment("cpu")
    whole, parts = (replace(config, out=str(Path(folder) / name)) for name in "ab")
    fit(whole, ranks)
    fit(parts, ranks, until=2)
    fit(parts, ranks, resume=True)


def without_depth(folder: Path, copy: Path, count: int = 4) -> Path:
    """A copy of the own fixture labelled in pixels only."""
    copy.mkdir()
    content = json.loads((folder / "train.json").read_text())
    del content["samples"][count:]
    for sample in content["samples"]:
        (copy / sample["picture"]).parent.mkdir(parents=True, exist_ok=True)
        (copy / sample["picture"]).write_bytes((folder / sample["picture"]).read_bytes())
        for hand in sample["hands"]:
            del hand["joints_cam"]
    (copy / "train.json").write_text(json.dumps(content))
    return copy


def test_a_set_without_depth_teaches_none(config: TrainConfig, sets: Path, tmp_path: Path) -> None:
    flat = without_depth(sets / "own", tmp_path / "flat")
    data = replace(config.data, sets=(SetConfig("own", str(flat), 1.0),))
    run = replace(config, out=str(tmp_path / "run"), data=data, steps=1)
    _, target = Pool(run, SIZE).batch(0)
    assert target["valid"].any()
    assert not target["valid_z"].any()
    fit(run)


def test_an_empty_set_is_refused(sets: Path, tmp_path: Path) -> None:
    empty = without_depth(sets / "own", tmp_path / "empty", count=0)
    with pytest.raises(ValueError, match="no usable sample"):
        open_set(SetConfig("own", str(empty), 0.5))


def test_a_set_of_broken_images_only_is_refused(sets: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    broken = without_depth(sets / "own", tmp_path / "broken", count=2)
    for path in broken.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"nothing to train on: 0 samples; left out 2: damaged"):
        open_set(SetConfig("own", str(broken), 0.5))
    assert not list((tmp_path / "cache" / "dfmamba").glob("cut-*"))


def test_a_broken_image_is_named_and_costs_one_sample(
    config: TrainConfig, sets: Path, tmp_path: Path, capsys
) -> None:
    copy = without_depth(sets / "own", tmp_path / "copy")
    whole = len(open_set(SetConfig("own", str(copy), 0.5)).valid)
    victim = open_dataset("own", copy, "train").index[0]
    path = copy / victim.picture
    path.write_bytes(path.read_bytes()[:200])
    capsys.readouterr()
    for _ in range(2):  # cut anew, and read from the cache
        assert len(open_set(SetConfig("own", str(copy), 0.5)).valid) == whole - 1
        told = capsys.readouterr().err
        assert "left out 1: damaged" in told
        assert victim.id in told


def test_cut_hands_lie_on_their_joints(sets: Path) -> None:
    dataset = open_dataset("freihand", sets / "freihand", "training")
    sample = dataset[0]
    ((rgba, joints, valid, valid_z, known, is_depth),) = cut_hands(sample, 100)
    box = square_box(sample.box_of(0), ROOM)
    scale = 100 / (box[2] - box[0])
    want = (sample.joints_2d_px[0] + 0.5 - (box[:2] + 0.5)) * scale - 0.5
    np.testing.assert_allclose(joints[0, :, :2], want, atol=1e-3)
    np.testing.assert_allclose(joints[0, :, 2], sample.joints_25d[0][0, :, 2] * scale, rtol=1e-4, atol=1e-4)
    assert (valid[0].all(), valid[1].any(), valid_z[0].all(), known.all(), is_depth) == (
        True, False, True, True, False,
    )  # fmt: skip
    # Coverage ends where the image does.
    columns = (np.arange(100) + 0.5) / scale + box[0] - 0.5
    middle = rgba[50, :, 3] > 127
    assert np.array_equal(middle, (columns > -0.5) & (columns < sample.size[0] - 0.5))


def test_photographs_come_from_all_folders_and_broken_ones_are_named(
    config: TrainConfig, tmp_path: Path, capsys
) -> None:
    data = replace(config.data, cache=str(tmp_path), backgrounds=6)
    found = open_backgrounds(data)
    assert found.shape == (6, 48, 48, 3)
    assert {tuple(image[0, 0]) for image in found[:3]} == {(10, 250, 7), (50, 250, 7), (90, 250, 7)}
    assert not (found[3:, ..., 1] == 250).all(axis=(1, 2)).any()
    assert "left out 1: not a picture" in (told := capsys.readouterr().err)
    assert "broken.jpg" in told


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sets": [{"name": "own", "path": "x", "share": 0.7}] * 2}, "add up to 1.4"),
        ({"sets": [{"name": "own", "path": "x", "share": 0.0}]}, "share of own x is 0.0"),
        ({"sets": [{"name": "hands", "path": "x", "share": 0.1}]}, "unknown data set 'hands'"),
        ({"sets": [{"name": "own", "path": "x", "share": 0.1, "weight": 1}]}, "data set setting 'weight'"),
        ({"photo_share": 1.5}, "photo_share is 1.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_unusable_settings(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict({"data": values})


def test_joints_in_another_order_are_refused(tmp_path: Path) -> None:
    write_fixture("nyu", tmp_path / "nyu", count=2)
    with pytest.raises(ValueError, match="joints in order 'nyu14'"):
        open_set(SetConfig("nyu", str(tmp_path / "nyu"), 0.5))


def test_a_set_that_changed_is_not_gone_on_with(config: TrainConfig, sets: Path, tmp_path: Path) -> None:
    copy = without_depth(sets / "own", tmp_path / "copy")
    data = replace(config.data, sets=(SetConfig("own", str(copy), 1.0),), photos=None)
    run = replace(config, out=str(tmp_path / "run"), data=data, validation=1, validate_every=100)
    train_pose(run, Ranks(), until=1)
    victim = copy / open_dataset("own", copy, "train").index[1].picture
    Image.fromarray(np.asarray(Image.open(victim)) // 2).save(victim)
    with pytest.raises(ValueError, match=r"began with other images or labels in own .*copy"):
        train_pose(run, Ranks(), resume=True, until=2)
