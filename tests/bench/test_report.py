"""Tables for the terminal and for documents, and the JSON beside them."""

from __future__ import annotations

import json
import platform

import pytest

from dfmamba.bench.contest import (
    Plan,
    Report,
    Row,
    Timing,
    milliseconds,
    now,
    ratio,
    remarks,
)
from dfmamba.machine import describe_machine
from dfmamba.text import Table, format_json

MACHINE = {
    "cpu": "Some CPU",
    "cores": 2,
    "threads": 1,
    "device": "cpu",
    "versions": {"torch": "2.9"},
}
TABLE = Table("a | title", ("name", "ms"), (("a|b", "1"), ("long name", "2")), ("below",))
REPORT = Report(
    "ops", "dfmamba bench ops", Plan(rounds=7), {"threads": 1}, MACHINE, [{"ms": None}], [TABLE], "today"
)


def test_the_terminal_gets_aligned_columns() -> None:
    lines = REPORT.text().splitlines()
    assert lines[0] == "dfmamba bench ops"
    assert "Some CPU, cores: 2, threads: 1; torch 2.9; today" in lines
    assert any("up to 7 rounds" in line for line in lines)
    start = lines.index("a | title")
    assert lines[start + 1 :] == ["name       ms", "a|b        1", "long name  2", "below"]


def test_markdown_is_a_table_whose_bars_are_escaped() -> None:
    text = REPORT.markdown()
    assert text.startswith("`dfmamba bench ops`\n")
    assert "| name | ms |\n|---|---|\n| a\\|b | 1 |\n| long name | 2 |\n" in text
    assert text.endswith("\nbelow\n")


def test_json_holds_everything() -> None:
    found = json.loads(format_json(REPORT.as_dict()))
    assert found["schema"] == "dfmamba.bench/1"
    assert found["kind"] == "ops"
    assert found["command"] == "dfmamba bench ops"
    assert found["date"] == "today"
    assert found["machine"]["cpu"] == "Some CPU"
    assert found["method"]["rounds"] == 7
    assert found["method"]["statistic"] == "median"
    assert found["settings"] == {"threads": 1}
    assert found["results"] == [{"ms": None}]


def test_the_machine_is_described_but_not_named() -> None:
    facts = describe_machine()
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["threads"] >= 1
    assert {"dfmamba", "python", "torch"} <= set(facts["versions"])
    assert platform.node() not in facts.values()
    assert now().endswith("UTC")


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ((0.0004312,), "0.431 ± 0.000"),
        ((0.004, 0.006, 0.005), "5.00 ± 0.50"),
        ((0.0421,), "42.1 ± 0.0"),
        ((0.8123,), "812 ± 0"),
    ],
)
def test_times_have_three_digits(samples: tuple[float, ...], text: str) -> None:
    assert milliseconds(Row("a", "ok", timing=Timing(samples))) == text


def test_what_was_not_timed_says_so() -> None:
    rows = [Row("a", "missing", note="not installed"), Row("b", "wrong", note="by 2")]
    assert [milliseconds(row) for row in rows] == ["missing", "wrong"]
    assert remarks([*rows, rows[0], Row("c", "ok", timing=Timing((1.0,)))]) == (
        "a: missing, not installed",
        "b: wrong, by 2",
    )
    assert ratio(3.0, 2.0) == "1.50"
    assert ratio(None, 2.0) == ratio(1.0, None) == "–"
