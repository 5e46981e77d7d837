"""The gate in front of the clock."""

from __future__ import annotations

import math

import pytest
import torch

from dfmamba.bench.contest import Absent, Entrant, Plan, Row, contest, relative_error

PLAN = Plan(rounds=2, fewest=1, warmup=0, sample_seconds=0.0)


def entrant(name: str, value: float, calls: list[str] | None = None) -> Entrant:
    def run() -> tuple[torch.Tensor, ...]:
        if calls is not None:
            calls.append(name)
        return (torch.tensor([1.0, value]),)

    expected = (torch.tensor([1.0, 2.0]),)
    return Entrant(name, run, lambda result: relative_error(result, expected), note="as is")


def test_a_wrong_competitor_is_reported_and_not_timed() -> None:
    calls: list[str] = []
    rows = contest([entrant("right", 2.0001, calls), entrant("wrong", 2.1, calls)], 1e-3, PLAN)
    right, wrong = rows
    assert (right.status, right.note) == ("ok", "as is")
    assert right.error == pytest.approx(5e-5, rel=1e-2)
    assert right.timing is not None
    assert len(right.timing.samples) == 2
    assert wrong.status == "wrong"
    assert wrong.timing is None
    assert "0.05" in wrong.note
    assert "0.001" in wrong.note
    assert calls.count("wrong") == 1
    assert calls.count("right") > 2


def test_a_result_that_is_not_a_number_is_wrong() -> None:
    (row,) = contest([entrant("broken", math.nan)], 1e-3, PLAN)
    assert row.status == "wrong"
    assert row.as_dict()["relative_error"] is None


def test_missing_and_failing_competitors_are_rows() -> None:
    def fail() -> None:
        raise MemoryError("too large\nfor this machine")

    rows = contest([Absent("away", "not installed"), Entrant("bad", fail, lambda _: 0.0)], 1e-3, PLAN)
    assert [(row.name, row.status, row.note, row.timing) for row in rows] == [
        ("away", "missing", "not installed", None),
        ("bad", "failed", "MemoryError: too large", None),
    ]


def test_names_must_differ() -> None:
    with pytest.raises(ValueError, match="two competitors are called 'a'"):
        contest([entrant("a", 2.0), Absent("a", "why")], 1e-3, PLAN)


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([torch.ones(3)], [torch.ones(3)], 0.0),
        ([torch.ones(3), torch.tensor([10.0, 4.0])], [torch.ones(3), torch.tensor([10.0, 5.0])], 0.1),
        ([torch.ones(3)], [torch.ones(4)], math.inf),
        ([torch.ones(3)], [torch.ones(3), torch.ones(3)], math.inf),
        ([torch.tensor([math.inf])], [torch.tensor([math.inf])], math.inf),
        ([torch.full((2,), 0.5)], [torch.zeros(2)], 0.5),
        ([torch.zeros(0)], [torch.zeros(0)], 0.0),
    ],
    ids=["equal", "worst tensor", "shape", "number", "infinite", "zeros expected", "empty"],
)
def test_relative_error(found, expected, error: float) -> None:
    assert relative_error(found, expected) == pytest.approx(error)


def test_a_row_as_plain_values() -> None:
    assert Row("a", "missing", ours=True, note="why").as_dict() == {
        "competitor": "a",
        "ours": True,
        "status": "missing",
        "note": "why",
        "relative_error": None,
        "ms": None,
    }
