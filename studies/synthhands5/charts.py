"""Charts of results (extra `report`): functions of summaries that give a Matplotlib figure.

Every chart says how many pictures and seeds it shows, and an axis that doesn't start at 0 says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfmamba.backbones import backbone_config
from dfmamba.extras import need
from dfmamba.io.files import write_atomic
from studies.synthhands5.results import HIDDEN, THRESHOLDS_MM
from studies.synthhands5.rows import FAMILIES, REFERENCE, ROWS
from studies.synthhands5.settings import SETTINGS
from studies.synthhands5.statistics import LEVEL, Difference, Summary, Verdict, on_common_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
WIDTH = 8.0
"""In inches."""
OURS = "#d55e00"
_OTHERS = ("#000000", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#8a7400", "#882255", "#332288")
_MARKERS = "sDv^P*Xd"
_GREY = "#a8a8a8"
_ERROR = "MPJPE, mm"
_BARS = "; bars: standard deviation over seeds"
_VERDICTS = dict(zip(Verdict, (OURS, "#0072b2", "#b5b5b5", "#ffffff"), strict=True))
_PEERS = [name for name in FAMILIES if name != REFERENCE]
_LOOKS = dict(zip(_PEERS, zip(_OTHERS, _MARKERS, strict=True), strict=True))


def look(name: str) -> tuple[str, str]:
    """Colour and marker of a row, the same in every chart; ablations share theirs."""
    return (OURS, "o") if name == REFERENCE else _LOOKS.get(name, (_GREY, "o"))


def counted(summaries: Iterable[Summary]) -> str:
    """How many pictures and seeds are behind a chart, for its caption."""
    found = list(summaries)
    if not found:
        raise ValueError("no results to draw; expected those of one row at least")
    pictures = len(found[0].results[0].picture_mm)
    sets = {one.seeds for one in found}
    if len(sets) == 1:
        seeds = next(iter(sets))
        word = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds ({', '.join(map(str, seeds))})"
    else:
        numbers = sorted({len(seeds) for seeds in sets})
        some = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}, not all the same,"
        word = f"{some} seeds a row"
    return f"n = {pictures} test pictures, {word}"


def _drawn(chart: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draws with Matplotlib's defaults, whatever the user's own are."""

    @functools.wraps(chart)
    def draw(*args: Any, **options: Any) -> Figure:
        (matplotlib,) = need("report", "matplotlib")
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            return chart(*args, **options)

    return draw


def _axes(title: str, note: str, setting: str, height: float = 4.6) -> tuple[Figure, Axes]:
    (figures,) = need("report", "matplotlib.figure")
    figure = figures.Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    heading = f"{SETTINGS[setting].title}: {title}\n"  # its empty second line is the note's place
    figure.suptitle(heading, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    figure.text(0.01, 1 - 0.29 / height, note, va="top", fontsize=10, color="#444444")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _scale(axes: Axes, flat: bool, values: Iterable[float], label: str) -> None:
    """Of x (`flat`) or y: from 0, or cut where all is in the upper part, which the label then says."""
    found = list(values)
    low, high = min(found), max(found)
    room = 0.08 * (high - low) or 0.02 * high or 1.0
    start = 0.0
    if low - room > 0.5 * high:
        (ticker,) = need("report", "matplotlib.ticker")
        start = float(ticker.MaxNLocator(6).tick_values(low - room, high + room)[0])
        label += f"{'  ' if flat else chr(10)}(axis starts at {start:g}, not at 0)"
        axes.annotate(
            "//", (0, 0), (9, 0) if flat else (0, 9), "axes fraction", "offset points", fontsize=11,
            fontweight="bold", ha="center", va="center", rotation=0 if flat else 90, annotation_clip=False,
        )  # fmt: skip
    (axes.set_xlim if flat else axes.set_ylim)(start, high + room)
    (axes.set_xlabel if flat else axes.set_ylabel)(label, fontsize=11)


def _legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    found = axes.get_legend_handles_labels()
    figure.legend(*found, loc="outside lower center", ncols=columns, fontsize=10, frameon=False)


def _errors(summary: Summary) -> list[float]:
    return [result.figures["mpjpe_mm"] for result in summary.results]


def _point(axes: Axes, x: float, summary: Summary, sideways: bool = False, label: str = "") -> list[float]:
    """Mean, standard deviation and single seeds of a row at a place on the other axis; the extent drawn."""
    colour, marker = look(summary.row.name)
    found, single = summary.figure("mpjpe_mm"), _errors(summary)
    assert found is not None
    bar = found.deviation or 0.0
    at, ends = [x] * len(single), ((bar, None) if sideways else (None, bar))
    mean, dots = ((found.mean, x), (single, at)) if sideways else ((x, found.mean), (at, single))
    axes.scatter(*dots, s=14, color=colour, alpha=0.45, linewidths=0, zorder=3)
    axes.errorbar(
        *mean, xerr=ends[0], yerr=ends[1], fmt=marker, color=colour, markersize=7, capsize=4,
        linewidth=1.6, label=label or summary.row.title, zorder=4,
    )  # fmt: skip
    return [found.mean - bar, found.mean + bar, *single]


@_drawn
def error_chart(summaries: Sequence[Summary]) -> Figure:
    """MPJPE of each row, the best on top: mean, standard deviation over seeds, and single seeds as dots."""
    ordered = sorted(summaries, key=lambda one: float(np.mean(_errors(one))))
    figure, axes = _axes("error", counted(ordered) + _BARS, ordered[0].setting, 1.5 + 0.38 * len(ordered))
    extent: list[float] = []
    for y, one in enumerate(ordered):
        extent += _point(axes, y, one, sideways=True)
        axes.text(
            1.01, y, f"{np.mean(_errors(one)):.2f}", transform=axes.get_yaxis_transform(), va="center",
            fontsize=10, color="#222222",
        )  # fmt: skip
    axes.set_yticks(range(len(ordered)), [one.row.title for one in ordered], fontsize=10.5)
    for tick, one in zip(axes.get_yticklabels(), ordered, strict=True):
        if one.row.name == REFERENCE:
            tick.set(fontweight="bold", color=OURS)
    axes.set_ylim(len(ordered) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    _scale(axes, True, extent, _ERROR)
    return figure


def _lines(axes: Axes, summaries: Sequence[Summary], xs: Sequence[float], values: Sequence[Any]) -> None:
    order = sorted(range(len(summaries)), key=lambda i: summaries[i].row.name == REFERENCE)
    for i in order:
        name = summaries[i].row.name
        colour, marker = look(name)
        ys = [np.nan if value is None else value for value in values[i]]
        axes.plot(
            xs, ys, color=colour, marker=marker, markersize=5.5, markevery=max(1, len(xs) // 9),
            linewidth=3.0 if name == REFERENCE else 1.5, label=summaries[i].row.title,
        )  # fmt: skip


@_drawn
def hidden_chart(summaries: Sequence[Summary]) -> Figure:
    """MPJPE of the hands of each occlusion level, mean over seeds, one line a row."""
    title = "error by share of the hand's joints that are hidden"
    figure, axes = _axes(title, counted(summaries), summaries[0].setting, 5.6)
    levels = [one.by_hidden() for one in summaries]
    places = range(len(HIDDEN) - 1)
    _lines(axes, summaries, list(places), levels)
    hands = summaries[0].results[0].hands_by_hidden
    labels = [
        f"{100 * low:.0f}–{100 * high:.0f} %\n{count} hands"
        for (low, high), count in zip(pairwise(HIDDEN), hands, strict=True)
    ]
    axes.set_xticks(list(places), labels, fontsize=10)
    axes.set_xlabel("hidden joints of a hand", fontsize=11)
    known = [value for level in levels for value in level if value is not None]
    _scale(axes, False, known, "mean error of these hands, mm")
    _legend(figure, axes)
    return figure


@_drawn
def success_chart(summaries: Sequence[Summary]) -> Figure:
    """Share of joints within each error, mean over seeds, one line a row."""
    figure, axes = _axes("success curves", counted(summaries), summaries[0].setting, 5.6)
    _lines(axes, summaries, THRESHOLDS_MM, [one.success() for one in summaries])
    axes.set(xlim=(0, THRESHOLDS_MM[-1]), ylim=(0, 1))
    axes.set_xlabel("error threshold, mm", fontsize=11)
    axes.set_ylabel("share of joints within it", fontsize=11)
    _legend(figure, axes)
    return figure


@_drawn
def cost_chart(summaries: Sequence[Summary], costs: Mapping[str, float], title: str, label: str) -> Figure:
    """MPJPE against a cost.

    Args:
        summaries: those without a cost are left out; ablations are grey, under one name.
        costs: one a row, by name.
        title: of the chart.
        label: of the axis, with the unit.
    """
    shown = [one for one in summaries if one.row.name in costs]
    figure, axes = _axes(title, counted(shown) + _BARS, shown[0].setting, 5.2)
    extent: list[float] = []
    changed = [one for one in shown if one.row.name not in FAMILIES]
    if changed:
        means = [float(np.mean(_errors(one))) for one in changed]
        name, xs = "DF-Mamba with one part changed (means)", [costs[one.row.name] for one in changed]
        axes.scatter(xs, means, s=26, color=_GREY, label=name)
        extent += means
    for one in shown:
        if one.row.name in FAMILIES:
            extent += _point(axes, costs[one.row.name], one)
    _scale(axes, True, [costs[one.row.name] for one in shown], label)
    _scale(axes, False, extent, _ERROR)
    _legend(figure, axes)
    return figure


def anchors_of(name: str) -> int:
    """K of one of DF-Mamba's rows."""
    return int(backbone_config(ROWS[name].backbone, **ROWS[name].args).scan.num_anchors)


ANCHORS = ("k1", "k4", REFERENCE, "k16", "k25")
"""Rows that differ in K."""


def anchors_rows(summaries: Mapping[str, Summary]) -> list[Summary]:
    """What `anchors_chart` shows."""
    return on_common_seeds([summaries[name] for name in (*ANCHORS, "off", "mamba") if name in summaries])


@_drawn
def anchors_chart(summaries: Mapping[str, Summary]) -> Figure:
    """MPJPE against K, and the rows without deformation as bands of a standard deviation each way.

    Over the seeds that all of these rows have, if there are any.
    """
    every = anchors_rows(summaries)
    shown = [one for one in every if one.row.name in ANCHORS]
    bands = [one for one in every if one.row.name not in ANCHORS]
    if not shown:
        raise ValueError(f"no results of the rows with other K; expected some of {', '.join(ANCHORS)}")
    note = counted([*shown, *bands]) + _BARS
    figure, axes = _axes("error by K, the number of sampled positions", note, shown[0].setting, 5.0)
    ks = [anchors_of(one.row.name) for one in shown]
    axes.plot(ks, [np.mean(_errors(one)) for one in shown], color=_GREY, linewidth=1.5, zorder=2)
    extent: list[float] = []
    for k, one in zip(ks, shown, strict=True):
        extent += _point(axes, k, one, label=one.row.title if one.row.name == REFERENCE else "_")
    for one, colour, dash in zip(bands, ("#0072b2", "#009e73"), ("--", "-."), strict=False):
        found = one.figure("mpjpe_mm")
        assert found is not None
        bar = found.deviation or 0.0
        axes.axhspan(found.mean - bar, found.mean + bar, color=colour, alpha=0.13, linewidth=0)
        axes.axhline(found.mean, color=colour, linestyle=dash, label=one.row.title)
        extent += [found.mean - bar, found.mean + bar]
    axes.set_xticks(ks)
    axes.set_xlim(0, max(ks) + 1)
    axes.set_xlabel("K", fontsize=11)
    _scale(axes, False, extent, _ERROR)
    _legend(figure, axes, 1)
    return figure


@_drawn
def difference_chart(found: Sequence[Difference], reference: Summary, title: str) -> Figure:
    """MPJPE of rows minus DF-Mamba's as bars, with the interval over seeds; arrows where it goes on.

    Args:
        found: those without common seeds are left out.
        reference: DF-Mamba's results.
        title: of the chart.
    """
    shown = [one for one in found if one.mean is not None]
    if not shown:
        raise ValueError(f"chart {title!r}: no row has a seed in common with DF-Mamba")
    numbers = sorted({len(one.seeds) for one in shown})
    seeds = " to ".join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))
    pictures, level = len(reference.results[0].picture_mm), f"{100 * LEVEL:.0f} %"
    note = f"n = {pictures} test pictures, seeds in common: {seeds}; lines: {level} interval over seeds"
    figure, axes = _axes(title, note, reference.setting, 1.9 + 0.36 * len(shown))
    means = [abs(one.mean or 0.0) for one in shown]
    ends = [abs(end) for one in shown for end in one.interval or ()]
    limit = max(1.15 * max(means), min(1.05 * max(ends, default=0.0), 3 * max(means))) or 1.0
    for y, one in enumerate(shown):
        assert one.mean is not None
        axes.barh(y, one.mean, color=_VERDICTS[one.verdict], edgecolor="#666666", linewidth=0.8, height=0.62)
        if one.interval is None:
            continue
        low, high = one.interval
        axes.plot([max(low, -limit), min(high, limit)], [y, y], color="#222222", linewidth=1.4)
        for end, side, arrow in ((low, -limit, "<"), (high, limit, ">")):
            beyond = abs(end) > limit
            axes.plot(
                side if beyond else end, y, marker=arrow if beyond else "|", color="#222222", markersize=7,
                clip_on=False,
            )  # fmt: skip
    axes.axvline(0, color=OURS, linewidth=2)
    axes.set(xlim=(-limit, limit), ylim=(len(shown) - 0.4, -0.6))
    axes.set_yticks(range(len(shown)), [one.row.title for one in shown], fontsize=10)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("MPJPE minus DF-Mamba's, mm\n← row better          DF-Mamba better →", fontsize=11)
    (patches,) = need("report", "matplotlib.patches")
    present = [verdict for verdict in Verdict if any(one.verdict is verdict for one in shown)]
    handles = [patches.Patch(facecolor=_VERDICTS[v], edgecolor="#666666", label=str(v)) for v in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=10, frameon=False)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a PNG of `DPI`; the same figure gives the same bytes with the same Matplotlib.

    Raises:
        OSError: the file can't be written.
    """
    matplotlib, agg = need("report", "matplotlib", "matplotlib.backends.backend_agg")
    content = BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        agg.FigureCanvasAgg(figure)
        figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    write_atomic(path, content.getvalue())
    return Path(path)
