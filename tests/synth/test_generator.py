"""Samples, their reproducibility, effects, and shards on disk."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("warp")

from dfmamba.data.kinds import SYNTHETIC_KINDS
from dfmamba.data.sample import HandSample
from dfmamba.synth import post
from dfmamba.synth.generator import SyntheticConfig, SyntheticHands
from dfmamba.synth.shards import ShardedHands, render_shards

MIX = {kind: 1.0 for kind in SYNTHETIC_KINDS}


def same(a: HandSample, b: HandSample) -> bool:
    names = ("image", "joints_2d_px", "joints_cam_mm", "visible", "mask", "depth_mm")
    return all(
        (getattr(a, n) is None and getattr(b, n) is None) or np.array_equal(getattr(a, n), getattr(b, n))
        for n in names
    )


def _in_worker(index: int) -> HandSample:
    return SyntheticHands(SyntheticConfig(size=64, seed=5, kinds=MIX)).sample(index)


def test_same_index_same_sample_also_in_a_worker() -> None:
    hands = SyntheticHands(SyntheticConfig(size=64, seed=5, kinds=MIX))
    first = [hands.sample(i) for i in range(6)]
    assert all(same(a, SyntheticHands(hands.config).sample(i)) for i, a in enumerate(first))
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        assert all(same(a, b) for a, b in zip(first, pool.map(_in_worker, range(6)), strict=True))
    assert not np.array_equal(first[0].joints_cam_mm, first[1].joints_cam_mm)
    other = SyntheticHands(SyntheticConfig(size=64, seed=6, kinds=MIX)).sample(0)
    assert not np.array_equal(other.joints_cam_mm, first[0].joints_cam_mm)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_loader_workers_change_nothing() -> None:
    from torch.utils.data import DataLoader

    hands = SyntheticHands(SyntheticConfig(size=48, seed=7, kinds=MIX))
    hands.sample(0)  # compile before the workers fork
    runs = [
        list(DataLoader(hands, batch_size=None, sampler=range(6), num_workers=workers))
        for workers in (0, 1, 2)
    ]
    for other in runs[1:]:
        assert all(same(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("kind", SYNTHETIC_KINDS)
def test_kinds(kind: str) -> None:
    hands = SyntheticHands(SyntheticConfig(size=96, seed=2, kinds={kind: 1.0}))
    for i in range(4):
        sample = hands.sample(i)
        assert sample.kind == kind == hands.kind_of(i)
        assert sample.mask is not None
        assert sample.depth_mm is not None
        assert sample.camera is not None
        if kind == "depth":
            assert sample.image is None
        else:
            assert sample.image is not None
            assert sample.image.std() > 5
        if kind in ("single", "two"):
            assert sample.present.sum() == {"single": 1, "two": 2}[kind]
        assert sample.visible.any()
        assert not (sample.visible & ~sample.valid).any()
        for hand in np.nonzero(sample.present)[0]:
            z = sample.joints_cam_mm[hand, :, 2]
            assert (z > 100).all()
            assert np.ptp(z) < 400
            projected = sample.camera.project(sample.joints_cam_mm[hand].astype(float))
            np.testing.assert_allclose(projected, sample.joints_2d_px[hand], atol=1e-2)


def test_joints_lie_on_the_mask() -> None:
    hands = SyntheticHands(SyntheticConfig(size=96, seed=3, kinds={"single": 1.0}))
    shares = []
    for i in range(8):
        sample = hands.sample(i)
        assert sample.mask is not None
        points = np.rint(sample.joints_2d_px[sample.valid]).astype(int)
        points = points[((points >= 0) & (points < 96)).all(1)]
        shares.append((sample.mask[points[:, 1], points[:, 0]] > 0).mean())
    assert np.mean(shares) > 0.95


def test_streams_are_separate() -> None:
    plain = SyntheticHands(SyntheticConfig(size=64, seed=1, effects=False)).layers(4)
    full = SyntheticHands(SyntheticConfig(size=64, seed=1)).layers(4)
    np.testing.assert_array_equal(plain.foreground, full.foreground)
    np.testing.assert_array_equal(plain.sample.joints_cam_mm, full.sample.joints_cam_mm)
    assert not np.array_equal(plain.sample.image, full.sample.image)


def test_config_errors() -> None:
    with pytest.raises(ValueError, match="unknown kinds"):
        SyntheticConfig(kinds={"paw": 1.0})
    with pytest.raises(ValueError, match="above 0"):
        SyntheticConfig(kinds={"single": 0.0})
    with pytest.raises(ValueError, match="no folder"):
        SyntheticConfig(backgrounds="/nowhere/at/all")
    with pytest.raises(ValueError, match="unknown keys"):
        SyntheticConfig.from_dict({"colour": 1})
    with pytest.raises(ValueError, match="size"):
        SyntheticConfig(size=0)
    with pytest.raises(ValueError, match="index"):
        SyntheticHands(SyntheticConfig()).sample(-1)


def test_recompose() -> None:
    front = np.zeros((2, 2, 4), np.uint8)
    front[..., 0] = 255
    front[0, 0, 3], front[0, 1, 3] = 255, 128
    picture = post.recompose(front, np.full((2, 2, 3), 100, np.uint8))
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[1, 1].tolist() == [100, 100, 100]
    assert 185 < picture[0, 1, 0] < 200
    assert 65 < picture[0, 1, 1] < 80
    with pytest.raises(ValueError, match="one size"):
        post.recompose(front, np.zeros((3, 2, 3), np.uint8))


def test_effects_keep_the_picture_recognisable() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    for i in range(30):
        made = post.finish(ramp, np.random.default_rng(i))
        assert made.shape == ramp.shape
        assert made.dtype == np.uint8
        assert np.corrcoef(made.mean((0, 2)), ramp.mean((0, 2)))[0, 1] > 0.9


def test_depth_sensor() -> None:
    depth = np.zeros((64, 64), np.float32)
    depth[20:40, 20:40] = 500
    for i in range(10):
        seen = post.sense_depth(depth, np.random.default_rng(i))
        assert seen.shape == depth.shape
        assert seen.dtype == np.float32
        assert seen.min() >= 0
        inside = seen[24:36, 24:36]
        assert np.abs(np.median(inside[inside > 0]) - 500) < 5
        assert (seen[inside.shape[0] :] < 2000).all()


def test_shards_resume_and_read(tmp_path: Path) -> None:
    config = SyntheticConfig(size=48, seed=7, kinds={"single": 1.0, "depth": 0.5})
    layers = ("hand", "full", "mask", "depth")
    render_shards(config, 0, 5, tmp_path, workers=0, shard_size=3, layers=layers)
    first = tmp_path / "shard-000000000"
    stamp = (first / "labels.npz").stat().st_mtime_ns
    before = (tmp_path / "shard-000000003" / "hand.npy").read_bytes()
    for path in (tmp_path / "shard-000000003").iterdir():
        path.unlink()
    (tmp_path / "shard-000000003").rename(tmp_path / "shard-000000003.part")
    assert len(ShardedHands(tmp_path)) == 3
    render_shards(config, 0, 5, tmp_path, workers=1, shard_size=3, layers=layers, progress=False)
    assert (first / "labels.npz").stat().st_mtime_ns == stamp
    assert (tmp_path / "shard-000000003" / "hand.npy").read_bytes() == before
    stored = ShardedHands(tmp_path)
    assert len(stored) == 5
    hands = SyntheticHands(config)
    for i in (0, 2, 4):
        made, row = hands.layers(i), stored[i]
        np.testing.assert_array_equal(row["hand"], made.foreground)
        np.testing.assert_array_equal(row["mask"], made.sample.mask)
        np.testing.assert_array_equal(row["joints_2d"], made.sample.joints_2d_px)
        assert SYNTHETIC_KINDS[row["kind"]] == made.sample.kind
        assert row["index"] == i
        if made.sample.image is not None:
            np.testing.assert_array_equal(row["full"], made.sample.image)
    with pytest.raises(ValueError, match="another folder"):
        render_shards(
            SyntheticConfig(size=48, seed=8), 0, 5, tmp_path, workers=0, shard_size=3, layers=layers
        )
    with pytest.raises(OSError, match="no finished shards"):
        ShardedHands(tmp_path / "empty")
    with pytest.raises(IndexError):
        stored[5]


def test_package_imports_without_warp() -> None:
    code = "import sys, dfmamba.synth as s; assert 'warp' not in sys.modules; s.SyntheticConfig"
    subprocess.run([sys.executable, "-c", code + "; assert 'warp' not in sys.modules"], check=True)
