"""Batches of a labelled data set, a pure function of the step whatever the number of worker processes.

All samples shuffled, or, for disks and object stores that can't seek fast, tar shards from front to back.
"""

from __future__ import annotations

import itertools
import re
import signal
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dfmamba.data.index import Report
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.readers.shards import ShardedDataset
from dfmamba.frameworks import Example, Framework
from dfmamba.train.parallel import Ranks

TRIES = 50
"""How many samples in a row may be unusable before training refuses to go on."""

MOST_UNUSABLE = 0.01
"""Share of a data set that may turn out to be unusable (missing and damaged pictures) during training."""


class Order(Protocol):
    """Which samples the batches of this process are made of."""

    def sample(self, step: int, place: int) -> tuple[int, int]:
        """Epoch and index of a sample.

        Args:
            step: of the run.
            place: within this process's share of the batch; beyond it, of those that replace unusable ones.
        """
        ...


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
        order: another one than all samples shuffled.
    """

    def __init__(
        self,
        dataset: IndexedDataset,
        framework: Framework,
        batch_size: int,
        seed: int,
        ranks: Ranks | None = None,
        workers: int = 0,
        order: Order | None = None,
    ) -> None:
        self.report = Report(kept=len(dataset))
        ranks = ranks or Ranks()
        share = ranks.share_of(batch_size)
        order = order or Shuffled(len(dataset), batch_size, seed, ranks)
        self._prefetched = Prefetched(_Batches(dataset, framework, share, seed, order), workers)
        self._unusable: set[int] = set()

    def batch(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, C, S, S) and targets of one step.

        Raises:
            ValueError: too many samples are unusable; the message names one and its fault.
        """
        pictures, target, faults = self._prefetched[step]
        for index, name, reason in faults:
            if index not in self._unusable:
                self._unusable.add(index)
                self.report.leave_out(name, reason)
        if len(self._unusable) > max(10, MOST_UNUSABLE * self.report.kept):
            raise ValueError(f"too many unusable samples: {'; '.join(self.report.lines[1:])}")
        return pictures, target


class Prefetched:
    """Items of a map-style collection, asked for one after the other and prepared by other processes.

    Args:
        items: what can be asked for any number from 0 on; each process has a copy.
        workers: how many processes; 0 prepares an item when it is asked for.
    """

    def __init__(self, items: Dataset[Any], workers: int) -> None:
        self.items, self.workers = items, workers
        self._coming: list[Iterator[Any]] = []
        self._next = -1
        # At the end of the program, before multiprocessing ends what is left by a signal that the processes
        # outlive, and waits for them.
        weakref.finalize(self, self._coming.clear)

    def __getitem__(self, number: int) -> Any:
        if not self.workers:
            return self.items[number]
        if not self._coming or number != self._next:
            numbers: Any = itertools.count(number)
            loader: DataLoader[Any] = DataLoader(
                self.items, batch_size=None, sampler=numbers, num_workers=self.workers,
                prefetch_factor=2, worker_init_fn=_outlive_a_signal, generator=torch.Generator(),
            )  # fmt: skip
            self._coming[:] = [iter(loader)]
        self._next = number + 1
        return next(self._coming[0])


class PoolBatches(Dataset[Any]):
    """Item `step` is the batch that a pool composes for that step.

    Args:
        pool: has `compose(step)`.
        reopen: gives the same pool in another process, where a pickled copy would hold all pictures; it maps
            them again.
        settings: arguments of `reopen`.
    """

    def __init__(self, pool: Any, reopen: Callable[..., Any], *settings: Any) -> None:
        self.pool, self.reopen, self.settings = pool, reopen, settings

    def __getitem__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.pool.compose(step)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.reopen, *self.settings)


def _reopened(reopen: Callable[..., Any], *settings: Any) -> PoolBatches:
    return PoolBatches(reopen(*settings), reopen, *settings)


def _outlive_a_signal(_: int) -> None:
    """A terminal and a scheduler signal all processes; the training process must still end its step."""

    def handler(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


class Shuffled:
    """All samples of a data set, in an order of each epoch's own.

    Args:
        count: samples.
        batch_size: samples a step, of all processes together.
        seed: of the order.
        ranks: this process among several.
    """

    def __init__(self, count: int, batch_size: int, seed: int, ranks: Ranks) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.first = ranks.rank * ranks.share_of(batch_size)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def sample(self, step: int, place: int) -> tuple[int, int]:
        """See `Order`."""
        epoch, place = divmod(step * self.batch_size + self.first + place, self.count)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, 7, epoch])
            self._epoch, self._order = epoch, rng.permutation(self.count)
        return epoch, int(self._order[place])


class _Batches(Dataset[Any]):
    """Item `step` is the batch of that step, with the faults met on the way."""

    def __init__(
        self, dataset: IndexedDataset, framework: Framework, share: int, seed: int, order: Order
    ) -> None:
        self.dataset, self.framework, self.share = dataset, framework, share
        self.seed, self.order = seed, order

    def __getitem__(self, step: int) -> tuple[Tensor, dict[str, Tensor], list[tuple[int, str, str]]]:
        faults: list[tuple[int, str, str]] = []
        examples = [self._example(step, place, faults) for place in range(self.share)]
        return (*collate(examples), faults)

    def _example(self, step: int, place: int, faults: list[tuple[int, str, str]]) -> Example:
        for later in range(TRIES):
            epoch, index = self.order.sample(step, place + later)
            rng = np.random.default_rng([self.seed, epoch, index])
            try:
                return self.framework.example(self.dataset[index], rng)
            except (OSError, ValueError) as error:
                faults.append((index, self.dataset.labels(index).id, fault(error)))
        raise ValueError(
            f"{TRIES} samples in a row can't be used; the last: {faults[-1][1]}: {faults[-1][2]}"
        )


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


BUFFER = 2000
"""Samples among which those that follow each other are mixed, unless told otherwise."""


class ShardOrder:
    """Shards one after the other, in an order of each epoch's own, their samples mixed over a short distance.

    The samples of an epoch, shard after shard, are divided into one stretch for each process, of equal length
    but for one sample; so a process reads its own shards, but for those where stretches meet. Within a
    stretch a sample comes less than `buffer` places later than it lies, or earlier. Everything follows from
    (seed, epoch) and the numbers of samples, so that any step is found without reading those before.

    Args:
        shards: (n,) number of each sample's shard, ascending.
        share: samples of this process in a step.
        seed: of the order.
        buffer: how far samples are mixed; 1 leaves them as they lie.
        ranks: this process among several.

    Raises:
        ValueError: `buffer` is below 1.
    """

    def __init__(self, shards: np.ndarray, share: int, seed: int, buffer: int, ranks: Ranks) -> None:
        if buffer < 1:
            raise ValueError(f"buffer is {buffer}; expected at least 1 sample")
        self.count, self.share, self.seed, self.buffer, self.ranks = len(shards), share, seed, buffer, ranks
        self.ends = np.append(np.flatnonzero(np.diff(shards)) + 1, len(shards))
        self.starts = np.insert(self.ends[:-1], 0, 0)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def sample(self, step: int, place: int) -> tuple[int, int]:
        """See `dfmamba.train.samples.Order`."""
        position = step * self.share + place
        epoch = (position * self.ranks.world + self.ranks.rank) // self.count
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.order(epoch)
        return epoch, int(self._order[position - self._before(epoch, self.ranks.rank)])

    def order(self, epoch: int) -> np.ndarray:
        """(m,) the samples of this process in an epoch."""
        rng = np.random.default_rng([self.seed, 9, epoch])
        shards = rng.permutation(len(self.starts))
        samples = np.concatenate([np.arange(self.starts[i], self.ends[i]) for i in shards])
        lengths = [
            self._before(epoch + 1, rank) - self._before(epoch, rank) for rank in range(self.ranks.world)
        ]
        first = sum(lengths[: self.ranks.rank])
        mine = samples[first : first + lengths[self.ranks.rank]]
        rng = np.random.default_rng([self.seed, 10, epoch, self.ranks.rank])
        return mine[np.argsort(np.arange(len(mine)) + self.buffer * rng.random(len(mine)))]

    def _before(self, epoch: int, rank: int) -> int:
        """Samples of a process before an epoch: as if all were dealt out one by one, over and over."""
        return (epoch * self.count + self.ranks.world - 1 - rank) // self.ranks.world


class ShardSource(DatasetSource):
    """As `DatasetSource`, with the samples in the order of a `ShardOrder`.

    Each sample comes once an epoch over all processes and workers. Batches depend on the settings, the number
    of processes and the step, not on the number of workers.

    Args:
        dataset: shards.
        framework: crops and targets.
        batch_size: samples a step, of all processes together.
        seed: of order and augmentation.
        ranks: this process among several.
        workers: processes that prepare batches ahead; 0 prepares them in this one.
        buffer: see `ShardOrder`.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
        framework: Framework,
        batch_size: int,
        seed: int,
        ranks: Ranks | None = None,
        workers: int = 0,
        buffer: int = BUFFER,
    ) -> None:
        ranks = ranks or Ranks()
        order = ShardOrder(dataset.shard_numbers(), ranks.share_of(batch_size), seed, buffer, ranks)
        super().__init__(dataset, framework, batch_size, seed, ranks, workers, order)
