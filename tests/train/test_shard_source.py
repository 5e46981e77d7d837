"""Batches of shards: each sample once an epoch over processes and workers, from any step on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.data.own_format import Source, write_tar
from dfmamba.data.readers.shards import ShardedDataset
from dfmamba.data.sample import HandSample
from dfmamba.frameworks import Example
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.camera import Camera
from dfmamba.train.parallel import Ranks
from dfmamba.train.samples import ShardOrder, ShardSource

COUNTS = (5, 1, 0, 9, 4)


class Plain:
    """The sample's number, which is its wrist's x, and one random number."""

    def example(self, sample: HandSample, rng: np.random.Generator | None) -> Example:
        assert rng is not None
        number = torch.tensor(float(sample.joints_cam_mm[0, 0, 0]))
        return Example(number.view(1, 1, 1), {"noise": torch.tensor(rng.random())})


def numbered(number: int) -> Source:
    camera = Camera(200.0, 200.0, 4.0, 4.0)
    joints = np.zeros((2, 21, 3), np.float32)
    joints[0] = np.linspace([number, -50, 400], [number + 60, 50, 400], 21)
    valid = np.repeat([[True], [False]], 21, axis=1)
    pixels = np.where(valid[..., None], camera.project(joints), 0).astype(np.float32)
    image = np.full((8, 8, 3), number, np.uint8)
    box = box_of_points(pixels, valid)
    sample = HandSample(image, pixels, joints, valid, valid, valid[:, 0], camera, box, id=str(number))
    return Source(sample)


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of unequal sizes, one of them empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "train").mkdir()
    first = 0
    for i, count in enumerate(COUNTS):
        path = tmp_path / "train" / f"{i:06d}.tar"
        first += write_tar(path, [numbered(n) for n in range(first, first + count)], first)
    return tmp_path


def source(shards: Path, batch: int, rank: int = 0, world: int = 1, **changes: Any) -> ShardSource:
    dataset = ShardedDataset(shards, "train")
    return ShardSource(dataset, Plain(), batch, 3, Ranks(rank, world), **{"buffer": 6, **changes})  # type: ignore[arg-type]


def numbers(made: ShardSource, steps: range) -> list[int]:
    return [int(x) for step in steps for x in made.batch(step)[0].flatten().tolist()]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_sample_once_an_epoch(shards: Path, world: int, workers: int) -> None:
    share, total = 2, sum(COUNTS)
    steps = 3 * total // (share * world) + 1
    seen = [
        numbers(source(shards, share * world, rank, world, workers=workers), range(steps))
        for rank in range(world)
    ]
    for epoch in range(3):
        parts: list[list[int]] = []
        for rank in range(world):
            before, end = ((e * total + world - 1 - rank) // world for e in (epoch, epoch + 1))
            parts.append(seen[rank][before:end])
        assert sorted(number for part in parts for number in part) == list(range(total))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
@pytest.mark.parametrize("workers", [0, 2, 7])
def test_resuming_and_workers_change_nothing(shards: Path, workers: int) -> None:
    through, later = source(shards, 4, 1, 2), source(shards, 4, 1, 2, workers=workers)
    batches = [through.batch(step) for step in range(9)]
    for step in (6, 7, 8):
        pictures, target = later.batch(step)
        assert torch.equal(pictures, batches[step][0])
        assert torch.equal(target["noise"], batches[step][1]["noise"])


def test_a_truncated_shard(shards: Path) -> None:
    path = shards / "train" / "000003.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    made = source(shards, 1)
    total = made.report.kept
    assert sum(COUNTS) - 9 < total < sum(COUNTS)
    seen = numbers(made, range(2 * total))
    assert sorted(seen[:total]) == sorted(seen[total:])
    assert len(set(seen)) == total


def test_damaged_pictures_are_replaced_and_counted(shards: Path) -> None:
    path = shards / "train" / "000000.tar"
    content = bytearray(path.read_bytes())
    made = source(shards, 1)
    content[512:520] = bytes(8)  # the first picture's first bytes
    path.write_bytes(content)
    seen = numbers(made, range(sum(COUNTS)))
    assert len(seen) == sum(COUNTS)
    assert 0 not in seen
    assert sum(made.report.left_out.values()) == 1


@st.composite
def _orders(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int, int]:
    counts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=12))
    shards = np.repeat(np.arange(len(counts)), counts)
    share, world, buffer = (draw(st.integers(1, largest)) for largest in (7, 6, 40))
    return shards, share, world, buffer, draw(st.integers(0, 2**31))


@settings(deadline=None)
@given(_orders(), st.integers(0, 5))
def test_any_order(chosen: tuple[np.ndarray, int, int, int, int], epoch: int) -> None:
    shards, share, world, buffer, seed = chosen
    orders = [ShardOrder(shards, share, seed, buffer, Ranks(rank, world)) for rank in range(world)]
    parts = [order.order(epoch) for order in orders]
    assert sorted(np.concatenate(parts)) == list(range(len(shards)))
    for part, other in zip(parts, orders, strict=True):
        runs = ShardOrder(shards, share, seed, 1, other.ranks).order(epoch)
        assert sorted(runs) == sorted(part)
        # Before mixing, samples of a shard follow each other as they lie.
        assert (np.diff(runs)[np.diff(shards[runs]) == 0] == 1).all()
        lies = {sample: place for place, sample in enumerate(runs)}
        late = [place - lies[sample] for place, sample in enumerate(part)]
        assert max(map(abs, late), default=0) < buffer + 1
        found = [other.sample(step, place) for step in range(4) for place in range(share)]
        again = ShardOrder(shards, share, seed, buffer, other.ranks)
        assert found[-1] == again.sample(3, share - 1)
        for e in {e for e, _ in found[1:]} - {found[0][0], found[-1][0]}:
            assert [i for other_e, i in found if other_e == e] == other.order(e).tolist()


def test_epochs_differ_and_shards_stay_together() -> None:
    order = ShardOrder(np.repeat(np.arange(50), 20), 8, 1, 100, Ranks())
    first, second = order.order(0), order.order(1)
    assert not np.array_equal(first, second)
    assert len(np.unique(first[:200] // 20)) < 20
    with pytest.raises(ValueError, match="buffer is 0"):
        ShardOrder(np.zeros(3, np.int64), 1, 1, 0, Ranks())
