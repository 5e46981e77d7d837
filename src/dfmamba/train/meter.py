"""What a run tells while it goes on: a line on the terminal, JSON Lines in its folder, loggers if any."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dfmamba.data.sample import HandSample
from dfmamba.train.config import RunConfig
from dfmamba.train.curves import write_curves
from dfmamba.train.parallel import Ranks
from dfmamba.train.run_folder import LOG_FILE, write_environment

LOG_EVERY = 50
"""Steps between lines of the log."""

REDRAW_S, LINE_S = 0.5, 30.0
"""How often progress is shown on a terminal, and in a file."""

MUCH_WAITING = 0.2
"""Share of the time spent waiting for data above which the user is told, once."""


class Logger(Protocol):
    """Who else wants to know the figures of a run."""

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step, those of a validation named "validation/..."."""
        ...

    def picture(self, name: str, image: np.ndarray) -> None:
        """A picture (H, W, 3) uint8, which belongs to the step of the scalars that follow it."""
        ...


_listening: list[Logger] = []


@contextmanager
def listening(*loggers: Logger) -> Iterator[None]:
    """Within it, runs tell these loggers, too, what they write into their logs."""
    _listening.extend(loggers)
    try:
        yield
    finally:
        for logger in loggers:
            _listening.remove(logger)


class Meter:
    """Progress on the terminal, and log, environment and curves in the run's folder.

    A terminal gets one line that is drawn anew, a file a line every `LINE_S` seconds. Only the first of
    several processes tells anything.

    Args:
        config: the run.
        out: its folder.
        step: where the run starts or goes on.
        ranks: this process among several.
    """

    def __init__(self, config: RunConfig, out: Path, step: int, ranks: Ranks) -> None:
        self.config, self.folder, self.path, self.ranks = config, out, out / LOG_FILE, ranks
        self.begun, self.shown = step, 0.0
        self.mean: dict[str, float] = {}
        self.told = False
        if ranks.first:
            write_environment(out, config.device, ranks.world, step)
        self.born = self.started = self.mark = time.monotonic()
        self.waiting = 0.0
        self.window: tuple[float, float] | None = None  # running time and waiting at the last line of the log

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
        """Adds a line to the log, tells the loggers, and after a validation draws the curves.

        Raises:
            OSError: the log can't be written.
        """
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        figures = scalars_of(record)
        for logger in _listening:
            logger.scalars(int(record["step"]), figures)
        if "validation" in record:
            self.draw()

    def stepped(self, step: int, losses: Mapping[str, float], rate: float) -> None:
        """Counts a step, logs every `LOG_EVERY`th and shows progress now and then.

        Args:
            step: number of steps done.
            losses: "total" and its terms.
            rate: learning rate of the step.
        """
        self.mark = now = time.monotonic()
        if not self.ranks.first:
            return
        for name, value in losses.items():
            self.mean[name] = float(value) + 0.98 * (self.mean.get(name, float(value)) - float(value))
        elapsed = max(now - self.started, 1e-9)
        speed = (step - self.begun) * self.config.batch_size / elapsed
        wait = self.waiting / elapsed
        if step % LOG_EVERY == 0:
            self.write(
                {
                    "step": step,
                    **{k: round(v, 4) for k, v in self.mean.items()},
                    "lr": rate,
                    "pictures_per_s": round(speed, 1),
                    "data_wait": round(wait, 3),
                    "seconds": round(now - self.born, 1),
                    "memory_mb": round(peak_memory_mb(self.config.device)),
                }
            )
            self._look_at_waiting(elapsed)
        tty, end = sys.stderr.isatty(), step == self.config.steps
        if now - self.shown > (REDRAW_S if tty else LINE_S) or end:
            self.shown = now
            left = (self.config.steps - step) * self.config.batch_size / max(speed, 1e-9)
            text = (
                f"step {step}/{self.config.steps}  loss {self.mean['total']:.3f}  lr {rate:.2g}  "
                f"{speed:.3g} pictures/s  data {100 * wait:.0f} %  {clock(left)} left"
            )
            print(
                f"\r{text}\x1b[K" if tty else text,
                end="" if tty and not end else "\n",
                file=sys.stderr,
                flush=True,
            )
        if end:
            self.draw()

    def draw(self) -> None:
        """Draws the curves of the log; a failure is told and doesn't end the run."""
        try:
            write_curves(self.folder)
        except OSError as error:
            print(f"\ncurves: {error}", file=sys.stderr)

    def _look_at_waiting(self, elapsed: float) -> None:
        """Tells once when data is the limit. The first stretch, in which workers start, doesn't count."""
        before, self.window = self.window, (elapsed, self.waiting)
        if before is None or self.told:
            return
        share = (self.waiting - before[1]) / max(elapsed - before[0], 1e-9)
        if share > MUCH_WAITING:
            self.told = True
            start = "\r\x1b[K" if sys.stderr.isatty() else ""
            print(
                f"{start}waiting for data {100 * share:.0f} % of the time: more --workers, "
                "or pre-rendered shards",
                file=sys.stderr,
                flush=True,
            )


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Figures of a line of the log without its step; those of a validation are named "validation/..."."""
    figures: dict[str, float] = {}
    for name, value in record.items():
        if name == "validation" and isinstance(value, Mapping):
            figures |= {f"validation/{key}": float(inner) for key, inner in value.items()}
        elif name != "step" and isinstance(value, int | float):
            figures[name] = float(value)
    return figures


def peak_memory_mb(device: str) -> float:
    """Peak memory of this process in MB: resident, or on a CUDA device what PyTorch's tensors took there.

    0 where the system doesn't tell.
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}"


SHOWN = 6
"""Samples of a validation that are drawn."""


class Board:
    """Writes figures and pictures of a run into the folder `board` of the run, for `tensorboard --logdir`.

    Args:
        out: folder of the run.

    Raises:
        ImportError: TensorBoard is missing.
    """

    def __init__(self, out: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("--board needs TensorBoard: pip install 'dfmamba[board]'") from error
        self._make, self._folder = SummaryWriter, Path(out) / "board"
        self._writer: Any = None
        self._pending: dict[str, np.ndarray] = {}

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step, and the pictures that came since the last ones."""
        if self._writer is None:
            # What an interrupted run wrote beyond the step that it goes on from is hidden.
            self._writer = self._make(str(self._folder), purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(name if "/" in name else f"training/{name}", value, step)
        for name, picture in self._pending.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._pending.clear()
        self._writer.flush()

    def picture(self, name: str, image: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 of the step whose figures follow."""
        self._pending[name] = image

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()


def draw_validation(samples: Sequence[HandSample], joints_2d_px: Sequence[np.ndarray]) -> np.ndarray:
    """A sheet with the labels of some samples above, and estimated joints below.

    Args:
        samples: with their pictures or depth maps.
        joints_2d_px: (2, J, 2) pixels of each sample; of joints that aren't labelled they may be anything.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: no sample, or its joint order can't be drawn.
    """
    from dfmamba.draw.contact import draw_contact

    estimated = [
        replace(sample, joints_2d_px=_usable(joints, sample.valid), visible=sample.valid, id="estimate")
        for sample, joints in zip(samples, joints_2d_px, strict=True)
    ]
    columns = len(samples)
    return np.asarray(draw_contact([*samples, *estimated], "labels above, estimates below", columns, 180))


def _usable(joints_2d_px: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid[..., None], np.nan_to_num(joints_2d_px), 0.0).clip(-1e5, 1e5).astype(np.float32)


@contextlib.contextmanager
def telling(out: str, board: bool, ranks: Any) -> Iterator[Any]:
    """Within it, a run is shown on TensorBoard if wished; at its end its curves are drawn.

    Raises:
        ValueError: TensorBoard is missing.
    """

    try:
        shown = Board(out) if board and ranks.first else None
    except ImportError as error:
        raise ValueError(str(error)) from error
    try:
        with listening(*([shown] if shown else [])):
            yield shown
    finally:
        if shown is not None:
            shown.close()
        if ranks.first:
            with contextlib.suppress(OSError):
                write_curves(Path(out))
