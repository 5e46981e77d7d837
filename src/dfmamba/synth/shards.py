"""Finished synthetic pictures in tar shards, for training elsewhere (docs/data.md)."""

from __future__ import annotations

from pathlib import Path

from dfmamba.data.own_format import Source, write_tar
from dfmamba.io.files import remove_leftovers
from dfmamba.synth.cache import check_config, run_tasks
from dfmamba.synth.generator import SyntheticConfig, SyntheticHands


def render_to_shards(
    config: SyntheticConfig,
    count: int,
    folder: str | Path,
    per_shard: int = 1000,
    workers: int = 1,
    progress: bool = True,
) -> int:
    """Renders samples 0 to `count` with pictures, depth and labels into 000000.tar, 000001.tar, ...

    Finished shards are left alone, so an interrupted call can be repeated; the bytes don't depend on the
    number of workers. `config.json` beside the shards names the settings. One call at a time for a folder.

    Args:
        config: what to render.
        count: samples.
        folder: where the shards go.
        per_shard: samples of a shard.
        workers: processes; 0 renders in this one.
        progress: print a line a shard to standard error.

    Returns:
        How many samples were rendered by this call.

    Raises:
        ValueError: a number is too small, or the folder holds shards of other settings.
        OSError: a shard can't be written, or a process died.
        ImportError: the extra `synthetic` is missing.
    """
    if count < 1 or per_shard < 1 or workers < 0:
        raise ValueError(f"count {count}, per_shard {per_shard}, workers {workers}: expected 1, 1, 0 or more")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"config": config.to_dict(), "count": count, "per_shard": per_shard}
    check_config(folder / "config.json", wanted)
    remove_leftovers(folder)
    tasks = []
    for number, first in enumerate(range(0, count, per_shard)):
        path = folder / f"{number:06d}.tar"
        if not path.exists():
            tasks.append((config, first, min(per_shard, count - first), path))
    total = sum(task[2] for task in tasks)
    return run_tasks(_render_shard, tasks, total, workers, "pictures", folder, progress)


def _render_shard(config: SyntheticConfig, first: int, count: int, path: Path) -> int:
    """Renders samples `first` to `first + count` into a tar file that appears when it is complete."""
    hands = SyntheticHands(config)
    samples = (hands.sample(i) for i in range(first, first + count))
    return write_tar(path, (Source(s.replace(mask=None, id=f"{s.kind}-{s.id}")) for s in samples), first)
