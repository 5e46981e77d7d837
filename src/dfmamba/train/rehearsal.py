"""A dry run: two steps of everything, and what they say of the whole."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dfmamba.models import count_parameters
from dfmamba.train.engine import train
from dfmamba.train.meter import clock, peak_memory_mb


def rehearse(
    config: Any,
    source: Any,
    task: Any,
    validate: Callable[[Any], dict[str, float]] | None,
    validated: int,
    ranks: Any,
) -> list[str]:
    """Two steps of a run in a temporary folder, and what they say of the whole.

    Args:
        config: the run.
        source: its batches.
        task: its model and loss.
        validate: its validation, of fewer samples.
        validated: how many, of the run's `config.validation`.
        ranks: this process among several.

    Returns:
        Lines to print; none in the processes that don't write.
    """
    timed = _Timed(source, validate)
    steps = min(2, config.steps)
    with tempfile.TemporaryDirectory(prefix="dfmamba-") as folder:
        short = replace(config, out=folder, validate_every=steps, save_every=steps)
        model = train(short, timed, task, False, timed.validate, steps, ranks)
        if not ranks.first:
            return []
        end = time.monotonic()
        model.save(Path(folder) / "last")
        kept, state = (_bytes(Path(folder), pattern) for pattern in ("last/*", "state*.safetensors"))
    step = timed.checked[0] - timed.asked[-1]
    saving = end - timed.checked[-1]
    checks = -(-config.steps // config.validate_every) if validate else 0
    check = timed.checked[-1] - timed.checked[-2] if validate else 0.0
    check *= config.validation / validated if validate else 0.0
    saves = -(-config.steps // config.save_every)
    states = min(saves, getattr(config, "keep_last", 1))
    speed = config.batch_size / max(step, 1e-9)
    total = config.steps * step + checks * check + saves * saving
    device = torch.device(config.device).type
    alone = data_rate(source, config.batch_size // ranks.world, steps)
    return [
        f"model: {count_parameters(model) / 1e6:.2f} M parameters; {ranks.world} x {device}",
        f"step: {step:.3g} s, {speed:.3g} pictures/s, of it {100 * timed.waited / step:.0f} % data; "
        f"the first one {timed.asked[-1] - timed.asked[0]:.3g} s",
        f"data alone: {alone:.3g} pictures/s",
        f"memory: {peak_memory_mb(config.device):.0f} MB at the peak, in one process",
        f"validation: {check:.3g} s" if validate else "validation: none",
        f"checkpoint: {saving:.3g} s, {state / 1e6:.1f} MB",
        f"whole run: about {clock(total)} for {config.steps} steps, {checks} validations, "
        f"{saves} checkpoints",
        f"disk: about {(states * state + (2 if validate else 1) * kept) / 1e6:.1f} MB",
    ]


def data_rate(source: Any, count: int, first: int, most_s: float = 3.0) -> float:
    """Pictures a second of a source by itself.

    Args:
        source: of batches.
        count: pictures of a batch.
        first: step to begin with.
        most_s: about how long to measure, ten batches at most.
    """
    begun, done = time.monotonic(), 0
    while done < 10 and (not done or time.monotonic() - begun < most_s):
        source.batch(first + done)
        done += 1
    return done * count / max(time.monotonic() - begun, 1e-9)


class _Timed:
    """Batches of another source and its validation, with the times at which they were asked for.

    The validation runs twice: its first run also makes what the later ones keep.
    """

    def __init__(self, source: Any, validation: Callable[[Any], dict[str, float]] | None) -> None:
        self.source, self.validation = source, validation
        self.asked: list[float] = []
        self.checked: list[float] = []
        self.waited = 0.0

    def batch(self, step: int) -> Any:
        self.asked.append(time.monotonic())
        batch = self.source.batch(step)
        self.waited = time.monotonic() - self.asked[-1]
        return batch

    def validate(self, model: Any) -> dict[str, float]:
        self.checked.append(time.monotonic())
        for _ in range(2 if self.validation else 0):
            assert self.validation is not None
            self.validation(model)
            self.checked.append(time.monotonic())
        return {}


def _bytes(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.glob(pattern))
