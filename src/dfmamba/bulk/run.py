"""Bulk prediction from the list of sources to the last part."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dfmamba.bulk.engines import devices_of, run_local, run_ray
from dfmamba.bulk.inputs import list_items
from dfmamba.bulk.parts import BulkConfig, Part, PartReport, cut, open_folder, read_report, utf8_name
from dfmamba.bulk.worker import fingerprint
from dfmamba.extras import need

ENGINES = ("local", "ray")
REDRAW_S, LINE_S = 0.5, 30.0
"""How often progress is shown on a terminal, and in a file."""


@dataclass(frozen=True)
class Outcome:
    """What a bulk prediction did.

    Attributes:
        pictures: in all parts, unusable ones included.
        hands: found in them.
        failed: unusable pictures.
        faults: what was wrong with some of those.
        earlier: pictures of parts that were there already.
    """

    pictures: int
    hands: int
    failed: int
    faults: tuple[str, ...]
    earlier: int


def predict_bulk(
    sources: Sequence[str],
    config: BulkConfig,
    model: Any,
    engine: str = "local",
    workers: int | None = None,
) -> Outcome:
    """Predicts every picture of the sources into parts, and shows progress on standard error.

    Parts that are in the folder already are left alone, so that an interrupted call can be repeated.

    Args:
        sources: see `dfmamba.bulk.inputs.list_items`.
        config: what is predicted and where it goes.
        model: that of `config.model`, loaded. Workers load their own.
        engine: one of `ENGINES`.
        workers: processes; None: one for each core or GPU.

    Raises:
        ImportError: a library of the extras `bulk` and `ray` is missing.
        OSError, ValueError: unusable sources, options or folder, or workers that can't go on. What is
            finished stays.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: expected {' or '.join(ENGINES)}, got {engine!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    if config.format == "parquet":
        need("bulk", "pyarrow.parquet")
    if engine == "ray":
        need("ray", "ray.data")
    else:
        devices_of(config.device)
    items, others = list_items(sources)
    for note in others.notes:
        print(f"dfmamba predict: {note}", file=sys.stderr)
    odd = [item.name for item in items if utf8_name(item.name) != item.name]
    if odd and config.format == "parquet":
        print(
            f"dfmamba predict: {len(odd)} names are not UTF-8 and are written with escape sequences, such as "
            f"{utf8_name(odd[0])}",
            file=sys.stderr,
        )
    open_folder(config, items, fingerprint(model, config.model))
    parts = cut(items, config.part_size)
    found = {part.number: read_report(config, part) for part in parts}
    reports = [report for report in found.values() if report is not None]
    todo = [part for part in parts if found[part.number] is None]
    earlier = sum(report.pictures for report in reports)
    progress = Progress(len(items), earlier)
    try:
        with contextlib.closing(_run(engine, config, todo, workers, progress.show)) as stored:
            for report in stored:
                reports.append(report)
                progress.finished(report)
    finally:
        progress.close()
    reports.sort(key=lambda report: report.number)
    return Outcome(
        pictures=sum(report.pictures for report in reports),
        hands=sum(report.hands for report in reports),
        failed=sum(report.failed for report in reports),
        faults=tuple(fault for report in reports for fault in report.faults),
        earlier=earlier,
    )


def _run(
    engine: str,
    config: BulkConfig,
    parts: Sequence[Part],
    workers: int | None,
    on_progress: Callable[[int], None],
) -> Generator[PartReport, None, None]:
    if not parts:
        return
    if engine == "ray":
        yield from run_ray(config, parts, workers)
    else:
        yield from run_local(config, parts, workers, on_progress)


class Progress:
    """A line of progress: redrawn on a terminal, now and then a new one in a file.

    Args:
        total: pictures of the whole list.
        earlier: those that were done before; they don't count for the rate.
    """

    def __init__(self, total: int, earlier: int) -> None:
        self.total, self.earlier, self.stored, self.failed = total, earlier, 0, 0
        self.began = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def finished(self, report: PartReport) -> None:
        """Counts a part that has been stored."""
        self.stored += report.pictures
        self.failed += report.failed
        self.show(self.stored)

    def show(self, done: int) -> None:
        """Shows progress if it is time to; `done` pictures of this call are predicted."""
        now = time.monotonic()
        if now - self.shown < (REDRAW_S if self.terminal else LINE_S):
            return
        self.shown = now
        line = self.line(max(done, self.stored), now - self.began)
        print(
            f"\r{line}\x1b[K" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()

    def line(self, done: int, seconds: float) -> str:
        """Pictures done and in all, pictures a second, time left."""
        rate = done / max(seconds, 1e-9)
        after = self.earlier + done
        left = str(timedelta(seconds=int((self.total - after) / rate))) if rate else "?"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{after}/{self.total} pictures, {rate:.1f}/s, {left} left{failed}"

    def close(self) -> None:
        """Leaves the line."""
        if self.terminal and self.shown > self.began:
            print(file=sys.stderr)
