"""Rendering to disk in shards, and reading them back through memory maps."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.data.kinds import SYNTHETIC_KINDS
from dfmamba.io.untrusted import map_npy, printable, quote, read_json, read_npz
from dfmamba.synth import raster
from dfmamba.synth.generator import Backdrop, Compose, SyntheticConfig, SyntheticHands
from dfmamba.synth.post import recompose

__all__ = ["LAYERS", "ShardedHands", "recompose", "render_shards"]

LAYERS: dict[str, tuple[int, type]] = {"hand": (4, np.uint8), "full": (3, np.uint8), "mask": (0, np.uint8),
                                       "depth": (0, np.float16)}  # fmt: skip
"""Picture layers of a shard: channels (0 = no channel axis) and type."""

_counter: Any = None


def run_tasks(
    work: Callable[..., int],
    tasks: Sequence[tuple[Any, ...]],
    total: int,
    workers: int,
    noun: str,
    folder: Path,
    progress: bool = True,
) -> int:
    """Renders shards in processes; a line on standard error for each that is done.

    Args:
        work: renders one shard and returns how many pictures it holds.
        tasks: its arguments.
        total: pictures of all tasks.
        workers: processes; 0 renders in this one.
        noun: what is rendered.
        folder: where, for the error.
        progress: print the lines.

    Raises:
        OSError: a shard can't be written, or a process died.
    """
    raster.warm_up()
    if workers == 0:
        return sum(work(*task) for task in tasks)
    began, done = time.monotonic(), 0
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), start_worker, (None,)) as pool:
        try:
            for future in as_completed([pool.submit(work, *task) for task in tasks]):
                done += future.result()
                if progress:
                    rate = done / max(time.monotonic() - began, 1e-3)
                    line = f"{done}/{total} {noun}, {rate:.1f}/s, {(total - done) / rate / 60:.1f} min left"
                    print(line, file=sys.stderr, flush=True)
        except BrokenProcessPool:
            text = "a rendering process died (out of memory?); the same call goes on"
            raise OSError(f"{folder}: {text}") from None
        finally:
            pool.shutdown(cancel_futures=True)
    return done


def start_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _render_shard(
    config: SyntheticConfig,
    first: int,
    count: int,
    folder: Path,
    layers: Sequence[str],
    compose: Compose | None,
    backdrop: Backdrop | None,
) -> None:
    """Renders samples first..first+count into `folder`, which appears only when it is complete."""
    hands = SyntheticHands(config, compose, backdrop)
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    size = config.size
    arrays = {}
    for name in layers:
        channels, dtype = LAYERS[name]
        shape = (count, size, size, channels) if channels else (count, size, size)
        arrays[name] = np.lib.format.open_memmap(draft / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    labels = {
        "joints_cam_mm": np.zeros((count, 2, 21, 3), np.float32),
        "joints_2d": np.zeros((count, 2, 21, 2), np.float32),
        "valid": np.zeros((count, 2, 21), bool),
        "visible": np.zeros((count, 2, 21), bool),
        "present": np.zeros((count, 2), bool),
        "camera": np.zeros((count, 4), np.float32),
        "kind": np.zeros(count, np.uint8),
        "index": np.arange(first, first + count),
    }
    for i in range(count):
        made = hands.layers(first + i, picture="full" in layers)
        sample = made.sample
        pictures = {
            "hand": made.foreground,
            "full": sample.image,
            "mask": sample.mask,
            "depth": sample.depth_mm,
        }
        for name, array in arrays.items():
            if pictures[name] is not None:
                array[i] = pictures[name]
        labels["joints_cam_mm"][i] = sample.joints_cam_mm
        labels["joints_2d"][i] = sample.joints_2d_px
        labels["valid"][i] = sample.valid
        labels["visible"][i] = sample.visible
        labels["present"][i] = sample.present
        camera = sample.camera
        if camera is not None:
            labels["camera"][i] = camera.fx, camera.fy, camera.cx, camera.cy
        labels["kind"][i] = SYNTHETIC_KINDS.index(sample.kind)
        if _counter is not None:
            with _counter.get_lock():
                _counter.value += 1
    for array in arrays.values():
        array.flush()
    np.savez(draft / "labels.npz", allow_pickle=False, **labels)
    draft.rename(folder)


def check_config(path: Path, wanted: dict[str, Any]) -> None:
    if path.exists():
        found = read_json(path)
        if found != wanted:
            raise ValueError(
                f"{path} holds {quote(found)}, these shards would be {quote(wanted)}; "
                "use another folder or these settings"
            )
    else:
        path.write_text(json.dumps(wanted, indent=1), encoding="utf-8")


def render_shards(
    config: SyntheticConfig,
    start: int,
    count: int,
    folder: str | Path,
    workers: int = 1,
    shard_size: int = 2000,
    layers: Sequence[str] = ("hand", "full", "mask"),
    compose: Compose | None = None,
    progress: bool = True,
    backdrop: Backdrop | None = None,
) -> Path:
    """Renders samples start..start+count to `folder`, in shards.

    A shard is a folder `shard-FIRST` with one .npy file per layer (`hand`: (n, S, S, 4) uint8 exposed sRGB
    foreground with straight alpha; `full`: (n, S, S, 3) uint8 finished picture; `mask`: (n, S, S) uint8;
    `depth`: (n, S, S) float16 mm) and `labels.npz`. Finished shards are skipped, so an interrupted call can
    be repeated. `config.json` beside the shards names the settings.

    Args:
        config: what to render.
        start: first index; a multiple of `shard_size` keeps shards of several calls apart.
        count: number of samples.
        folder: where the shards go.
        workers: processes; 0 renders in this one.
        shard_size: samples of one shard.
        layers: which of `LAYERS` to store.
        compose: as for `SyntheticHands`.
        progress: print a line with samples per second to standard error.
        backdrop: as for `SyntheticHands`.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds shards of other settings, or a layer is unknown.
    """
    unknown = sorted(set(layers) - set(LAYERS))
    if unknown:
        raise ValueError(f"unknown layers {unknown}; expected some of {list(LAYERS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_config(
        folder / "config.json", {"config": config.to_dict(), "shard_size": shard_size, "layers": list(layers)}
    )
    tasks = []
    for first in range(start, start + count, shard_size):
        target = folder / f"shard-{first:09d}"
        if not target.exists():
            tasks.append(
                (
                    config,
                    first,
                    min(shard_size, start + count - first),
                    target,
                    tuple(layers),
                    compose,
                    backdrop,
                )
            )
    raster.warm_up()
    if workers == 0:
        for task in tasks:
            _render_shard(*task)
        return folder
    context = multiprocessing.get_context("fork")
    counter = context.Value("q", 0)
    began, total = time.monotonic(), sum(task[2] for task in tasks)
    with ProcessPoolExecutor(workers, context, start_worker, (counter,)) as pool:
        pending = {pool.submit(_render_shard, *task) for task in tasks}
        while pending:
            done, pending = wait(pending, timeout=10.0)
            for future in done:
                future.result()
            if progress:
                rate = counter.value / max(time.monotonic() - began, 1e-3)
                left = (total - counter.value) / max(rate, 1e-3)
                line = f"{counter.value}/{total} pictures, {rate:.1f}/s, {left / 60:.1f} min left"
                print(line, file=sys.stderr, flush=True)
    return folder


class ShardedHands:
    """Samples that `render_shards` wrote, read through memory maps.

    `hands[i]` is a dict with the stored layers (`hand`, `full`, `mask`, `depth`) and labels
    (`joints_cam_mm` (2, 21, 3), `joints_2d` (2, 21, 2), `valid`, `visible` (2, 21), `present` (2,),
    `camera` (fx, fy, cx, cy), `kind` (a place in `dfmamba.data.kinds.SYNTHETIC_KINDS`), `index`).
    """

    def __init__(self, folder: str | Path, layers: Sequence[str] | None = None) -> None:
        """Opens the finished shards of a folder.

        Args:
            folder: as given to `render_shards`.
            layers: layers to read; all stored ones when None.

        Raises:
            OSError: no finished shard, or a layer was not stored.
        """
        self.folder = Path(folder)
        shards = sorted(p for p in self.folder.glob("shard-*") if p.suffix != ".part")
        if not shards:
            raise OSError(f"no finished shards in {self.folder}; render some with render_shards")
        try:
            settings = read_json(self.folder / "config.json")
            stored = [str(name) for name in settings["layers"]]
            self.config = SyntheticConfig.from_dict({**settings["config"], "backgrounds": None})
            loaded = [read_npz(shard / "labels.npz") for shard in shards]
            self.labels: dict[str, np.ndarray] = {
                name: np.concatenate([one[name] for one in loaded]) for name in loaded[0]
            }
            self._ends = np.cumsum([len(one["kind"]) for one in loaded])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OSError(
                f"{self.folder} holds no readable shards ({printable(error)[:300]}); render them again"
            ) from error
        self.layers = tuple(layers if layers is not None else stored)
        missing = sorted(set(self.layers) - set(stored))
        if missing:
            raise OSError(f"layers {missing} are not stored in {self.folder}; it has {stored}")
        self.pictures = [{name: map_npy(shard / f"{name}.npy") for name in self.layers} for shard in shards]
        lengths = {len(values) for values in self.labels.values()}
        for name in self.layers:
            lengths.add(sum(len(one[name]) for one in self.pictures))
        if lengths != {len(self)}:
            raise OSError(f"{self.folder}: pictures and labels differ in number; render them again")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        i %= len(self)
        shard = int(np.searchsorted(self._ends, i, side="right"))
        row = i - (int(self._ends[shard - 1]) if shard else 0)
        pictures = {name: np.asarray(array[row]) for name, array in self.pictures[shard].items()}
        return {**pictures, **{name: values[i] for name, values in self.labels.items()}}
