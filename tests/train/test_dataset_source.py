"""Batches of a data set: every sample once an epoch, the same whatever the workers, none silently broken."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import IndexedDataset
from dfmamba.frameworks import Example
from dfmamba.hands.camera import Camera
from dfmamba.train.parallel import Ranks
from dfmamba.train.samples import DatasetSource


class Numbered(IndexedDataset):
    """Samples whose wrist is at x = their number; pictures are made up."""

    NAME = "numbered"
    SPLITS = ("train",)
    broken: ClassVar[frozenset[int]] = frozenset()

    def sources(self) -> list[Path]:
        return []

    def rows(self, report: Report):
        count = int(self.options["count"])
        for i in range(count):
            joints = np.zeros((2, 21, 3))
            joints[0] = np.linspace([i, -50, 400], [i + 60, 50, 400], 21)
            valid = np.zeros((2, 21), bool)
            valid[0] = True
            yield Row(f"number {i}", "made up", joints, valid, Camera(200, 200, 32, 32), (64, 64))

    def open_picture(self, row: Row) -> np.ndarray:
        if int(row.id.split()[1]) in self.broken:
            raise FileNotFoundError(f"{row.id}: no such file")
        return np.zeros((64, 64, 3), np.uint8)


class Plain:
    """The sample's number and one random number."""

    def example(self, sample: Any, rng: np.random.Generator | None) -> Example:
        assert rng is not None
        number = torch.tensor(float(sample.joints_cam_mm[0, 0, 0]))
        return Example(number.view(1, 1, 1), {"noise": torch.tensor(rng.random())})


@pytest.fixture
def numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Numbered:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Numbered(tmp_path, "train", count=23)


def numbers(source: DatasetSource, steps: range) -> list[int]:
    return [int(x) for step in steps for x in source.batch(step)[0].flatten().tolist()]


def test_each_sample_once_an_epoch(numbered: Numbered) -> None:
    source = DatasetSource(numbered, Plain(), 4, seed=3)  # type: ignore[arg-type]
    seen = numbers(source, range(23))  # 4 epochs of 23 samples
    for epoch in range(4):
        assert sorted(seen[23 * epoch : 23 * (epoch + 1)]) == list(range(23))
    assert seen[:23] != seen[23:46]


def test_ranks_share_the_batch(numbered: Numbered) -> None:
    alone = DatasetSource(numbered, Plain(), 4, seed=3)  # type: ignore[arg-type]
    both = [DatasetSource(numbered, Plain(), 4, 3, Ranks(rank, 2)) for rank in (0, 1)]  # type: ignore[arg-type]
    for step in (0, 1, 7):
        parts = [source.batch(step) for source in both]
        pictures, target = alone.batch(step)
        assert torch.equal(torch.cat([picture for picture, _ in parts]), pictures)
        assert torch.equal(torch.cat([part["noise"] for _, part in parts]), target["noise"])


def test_workers_and_resuming_change_nothing(numbered: Numbered) -> None:
    plain = DatasetSource(numbered, Plain(), 5, seed=1)  # type: ignore[arg-type]
    ahead = DatasetSource(numbered, Plain(), 5, seed=1, workers=2)  # type: ignore[arg-type]
    later = DatasetSource(numbered, Plain(), 5, seed=1)  # type: ignore[arg-type]
    for step in range(6):
        one, two = plain.batch(step), ahead.batch(step)
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1]["noise"], two[1]["noise"])
    assert torch.equal(later.batch(5)[1]["noise"], one[1]["noise"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_a_signal(numbered: Numbered, number: signal.Signals) -> None:
    plain, ahead = (DatasetSource(numbered, Plain(), 5, 1, workers=workers) for workers in (0, 1))  # type: ignore[arg-type]
    before = set(multiprocessing.active_children())
    ahead.batch(0)
    (worker,) = set(multiprocessing.active_children()) - before
    assert worker.pid is not None
    os.kill(worker.pid, number)
    for step in range(1, 7):
        assert torch.equal(ahead.batch(step)[1]["noise"], plain.batch(step)[1]["noise"])
    assert worker.is_alive()


def test_unusable_samples_are_replaced_and_counted(numbered: Numbered, monkeypatch) -> None:
    monkeypatch.setattr(Numbered, "broken", frozenset({4, 17}))
    source = DatasetSource(numbered, Plain(), 4, seed=3)  # type: ignore[arg-type]
    seen = numbers(source, range(12))
    assert len(seen) == 48
    assert not {4, 17} & set(seen)
    assert source.report.left_out == {"picture missing": 2}
    assert sorted(source.report.examples["picture missing"]) == ["number 17", "number 4"]


def test_too_many_unusable_samples_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Numbered, "broken", frozenset(range(30)))
    source = DatasetSource(Numbered(tmp_path, "train", count=60), Plain(), 4, seed=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"too many unusable samples: left out 1[12]: picture missing"):
        numbers(source, range(30))
    monkeypatch.setattr(Numbered, "broken", frozenset(range(60)))
    hopeless = DatasetSource(Numbered(tmp_path, "train", count=60), Plain(), 4, seed=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="samples in a row can't be used; the last: number"):
        hopeless.batch(0)


def test_a_program_ends_though_its_workers_outlive_a_signal() -> None:
    program = """
import sys, torch
from torch.utils.data import Dataset
from dfmamba.train.samples import Prefetched

class Numbers(Dataset):
    def __getitem__(self, i):
        return torch.tensor(i)

sys.kept = Prefetched(Numbers(), 1)  # nothing lets go of it before the end
print(int(sys.kept[3]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
