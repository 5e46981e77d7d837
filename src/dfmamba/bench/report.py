"""What a benchmark writes: a table on the terminal, the same in Markdown, everything in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from dfmamba.bench.contest import Row
from dfmamba.bench.timing import Plan
from dfmamba.text import Table

SCHEMA = "dfmamba.bench/1"


@dataclass(frozen=True)
class Report:
    """A finished benchmark.

    Attributes:
        kind: "ops", "backbones" or "models".
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
