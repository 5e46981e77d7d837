"""Kills a small training run at random moments, tears its files, fills its disk, and compares the result.

    python tests/train/chaos.py --kills 20

The run must go on by itself each time, and end with the weights of an uninterrupted one, bit for bit. Each
attempt is a forked process that is killed with SIGKILL a random time after it has begun a random step. Some
kills are followed by damage to the newest state: cut short, or with one byte changed. Once or more the disk
is full: a small tmpfs where one can be mounted, a limit on the size of files elsewhere.

`--worker FOLDER` is one process of torchrun; it trains, and dies once at a given step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from dfmamba.train.config import TrainConfig
from dfmamba.train.engine import train
from dfmamba.train.parallel import Ranks
from dfmamba.train.pool import PoseTask
from dfmamba.train.run_folder import find_states, read_state

FORK = multiprocessing.get_context("fork")


class Dots:
    """Hands whose joints lie on a bright dot; reports each step it is asked for."""

    def __init__(self, ranks: Ranks, report: Any = None, die_at: int | None = None) -> None:
        self.ranks, self.report, self.die_at = ranks, report, die_at

    def batch(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.report is not None:
            self.report.value = step
        if step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(step)
        place = torch.rand(4, 2, generator=generator) * 40 + 12
        grid = torch.arange(64)
        across = torch.exp(-((grid - place[:, :1]) ** 2) / 30)
        down = torch.exp(-((grid - place[:, 1:]) ** 2) / 30)
        pictures = (down[:, :, None] * across[:, None, :])[:, None].expand(-1, 3, -1, -1)
        joints = torch.zeros(4, 2, 21, 3)
        joints[:, 0, :, :2] = place[:, None]
        valid = torch.zeros(4, 2, 21, dtype=torch.bool)
        valid[:, 0] = True
        target = {"joints_25d": joints, "valid": valid, "present": valid.any(-1)}
        target["box_size_px"] = torch.full((4, 2), 20.0)
        mine = slice(self.ranks.rank * 4 // self.ranks.world, (self.ranks.rank + 1) * 4 // self.ranks.world)
        return pictures[mine], {name: t[mine] for name, t in target.items()}


def settings(folder: Path, steps: int) -> TrainConfig:
    """A run that writes its state after every second step."""
    return TrainConfig(
        model="test", out=str(folder), steps=steps, batch_size=4, warmup=5, save_every=2, ema=0.9,
        validate_every=7, threads=1,
    )  # fmt: skip


def attempt(folder: Path, steps: int, report: Any, most_bytes: int | None = None) -> None:
    """One process: trains until it is done or killed; exit code 3 where it can't write."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    if most_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    config = settings(folder, steps)
    try:
        train(
            config, Dots(Ranks(), report), PoseTask(config), resume=True,
            validate=score,
        )  # fmt: skip
    except OSError as error:
        if most_bytes is None:
            (folder.parent / "error.txt").write_text(str(error))
        os._exit(3)


def score(model: torch.nn.Module) -> dict[str, float]:
    """Falls with the steps that a model has made, so that every validation writes `best`."""
    return {"score": -float(model.state_dict()["backbone.stem.0.1.num_batches_tracked"])}


def start(*arguments: Any) -> Any:
    process = FORK.Process(target=attempt, args=arguments)
    process.start()
    return process


def check_states(folder: Path, damaged: set[str]) -> None:
    """No state but those we damaged may ever be unreadable."""
    for path in find_states(folder):
        if path.name not in damaged:
            read_state(path)


def damage(path: Path, rng: random.Random) -> None:
    """Cuts a file short, or changes one byte of it."""
    content = bytearray(path.read_bytes())
    if rng.random() < 0.5:
        del content[rng.randrange(len(content)) :]
    else:
        content[rng.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)


def mount(folder: Path, size: int) -> bool:
    """A tmpfs of that many bytes at a folder; False where that isn't allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def fill_disk(folder: Path, steps: int, report: Any, mounted: bool) -> None:
    """The run can't write its next state, says so, and keeps the ones it has."""
    before = {path.name for path in find_states(folder)}
    size = find_states(folder)[0].stat().st_size
    ballast = folder.parent / "ballast"
    if mounted:
        free = shutil.disk_usage(folder).free
        ballast.write_bytes(bytes(max(0, free - size // 2)))
    process = start(folder, steps, report, None if mounted else size // 2)
    process.join()
    ballast.unlink(missing_ok=True)
    assert process.exitcode == 3, f"a full disk ended the run with {process.exitcode}, not with an OSError"
    assert {path.name for path in find_states(folder)} == before, "a full disk cost a state"
    if mounted:
        message = (folder.parent / "error.txt").read_text()
        assert "No space left" in message, message
        print(f"  it said: {message}")


def chaos(kills: int, steps: int, seed: int) -> None:
    """Runs, kills, damages, compares.

    Raises:
        AssertionError: a run didn't go on, a state was unreadable, or the weights differ.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        disk = top / "disk"
        disk.mkdir()
        report = FORK.Value("i", 0)
        process = start(top / "whole", steps, report)
        process.join()
        assert process.exitcode == 0, "the uninterrupted run failed"
        mounted = mount(disk, 16 * find_states(top / "whole")[0].stat().st_size)
        print(f"disk full by {'a tmpfs' if mounted else 'a limit on the size of files'}")
        try:
            _run_and_kill(disk / "run", kills, steps, rng, report, mounted)
            compare(top / "whole" / "last", disk / "run" / "last")
            compare(top / "whole" / "best", disk / "run" / "best")
            assert not list((disk / "run").glob(".*.part")), "drafts were left behind"
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", str(disk)], check=True)
    print(f"{kills} kills: same bits as the uninterrupted run")


def _run_and_kill(
    folder: Path, kills: int, steps: int, rng: random.Random, report: Any, mounted: bool
) -> None:
    damaged: set[str] = set()
    full = {kills // 3, 2 * kills // 3}
    for kill in range(kills):
        begun = int(find_states(folder)[0].stem.split("-")[1]) if find_states(folder) else 0
        # Far enough to save, near enough that all kills fit into the run.
        goal = begun + rng.randrange(0, max(1, 2 * (steps - begun) // (kills - kill + 1) - 1))
        report.value = -1
        process = start(folder, steps, report)
        while report.value < goal and process.is_alive():
            time.sleep(0.0005)
        time.sleep(rng.random() * 0.1)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"a resumed run failed with {process.exitcode}"
        check_states(folder, damaged)
        states = find_states(folder)
        print(f"kill {kill + 1}: in step {report.value}, newest state {states[0].name if states else 'none'}")
        if len(states) > 1 and rng.random() < 0.4:
            damage(states[0], rng)
            damaged.add(states[0].name)
            print(f"  damaged {states[0].name}")
        elif kill in full and states and states[0].stem != f"state-{steps:08d}":
            fill_disk(folder, steps, report, mounted)
    process = start(folder, steps, report)
    process.join()
    assert process.exitcode == 0, f"the last run failed with {process.exitcode}"


def compare(one: Path, other: Path) -> None:
    """Both models have the same bits."""
    a, b = (load((folder / "model.safetensors").read_bytes()) for folder in (one, other))
    assert a.keys() == b.keys()
    wrong = [name for name in a if not torch.equal(a[name], b[name])]
    assert not wrong, f"{other}: {wrong[0]} differs from the uninterrupted run"


def worker(folder: Path, die_at: int) -> None:
    """One process of torchrun; the last one dies once at a step, and torchrun begins all anew."""
    ranks = Ranks.from_environment("cpu")
    config = settings(folder, 12)
    marker = folder.parent / "died"
    dies = die_at >= 0 and ranks.rank == ranks.world - 1 and not marker.exists()
    if dies:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    train(config, Dots(ranks, die_at=die_at if dies else None), PoseTask(config), True, ranks=ranks)
    torch.distributed.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=0, help="of the run; 10 a kill by default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and damages")
    parser.add_argument("--worker", type=Path)
    parser.add_argument("--die-at", type=int, default=-1)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if options.worker:
        worker(options.worker, options.die_at)
    else:
        chaos(options.kills, options.steps or 10 * options.kills, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
