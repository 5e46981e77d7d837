"""Puts runs into the published tables: only beside rows of the same protocol, on the same, whole data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dfmamba.data.registry import dataset_info
from dfmamba.metrics.protocols import DATASET_PROTOCOLS, Protocol
from dfmamba.text import Table
from studies.published.published import SOURCES, Group, PublishedTable, Row
from studies.published.results import RunResult

TOLERANCE = 0.01
"""How far the number of samples may be off the published one, relative to it."""
UNKNOWN = "–"


@dataclass(frozen=True)
class Cell:
    """A value that was measured here.

    Attributes:
        value: in the unit of its figure.
        difference: from the published value of the same backbone; None where that isn't known.
    """

    value: float
    difference: float | None = None


@dataclass(frozen=True)
class Joined:
    """A run in a group.

    Attributes:
        run: the figures file.
        cells: one a figure of the group; None where the file doesn't hold it.
    """

    run: RunResult
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class FilledGroup:
    """A group of published rows with the runs that obey its protocol.

    Attributes:
        group: as published.
        beside: runs of the same backbone, one tuple a row.
        further: runs of other backbones.
    """

    group: Group
    beside: tuple[tuple[Joined, ...], ...]
    further: tuple[Joined, ...]


@dataclass(frozen=True)
class Filled:
    """A published table with what has been run.

    Attributes:
        table: as published.
        groups: its groups, filled.
        apart: runs on its data set that are put beside nothing, and why.
    """

    table: PublishedTable
    groups: tuple[FilledGroup, ...]
    apart: tuple[tuple[RunResult, str], ...]


def compare(group: Group, row: Row | None, run: RunResult) -> Joined:
    """A run's values in the columns of a group, with their differences from a published row."""
    cells: list[Cell | None] = []
    published = row.values if row is not None else (None,) * len(group.figures)
    for figure, known in zip(group.figures, published, strict=True):
        value = figure.value(run.figures)
        difference = None if value is None or known is None else value - known
        cells.append(None if value is None else Cell(value, difference))
    return Joined(run, tuple(cells))


def unusable(run: RunResult) -> str:
    """Why a run can't be put beside published figures of any protocol; "" where it can."""
    if run.fixture:
        return "synthetic data of a fixture"
    if run.available is not None and run.samples < run.available:
        return f"{run.samples:,} of {run.available:,} samples"
    known = dataset_info(run.dataset).counts.get(run.split)
    if known is not None and abs(run.samples - known) > TOLERANCE * known:
        return f"{run.samples:,} samples, {known:,} published"
    return ""


def _against(table: PublishedTable, group: Group, run: RunResult) -> str:
    """Why a run doesn't belong into a group; "" where it does."""
    protocol = DATASET_PROTOCOLS[table.dataset].protocol(group.protocol)
    mismatch = protocol.mismatch(run.split, run.framework_name, run.options)
    if mismatch:
        return mismatch
    if run.split not in group.splits:
        return f"{protocol.name}: split {run.split}"
    if all(figure.value(run.figures) is None for figure in group.figures):
        return f"{protocol.name}: the file lacks its figures"
    return ""


def fill(table: PublishedTable, results: Iterable[RunResult]) -> Filled:
    """Sorts runs into a table."""
    runs = [run for run in results if table.dataset and run.dataset == table.dataset]
    why: list[list[str]] = [[] for _ in runs]
    placed: set[int] = set()
    groups = []
    for group in table.groups:
        members = []
        for i, run in enumerate(runs):
            if not group.protocol:
                continue
            reason = unusable(run) or _against(table, group, run)
            if reason:
                why[i].append(reason)
            else:
                members.append(run)
                placed.add(i)
        names = [row.backbone for row in group.rows if row.backbone]
        beside = tuple(
            tuple(compare(group, row, run) for run in members if row.backbone == run.backbone)
            for row in group.rows
        )
        further = tuple(compare(group, None, run) for run in members if run.backbone not in names)
        groups.append(FilledGroup(group, beside, further))
    apart = tuple(
        (run, "; ".join(dict.fromkeys(why[i])) or "no protocol of the table is scored here")
        for i, run in enumerate(runs)
        if i not in placed
    )
    return Filled(table, tuple(groups), apart)


def commands(table: PublishedTable, backbone: str) -> tuple[str, ...]:
    """The command lines that give a cell of the DF-Mamba paper; none for a table of another framework."""
    if not table.framework:
        return ()
    protocol = _protocol(table)
    out = f"runs/{table.dataset}-{backbone}"
    fixed = [
        f"--option {name}={str(allowed[0]).lower()}"
        for name, allowed in protocol.options.items()
        if None not in allowed
    ]
    given = [f"--option {name}=FILE" for name in protocol.needs]
    train = [f"dfmamba train {table.dataset} --data PATH --backbone {backbone}", *fixed, f"--out {out}"]
    evaluate = [f"dfmamba eval {table.dataset} --data PATH --model {out}/last", *fixed, *given]
    return " ".join(train), " ".join([*evaluate, f"--json {out}/{protocol.splits[0]}.json"])


def _protocol(table: PublishedTable) -> Protocol:
    (group,) = (group for group in table.groups if group.cells)
    return DATASET_PROTOCOLS[table.dataset].protocol(group.protocol)


def status(row: Row, runs: Sequence[Joined]) -> str:
    """Whether a cell of the DF-Mamba paper is published to our knowledge, and has been run."""
    known = "" if any(value is not None for value in row.values) else "published figure not known here"
    here = "" if runs else "not run"
    return "; ".join(filter(None, (known, here)))


def overview(filled: Filled) -> Table:
    """The cells of the DF-Mamba paper on one data set: headline figure, what has been run, commands."""
    table = filled.table
    found = next(group for group in filled.groups if group.group.cells)
    quoted = _protocol(table).quoted
    column = found.group.figures.index(quoted)
    rows = []
    for row, runs in zip(found.group.rows, found.beside, strict=True):
        if not row.backbone:
            continue
        published = row.values[column]
        here = ", ".join(_cell(run.cells[column], quoted.text) for run in runs) or "not run"
        lines = commands(table, row.backbone)
        known = "not known here" if published is None else quoted.text(published)
        rows.append((row.backbone, known, here, lines[0] if lines else ""))
    info = dataset_info(table.dataset)
    title = f"{table.name}: {table.title} (needs {info.title}, {info.license}; framework {table.framework})"
    evaluation = commands(table, "BACKBONE")[1]
    apart = (
        f"{len(filled.apart)} further runs are not comparable; see python -m studies.published {table.name}",
    )
    header = ("backbone", f"published, {quoted.title}", "here", "command")
    return Table(title, header, tuple(rows), (f"then: {evaluation}", *(apart if filled.apart else ())))


def text_tables(filled: Filled) -> list[Table]:
    """A table in full: one block a group, one for the runs apart, one for the commands."""
    tables = [_group_table(filled.table, group) for group in filled.groups]
    if filled.apart:
        joining = next(found.group for found in filled.groups if found.group.protocol)
        rows = tuple(
            (str(run.path), run.backbone, run.framework_name, run.split, _figures(joining, run), reason)
            for run, reason in filled.apart
        )
        header = ("file", "backbone", "framework", "split", "figures", "why")
        notes = tuple(_given(joining, run) for run, _ in filled.apart)
        tables.append(Table("Run here, not comparable with published figures", header, rows, notes))
    cells = [row for group in filled.groups if group.group.cells for row in group.group.rows if row.backbone]
    lines = tuple((line,) for row in cells for line in commands(filled.table, row.backbone))
    if lines:
        tables.append(Table("Commands", ("one line trains, the next one evaluates",), lines))
    return tables


def _group_table(table: PublishedTable, filled: FilledGroup) -> Table:
    group = filled.group
    rows: list[tuple[str, ...]] = []
    for row, runs in zip(group.rows, filled.beside, strict=True):
        values = (
            UNKNOWN if value is None else figure.text(value)
            for figure, value in zip(group.figures, row.values, strict=True)
        )
        note = "; ".join(filter(None, (row.note, status(row, runs) if row.backbone else "")))
        rows.append((row.method, row.backbone, *values, row.source, note))
        rows += [_run_line("  here", group, run) for run in runs]
    rows += [_run_line("run here", group, run) for run in filled.further]
    joined = [run for runs in (*filled.beside, filled.further) for run in runs]
    tags = dict.fromkeys(tag for row in group.rows for tag in row.source.split())
    notes = [f"{tag}: {SOURCES[tag]}" for tag in tags]
    if group.protocol:
        protocol = DATASET_PROTOCOLS[table.dataset].protocol(group.protocol)
        notes = [f"Averaged: {protocol.text}.", f"Given: {protocol.given}.", protocol.note, *notes]
        notes += [_given(group, run.run) for run in joined]
    if not rows:
        rows = [("nothing has been run", "", *(UNKNOWN for _ in group.figures), "", "")]
    header = ("method", "backbone", *(figure.title for figure in group.figures), "source", "note")
    splits = f" ({', '.join(group.splits)})" if group.splits else ""
    return Table(group.title + splits, header, tuple(rows), tuple(filter(None, notes)))


def _run_line(label: str, group: Group, joined: Joined) -> tuple[str, ...]:
    run = joined.run
    cells = (_cell(cell, figure.text) for cell, figure in zip(joined.cells, group.figures, strict=True))
    lost = sum(run.left_out.values())
    facts = [f"{run.split}, {run.samples:,} samples"]
    facts += [f"{lost:,} left out"] if lost else []
    facts += [f"trained on {run.trained_on}"] if run.trained_on else []
    return (label, run.backbone, *cells, str(run.path), "; ".join(facts))


def _cell(cell: Cell | None, text: Any) -> str:
    if cell is None:
        return UNKNOWN
    if cell.difference is None:
        return text(cell.value)
    sign = "+" if cell.difference >= 0 else "-"
    return f"{text(cell.value)} ({sign}{text(abs(cell.difference))})"


def _figures(group: Group, run: RunResult) -> str:
    """What a run reached of a group's figures."""
    values = ((figure, figure.value(run.figures)) for figure in group.figures)
    found = [f"{figure.title} {figure.text(value)}" for figure, value in values if value is not None]
    return ", ".join(found) or UNKNOWN


def _given(group: Group, run: RunResult) -> str:
    """What a run was given for a group's figures, as its file says."""
    texts = dict.fromkeys(run.given[f.key] for f in group.figures if f.key in run.given)
    return f"{run.path}: given {'; '.join(texts) or 'what, the file does not say'}"
