"""List the published tables, what each cell needs, and what has been run here beside them.

Without a name: the cells of the DF-Mamba paper. With one, that table in full. Runs are found by the files
that 'dfmamba eval DATASET --json FILE' leaves. Those of another protocol, of a part of a data set or of
a synthetic fixture are listed apart."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.main import run_command

if TYPE_CHECKING:
    from dfmamba.text import Table
    from studies.published.table import Filled, FilledGroup, Joined

SCHEMA = "dfmamba.reproduce/1"
RUNS = "runs"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m studies.published`."""
    parser.add_argument("table", type=str, nargs="?", help="a table to show in full; left out: an overview")
    parser.add_argument(
        "--results", type=str, default=RUNS, metavar="DIR", help="folder of the figures files"
    )
    parser.add_argument("--json", type=str, metavar="FILE", help="also write everything into this JSON file")
    parser.add_argument("--markdown", type=str, metavar="FILE", help="also write the tables as Markdown")


def run(options: Namespace) -> int:
    """Compare and print; returns the exit code, 1 if a figures file is damaged.

    Raises:
        ValueError: there is no table of that name.
        OSError: the folder of results is missing, or an output can't be written.
    """
    from dfmamba.io.files import write_atomic
    from dfmamba.text import format_json
    from studies.published.published import TABLES
    from studies.published.results import read_results
    from studies.published.table import fill, overview, text_tables

    if options.table is not None and options.table not in TABLES:
        raise ValueError(f"unknown table {options.table!r}; known: {', '.join(TABLES)}")
    folder = Path(options.results)
    if options.results != RUNS and not folder.is_dir():
        raise OSError(f"--results {folder}: no such folder; expected one with files of dfmamba eval --json")
    results, damaged = read_results(folder)
    for line in damaged:
        print(f"python -m studies.published: left out: {line}", file=sys.stderr)
    chosen = list(TABLES.values()) if options.table is None else [TABLES[options.table]]
    filled = [fill(table, results) for table in chosen]
    tables: list[Table]
    notes: tuple[str, ...]
    if options.table is None:
        tables = [overview(table) for table in filled if table.table.framework]
        others = ", ".join(name for name, table in TABLES.items() if not table.framework)
        title, notes = "Cells of the DF-Mamba paper", (f"Other published tables: {others}.",)
    else:
        tables = text_tables(filled[0])
        title, notes = filled[0].table.title, filled[0].table.notes
    print("\n\n".join([title, *(table.text() for table in tables), *notes]))
    if options.markdown is not None:
        parts = [f"# {title}", *(table.markdown() for table in tables), *notes]
        write_atomic(Path(options.markdown), ("\n\n".join(parts) + "\n").encode())
    if options.json is not None:
        write_atomic(Path(options.json), format_json(_facts(filled, damaged)).encode())
    return 1 if damaged else 0


def _facts(filled: Sequence[Filled], damaged: Sequence[str]) -> dict[str, Any]:
    import dfmamba

    return {
        "schema": SCHEMA,
        "dfmamba": dfmamba.__version__,
        "tables": [_table(table) for table in filled],
        "damaged": list(damaged),
    }


def _table(filled: Filled) -> dict[str, Any]:
    table = filled.table
    return {
        "name": table.name,
        "title": table.title,
        "dataset": table.dataset,
        "framework": table.framework,
        "notes": list(table.notes),
        "groups": [_group(filled, group) for group in filled.groups],
        "apart": [
            {**_run(run), "fixture": run.fixture, "figures": dict(run.figures), "why": why}
            for run, why in filled.apart
        ],
    }


def _group(filled: Filled, found: FilledGroup) -> dict[str, Any]:
    from studies.published.table import commands

    group = found.group
    rows = []
    for row, runs in zip(group.rows, found.beside, strict=True):
        facts: dict[str, Any] = {
            "method": row.method,
            "backbone": row.backbone or None,
            "values": list(row.values),
            "source": row.source.split(),
            "note": row.note,
        }
        if row.backbone:
            facts["commands"] = list(commands(filled.table, row.backbone))
            facts["runs"] = [_joined(run) for run in runs]
        rows.append(facts)
    return {
        "title": group.title,
        "protocol": group.protocol or None,
        "splits": list(group.splits),
        "figures": [
            {"key": f.key, "at": f.at, "title": f.title, "unit": f.unit, "uses": f.uses}
            for f in group.figures
        ],
        "rows": rows,
        "runs": [_joined(run) for run in found.further],
    }


def _joined(joined: Joined) -> dict[str, Any]:
    cells = joined.cells
    return {
        **_run(joined.run),
        "values": [None if cell is None else cell.value for cell in cells],
        "differences": [None if cell is None else cell.difference for cell in cells],
    }


def _run(run: Any) -> Mapping[str, Any]:
    return {
        "file": str(run.path),
        "backbone": run.backbone,
        "framework": dict(run.framework),
        "split": run.split,
        "samples": run.samples,
        "left_out": dict(run.left_out),
        "given": dict(run.given),
        "trained_on": run.trained_on or None,
    }


if __name__ == "__main__":
    sys.exit(run_command("python -m studies.published", "studies.published.__main__", sys.argv[1:]))
