"""The training loop: one function from a configuration to a trained model.

Step noise depends on (seed, step, rank) alone, so an interrupted run goes on exactly as it would have.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch

from dfmamba.io.files import remove_leftovers, write_atomic
from dfmamba.models import HandPoseModel
from dfmamba.train.checkpoint import find_states
from dfmamba.train.config import RunConfig
from dfmamba.train.memory import freed_memory_kept
from dfmamba.train.meter import Meter
from dfmamba.train.network import Batch, Network, Task
from dfmamba.train.optim import learning_rate
from dfmamba.train.parallel import Ranks


class BatchSource(Protocol):
    """Where the engine gets its batches."""

    def batch(self, step: int) -> Batch:
        """Pictures (B, C, S, S) and the task's target for one step; a pure function of the step."""
        ...


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C and SIGTERM into a question the loop asks between steps; a second signal ends at once.

    Under torchrun later signals are ignored: it passes on what the terminal has sent to all already, and ends
    its processes by itself when they take too long.
    """
    caught: list[int] = []

    def handler(number: int, _: Any) -> None:
        if caught and "TORCHELASTIC_RUN_ID" not in os.environ:
            raise KeyboardInterrupt
        caught.append(number)

    previous = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread: the caller handles signals
            break
    try:
        yield lambda: bool(caught)
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def train(
    config: RunConfig,
    source: BatchSource,
    task: Task,
    resume: bool = False,
    validate: Callable[[HandPoseModel], dict[str, float]] | None = None,
    until: int | None = None,
    ranks: Ranks | None = None,
) -> HandPoseModel:
    """Trains a model and leaves it, with its log, in the folder of the run.

    Args:
        config: the run.
        source: batches.
        task: the model and its loss.
        resume: go on from the folder's newest valid state; without one it starts anew.
        validate: figures of the averaged model, written to the log; the model with the lowest "score" is kept
            as `best`.
        until: stop (and save) before this step; for tests and stages.
        ranks: this process among several; the first one validates, logs and writes.

    Returns:
        The averaged model, in evaluation mode.

    Raises:
        ValueError: the folder holds a run already, or another one than is to be resumed; or processes see
            different folders.
        OSError: the folder can't be written, for example because the disk is full; the last state stays.
        InterruptedError: another process of the group was told to stop; the state is saved.
        FloatingPointError: the loss is no longer finite; its batch is written out, the last good state stays.
    """
    ranks = ranks or Ranks()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    begun = bool(find_states(out))
    if begun and not resume:
        raise ValueError(f"{out} holds a run already: resume it, or choose another folder")
    network = Network(config, task, ranks, begun)
    step, best = 0, float("inf")
    if begun:
        step, best = network.resume(out)
    if not ranks.agree(step):
        raise ValueError(f"{out}: processes see different states; put it where all nodes see the same files")
    if ranks.first:
        for folder in (out, out / "best", out / "last"):
            remove_leftovers(folder)
        write_atomic(out / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    last = config.steps if until is None else min(until, config.steps)
    meter = Meter(config, out, step, ranks)
    kept = freed_memory_kept() if config.device == "cpu" else nullcontext()
    with kept, stop_on_signal() as stopped:
        while step < last:
            batch = source.batch(step)
            meter.fetched()
            try:
                figures, stop = network.step(step, batch, stopped())
            except FloatingPointError as error:
                path = _write_batch(out, step, batch, ranks)
                raise FloatingPointError(
                    f"{error}; its batch is in {path}, the state of the last save in {out}"
                ) from error
            rate = learning_rate(config, step)
            step += 1
            meter.stepped(step, figures, rate)
            if step % config.validate_every == 0 or step == config.steps:
                shown = network.averaged()
                if ranks.first and validate is not None:
                    found = validate(shown)
                    meter.write({"step": step, "validation": found})
                    if found.get("score", float("inf")) < best:
                        best = found["score"]
                        shown.save(out / "best")
                    meter.pause()
            if step % config.save_every == 0 or step == last or stop:
                network.save(out, step, best)
            if stop:
                if ranks.first:
                    print(f"\nstopped at step {step}; go on with --resume", file=sys.stderr)
                if not stopped():
                    # A failure to this node's torchrun, which then waits for the others and begins again.
                    raise InterruptedError(f"{out}: another process was told to stop; saved at step {step}")
                break
    shown = network.averaged()
    if step >= config.steps and ranks.first:
        shown.save(out / "last")
    return shown.eval()


def _write_batch(out: Path, step: int, batch: Batch, ranks: Ranks) -> str:
    """Keeps a batch that broke the training; returns its path, or why there is none."""
    from safetensors.torch import save

    pictures, target = batch
    tensors = {"pictures": pictures, **{f"target/{name}": t for name, t in target.items()}}
    path = out / f"nan-batch-{step}{f'-rank{ranks.rank}' if ranks.world > 1 else ''}.safetensors"
    try:
        write_atomic(path, save({name: t.cpu().contiguous() for name, t in tensors.items()}))
    except OSError as error:
        return f"no file ({error.strerror or error})"
    return str(path)
