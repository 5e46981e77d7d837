"""The pool of rendered pictures: batches depend on configuration and step alone."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("warp", reason="the renderer needs the extra 'synthetic'")

from dfmamba.hands.camera import Camera, to_25d
from dfmamba.synth.shards import ShardedHands
from dfmamba.train import pool as pool_module
from dfmamba.train.config import DataConfig, TrainConfig
from dfmamba.train.parallel import Ranks
from dfmamba.train.pool import Pool, cache_folder, open_backgrounds, render


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    patch = pytest.MonkeyPatch()
    patch.setattr(pool_module, "SHARD", 6)
    folder = tmp_path_factory.mktemp("cache")
    kinds = {"single": 0.4, "two": 0.3, "depth": 0.3}
    data = DataConfig(pictures=12, first=6, cache=str(folder), size=48, kinds=kinds, backgrounds=3, workers=0)
    made = TrainConfig(model="test", steps=8, batch_size=4, data=data)
    render(data, 0, 12)
    open_backgrounds(data)
    yield made
    patch.undo()


def test_a_batch_is_a_function_of_the_step(config: TrainConfig) -> None:
    a, b = Pool(config, 32), Pool(config, 32)
    for step in (5, 0, 3):
        (xa, ta), (xb, tb) = a.batch(step), b.batch(step)
        assert torch.equal(xa, xb)
        assert all(torch.equal(ta[key], tb[key]) for key in ta)
    assert not torch.equal(a.batch(6)[0], a.batch(7)[0])


def test_composing_ahead_changes_nothing(config: TrainConfig) -> None:
    here, ahead = Pool(config, 32), Pool(config, 32, workers=1)
    for step in (2, 3, 4, 5, 1):
        (xa, ta), (xb, tb) = here.batch(step), ahead.batch(step)
        assert torch.equal(xa, xb)
        assert all(torch.equal(ta[key], tb[key]) for key in ta)


def test_a_copy_maps_the_pictures_again(config: TrainConfig) -> None:
    content = pickle.dumps(Pool(config, 32)._prefetched.items)
    assert len(content) < 10_000
    x, _ = pickle.loads(content)[4]
    assert torch.equal(x, Pool(config, 32).batch(4)[0])


def test_the_pool_grows_by_a_fixed_rule(config: TrainConfig) -> None:
    pool = Pool(config, 32)
    assert [pool.available(step) for step in range(8)] == [6, 6, 6, 6, 12, 12, 12, 12]


def test_ranks_draw_different_pictures(config: TrainConfig) -> None:
    first, second = (Pool(config, 32, Ranks(rank, 2)) for rank in (0, 1))
    x, y = first.batch(0)[0], second.batch(0)[0]
    assert x.shape == y.shape == (2, 3, 32, 32)
    assert not torch.equal(x, y)
    with pytest.raises(ValueError, match="divided among 3"):
        Pool(config, 32, Ranks(0, 3)).batch(0)


def test_labels_are_the_25d_of_the_shards(config: TrainConfig) -> None:
    pool = Pool(replace(config, steps=1), 32)
    labels = ShardedHands(pool_module.cache_folder(config.data), ("hand",)).labels
    for i in range(6):
        camera = Camera(*labels["camera"][i].tolist())
        for hand in np.flatnonzero(labels["present"][i]):
            want = to_25d(labels["joints_cam_mm"][i, hand].astype(np.float64), camera)
            np.testing.assert_allclose(pool.rendered.joints_25d[i, hand].numpy(), want, atol=2e-3)


def test_missing_shards_are_named(config: TrainConfig, tmp_path: Path) -> None:
    data = replace(config.data, cache=str(tmp_path), first=12)
    with pytest.raises(OSError, match="is the renderer running"):
        Pool(replace(config, data=data), 32, patience_s=0.0)


def test_the_cache_is_named_by_its_content() -> None:
    base = DataConfig()
    assert cache_folder(base) == cache_folder(replace(base, pictures=7, workers=1))
    assert cache_folder(base) != cache_folder(replace(base, seed=2))
    assert cache_folder(base) != cache_folder(replace(base, kinds={"two": 1.0}))
