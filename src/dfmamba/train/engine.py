"""The training loop: one function from a configuration to a trained model, and a rehearsal of it.

Step noise depends on (seed, step, rank) alone, so an interrupted run goes on exactly as it would have.
"""

from __future__ import annotations

import copy
import ctypes
import json
import math
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dfmamba.io.files import remove_leftovers, write_atomic
from dfmamba.machine import check_device
from dfmamba.models import HandPoseModel, count_parameters, load
from dfmamba.train.config import RunConfig
from dfmamba.train.meter import Meter, clock, peak_memory_mb
from dfmamba.train.optim import build_optimizer, learning_rate, set_learning_rate, update_average
from dfmamba.train.parallel import Ranks, synchronise, whole
from dfmamba.train.run_folder import find_states, load_state, save_state
from dfmamba.train.transfer import load_backbone

Batch = tuple[Tensor, dict[str, Tensor]]


class Task(Protocol):
    """What is trained: a model, and the loss of its output."""

    def build(self) -> HandPoseModel:
        """The model, with random weights drawn from torch's generator.

        Raises:
            ValueError: unusable settings.
        """
        ...

    def loss(self, output: Any, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars: "total", which is minimised, and its terms."""
        ...


def start_model(config: RunConfig, task: Task, tell: bool = True) -> HandPoseModel:
    """The task's model, started from `config.init` or `config.init_backbone` if given.

    Args:
        config: the run.
        task: gives the model.
        tell: say on standard error which weights the backbone took.

    Raises:
        OSError: no such file.
        ValueError: unusable settings, or initial weights of another architecture.
    """
    torch.manual_seed(config.seed)
    model = task.build()
    if config.init:
        start = load(config.init).state_dict()
        own = model.state_dict()
        wrong = [n for n in own if n not in start or start[n].shape != own[n].shape]
        if wrong:
            raise ValueError(
                f"init {config.init!r} is another architecture than {model.config.name!r}: {wrong[0]}"
            )
        model.load_state_dict(start)
    if config.init_backbone:
        taken = load_backbone(model.backbone, config.init_backbone)
        if tell:
            print(f"{config.init_backbone}: {taken.line}", file=sys.stderr)
    return model


class Network:
    """What is trained, its average and its optimiser, in one process or divided among several.

    Args:
        config: the run.
        task: gives the model.
        ranks: this process among several.
        begun: the run has a state to go on from, so its first weights needn't be there any more.

    Raises:
        OSError: no weights where the run is to start from.
        ValueError: unusable settings.
    """

    def __init__(self, config: RunConfig, task: Task, ranks: Ranks, begun: bool = False) -> None:
        self.config, self.task, self.ranks = config, task, ranks
        start = replace(config, init=None, init_backbone=None) if begun else config
        self.device = check_device(config.device)
        self.divided = config.sharding == "fsdp" and ranks.world > 1
        self.order = torch.channels_last if config.channels_last else torch.contiguous_format
        # FSDP2 takes kernels in plain order only.
        order = torch.contiguous_format if self.divided else self.order
        model = start_model(start, task, ranks.first).to(self.device).to(memory_format=order).train()
        if config.grad_checkpointing:
            backbone: Any = model.backbone
            if not hasattr(backbone, "set_grad_checkpointing"):
                raise ValueError(f"grad_checkpointing: the backbone of {model.config.name!r} has none")
            backbone.set_grad_checkpointing(True)
        self.model, self.average = model, copy.deepcopy(model).eval()
        if config.sync_batch_norm and ranks.world > 1:
            synchronise(self.model)
        self._shown = self.average
        if self.divided:
            self._shown = copy.deepcopy(self.average)
            ranks.divide(self.model)
            ranks.divide(self.average)
        self.optimizer = build_optimizer(config, self.model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self._forward: Callable[[Tensor], Any] = torch.compile(model) if config.compile else model

    def averaged(self) -> HandPoseModel:
        """The averaged model in one piece; if it is divided, all processes must call."""
        if self.divided:
            state = {name: whole(tensor) for name, tensor in self.average.state_dict().items()}
            self._shown.load_state_dict(state)
        return self._shown

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Adds the gradients of a batch, part by part, and returns its losses."""
        pictures, target = batch
        count = len(pictures)
        if count < self.config.accumulate:
            raise ValueError(
                f"a batch of {count} pictures a process can't be divided into "
                f"{self.config.accumulate} parts; lower accumulate or raise batch_size"
            )
        dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.config.precision)
        parts = torch.arange(count).tensor_split(self.config.accumulate)
        sums: dict[str, Tensor] = {}
        for part in parts:
            here = slice(int(part[0]), int(part[-1]) + 1)
            x = pictures[here].to(self.device).contiguous(memory_format=self.order)
            if self.divided:
                self.model.set_requires_gradient_sync(part is parts[-1])  # type: ignore[operator]
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                output = self._forward(x)
            if dtype is not None:
                output = tree_map(_single, output)
            losses = self.task.loss(output, {k: t[here].to(self.device) for k, t in target.items()})
            share = len(part) / count
            self.scaler.scale(losses["total"] * share).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        return sums

    def step(self, step: int, batch: Batch, stop: bool) -> tuple[dict[str, float], bool]:
        """One step of the optimiser and of the average.

        Args:
            step: its number.
            batch: of this process.
            stop: whether this process wishes to stop.

        Returns:
            The losses with "grad_norm", and whether any process wishes to stop.

        Raises:
            FloatingPointError: loss or gradient is not finite; weights and average are as before.
        """
        set_learning_rate(self.optimizer, learning_rate(self.config, step))
        torch.manual_seed(step_seed(self.config.seed, self.ranks.rank, step))  # drop path, dropout
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.gradients(batch)
        stop = self.ranks.average_gradients(self.model, stop)
        self.scaler.unscale_(self.optimizer)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))
        names = [*losses, "grad_norm"]
        # One wait for the device a step.
        values = torch.stack([t.detach().float().reshape(()) for t in (*losses.values(), norm)]).tolist()
        figures = dict(zip(names, values, strict=True))
        # Half precision overflows now and then: the scaler then leaves the step out and halves its scale.
        overflowed = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        if not math.isfinite(figures["total"]) or not (math.isfinite(figures["grad_norm"]) or overflowed):
            raise FloatingPointError(
                f"loss or gradient is not finite at step {step} "
                f"(loss {figures['total']}, gradient {figures['grad_norm']})"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        update_average(self.average, self.model, min(self.config.ema, (1 + step) / (10 + step)))
        return figures, stop

    def save(self, out: Path, step: int, best: float) -> None:
        """Writes the state; all processes must call.

        Raises:
            OSError: it can't be written; the states before stay.
        """
        facts = {"step": step, "best": best, "config": self.config.to_dict(), "world": self.ranks.world}
        if self.scaler.is_enabled():
            facts["scaler"] = self.scaler.state_dict()
        first, keep = self.ranks.first, self.config.keep_last
        if first or self.divided:
            save_state(out, self.model, self.average, self.optimizer, facts, keep, write=first)
        self.ranks.agree(step)  # none goes on, or begins again, before the state is there

    def resume(self, out: Path) -> tuple[int, float]:
        """Goes on from the newest valid state; returns its step and best score.

        Raises:
            ValueError: no valid state, or one of other settings.
        """
        facts = load_state(out, self.model, self.average, self.optimizer, tell=self.ranks.first)
        defaults = type(self.config)().to_dict()  # of settings that the run's version didn't have
        changed = _changed({**defaults, **facts["config"]}, self.config.to_dict())
        if changed:
            raise ValueError(
                f"{out} is a run with another {changed}; choose another folder or the same settings"
            )
        world = facts.get("world", self.ranks.world)
        if world != self.ranks.world and self.ranks.first:
            print(
                f"{out}: begun with {world} processes, goes on with {self.ranks.world}: "
                f"results differ from an uninterrupted run",
                file=sys.stderr,
            )
        if self.scaler.is_enabled() and "scaler" in facts:
            self.scaler.load_state_dict(facts["scaler"])
        return facts["step"], facts["best"]


def step_seed(seed: int, rank: int, step: int) -> int:
    """A seed for torch, 0 to 2**64 - 1, that any seed of a run, process and step have for themselves."""
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0])


def _single(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _changed(old: Any, new: Any) -> str | None:
    """Name of the first setting that changes what a run computes, where the two differ."""
    free = {
        "out",
        "validate_every",
        "validation",
        "save_every",
        "threads",
        "device",
        "cache",
        "path",
        "workers",
        "render_device",
        "ahead",
        "photos",
        "keep_last",
        "accumulate",
        "compile",
        "channels_last",
        "grad_checkpointing",
        "sharding",
    }
    for key, value in new.items():
        if key in free:
            continue
        was = old.get(key)
        if isinstance(value, list) and isinstance(was, list) and len(value) == len(was):
            value, was = ({str(i): item for i, item in enumerate(items)} for items in (value, was))
        if isinstance(value, dict) and isinstance(was, dict):
            inner = _changed(was, value)
            if inner:
                return f"{key}.{inner}"
        elif was != value:
            return key
    return None


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


MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -4, -3, -1, -2
"""glibc's names for what `mallopt` sets (malloc.h)."""

KEEP = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 256 * 2**20}
GIVE_BACK = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26, TOP_PAD: 2**17}
"""About what glibc arrives at by itself."""


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Within it, glibc keeps freed memory for this process instead of giving it back to the system.

    Every step frees and allocates the same large tensors. By default glibc maps each of them anew, and the
    system fills it with zeros page by page. At the end what is free goes back.

    Yields:
        Whether it is so: False with another C library, and where a MALLOC_ variable of the environment says
        how memory is to be handled.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        yield False
        return
    libc = ctypes.CDLL(None)
    try:
        yield all([libc.mallopt(name, value) for name, value in KEEP.items()])
    finally:
        for name, value in GIVE_BACK.items():
            libc.mallopt(name, value)
        libc.malloc_trim(0)
