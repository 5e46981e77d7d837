"""Charts: what they show, what they say of axes and numbers, and that the same figure is the same file."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from studies.synthhands5 import charts
from studies.synthhands5.chart_choice import setting_charts
from studies.synthhands5.results import THRESHOLDS_MM
from studies.synthhands5.rows import FAMILIES, REFERENCE
from studies.synthhands5.statistics import Summary, differences, summarise
from studies.synthhands5.tests.test_statistics import several

ERRORS = {
    "dfmamba": [50.0, 51.0, 52.0],
    "resnet": [53.0, 54.1, 55.0],
    "mamba": [47.0, 48.1, 49.0],
    "off": [50.0, 54.0],
    "k1": [60.0],
    "k16": [49.0, 50.0],
}


def summaries(errors: dict[str, list[float]] = ERRORS) -> dict[str, Summary]:
    return summarise(several(errors))["two"]


def texts(figure: Figure) -> str:
    axes = figure.axes[0]
    found = [axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in figure.texts)]
    return " ".join(
        [*found, *(tick.get_text() for tick in (*axes.get_xticklabels(), *axes.get_yticklabels()))]
    )


def test_looks_are_distinct_and_the_reference_has_its_own() -> None:
    assert len({charts.look(name) for name in FAMILIES}) == len({charts.look(n)[0] for n in FAMILIES}) == 9
    assert charts.look(REFERENCE)[0] == charts.OURS
    assert charts.look("k1")[0] not in {charts.look(name)[0] for name in FAMILIES}


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({"vit": [1.0, 2.0], "swin": [1.0, 2.0]}, "n = 1000 test pictures, 2 seeds (0, 1)"),
        ({"vit": [1.0]}, "n = 1000 test pictures, seed 0"),
        ({"vit": [1.0], "swin": [1.0, 2.0, 3.0]}, "n = 1000 test pictures, 1 to 3 seeds a row"),
    ],
)
def test_captions_count(errors: dict[str, list[float]], expected: str) -> None:
    assert charts.counted(summaries(errors).values()) == expected


def test_error_chart_sorts_and_marks_a_cut_axis() -> None:
    figure = charts.error_chart(
        list(summaries({n: ERRORS[n] for n in ("dfmamba", "resnet", "mamba")}).values())
    )
    axes = figure.axes[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["Mamba (scan not deformed)", "DF-Mamba", "ResNet"]
    start = axes.get_xlim()[0]
    assert 0 < start < 47
    assert f"axis starts at {start:g}, not at 0" in texts(figure)
    assert "standard deviation over seeds" in texts(figure)
    assert "3 seeds (0, 1, 2)" in texts(figure)


def test_an_axis_from_zero_says_nothing() -> None:
    figure = charts.error_chart(list(summaries({"dfmamba": [10.0, 11.0], "vit": [50.0, 51.0]}).values()))
    assert figure.axes[0].get_xlim()[0] == 0
    assert "axis starts" not in texts(figure)


def test_lines_are_the_means() -> None:
    found = summaries({"dfmamba": [50.0, 52.0], "vit": [40.0, 60.0]})
    hidden = charts.hidden_chart(list(found.values()))
    lines = {line.get_label(): line for line in hidden.axes[0].get_lines()}
    assert lines["DF-Mamba"].get_ydata()[:4].tolist() == [49.0, 50.0, 51.0, 52.0]  # type: ignore[union-attr]
    assert to_hex(lines["DF-Mamba"].get_color()) == charts.OURS  # type: ignore[arg-type]
    assert "20–40 %\n600 hands" in texts(hidden)
    success = charts.success_chart(list(found.values()))
    (line,) = (line for line in success.axes[0].get_lines() if line.get_label() == "ViT")
    assert list(line.get_xdata()) == list(THRESHOLDS_MM)
    assert list(line.get_ydata()) == pytest.approx(found["vit"].success())
    assert success.axes[0].get_ylim() == (0, 1)


def test_anchors_are_at_their_number() -> None:
    assert [charts.anchors_of(name) for name in charts.ANCHORS] == [1, 4, 9, 16, 25]
    axes = charts.anchors_chart(summaries()).axes[0]
    assert axes.get_xticks().tolist() == [1, 9, 16]
    assert {"DF-Mamba", "scan not deformed, nothing else changed"} <= set(axes.get_legend_handles_labels()[1])


def test_difference_bars_have_their_length_colour_and_arrows() -> None:
    found = summaries()
    rows = differences(found, [name for name in found if name != REFERENCE])
    figure = charts.difference_chart(list(rows.values()), found[REFERENCE], "all")
    axes = figure.axes[0]
    bars = {name: bar for name, bar in zip(rows, axes.patches, strict=True)}
    for name, bar in bars.items():
        assert bar.get_width() == pytest.approx(rows[name].mean)  # type: ignore[attr-defined]
    assert to_hex(bars["resnet"].get_facecolor()) == charts.OURS
    assert len({to_hex(bars[name].get_facecolor()) for name in ("resnet", "mamba", "off", "k1")}) == 4
    low, high = axes.get_xlim()
    assert low == -high
    interval = rows["off"].interval
    assert interval is not None
    arrows = {(line.get_marker(), float(line.get_xdata()[0])) for line in axes.get_lines()}  # type: ignore[index]
    assert ((">", high) in arrows) == (interval[1] > high)
    assert "seeds in common: 1 to 3" in texts(figure)


def test_long_intervals_end_in_arrows() -> None:
    found = summaries({"dfmamba": [50.0, 51.0], "vit": [50.0, 53.0]})
    rows = list(differences(found, ["vit"]).values())
    axes = charts.difference_chart(rows, found[REFERENCE], "one").axes[0]
    assert axes.get_xlim() == (-3.0, 3.0)  # thrice the difference; the interval is -11.7 to 13.7
    assert {"<", ">"} <= {str(line.get_marker()) for line in axes.get_lines()}


def test_costs_place_the_rows(tmp_path: Path) -> None:
    found = list(summaries().values())
    figure = charts.cost_chart(found, {"dfmamba": 3.0, "resnet": 9.0, "k1": 4.0}, "error by latency", "ms")
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert sorted(labels) == ["DF-Mamba", "DF-Mamba with one part changed (means)", "ResNet"]
    with pytest.raises(ValueError, match="no results"):
        charts.cost_chart(found, {}, "error by latency", "ms")


def test_files_repeat_whatever_the_users_settings(tmp_path: Path) -> None:
    found = list(summaries({"dfmamba": [50.0, 51.0]}).values())
    first = charts.save(charts.error_chart(found), tmp_path / "a.png").read_bytes()
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        again = charts.save(charts.error_chart(found), tmp_path / "b.png").read_bytes()
        assert matplotlib.rcParams["font.size"] == 30
    assert first == again
    assert first.startswith(b"\x89PNG")
    assert b"tIME" not in first
    assert b"Software" not in first


def test_the_charts_follow_from_what_was_run() -> None:
    def names(errors: dict[str, list[float]], latencies: dict[str, float]) -> list[str]:
        found = summaries(errors)
        families, changes = differences(found, FAMILIES), differences(found, ["off", "k1", "k16"])
        return [chart.name for chart in setting_charts(found, families, changes, latencies)]

    always = ["error", "hidden", "success", "macs"]
    assert names({"vit": [1.0]}, {}) == always
    assert names({"vit": [1.0], "dfmamba": [1.0]}, {"vit": 3.0}) == [*always, "latency", "families"]
    assert names(ERRORS, {}) == [*always, "families", "ablations", "anchors"]


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'dfmamba\[report\]'"):
        charts.error_chart(list(summaries({"vit": [1.0]}).values()))
