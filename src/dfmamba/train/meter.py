"""What a run tells while it goes on: progress on the terminal, JSON Lines in its folder."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from dfmamba.train.config import RunConfig
from dfmamba.train.parallel import Ranks


class Meter:
    """Progress on the terminal and JSON Lines in the run's folder."""

    def __init__(self, config: RunConfig, out: Path, step: int, ranks: Ranks) -> None:
        self.config, self.path, self.ranks = config, out / "log.jsonl", ranks
        self.started, self.begun, self.shown = time.monotonic(), step, 0.0
        self.waiting, self.mark = 0.0, time.monotonic()
        self.mean: dict[str, float] = {}

    def fetched(self) -> None:
        """The batch has arrived."""
        now = time.monotonic()
        self.waiting += now - self.mark

    def pause(self) -> None:
        """Time since the last step doesn't count (validation)."""
        now = time.monotonic()
        self.started += now - self.mark
        self.mark = now

    def write(self, record: dict[str, Any]) -> None:
        """Adds a line to the log."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def stepped(self, step: int, losses: dict[str, float], rate: float) -> None:
        """Counts a step, logs every 50th and shows progress twice a minute, or always on a terminal."""
        self.mark = now = time.monotonic()
        if not self.ranks.first:
            return
        for name, value in losses.items():
            self.mean[name] = value + 0.98 * (self.mean.get(name, value) - value)
        elapsed = max(now - self.started, 1e-9)
        speed = (step - self.begun) * self.config.batch_size / elapsed
        if step % 50 == 0:
            figures = {k: round(v, 4) for k, v in self.mean.items()}
            wait = round(self.waiting / elapsed, 3)
            self.write(
                {"step": step, **figures, "lr": rate, "pictures_per_s": round(speed, 1), "data_wait": wait}
            )
        tty = sys.stderr.isatty()
        if now - self.shown > (0.5 if tty else 30.0) or step == self.config.steps:
            self.shown = now
            left = (self.config.steps - step) * self.config.batch_size / max(speed, 1e-9)
            text = (
                f"step {step}/{self.config.steps}  loss {self.mean['total']:.3f}  "
                f"{speed:.0f} pictures/s  {_clock(left)} left"
            )
            print(f"\r{text}   " if tty else text, end="" if tty else "\n", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"
