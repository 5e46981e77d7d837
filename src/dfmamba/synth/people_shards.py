"""Scenes with whole people on disk: rendered once by worker processes, read back through memory maps.

A shard is a folder `shard-FIRST` with `rgba.npy` ((n, S, S, 4) uint8: people alone, straight sRGB and
coverage) and `labels.npz` (as `PeopleShards` lists them). `config.json` beside the shards names the settings.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.io.untrusted import map_npy, printable, read_json, read_npz
from dfmamba.synth.cache import check_config, run_tasks
from dfmamba.synth.people_scenes import MAX_HANDS, render_people
from dfmamba.synth.people_views import SHOTS

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
    run_tasks(_render_shard, tasks, total, workers, "scenes", folder, progress)
    return folder


def _render_shard(config: PeopleConfig, first: int, count: int, folder: Path) -> int:
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
