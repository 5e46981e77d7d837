"""Contests between implementations: fair timing in turns, what takes part, and the tables that come of it."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor

from dfmamba.text import Table

MOST_REPEATS = 1000


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: turns of each competitor.
        fewest: turns that even a slow competitor gets.
        warmup: untimed turns before the first round.
        sample_seconds: a call shorter than this is repeated within its turn until the turn lasts this long.
        budget_seconds: a competitor whose turns would last longer in all gets fewer, spread over the rounds.

    Raises:
        ValueError: a number is out of range.
    """

    rounds: int = 21
    fewest: int = 5
    warmup: int = 2
    sample_seconds: float = 0.005
    budget_seconds: float = 20.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.fewest < 1 or self.warmup < 0:
            raise ValueError(f"rounds and fewest must be at least 1 and warmup at least 0, got {self}")
        if self.sample_seconds < 0 or self.budget_seconds <= 0:
            raise ValueError(
                f"sample_seconds must not be negative and budget_seconds must be positive, got {self}"
            )

    def turns(self, once: float) -> Turns:
        """Rounds and repeats of a competitor whose call takes `once` seconds."""
        if once <= 0:
            return Turns(self.rounds, MOST_REPEATS if self.sample_seconds else 1)
        repeats = max(1, math.ceil(min(MOST_REPEATS, self.sample_seconds / once)))
        affordable = min(self.rounds, self.budget_seconds / (once * repeats))
        return Turns(min(self.rounds, max(self.fewest, int(affordable))), repeats)


@dataclass(frozen=True)
class Turns:
    """How often a competitor is timed, and how many calls one timing holds."""

    rounds: int
    repeats: int

    def due(self, index: int, rounds: int) -> bool:
        """Whether the competitor takes part in round `index` of `rounds`; its turns are spread evenly."""
        return (index + 1) * self.rounds // rounds > index * self.rounds // rounds


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one value a round.

    Attributes:
        samples: seconds per call, in the order measured.
        repeats: calls in each sample.
    """

    samples: tuple[float, ...]
    repeats: int = 1

    def __post_init__(self) -> None:
        if not self.samples:
            raise ValueError("a timing needs at least one sample")

    @property
    def median(self) -> float:
        """Seconds per call."""
        return median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile, seconds per call."""
        if len(self.samples) == 1:
            return self.samples[0], self.samples[0]
        first, _, third = quantiles(self.samples, n=4, method="inclusive")
        return first, third

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, seconds."""
        first, third = self.quartiles
        return (third - first) / 2

    def as_dict(self) -> dict[str, float | int]:
        """Milliseconds and counts, for JSON."""
        first, third = self.quartiles
        ms = {"median": self.median, "q1": first, "q3": third, "min": min(self.samples)}
        rounded: dict[str, float | int] = {name: round(1e3 * value, 6) for name, value in ms.items()}
        return {**rounded, "rounds": len(self.samples), "repeats": self.repeats}


def race(
    calls: Mapping[str, Callable[[], object]],
    plan: Plan,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], object] | None = None,
) -> dict[str, Timing]:
    """Time several calls in turn, so that a drifting machine is the same to all of them.

    Each round begins with another competitor. The garbage collector rests meanwhile.

    Args:
        calls: competitors by name.
        plan: how much is measured.
        clock: seconds.
        synchronize: waits for the device to finish; called before each reading of the clock.

    Returns:
        A timing for each name.
    """
    wait = synchronize or (lambda: None)

    def sample(call: Callable[[], object], repeats: int) -> float:
        wait()
        start = clock()
        for _ in range(repeats):
            call()
        wait()
        return (clock() - start) / repeats

    names = list(calls)
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        turns = {name: plan.turns(min(sample(calls[name], 1) for _ in range(2))) for name in names}
        for index in range(plan.warmup):
            for name in names:
                if index < turns[name].rounds - plan.fewest + 1:
                    calls[name]()
        samples: dict[str, list[float]] = {name: [] for name in names}
        for index in range(plan.rounds):
            first = index % len(names) if names else 0
            for name in names[first:] + names[:first]:
                if turns[name].due(index, plan.rounds):
                    samples[name].append(sample(calls[name], turns[name].repeats))
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(values), turns[name].repeats) for name, values in samples.items()}


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


SCHEMA = "dfmamba.bench/1"


@dataclass(frozen=True)
class Report:
    """A finished benchmark.

    Attributes:
        kind: "ops", "backbones", "models" or "film".
        command: the command line that gives it, without the names of output files.
        plan: how much was measured.
        settings: what else was set.
        machine: see `describe_machine`.
        results: one mapping a competitor and case.
        tables: the results to be read.
        date: when it ended, UTC.
    """

    kind: str
    command: str
    plan: Plan
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    tables: Sequence[Table]
    date: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "command": self.command,
            "date": self.date,
            "machine": dict(self.machine),
            "method": {**asdict(self.plan), "order": "round-robin", "statistic": "median"},
            "settings": dict(self.settings),
            "results": [dict(result) for result in self.results],
        }

    def text(self) -> str:
        """For a terminal."""
        parts = [*self._head(), *(table.text() for table in self.tables)]
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """For a document."""
        command, *facts = self._head()
        body = "\n\n".join(table.markdown() for table in self.tables)
        return f"`{command}`\n\n" + "  \n".join(facts) + f"\n\n{body}\n"

    def _head(self) -> list[str]:
        machine = self.machine
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        where = f"{machine['cpu']}, cores: {machine['cores']}, threads: {machine['threads']}"
        if machine["device"] != "cpu":
            where = f"{machine['device_name']} ({where})"
        return [
            self.command,
            f"{where}; {versions}; {self.date}",
            f"Medians ± half the distance between the quartiles, up to {self.plan.rounds} rounds, in turns.",
        ]


def now() -> str:
    """Date and minute, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def milliseconds(row: Row) -> str:
    """Median and spread of a row; its status where it was not timed."""
    if row.timing is None:
        return row.status
    median, spread = 1e3 * row.timing.median, 1e3 * row.timing.spread
    decimals = 3 if median < 1 else 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{decimals}f} ± {spread:.{decimals}f}"


def ratio(value: float | None, base: float | None) -> str:
    """`value / base` with two decimals, a dash where one is not known."""
    return "–" if not value or not base else f"{value / base:.2f}"


def remarks(rows: Iterable[Row]) -> tuple[str, ...]:
    """Notes on the rows that were not timed, each once."""
    found = (f"{row.name}: {row.status}, {row.note}" for row in rows if row.timing is None)
    return tuple(dict.fromkeys(found))
