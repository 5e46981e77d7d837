"""Rounds, repeats and statistics, on a clock that only the competitors move."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmamba.bench.contest import Plan, Timing, Turns, race


class Clock:
    """Time passes only while somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def worker(self, name: str, *seconds: float):
        """A call that takes the given times in turn, the last one for ever."""
        left = list(seconds)

        def work() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


PLAN = Plan(rounds=5, fewest=2, warmup=1, sample_seconds=0.0, budget_seconds=100.0)


def test_median_and_quartiles_of_known_samples() -> None:
    timing = Timing((0.004, 0.001, 0.002, 0.003, 0.100))
    assert timing.median == 0.003
    assert timing.quartiles == (0.002, 0.004)
    assert timing.spread == pytest.approx(0.001)
    assert timing.as_dict() == {"median": 3.0, "q1": 2.0, "q3": 4.0, "min": 1.0, "rounds": 5, "repeats": 1}


def test_one_sample_has_no_spread() -> None:
    assert Timing((0.5,)).spread == 0.0
    with pytest.raises(ValueError, match="at least one sample"):
        Timing(())


def test_a_race_measures_what_each_call_takes() -> None:
    clock = Clock()
    found = race({"a": clock.worker("a", 0.25), "b": clock.worker("b", 0.5)}, PLAN, clock)
    assert found["a"].samples == (0.25,) * 5
    assert found["b"].samples == (0.5,) * 5


def test_calibration_and_warm_up_are_not_in_the_samples() -> None:
    clock = Clock()
    found = race({"a": clock.worker("a", 9.0, 8.0, 7.0, 1.0)}, PLAN, clock)
    assert found["a"].samples == (1.0,) * 5


def test_competitors_take_turns_and_change_who_begins() -> None:
    clock = Clock()
    race({name: clock.worker(name, 1.0) for name in "abc"}, PLAN, clock)
    timed = clock.log[-15:]
    assert ["".join(timed[i : i + 3]) for i in range(0, 15, 3)] == ["abc", "bca", "cab", "abc", "bca"]


def test_short_calls_are_repeated_within_a_sample() -> None:
    clock = Clock()
    plan = Plan(rounds=3, fewest=1, warmup=0, sample_seconds=1.0, budget_seconds=100.0)
    found = race({"a": clock.worker("a", 0.25)}, plan, clock)
    assert found["a"].repeats == 4
    assert found["a"].samples == (0.25,) * 3
    assert len(clock.log) == 2 + 3 * 4


def test_a_slow_competitor_gets_fewer_turns_spread_over_the_rounds() -> None:
    clock = Clock()
    plan = Plan(rounds=8, fewest=2, warmup=0, sample_seconds=0.0, budget_seconds=4.0)
    found = race({"slow": clock.worker("slow", 1.0), "quick": clock.worker("quick", 0.1)}, plan, clock)
    assert len(found["slow"].samples) == 4
    assert len(found["quick"].samples) == 8
    last_four = Counter(clock.log[-6:])
    assert last_four == {"slow": 2, "quick": 4}


@given(once=st.floats(0.0, 50.0), rounds=st.integers(1, 40), fewest=st.integers(1, 10))
def test_turns_stay_within_the_plan_and_all_take_place(once: float, rounds: int, fewest: int) -> None:
    plan = Plan(rounds=rounds, fewest=fewest, budget_seconds=5.0)
    turns = plan.turns(once)
    assert min(fewest, rounds) <= turns.rounds <= rounds
    assert sum(turns.due(i, rounds) for i in range(rounds)) == turns.rounds
    if turns.rounds > fewest:
        assert turns.rounds * turns.repeats * once <= 5.0 * (1 + 1e-9)


def test_the_device_is_waited_for_before_each_reading_of_the_clock() -> None:
    clock = Clock()
    pending = [0.0]

    def launch() -> None:
        pending[0] += 0.5

    def wait() -> None:
        clock.now += pending[0]
        pending[0] = 0.0

    assert race({"a": launch}, PLAN, clock, wait)["a"].samples == (0.5,) * 5


def test_the_garbage_collector_rests_and_comes_back() -> None:
    seen = []
    race({"a": lambda: seen.append(gc.isenabled())}, PLAN, Clock())
    assert not any(seen)
    assert gc.isenabled()

    def broken() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        race({"a": broken}, PLAN, Clock())
    assert gc.isenabled()


@pytest.mark.parametrize(
    "values", [{"rounds": 0}, {"fewest": 0}, {"warmup": -1}, {"sample_seconds": -1.0}, {"budget_seconds": 0}]
)
def test_unusable_plans_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Plan(**values)  # type: ignore[arg-type]


def test_turns_of_all_rounds_are_due_in_every_round() -> None:
    assert [Turns(3, 1).due(i, 3) for i in range(3)] == [True] * 3
