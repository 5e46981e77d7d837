"""SynthHands-5, the benchmark of backbones that needs no licence: render it, run rows of it.

README.md beside this file describes the protocol. The action `page` makes the page of the results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.main import run_command
from studies.synthhands5.settings import SETTINGS, SPLITS

if TYPE_CHECKING:
    from studies.synthhands5.page import Picture
    from studies.synthhands5.results import Result
    from studies.synthhands5.sweep import Places

HOME = "runs/synthhands5"
"""Folder of results, states and the page, unless others are named."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `python -m studies.synthhands5` and its actions."""
    actions = parser.add_subcommands(dest="action")

    render = _action("render: the pictures, once")
    _add_setting(render)
    render.add_argument("--split", type=str, nargs="+", default=list(SPLITS), metavar="NAME")
    render.add_argument("--workers", type=int, default=2, metavar="N", help="processes that render")
    _add_data(render)
    actions.add_subcommand("render", render, help="render the pictures of a setting")

    check = _action("check: does this machine render the benchmark's pictures?")
    check.add_argument("--setting", type=str, nargs="+", default=list(SETTINGS), metavar="NAME")
    check.add_argument("--json", type=str, metavar="FILE", help="also write what was found into this file")
    actions.add_subcommand("check", check, help="compare rendered samples with the published ones")

    listed = _action("list: the rows")
    listed.add_argument("--json", type=str, metavar="FILE", help="also write the rows into this file")
    actions.add_subcommand("list", listed, help="list the rows that can be run")

    run_one = _action("run: train one row with one seed and measure it")
    _add_setting(run_one)
    run_one.add_argument(
        "--row", type=str, required=True, metavar="NAME", help="see python -m studies.synthhands5 list"
    )
    run_one.add_argument("--seed", type=int, default=0, help="of initialisation, order and augmentation")
    _add_steps(run_one)
    run_one.add_argument(
        "--lr", type=float, help="peak learning rate; left out: the one that was chosen for the row's family"
    )
    _add_places(run_one)
    run_one.add_argument("--json", type=str, metavar="FILE", help="also write the result into this file")
    actions.add_subcommand("run", run_one, help="run one row")

    sweep = _action("sweep: choose learning rates, then run rows with several seeds; can be repeated")
    _add_setting(sweep)
    sweep.add_argument(
        "--rows", type=str, nargs="+", default=["families"], metavar="NAME",
        help="names of rows, or 'families' or 'ablations'",
    )  # fmt: skip
    sweep.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    _add_steps(sweep)
    sweep.add_argument("--workers", type=int, default=2, metavar="N", help="runs side by side, a core each")
    _add_places(sweep)
    actions.add_subcommand("sweep", sweep, help="run many rows")

    costs = _action("costs: latency of the families on this machine")
    costs.add_argument("--rounds", type=int, default=21, help="turns of each row")
    costs.add_argument("--threads", type=int, default=1, help="of PyTorch")
    costs.add_argument(
        "--json", type=str, default=f"{HOME}/results/costs.json", metavar="FILE", help="where the page looks"
    )
    actions.add_subcommand("costs", costs, help="time the families")

    page = _action("page: tables, charts and pictures of the results in a folder")
    page.add_argument("--results", type=str, default=f"{HOME}/results", metavar="DIR", help="of results")
    page.add_argument("--runs", type=str, default=f"{HOME}/runs", metavar="DIR", help="of trained models")
    page.add_argument("--data", type=str, metavar="DIR", help="of the pictures; left out: the user's cache")
    page.add_argument("--out", type=str, default=f"{HOME}/report", metavar="DIR", help="of the page")
    actions.add_subcommand("page", page, help="make the page of the results")


def run(options: Namespace) -> int:
    """Do what the action says; returns the exit code (of `check`: 1 where pictures differ).

    Raises:
        ValueError: unknown setting, split or row.
        OSError: pictures are missing, or something can't be written.
    """
    actions = {
        "render": _render,
        "check": _check,
        "list": _list,
        "run": _run,
        "sweep": _sweep,
        "costs": _costs,
        "page": _page,
    }
    return actions[options.action](options[options.action])


def _action(description: str) -> ArgumentParser:
    return ArgumentParser(description=f"python -m studies.synthhands5 {description}", exit_on_error=False)


def _add_setting(parser: ArgumentParser) -> None:
    parser.add_argument("--setting", type=str, default="two", metavar="NAME", help=", ".join(SETTINGS))


def _add_steps(parser: ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, metavar="N", help="left out: the benchmark's own number")


def _add_data(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=str, metavar="DIR", help="folder of the pictures; left out: one in the user's cache"
    )


def _add_places(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=str, default=f"{HOME}/results", metavar="DIR", help="of the results"
    )
    parser.add_argument(
        "--runs", type=str, default=f"{HOME}/runs", metavar="DIR", help="of states and weights"
    )
    _add_data(parser)


def _write(path: str, content: Any) -> None:
    from dfmamba.io.files import write_atomic
    from dfmamba.text import format_json

    write_atomic(Path(path), format_json(content).encode())


def _places(options: Namespace) -> Places:
    from studies.synthhands5.sweep import Places

    return Places(options.results, options.runs, options.data)


def _render(options: Namespace) -> int:
    from studies.synthhands5.pictures import render

    for split in options.split:
        folder = render(options.setting, split, options.data, options.workers)
        print(f"{options.setting} {split}: {folder}")
    return 0


def _check(options: Namespace) -> int:
    from studies.synthhands5.checksums import check

    found = [check(setting, split) for setting in options.setting for split in SPLITS]
    for one in found:
        print(one.line)
    if options.json is not None:
        _write(
            options.json, {"schema": "dfmamba.synthhands5_check/1", "checks": [c.to_dict() for c in found]}
        )
    return 0 if all(one.ok for one in found) else 1


def _list(options: Namespace) -> int:
    from dataclasses import asdict

    from dfmamba.text import Table
    from studies.synthhands5.rows import ABLATIONS, FAMILIES, ROWS

    for title, rows in (("families", FAMILIES), ("ablations", ABLATIONS)):
        cells = tuple((row.name, row.title, row.backbone, row.about) for row in rows.values())
        print(Table(title, ("row", "title", "backbone", ""), cells).text(), end="\n\n")
    if options.json is not None:
        facts = [{**asdict(row), "family": row.name in FAMILIES} for row in ROWS.values()]
        _write(options.json, {"schema": "dfmamba.synthhands5_rows/1", "rows": facts})
    return 0


def _run(options: Namespace) -> int:
    from studies.synthhands5.compare import STEPS, chosen_rate, run_row
    from studies.synthhands5.rows import find_row

    row = find_row(options.row)
    places = _places(options)
    rate = options.lr or chosen_rate(options.setting, row.name, options.results)
    if rate is None:
        raise ValueError(
            f"no learning rate was chosen for {row.name!r} on {options.setting!r}: give --lr, or choose "
            f"one by python -m studies.synthhands5 sweep --setting {options.setting} --rows {row.name}"
        )
    result = run_row(
        row, options.setting, options.seed, rate, places.results, places.runs, places.data,
        steps=_steps(options, STEPS),
    )  # fmt: skip
    assert result is not None
    print(_line(result))
    if options.json is not None:
        _write(options.json, result.to_dict())
    return 0


def _sweep(options: Namespace) -> int:
    from studies.synthhands5.compare import STEPS
    from studies.synthhands5.rows import ABLATIONS, FAMILIES
    from studies.synthhands5.sweep import sweep

    groups = {"families": list(FAMILIES), "ablations": list(ABLATIONS)}
    rows = list(dict.fromkeys(name for word in options.rows for name in groups.get(word, [word])))
    steps = _steps(options, STEPS)
    for result in sweep(options.setting, rows, options.seeds, _places(options), options.workers, steps):
        print(_line(result), flush=True)
    print(f"page: python -m studies.synthhands5 page --results {options.results}")
    return 0


def _steps(options: Namespace, usual: int) -> int:
    steps = usual if options.steps is None else options.steps
    if steps < 1:
        raise ValueError(f"--steps is {steps}; expected at least 1")
    return steps


def _line(result: Result) -> str:
    figures = result.figures
    return (
        f"{result.setting} {result.entry} seed {result.seed} lr {result.lr:g} {result.split}: MPJPE "
        f"{figures['mpjpe_mm']:.4f} mm, PA-MPJPE {figures['pa_mpjpe_mm']:.4f} mm, {result.seconds:.0f} s"
    )


def _costs(options: Namespace) -> int:
    import torch

    from dfmamba.bench.contest import Plan
    from dfmamba.text import Table
    from studies.synthhands5.costs import measure_costs
    from studies.synthhands5.rows import FAMILIES

    torch.set_num_threads(options.threads)
    found = measure_costs(FAMILIES.values(), Plan(rounds=options.rounds))
    cells = tuple(
        (name, f"{facts['latency_ms']:.2f}", f"{facts['parameters']}", f"{facts['macs'] / 1e6:.2f}")
        for name, facts in found["rows"].items()
    )
    print(Table("one crop, as built", ("row", "ms", "parameters", "MMACs"), cells).text())
    _write(options.json, found)
    print(f"written: {Path(options.json)}", file=sys.stderr)
    return 0


def _page(options: Namespace) -> int:
    from studies.synthhands5.report import write_report
    from studies.synthhands5.results import read_results
    from studies.synthhands5.sweep import read_constants

    results = read_results(options.results, None)
    if not results:
        raise OSError(
            f"--results {options.results}: no results of the benchmark there; make some with "
            "python -m studies.synthhands5 sweep"
        )
    costs = Path(options.results) / "costs.json"
    measured = json.loads(costs.read_text(encoding="utf-8")) if costs.is_file() else None
    out = Path(options.out)
    pictures = _pictures(results, options, out)
    page = write_report(results, out, pictures, measured, read_constants(options.results))
    print(f"{len(results)} results: {page}")
    return 0


def _pictures(results: list[Result], options: Namespace, out: Path) -> list[Picture]:
    """The figures of trained models; those of before where there are no models."""
    from studies.synthhands5.model_figures import draw_figures, kept_figures

    try:
        return draw_figures(results, options.runs, options.data, out)
    except OSError as error:
        kept = kept_figures(out)
        kind = f"{len(kept)} of before are shown" if kept else "left out"
        print(f"figures of trained models: {kind} ({error})", file=sys.stderr)
        return kept


if __name__ == "__main__":
    sys.exit(run_command("python -m studies.synthhands5", "studies.synthhands5.__main__", sys.argv[1:]))
