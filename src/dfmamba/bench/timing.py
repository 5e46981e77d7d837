"""Timing that is fair on a machine with other work: competitors take turns, medians are compared."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

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
