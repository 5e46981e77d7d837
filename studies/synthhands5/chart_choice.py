"""Which charts a setting's results allow, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from studies.synthhands5.charts import (
    ANCHORS,
    anchors_chart,
    anchors_rows,
    cost_chart,
    counted,
    difference_chart,
    error_chart,
    hidden_chart,
    success_chart,
)
from studies.synthhands5.rows import FAMILIES, REFERENCE
from studies.synthhands5.statistics import LEVEL, Difference, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Chart:
    """A chart of a setting that has yet to be drawn.

    Attributes:
        name: for its file.
        title: what it shows, for readers who don't see it.
        caption: how to read it, of how many pictures and seeds.
        draw: gives the figure.
        ablation: whether it belongs to the ablations.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]
    ablation: bool


def setting_charts(
    summaries: Mapping[str, Summary],
    families: Mapping[str, Difference],
    changes: Mapping[str, Difference],
    latencies: Mapping[str, float],
) -> list[Chart]:
    """The charts that a setting's results allow.

    Args:
        summaries: by row.
        families: differences of the families.
        changes: differences of the ablations.
        latencies: in ms, by row; may be empty.
    """
    every = list(summaries.values())
    shown = [one for one in every if one.row.name in FAMILIES]
    timed = [one for one in shown if one.row.name in latencies]
    macs = {name: one.results[0].macs / 1e6 for name, one in summaries.items()}
    marks = "Markers: mean over seeds; bars: standard deviation over seeds; dots: single seeds"
    lines, short = "Lines: mean over seeds", "the budget is the same for all, so the axis is short"
    made: list[Chart] = []

    def add(name: str, title: str, caption: str, of: Iterable[Summary], chart: Any, *args: Any) -> None:
        ablation = name in ("ablations", "anchors")
        made.append(Chart(name, title, f"{caption}; {counted(of)}.", partial(chart, *args), ablation))

    if shown:
        add("error", "Error of each family", marks, shown, error_chart, shown)
        unsure = f"{lines}; levels with few hands are uncertain"
        add("hidden", "Error by occlusion level", unsure, shown, hidden_chart, shown)
        add("success", "Success curves", f"{lines}, wrists left out", shown, success_chart, shown)
    title, unit = "error by multiply-adds", "multiply-adds of the whole model, millions"
    add("macs", title.capitalize(), f"{marks}; {short}", every, cost_chart, every, macs, title, unit)
    if timed:
        title, unit = "error by latency", "latency of one crop, ms"
        add("latency", title.capitalize(), marks, timed, cost_chart, timed, latencies, title, unit)
    for name, title, found in (
        ("families", "differences to DF-Mamba", families),
        ("ablations", "one part changed", changes),
    ):
        drawn = [one for one in found.values() if one.mean is not None]
        if drawn:
            caption = f"Bars: mean over common seeds; lines: {100 * LEVEL:.0f} % interval, cut at an arrow"
            reference = summaries[REFERENCE]
            of = [reference, *(summaries[one.row.name] for one in drawn)]
            add(name, title[0].upper() + title[1:], caption, of, difference_chart, drawn, reference, title)
    if any(name in summaries for name in ANCHORS if name != REFERENCE):
        caption = f"{marks}; bands: rows without deformation, mean and a standard deviation each way"
        add("anchors", "Error by K", caption, anchors_rows(summaries), anchors_chart, summaries)
    return made
