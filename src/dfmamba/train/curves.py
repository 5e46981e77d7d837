"""The log of a run as a picture: loss, validation and learning rate over the steps."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dfmamba.io.files import write_atomic
from dfmamba.train.run_folder import CURVES_FILE, LOG_FILE

WIDTH, HEIGHTS = 960, (290, 290, 170)
"""Width of the picture and heights of its panels in pixels."""

MOST_CURVES = 7
"""A panel shows no more curves than this."""

NO_LOSS = frozenset({"step", "lr", "pictures_per_s", "data_wait", "seconds", "memory_mb", "grad_norm"})
"""Entries of a line of the log that are no terms of the loss."""

_COLORS = (
    (44, 46, 52),
    (206, 82, 32),
    (36, 110, 190),
    (60, 150, 80),
    (150, 90, 190),
    (200, 150, 20),
    (20, 150, 160),
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 220, 34, 30
_TEXT = 12


@dataclass(frozen=True)
class Curve:
    """A figure over the steps: `steps` and `values` of equal length, in order."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes; the first is drawn bold."""

    title: str
    curves: Sequence[Curve]

    @property
    def logarithmic(self) -> bool:
        """Whether the values are positive and more than a factor of 10 apart."""
        values = [value for curve in self.curves for value in curve.values]
        return min(values) > 0 and max(values) > 10 * min(values)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log in the order of their steps.

    Lines that a killed run left half-written are skipped. Where a run went on from an earlier step than its
    log had reached, the later lines replace the earlier ones from there on.

    Args:
        path: JSON Lines, each an object with an integer "step".

    Raises:
        OSError: the file can't be read.
    """
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            continue
        while records and records[-1]["step"] > record["step"]:
            records.pop()
        records.append(record)
    return records


def panels_of(records: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Loss, validation and learning rate, those of them that the log holds.

    The validation panel has the score and the figures in mm but those that are aligned to the truth or
    absolute; of a log without such figures all of them. Figures that are 0 throughout are left out.
    """
    steps = [record for record in records if "validation" not in record]
    checks = [
        {"step": record["step"], **record["validation"]}
        for record in records
        if isinstance(record.get("validation"), Mapping)
    ]
    terms = [name for name in _names(steps) if name not in NO_LOSS and name != "total"]
    figures = [name for name in _names(checks) if name not in ("step", "score", "samples")]
    lengths = [
        name for name in figures if name.endswith("_mm") and "pa_" not in name and "absolute" not in name
    ]
    chosen = (
        ("loss, running mean", steps, ["total", *terms]),
        ("validation (score: lower is better)", checks, ["score", *(lengths or figures)]),
        ("learning rate", steps, ["lr"]),
    )
    panels = [
        Panel(title, [c for n in names if any((c := _curve(rows, n)).values)][:MOST_CURVES])
        for title, rows, names in chosen
    ]
    return [panel for panel in panels if panel.curves]


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record))


def _curve(records: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """The finite values of a figure; those too small or too large for an axis count as 0, or not at all."""
    points = [
        (record["step"], float(record[name]) if abs(record[name]) > 1e-30 else 0.0)
        for record in records
        if isinstance(record.get(name), int | float) and abs(record[name]) < 1e30
    ]
    return Curve(name, [step for step, _ in points], [value for _, value in points])


def draw_curves(panels: Sequence[Panel], title: str = "") -> Image.Image:
    """Panels above each other over the same steps.

    Args:
        panels: up to three.
        title: a line above them.

    Returns:
        An RGB picture, the same for the same input.

    Raises:
        ValueError: there is no panel, or more than three.
    """
    from dfmamba.draw.canvas import BACKGROUND, INK, Canvas

    if not 1 <= len(panels) <= len(HEIGHTS):
        raise ValueError(f"{len(panels)} panels of curves; expected 1 to {len(HEIGHTS)}")
    heights = HEIGHTS[: len(panels)]
    picture = Image.new("RGB", (WIDTH, 30 + sum(heights)), BACKGROUND)
    header = Canvas(Image.new("RGB", (WIDTH, 30), BACKGROUND))
    header.text((_LEFT, 18), title, INK, _TEXT + 3, anchor="lm")
    picture.paste(header.finish(), (0, 0))
    steps = [step for panel in panels for curve in panel.curves for step in curve.steps]
    top = 30
    for panel, height in zip(panels, heights, strict=True):
        picture.paste(_draw_panel(panel, height, min(steps), max(steps)), (0, top))
        top += height
    return picture


def _draw_panel(panel: Panel, height: int, first: int, last: int) -> Image.Image:
    from dfmamba.draw.canvas import BACKGROUND, INK, MUTED, Canvas

    canvas = Canvas(Image.new("RGB", (WIDTH, height), BACKGROUND))
    logarithmic = panel.logarithmic
    low, high = _range(panel)
    right, bottom = WIDTH - _RIGHT, height - _BOTTOM

    def place(step: float, value: float) -> tuple[float, float]:
        up = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
        return (
            _LEFT + (right - _LEFT) * (step - first) / max(last - first, 1),
            bottom - (bottom - _TOP) * up,
        )

    canvas.text((_LEFT, _TOP / 2), panel.title, INK, _TEXT + 1, anchor="lm")
    for value in ticks(low, high, logarithmic):
        _, y = place(first, value)
        canvas.line((_LEFT, y), (right, y), (*MUTED, 70), 1)
        canvas.text((_LEFT - 8, y), f"{value:.3g}", MUTED, _TEXT, anchor="rm")
    for step in ticks(first, max(last, first + 1)):
        x, _ = place(step, high)
        if step == round(step):
            canvas.text((x, bottom + 14), f"{step:.0f}", MUTED, _TEXT, anchor="mm")
    for rank, curve in reversed(list(enumerate(panel.curves))):
        points = [place(step, value) for step, value in zip(curve.steps, curve.values, strict=True)]
        points = _thinned(points, right - _LEFT)
        width = 1.2 if rank else 2.4
        for start, end in itertools.pairwise(points):
            canvas.line(start, end, _COLORS[rank], width)
        if len(points) < 40:
            for point in points:
                canvas.disc(point, 1.3 * width, _COLORS[rank])
    for rank, curve in enumerate(panel.curves):
        y = _TOP + 8 + 17 * rank
        canvas.line((right + 14, y), (right + 28, y), _COLORS[rank], 1.6 if rank else 3)
        canvas.text((right + 34, y), f"{curve.name} {curve.values[-1]:.4g}", INK, _TEXT, anchor="lm")
    return canvas.finish()


def _range(panel: Panel) -> tuple[float, float]:
    """Lowest and highest value of the axis; a little apart where all values are the same."""
    values = np.array([value for curve in panel.curves for value in curve.values])
    low, high = float(values.min()), float(values.max())
    if panel.logarithmic:
        return low / 1.1, high * 1.1
    spare = 0.06 * (high - low) if high - low > 1e-9 * abs(high) else 0.1 * abs(high) or 1.0
    return low - spare, high + spare


def ticks(low: float, high: float, logarithmic: bool = False) -> list[float]:
    """Round values between two limits, in order: 1, 2 or 5 times powers of ten, or multiples of one."""
    if logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        leads = (1, 2, 5) if high / low < 2000 else (1,)
        return [
            lead * 10.0**power for power in decades for lead in leads if low <= lead * 10.0**power <= high
        ]
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(lead * power for lead in (1, 2, 5, 10) if lead * power >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _thinned(points: list[tuple[float, float]], room: int) -> list[tuple[float, float]]:
    """At most about two points a pixel, ends included."""
    stride = max(1, len(points) // (2 * room))
    return points if stride == 1 else [*points[:-1:stride], points[-1]]


def write_curves(folder: Path) -> bool:
    """Draws the log of a run into `curves.png` in its folder.

    Returns:
        Whether there was anything to draw.

    Raises:
        OSError: there is no log, or the picture can't be written.
    """
    panels = panels_of(read_log(folder / LOG_FILE)) if (folder / LOG_FILE).is_file() else []
    if not panels:
        return False
    buffer = io.BytesIO()
    draw_curves(panels, folder.resolve().name).save(buffer, "PNG")
    write_atomic(folder / CURVES_FILE, buffer.getvalue())
    return True
