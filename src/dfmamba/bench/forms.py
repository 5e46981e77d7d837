"""Forms in which a network runs (as built, channels-last, compiled, the best of all) and their trial."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dfmamba.bench.contest import Entrant, Row, contest, relative_error, waiter
from dfmamba.bench.networks import Features
from dfmamba.bench.timing import Plan

FORMS = ("eager", "channels_last", "compiled", "best")
PROBE = Plan(rounds=5, fewest=3, warmup=1, sample_seconds=0.0, budget_seconds=10.0)
"""How the ways to run the best form are compared with each other."""


def folded(model: Features) -> nn.Module:
    """A copy for inference: our own `fuse()` where there is one, else BatchNorm folded into convolutions.

    A plain copy where there is nothing to fold, or its code can't be traced.
    """
    own = getattr(model.model, "fuse", None)
    if callable(own) and type(model.model).__module__.startswith("dfmamba."):
        return Features(own()).eval()
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        from torch.fx.experimental.optimization import fuse
        from torch.fx.proxy import TraceError

        try:
            return fuse(model).eval()
        except TraceError:
            pass
    return copy.deepcopy(model)


def compiled(model: nn.Module, freeze: bool = False) -> Callable[[Tensor], Tensor]:
    """`torch.compile` for fixed shapes; with `freeze`, weights are constants (inference only)."""
    options: dict[str, Any] | None = {"freezing": True} if freeze else None
    return torch.compile(model, dynamic=False, options=options)


@dataclass(frozen=True)
class Variant:
    """A way to run a network.

    Attributes:
        how: what was done to it.
        call: picture in, features out.
        module: holder of the parameters that `call` uses.
        channels_last: memory order of the picture.
    """

    how: str
    call: Callable[[Tensor], Tensor]
    module: nn.Module
    channels_last: bool = False

    def compiled(self, freeze: bool) -> Variant:
        """The same, compiled."""
        how = f"{self.how}, compiled" + (" with frozen weights" if freeze else "")
        return Variant(how, compiled(self.module, freeze), self.module, self.channels_last)


def variants(model: Features, form: str, train: bool) -> list[Variant]:
    """The ways to run a network that a form stands for; for "best", those that need no compiler.

    Raises:
        ValueError: unknown form.
    """
    if form == "eager":
        return [Variant("as built", model, model)]
    if form == "channels_last":
        return [_channels_last("channels-last", copy.deepcopy(model))]
    if form == "compiled":
        return [Variant("as built", model, model).compiled(freeze=False)]
    if form != "best":
        raise ValueError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    base = copy.deepcopy(model) if train else folded(model)
    how = "as built" if train else "folded"
    return [Variant(how, base, base), _channels_last(f"{how}, channels-last", copy.deepcopy(base))]


def _channels_last(how: str, model: nn.Module) -> Variant:
    model = model.to(memory_format=torch.channels_last)
    return Variant(how, model, model, channels_last=True)


@dataclass(frozen=True)
class Ring:
    """Where the forms of one backbone compete on one picture with one right answer."""

    x: Tensor
    train: bool
    expected: Sequence[Tensor]
    ours: bool
    tolerance: float

    def entrant(self, name: str, variant: Variant, note: str = "") -> Entrant:
        """A competitor that runs the variant."""
        call = call_of(variant, self.x, self.train)
        return Entrant(name, call, self._error, self.ours, note or variant.how)

    def fastest(self, name: str, candidates: Sequence[Variant], compiler: bool) -> Entrant:
        """The fastest of the candidates, or of that one and its compiled twin."""
        best, _ = self._winner(candidates)
        note = best.how
        if compiler:
            twin = best.compiled(freeze=not self.train)
            best, rows = self._winner([best, twin])
            problem = next((row for row in rows if row.name == twin.how and row.timing is None), None)
            note = best.how if problem is None else f"{best.how} (compiled: {problem.status}, {problem.note})"
        return self.entrant(name, best, note)

    def _winner(self, candidates: Sequence[Variant]) -> tuple[Variant, list[Row]]:
        trial = [self.entrant(variant.how, variant) for variant in candidates]
        rows = contest(trial, self.tolerance, PROBE, synchronize=waiter(self.x.device))
        timed = [(row.timing.median, i) for i, row in enumerate(rows) if row.timing is not None]
        return candidates[min(timed)[1] if timed else 0], rows

    def _error(self, result: Sequence[Tensor | None]) -> float:
        return relative_error(gathered(result), self.expected)


def call_of(variant: Variant, x: Tensor, train: bool) -> Callable[[], tuple[Tensor | None, ...]]:
    memory = torch.channels_last if variant.channels_last else torch.contiguous_format
    picture = x.contiguous(memory_format=memory)
    parameters = list(variant.module.parameters())
    variant.module.train(train)

    def forward() -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            return (variant.call(picture),)

    def both() -> tuple[Tensor | None, ...]:
        y = variant.call(picture)
        return (y, *torch.autograd.grad(y.square().mean(), parameters, allow_unused=True))

    return both if train else forward


def gathered(result: Sequence[Tensor | None]) -> list[Tensor]:
    """The features, and all gradients as one vector: single ones may be nothing but rounding."""
    features, *gradients = result
    assert features is not None
    flat = [g.detach().flatten() for g in gradients if g is not None]
    return [features.detach().clone(), *([torch.cat(flat)] if flat else [])]


@contextlib.contextmanager
def many_compilations(wanted: bool) -> Iterator[None]:
    """Lets all networks be compiled: beyond a limit per function, PyTorch silently stays eager."""
    if not wanted:
        yield
        return
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000):
        yield
    torch._dynamo.reset()
