"""Batches of tar shards read from front to back, for disks and object stores that can't seek fast."""

from __future__ import annotations

import numpy as np

from dfmamba.data.readers.shards import ShardedDataset
from dfmamba.frameworks import Framework
from dfmamba.train.dataset_source import DatasetSource
from dfmamba.train.parallel import Ranks

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
        """See `dfmamba.train.dataset_source.Order`."""
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
