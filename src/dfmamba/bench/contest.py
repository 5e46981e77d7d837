"""A contest: every competitor is checked against the right answer, and only then timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfmamba.bench.timing import Plan, Timing, race

OK, WRONG, FAILED, MISSING = "ok", "wrong", "failed", "missing"


@dataclass(frozen=True)
class Entrant:
    """A competitor.

    Attributes:
        name: as the tables show it, unique in its contest.
        run: what is timed.
        error: distance of what `run` returned from the right answer; see `relative_error`.
        ours: whether it belongs to dfmamba.
        note: how it was run.
    """

    name: str
    run: Callable[[], Any]
    error: Callable[[Any], float]
    ours: bool = False
    note: str = ""


@dataclass(frozen=True)
class Absent:
    """A competitor that can't take part, and why."""

    name: str
    reason: str
    ours: bool = False


@dataclass(frozen=True)
class Row:
    """What a contest says about one competitor.

    Attributes:
        name: of the competitor.
        status: "ok", "wrong" (differs from the right answer), "failed" (raised an error) or "missing".
        ours: whether it belongs to dfmamba.
        note: how it was run, or what is the matter.
        error: distance from the right answer, None where there was no result.
        timing: None unless the status is "ok".
    """

    name: str
    status: str
    ours: bool = False
    note: str = ""
    error: float | None = None
    timing: Timing | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        finite = self.error is not None and math.isfinite(self.error)
        return {
            "competitor": self.name,
            "ours": self.ours,
            "status": self.status,
            "note": self.note,
            "relative_error": float(f"{self.error:.3g}") if finite else None,
            "ms": None if self.timing is None else self.timing.as_dict(),
        }


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference over the largest magnitude expected, the worst of all tensors.

    Infinite where number, shape or finiteness of the tensors differ.
    """
    if len(found) != len(expected):
        return math.inf
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            return math.inf
        if a.numel() == 0:
            continue
        wide, right = a.detach().double(), b.detach().double()
        scale = float(right.abs().max())
        error = float((wide - right).abs().max()) / (scale or 1.0)
        if not math.isfinite(error):
            return math.inf
        worst = max(worst, error)
    return worst


def first_line(error: BaseException) -> str:
    """The message of an error, shortened to one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def contest(
    entrants: Iterable[Entrant | Absent],
    tolerance: float,
    plan: Plan,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], object] | None = None,
) -> list[Row]:
    """Check every competitor, then time those that are right, in turns.

    Args:
        entrants: the competitors.
        tolerance: largest error that passes.
        plan: how much is measured.
        clock: seconds.
        synchronize: waits for the device.

    Returns:
        One row a competitor, in the order given.

    Raises:
        ValueError: two competitors have the same name.
    """
    entrants = list(entrants)
    names = [entrant.name for entrant in entrants]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two competitors are called {twice!r}; their names must differ")
    checked = [_check(entrant, tolerance) for entrant in entrants]
    calls = {
        entrant.name: entrant.run
        for entrant, row in zip(entrants, checked, strict=True)
        if isinstance(entrant, Entrant) and row.status == OK
    }
    timings = race(calls, plan, clock, synchronize)
    return [
        Row(row.name, row.status, row.ours, row.note, row.error, timings.get(row.name)) for row in checked
    ]


def _check(entrant: Entrant | Absent, tolerance: float) -> Row:
    if isinstance(entrant, Absent):
        return Row(entrant.name, MISSING, entrant.ours, entrant.reason)
    try:
        error = entrant.error(entrant.run())
    except Exception as problem:
        # Whatever a competitor raises, compilers included, must not end the run of the others.
        return Row(entrant.name, FAILED, entrant.ours, first_line(problem))
    if error <= tolerance:
        return Row(entrant.name, OK, entrant.ours, entrant.note, error)
    note = f"differs from the right answer by {error:.2g}, allowed {tolerance:.2g}; not timed"
    return Row(entrant.name, WRONG, entrant.ours, note, error)


def waiter(device: torch.device) -> Callable[[], object] | None:
    """What waits for a device to finish; None for the processor itself."""
    return torch.cuda.synchronize if device.type == "cuda" else None
