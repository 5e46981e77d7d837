"""The curves of a run: what the log says of each step once, drawn whatever it holds."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dfmamba.train.curves import WIDTH, Curve, Panel, draw_curves, panels_of, read_log, ticks, write_curves


def write(folder: Path, *records: dict) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_resumed_run_replaces_what_it_does_again(tmp_path: Path) -> None:
    steps = [50, 100, 150, 200, 100, 150]
    found = read_log(write(tmp_path, *({"step": step, "total": i} for i, step in enumerate(steps))))
    # A line of the step from which the run went on stays: a validation shares its step with a line of losses.
    assert [record["step"] for record in found] == [50, 100, 100, 150]
    assert [record["total"] for record in found] == [0, 1, 4, 5]


def test_torn_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b'{"step": 50, "total": 1}\n[1]\n{"step": "a"}\n{"step": true}\n\xff\xfe\n{"step": 100, "tot'
    )
    assert read_log(path) == [{"step": 50, "total": 1}]


values = st.one_of(st.floats(), st.integers(-5, 5), st.none(), st.text(max_size=3), st.booleans())
records = st.fixed_dictionaries(
    {"step": st.one_of(st.integers(0, 10**9), st.text(max_size=2))},
    optional={
        "total": values,
        "lr": values,
        "joint": values,
        "validation": st.one_of(values, st.dictionaries(st.sampled_from(["score", "a_mm", "b"]), values)),
    },
)


HARD = [0.0, 5e-324, 1e-300, 1.0, 1.0 + 2**-52, 1e29, -1e29, 1.7e308, -1.7e308, math.inf, math.nan]


@pytest.mark.parametrize("first", HARD)
@pytest.mark.parametrize("second", HARD)
def test_values_at_the_limits_are_drawn(tmp_path: Path, first: float, second: float) -> None:
    panels = panels_of([{"step": 1, "total": first}, {"step": 2, "total": second}])
    for panel in panels:
        assert draw_curves([panel]).width == WIDTH


@settings(max_examples=20, deadline=None)
@given(st.lists(records, max_size=6))
def test_any_log_is_drawn_or_empty(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    folder = tmp_path_factory.mktemp("log")
    panels = panels_of(read_log(write(folder, *rows)))
    for curve in (curve for panel in panels for curve in panel.curves):
        assert len(curve.steps) == len(curve.values) > 0
        assert all(math.isfinite(value) for value in curve.values)
        assert list(curve.steps) == sorted(curve.steps)
    assert write_curves(folder) == bool(panels)
    assert (folder / "curves.png").is_file() == bool(panels)


def test_panels_hold_losses_figures_and_the_rate() -> None:
    found = panels_of(
        [
            {
                "step": 50,
                "total": 3.0,
                "joint": 2.0,
                "lr": 0.1,
                "grad_norm": 9.0,
                "data_wait": 0.1,
                "seconds": 5,
            },
            {"step": 50, "validation": {"mpjpe_mm": 20.0, "pa_mpjpe_mm": 9.0, "auc": 0.5, "score": 20.0}},
        ]
    )
    assert [[curve.name for curve in panel.curves] for panel in found] == [
        ["total", "joint"],
        ["score", "mpjpe_mm"],
        ["lr"],
    ]


def test_the_picture_shows_a_falling_loss(tmp_path: Path) -> None:
    rows = [{"step": step, "total": 10.0 - step / 100, "lr": 0.1} for step in range(50, 801, 50)]
    write(tmp_path, *rows)
    assert write_curves(tmp_path)
    with Image.open(tmp_path / "curves.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[1] == WIDTH
    plot = pixels[64:290, 75:735] < 90
    place = [np.flatnonzero(plot[:, x]).mean() for x in range(5, plot.shape[1] - 5, 20)]
    assert all(a < b for a, b in itertools.pairwise(place))


def test_no_log_draws_nothing(tmp_path: Path) -> None:
    assert not write_curves(tmp_path)
    with pytest.raises(ValueError, match="0 panels"):
        draw_curves([])


@pytest.mark.parametrize(
    ("low", "high", "logarithmic", "expected"),
    [
        (0, 30000, False, [0, 5000, 10000, 15000, 20000, 25000, 30000]),
        (-0.5, 0.5, False, [-0.4, -0.2, 0.0, 0.2, 0.4]),
        (0.8, 30, True, [1, 2, 5, 10, 20]),
        (0.001, 1000, True, [0.001, 0.01, 0.1, 1, 10, 100, 1000]),
    ],
)
def test_ticks_are_round(low: float, high: float, logarithmic: bool, expected: list[float]) -> None:
    assert ticks(low, high, logarithmic) == pytest.approx(expected)


def test_only_wide_positive_values_get_a_logarithmic_axis() -> None:
    assert Panel("", [Curve("a", [1, 2], [1.0, 20.0])]).logarithmic
    assert not Panel("", [Curve("a", [1, 2], [1.0, 9.0])]).logarithmic
    assert not Panel("", [Curve("a", [1, 2], [0.0, 20.0])]).logarithmic
