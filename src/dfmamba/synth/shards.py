"""Rendered scenes on disk: folders of arrays for training here, tar shards for training elsewhere."""

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.data.kinds import SYNTHETIC_KINDS
from dfmamba.data.own_format import Source, write_tar
from dfmamba.io.files import remove_leftovers
from dfmamba.io.untrusted import map_npy, read_json, read_npz
from dfmamba.synth import raster
from dfmamba.synth.generator import Backdrop, Compose, SyntheticConfig, SyntheticHands
from dfmamba.synth.people import MAX_HANDS, SHOTS, render_people
from dfmamba.synth.post import recompose
from dfmamba.text import printable, quote

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


def _render_hands_shard(
    config: SyntheticConfig,
    first: int,
    count: int,
    folder: Path,
    layers: Sequence[str],
    compose: Compose | None,
    backdrop: Backdrop | None,
    device: str,
) -> None:
    """Renders samples first..first+count into `folder`, which appears only when it is complete."""
    hands = SyntheticHands(config, compose, backdrop, device)
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
    device: str = "cpu",
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
        device: as for `SyntheticHands`.

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
                    device,
                )
            )
    raster.warm_up(device)
    if workers == 0:
        for task in tasks:
            _render_hands_shard(*task)
        return folder
    context = multiprocessing.get_context("fork" if device == "cpu" else "spawn")
    counter = context.Value("q", 0)
    began, total = time.monotonic(), sum(task[2] for task in tasks)
    with ProcessPoolExecutor(workers, context, start_worker, (counter,)) as pool:
        pending = {pool.submit(_render_hands_shard, *task) for task in tasks}
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
    return run_tasks(_render_tar, tasks, total, workers, "pictures", folder, progress)


def _render_tar(config: SyntheticConfig, first: int, count: int, path: Path) -> int:
    """Renders samples `first` to `first + count` into a tar file that appears when it is complete."""
    hands = SyntheticHands(config)
    samples = (hands.sample(i) for i in range(first, first + count))
    return write_tar(path, (Source(s.replace(mask=None, id=f"{s.kind}-{s.id}")) for s in samples), first)


_LABELS = ("joints_px", "side", "visible", "shot", "index")


@dataclass(frozen=True)
class PeopleConfig:
    """What a folder of scenes holds.

    Attributes:
        seed: of the data set.
        size: side of the square pictures in pixels.
        supersample: rendered sub-pixels per pixel side.
        shard_size: scenes of one shard.

    Raises:
        ValueError: a number is too small.
    """

    seed: int = 1
    size: int = 256
    supersample: int = 2
    shard_size: int = 500

    def __post_init__(self) -> None:
        if self.seed < 0 or self.size < 32 or self.supersample < 1 or self.shard_size < 1:
            raise ValueError(f"{self}: expected seed >= 0, size >= 32, supersample and shard_size >= 1")


def render_people_shards(
    config: PeopleConfig, count: int, folder: str | Path, workers: int = 1, progress: bool = True
) -> Path:
    """Renders scenes 0 to `count` into shards.

    Finished shards are left alone, so an interrupted call can be repeated; the bytes don't depend on the
    number of workers. One call at a time for a folder.

    Args:
        config: what to render.
        count: scenes.
        folder: where the shards go.
        workers: processes; 0 renders in this one.
        progress: print a line a shard to standard error.

    Returns:
        The folder.

    Raises:
        ValueError: a number is too small, or the folder holds shards of other settings or another count.
        OSError: a shard can't be written, or a process died.
        ImportError: the extra `synthetic` is missing.
    """
    if count < 1 or workers < 0:
        raise ValueError(f"count {count}, workers {workers}: expected at least 1 and 0")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    check_config(folder / "config.json", {"people": asdict(config)})
    tasks = []
    for first in range(0, count, config.shard_size):
        target, wanted = folder / f"shard-{first:09d}", min(config.shard_size, count - first)
        if not target.exists():
            tasks.append((config, first, wanted, target))
        elif len(map_npy(target / "rgba.npy")) < wanted:
            raise ValueError(f"{target} was rendered for a smaller count; remove it, or use another folder")
    total = sum(task[2] for task in tasks)
    run_tasks(_render_people_shard, tasks, total, workers, "scenes", folder, progress)
    return folder


def _render_people_shard(config: PeopleConfig, first: int, count: int, folder: Path) -> int:
    """Renders scenes `first` to `first + count` into `folder`, which appears only when it is complete."""
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shape = (count, config.size, config.size, 4)
    pictures = np.lib.format.open_memmap(draft / "rgba.npy", mode="w+", dtype=np.uint8, shape=shape)
    joints = np.zeros((count, MAX_HANDS, 21, 2), np.float32)
    side = np.zeros((count, MAX_HANDS), np.uint8)
    visible = np.zeros((count, MAX_HANDS), np.float32)
    shot = np.zeros(count, np.uint8)
    for i in range(count):
        made = render_people(config.seed, first + i, config.size, config.supersample)
        pictures[i] = made.rgba
        hands = slice(len(made.side))
        joints[i, hands], side[i, hands], visible[i, hands] = made.joints_px, made.side, made.visible
        shot[i] = list(SHOTS).index(made.shot)
    pictures.flush()
    del pictures
    labels: dict[str, Any] = dict(joints_px=joints, side=side, visible=visible, shot=shot)
    np.savez(draft / "labels.npz", allow_pickle=False, index=np.arange(first, first + count), **labels)
    draft.rename(folder)
    return count


class PeopleShards:
    """Scenes that `render_people_shards` wrote.

    `scenes.rgba(i)` is a picture from the disk; the labels are in memory.

    Attributes:
        config: settings of the folder.
        joints_px: (N, 6, 21, 2) float32 pixels, OpenPose order; zeros where there is no hand.
        side: (N, 6) uint8, 1 right, 2 left, 0 no hand.
        visible: (N, 6) float32, share of joints seen, as in `PeoplePicture`.
        shot: (N,) uint8, a place in `people_views.SHOTS`.
        index: (N,) int64, index of the scene.
    """

    def __init__(self, folder: str | Path) -> None:
        """Opens the finished shards of a folder.

        Raises:
            OSError: there is none, or one is damaged.
        """
        self.folder = Path(folder)
        shards = sorted(self.folder.glob("shard-*"))
        if not shards:
            raise OSError(f"no finished shards in {self.folder}; render some with render_people_shards")
        try:
            settings = read_json(self.folder / "config.json")
            self.config = PeopleConfig(**settings["people"])
            labels: dict[str, list[np.ndarray]] = {name: [] for name in _LABELS}
            self._pictures = []
            for shard in shards:
                found = read_npz(shard / "labels.npz", _LABELS)
                for name, rows in labels.items():
                    rows.append(found[name])
                self._pictures.append(map_npy(shard / "rgba.npy"))
        except (KeyError, TypeError, ValueError) as error:
            reason = printable(error)[:300]
            raise OSError(f"{self.folder} holds no readable scenes: {reason}; render them again") from error
        self.joints_px, self.side, self.visible, self.shot, self.index = (
            np.concatenate(labels[name]) for name in _LABELS
        )
        self._ends = np.cumsum([len(one) for one in self._pictures])
        if self._ends[-1] != len(self.side):
            raise OSError(
                f"{self.folder}: {self._ends[-1]} pictures and {len(self.side)} labels; render again"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rgba(self, i: int) -> np.ndarray:
        """(S, S, 4) uint8, straight sRGB and coverage, of scene `i` of the folder.

        Raises:
            IndexError: there is no such scene.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"scene {i} of {len(self)}")
        shard = int(np.searchsorted(self._ends, i, side="right"))
        return np.asarray(self._pictures[shard][i - (int(self._ends[shard - 1]) if shard else 0)])
