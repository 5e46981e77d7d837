"""What is trained: a model with its average and its optimiser, in one process or divided among several."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dfmamba.machine import check_device
from dfmamba.models import HandPoseModel, load
from dfmamba.train.checkpoint import load_state, save_state
from dfmamba.train.config import RunConfig
from dfmamba.train.optim import build_optimizer, learning_rate, set_learning_rate, update_average
from dfmamba.train.parallel import Ranks, whole
from dfmamba.train.sync_norm import synchronise
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
