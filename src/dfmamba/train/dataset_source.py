"""Batches of a labelled data set, a pure function of the step whatever the number of worker processes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dfmamba.data.index import Report
from dfmamba.data.indexed import IndexedDataset
from dfmamba.frameworks import Example, Framework
from dfmamba.train.parallel import Ranks

TRIES = 50
"""How many samples in a row may be unusable before training refuses to go on."""

MOST_UNUSABLE = 0.01
"""Share of a data set that may turn out to be unusable (missing and damaged pictures) during training."""


class DatasetSource:
    """Batches for the engine.

    Each epoch goes through all samples in an order of its own; sample i of epoch e is augmented by
    (seed, e, i). A sample whose picture is missing or damaged is replaced by the next one of that order and
    counted in `report`; more than `MOST_UNUSABLE` of them (but at least ten) are refused.

    Args:
        dataset: samples.
        framework: crops and targets.
        batch_size: samples a step, of all processes together.
        seed: of order and augmentation.
        ranks: this process among several, each of which takes its share of every batch.
        workers: processes that prepare batches ahead; 0 prepares them in this one.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        framework: Framework,
        batch_size: int,
        seed: int,
        ranks: Ranks | None = None,
        workers: int = 0,
    ) -> None:
        self.report = Report(kept=len(dataset))
        self.workers = workers
        self._batches = _Batches(dataset, framework, batch_size, seed, ranks or Ranks())
        self._unusable: set[int] = set()
        self._ahead: Iterator[Any] | None = None
        self._next = -1

    def batch(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, C, S, S) and targets of one step.

        Raises:
            ValueError: too many samples are unusable; the message names one and its fault.
        """
        if self._ahead is None or step != self._next:
            steps: Any = itertools.count(step)
            options: dict[str, Any] = {"prefetch_factor": 2} if self.workers else {}
            loader: DataLoader[Any] = DataLoader(
                self._batches, batch_size=None, sampler=steps, num_workers=self.workers, **options
            )
            self._ahead = iter(loader)
        self._next = step + 1
        pictures, target, faults = next(self._ahead)
        for index, name, reason in faults:
            if index not in self._unusable:
                self._unusable.add(index)
                self.report.leave_out(name, reason)
        if len(self._unusable) > max(10, MOST_UNUSABLE * self.report.kept):
            raise ValueError(f"too many unusable samples: {'; '.join(self.report.lines[1:])}")
        return pictures, target


class _Batches(Dataset[Any]):
    """Item `step` is the batch of that step, with the faults met on the way."""

    def __init__(
        self, dataset: IndexedDataset, framework: Framework, batch_size: int, seed: int, ranks: Ranks
    ) -> None:
        self.dataset, self.framework, self.seed = dataset, framework, seed
        self.batch_size, self.share, self.rank = batch_size, ranks.share_of(batch_size), ranks.rank
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __getitem__(self, step: int) -> tuple[Tensor, dict[str, Tensor], list[tuple[int, str, str]]]:
        first = step * self.batch_size + self.rank * self.share
        faults: list[tuple[int, str, str]] = []
        examples = [self._example(first + i, faults) for i in range(self.share)]
        return (*collate(examples), faults)

    def _example(self, position: int, faults: list[tuple[int, str, str]]) -> Example:
        for later in range(TRIES):
            epoch, place = divmod(position + later, len(self.dataset))
            index = int(self._order_of(epoch)[place])
            rng = np.random.default_rng([self.seed, epoch, index])
            try:
                return self.framework.example(self.dataset[index], rng)
            except (OSError, ValueError) as error:
                faults.append((index, self.dataset.labels(index).id, fault(error)))
        raise ValueError(
            f"{TRIES} samples in a row can't be used; the last: {faults[-1][1]}: {faults[-1][2]}"
        )

    def _order_of(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, 7, epoch])
            self._epoch, self._order = epoch, rng.permutation(len(self.dataset))
        return self._order


def fault(error: Exception) -> str:
    """What was wrong with a sample, without the names and numbers that differ from one to the next."""
    if isinstance(error, FileNotFoundError):
        return "picture missing"
    return re.sub(r"\s*\(.*\)", "", str(error).split(": ", 1)[-1]) or type(error).__name__


def collate(examples: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
    """Stacks examples into a batch."""
    names = examples[0].target
    target = {name: torch.stack([example.target[name] for example in examples]) for name in names}
    return torch.stack([example.picture for example in examples]), target
