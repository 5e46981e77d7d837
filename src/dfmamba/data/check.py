"""Checks of a copy of a data set: is everything there, and can the labels be right?

Labels of single samples are checked when the index is made (`dfmamba.data.indexed.complete_row`). Here a
whole split is looked at: files and published numbers, and in `dfmamba.data.check_labels` statistics that no
single sample gives away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from dfmamba.data.check_labels import LABEL_CHECKS, Finding, Labels, evenly
from dfmamba.data.indexed import IndexedDataset

_T = TypeVar("_T")


def check_dataset(
    dataset: IndexedDataset, published: int | None = None, source: str = "", pictures: int | None = 200
) -> Iterator[Finding]:
    """All checks of one split.

    Args:
        dataset: opened.
        published: number of its entries that its authors state; None where there is none.
        source: what that number counts.
        pictures: how many to open, evenly spaced; None opens all.
    """
    yield from check_report(dataset)
    yield check_count(dataset, published, source)
    yield check_sizes(dataset)
    yield check_files(dataset)
    if pictures != 0:
        yield check_pictures(dataset, pictures)
    labels = Labels(dataset)
    for check in LABEL_CHECKS:
        yield check(labels)


def check_report(dataset: IndexedDataset) -> Iterator[Finding]:
    """What was left out when the index was made; wrong where it is more than what was kept."""
    report = dataset.report
    left_out = sum(report.left_out.values())
    level = "wrong" if left_out > report.kept else "note" if left_out else "ok"
    figures = {"kept": report.kept, "left_out": left_out}
    lines = report.lines
    yield Finding("samples", level, lines[0] if left_out else f"{lines[0]}, none left out", figures)
    for line in lines[1:]:
        yield Finding("left out", level, line)


def check_count(dataset: IndexedDataset, published: int | None, source: str = "") -> Finding:
    """Number of entries, kept or not, against the published one."""
    kept, left_out = dataset.report.kept, sum(dataset.report.left_out.values())
    if published is None:
        return Finding("count", "ok", "no published number to compare with")
    figures = {"kept": kept, "left_out": left_out, "published": published}
    text = f"{kept:,} of {published:,} {source}".rstrip() + ": "
    if kept == published:
        return Finding("count", "ok", text + "complete", figures)
    if kept + left_out == published:
        return Finding("count", "note", text + f"complete but for the {left_out:,} left out", figures)
    if kept + left_out < published:
        return Finding(
            "count", "note", text + "a part of the data set; don't compare with published figures", figures
        )
    return Finding("count", "note", text + "more than published; another version?", figures)


def check_sizes(dataset: IndexedDataset) -> Finding:
    """Which picture sizes the labels state."""
    sizes, counts = np.unique(dataset.index.column("size"), axis=0, return_counts=True)
    order = np.argsort(-counts)
    named = [f"{sizes[i, 0]} x {sizes[i, 1]}: {counts[i]:,}" for i in order[:4]]
    more = f", and {len(order) - 4} more sizes" if len(order) > 4 else ""
    return Finding("sizes", "ok", ", ".join(named) + more, {"sizes": len(order)})


def check_files(dataset: IndexedDataset) -> Finding:
    """Whether the picture and depth map of every sample are there and not empty."""
    wanted: dict[str, set[str]] = {}
    index = dataset.index
    for i in _shown(range(len(index)), "files"):
        for column in ("picture", "depth"):
            path = index.text(column, i)
            if path:
                folder, _, name = path.rpartition("/")
                wanted.setdefault(folder, set()).add(name)
    missing: list[str] = []
    empty: list[str] = []
    for folder, names in _shown(sorted(wanted.items()), "folders"):
        there: dict[str, int] = {}
        try:
            with os.scandir(dataset.root / folder) as entries:
                there = {entry.name: entry.stat().st_size for entry in entries if entry.name in names}
        except OSError:
            pass
        missing += [f"{folder}/{name}".lstrip("/") for name in sorted(names - there.keys())]
        empty += [f"{folder}/{name}".lstrip("/") for name, size in there.items() if size == 0]
    total = sum(map(len, wanted.values()))
    figures = {"files": total, "missing": len(missing), "empty": len(empty)}
    bad = missing + empty
    if not bad:
        return Finding("files", "ok", f"{total:,} pictures and depth maps, all there", figures)
    text = f"{len(missing):,} of {total:,} missing, {len(empty):,} empty (such as {', '.join(bad[:3])})"
    return Finding("files", "unusable" if len(bad) == total else "wrong", text, figures)


def check_pictures(dataset: IndexedDataset, count: int | None = 200) -> Finding:
    """Opens evenly spaced samples: do their pictures decode, at the labelled size, and show anything?"""
    chosen = evenly(len(dataset), count)
    failures: list[str] = []
    dark: list[str] = []
    for i in _shown(chosen, "pictures"):
        try:
            sample = dataset[i]
        except (OSError, ValueError) as error:
            failures.append(" ".join(str(error).split()))
            continue
        shown = sample.image if sample.image is not None else sample.depth_mm
        if shown is None or not shown.max() > (8 if sample.image is not None else 0):
            dark.append(sample.id)
    figures = {"opened": len(chosen), "failed": len(failures), "black": len(dark)}
    text = f"{len(chosen):,} opened"
    if dark:
        text += f", {len(dark):,} black (such as {', '.join(dark[:3])})"
    if not failures:
        return Finding("pictures", "note" if dark else "ok", text, figures)
    level = "unusable" if len(failures) == len(chosen) else "wrong"
    return Finding("pictures", level, f"{text}, {len(failures):,} unreadable (first: {failures[0]})", figures)


def _shown(items: Iterable[_T], what: str) -> Iterator[_T]:
    """The items, with their count on a terminal."""
    shown = sys.stderr.isatty()
    for count, item in enumerate(items):
        if shown and count % 100 == 0:
            print(f"\r{what}: {count} ", end="", file=sys.stderr, flush=True)
        yield item
    if shown:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
