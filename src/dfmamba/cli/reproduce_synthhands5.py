"""Make the page of SynthHands-5: tables, charts and pictures of the results in a folder.

Results come from 'dfmamba synthhands5 sweep' or 'run'. Figures that look into trained models are made where
their weights and the pictures are there, too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.synthhands5 import HOME

if TYPE_CHECKING:
    from dfmamba.synthhands5.page import Picture
    from dfmamba.synthhands5.results import Result


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba reproduce synthhands5`."""
    parser.add_argument("--results", type=str, default=f"{HOME}/results", metavar="DIR", help="of results")
    parser.add_argument("--runs", type=str, default=f"{HOME}/runs", metavar="DIR", help="of trained models")
    parser.add_argument("--data", type=str, metavar="DIR", help="of the pictures; left out: the user's cache")
    parser.add_argument("--out", type=str, default=f"{HOME}/report", metavar="DIR", help="of the page")


def run(options: Namespace) -> int:
    """Write the page; returns the exit code.

    Raises:
        OSError: there are no results, or the page can't be written.
        ValueError: a file of results is damaged.
        ImportError: the extra `report` is missing.
    """
    from dfmamba.synthhands5.report import write_report
    from dfmamba.synthhands5.results import read_results
    from dfmamba.synthhands5.sweep import read_constants

    results = read_results(options.results, None)
    if not results:
        raise OSError(
            f"--results {options.results}: no results of the benchmark there; make some with "
            "dfmamba synthhands5 sweep"
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
    from dfmamba.synthhands5.model_figures import draw_figures, kept_figures

    try:
        return draw_figures(results, options.runs, options.data, out)
    except OSError as error:
        kept = kept_figures(out)
        kind = f"{len(kept)} of before are shown" if kept else "left out"
        print(f"dfmamba reproduce: figures of trained models: {kind} ({error})", file=sys.stderr)
        return kept
