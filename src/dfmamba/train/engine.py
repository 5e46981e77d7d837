"""The training loop: one function from a configuration to a trained model.

Step noise depends on (seed, step, rank) alone, so an interrupted run goes on exactly as it would have.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dfmamba.io.files import write_atomic
from dfmamba.models import HandPoseModel, check_device, load
from dfmamba.train.checkpoint import STATE_FILE, load_state, save_state
from dfmamba.train.config import RunConfig
from dfmamba.train.meter import Meter
from dfmamba.train.parallel import Ranks

Batch = tuple[Tensor, dict[str, Tensor]]


class BatchSource(Protocol):
    """Where the engine gets its batches."""

    def batch(self, step: int) -> Batch:
        """Pictures (B, C, S, S) and the task's target for one step; a pure function of the step."""
        ...


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


def learning_rate(config: RunConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak, or steps."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(step >= milestone for milestone in config.milestones)
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def parameter_groups(model: HandPoseModel, weight_decay: float) -> list[dict[str, Any]]:
    """Decays matrices and kernels; norms, biases and state-space parameters don't decay."""
    backbone: Any = model.backbone
    kept = {f"backbone.{name}" for name in backbone.no_weight_decay()}
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        (rest if parameter.ndim < 2 or name in kept else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters and running statistics.

    A statistic that is not finite (the square of one huge activation overflows, and no later batch mends it)
    is set back to its average in both models.
    """
    old = average.state_dict()
    buffers = {name for name, _ in model.named_buffers()}
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            if name in buffers and not bool(torch.isfinite(value).all()):
                value.copy_(torch.where(torch.isfinite(value), value, old[name]))
            old[name].lerp_(value, 1 - decay)
        else:
            old[name].copy_(value)


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C and SIGTERM into a question the loop asks between steps; a second signal ends at once."""
    caught: list[int] = []

    def handler(number: int, _: Any) -> None:
        if caught:
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


def build_optimizer(config: RunConfig, model: HandPoseModel) -> torch.optim.Optimizer:
    """The optimiser of a run; see `RunConfig.optimizer`."""
    if config.optimizer == "adamw":
        groups = parameter_groups(model, config.weight_decay)
        return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trained, lr=config.lr, weight_decay=config.weight_decay)


def start_model(config: RunConfig, task: Task) -> HandPoseModel:
    """The task's model, started from `config.init` if given.

    Raises:
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
    return model


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
        resume: go on from the folder's state; without one it starts anew.
        validate: figures of the averaged model, written to the log; the model with the lowest "score" is kept
            as `best`.
        until: stop (and save) before this step; for tests and stages.
        ranks: this process among several; the first one validates, logs and writes.

    Returns:
        The averaged model, in evaluation mode.

    Raises:
        ValueError: the folder holds a run already, or another one than is to be resumed.
        FloatingPointError: the loss is no longer finite; the last good state stays on disk.
    """
    ranks = ranks or Ranks()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = check_device(config.device)
    model = start_model(config, task).to(device).to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(model).eval()
    optimizer = build_optimizer(config, model)
    step, best = 0, float("inf")
    if (out / STATE_FILE).is_file():
        if not resume:
            raise ValueError(f"{out} holds a run already: resume it, or choose another folder")
        facts = load_state(out, model, average, optimizer)
        changed = _changed(facts["config"], config.to_dict())
        if changed:
            raise ValueError(
                f"{out} is a run with another {changed}; choose another folder or the same settings"
            )
        step, best = facts["step"], facts["best"]
    if ranks.first:
        write_atomic(out / "config.json", (json.dumps(config.to_dict(), indent=2) + "\n").encode())
    last = config.steps if until is None else min(until, config.steps)

    def save() -> None:
        if ranks.first:
            save_state(
                out, model, average, optimizer, {"step": step, "best": best, "config": config.to_dict()}
            )

    meter = Meter(config, out, step, ranks)
    with stop_on_signal() as stopped:
        while step < last:
            pictures, target = source.batch(step)
            meter.fetched()
            pictures = pictures.to(device).contiguous(memory_format=torch.channels_last)
            rate = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed((config.seed << 40) + (ranks.rank << 32) + step)  # dropout and drop path
            losses = task.loss(model(pictures), {k: t.to(device) for k, t in target.items()})
            optimizer.zero_grad(set_to_none=True)
            losses["total"].backward()
            stop = ranks.average_gradients(model, stopped())
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if not torch.isfinite(norm):
                raise FloatingPointError(
                    f"loss or gradient is not finite at step {step} (loss {losses['total'].item()}); "
                    f"the state of the last save is in {out}"
                )
            optimizer.step()
            update_average(average, model, min(config.ema, (1 + step) / (10 + step)))
            step += 1
            figures = {k: float(v.detach()) for k, v in losses.items()}
            meter.stepped(step, {**figures, "grad_norm": float(norm)}, rate)
            if (
                ranks.first
                and validate is not None
                and (step % config.validate_every == 0 or step == config.steps)
            ):
                found = validate(average)
                meter.write({"step": step, "validation": found})
                if found.get("score", float("inf")) < best:
                    best = found["score"]
                    average.save(out / "best")
                meter.pause()
            if step % config.save_every == 0 or step == last or stop:
                save()
            if stop:
                if ranks.first:
                    print(f"\nstopped at step {step}; go on with --resume", file=sys.stderr)
                break
    if step >= config.steps and ranks.first:
        average.save(out / "last")
    return average.eval()


def _changed(old: Any, new: Any) -> str | None:
    """Name of the first setting of a run that differs, folders and validation aside."""
    free = {
        "out",
        "validate_every",
        "validation",
        "save_every",
        "threads",
        "device",
        "cache",
        "workers",
        "photos",
    }
    for key, value in new.items():
        if key in free:
            continue
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            inner = _changed(old[key], value)
            if inner:
                return f"{key}.{inner}"
        elif old.get(key) != value:
            return key
    return None
