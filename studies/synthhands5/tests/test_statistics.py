"""Means and paired differences over seeds, and what is said of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from studies.synthhands5.compare import STEPS
from studies.synthhands5.results import THRESHOLDS_MM, Result
from studies.synthhands5.rows import MACS, PARAMETERS, find_row
from studies.synthhands5.settings import SPLITS, VERSION
from studies.synthhands5.statistics import (
    FIGURES,
    Spread,
    Verdict,
    bootstrap,
    differences,
    holm,
    on_common_seeds,
    scan_sentences,
    sentence,
    sort_out,
    spread,
    student_quantile,
    student_within,
    summarise,
)
from studies.synthhands5.training import BenchmarkRun


def made_up(entry: str, seed: int, error: float, setting: str = "two", **changes: Any) -> Result:
    """A result of a row as it is defined today, with one error for everything."""
    row = find_row(entry)
    noise = np.random.default_rng([seed, 7]).normal(size=SPLITS["test"].pictures)
    values = {
        "figures": {name: error / 100 if name.startswith("auc") else error for name in FIGURES},
        "success": tuple(1 - math.exp(-t / error) for t in THRESHOLDS_MM),
        "by_hidden": (error - 2, error - 1, error, error + 1, None),
        "hands_by_hidden": (900, 600, 400, 100, 0),
        "picture_mm": tuple((error + noise - noise.mean()).tolist()),
    }
    result = Result(
        setting, entry, seed, 2e-3, STEPS, BenchmarkRun().batch_size, parameters=PARAMETERS, macs=MACS,
        seconds=600.0, split="test", backbone=row.backbone, backbone_args=row.args, machine="a machine",
        versions={"dfmamba": "0", "torch": "0", "synthhands5": str(VERSION)}, **values,
    )  # fmt: skip
    return replace(result, **changes)


def several(errors: dict[str, list[float]], setting: str = "two") -> list[Result]:
    return [made_up(name, s, e, setting) for name, each in errors.items() for s, e in enumerate(each)]


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 61])
def test_student_is_scipys(freedom: int) -> None:
    for t in (0.0, 0.3, 1.0, 4.3, 40.0):
        assert student_within(t, freedom) == pytest.approx(2 * stats.t.cdf(t, freedom) - 1, abs=1e-13)
    for level in (0.5, 0.95, 0.999):
        expected = stats.t.ppf((1 + level) / 2, freedom)
        assert student_quantile(level, freedom) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.floats(0, 1), max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_is_a_monotone_correction(values: list[float]) -> None:
    corrected = holm(values)
    assert all(p <= c <= 1 for p, c in zip(values, corrected, strict=True))
    order = sorted(range(len(values)), key=lambda i: values[i])
    assert [corrected[i] for i in order] == sorted(corrected)
    if values:
        assert min(corrected) == pytest.approx(min(1.0, len(values) * min(values)))


def test_holm_of_an_example() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_spread_is_the_sample_deviation() -> None:
    assert spread([1.0, 3.0]).deviation == pytest.approx(math.sqrt(2))
    assert spread([5.0]) == Spread(5.0, None, 1)


def test_bootstrap_is_near_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, size=1000)
    low, high = bootstrap(values.tolist())
    half = 1.96 * values.std() / math.sqrt(1000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert bootstrap(values.tolist()) == (low, high)


def test_differences_are_paired_by_seed_as_scipys_test() -> None:
    ours, theirs = [50.0, 60.0, 40.0], [51.0, 61.5, 40.5]
    found = differences(summarise(several({"dfmamba": ours, "resnet": theirs}))["two"], ["resnet"])["resnet"]
    test = stats.ttest_rel(theirs, ours)
    interval = test.confidence_interval(0.95)
    assert found.mean == pytest.approx(1.0)
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(test.pvalue)
    assert found.pictures == pytest.approx((1.0, 1.0))
    assert found.verdict is Verdict.OPEN  # the interval over three seeds holds 0, that over pictures doesn't


def test_rows_are_cut_to_the_seeds_of_all() -> None:
    rows = summarise([*several({"dfmamba": [50.0, 52.0, 54.0], "k1": [51.0, 53.0]}), made_up("k4", 1, 60.0)])[
        "two"
    ]
    cut = on_common_seeds([rows["dfmamba"], rows["k1"], rows["k4"]])
    assert [(one.row.name, one.seeds) for one in cut] == [("dfmamba", (1,)), ("k1", (1,)), ("k4", (1,))]
    assert cut[0].figure("mpjpe_mm").mean == 52.0
    alone = [rows["k4"], *summarise([made_up("vit", 7, 60.0)])["two"].values()]
    assert on_common_seeds(alone) == alone
    assert on_common_seeds([]) == []


def test_only_common_seeds_are_paired() -> None:
    results = several({"dfmamba": [50.0, 52.0, 54.0], "vit": [50.0, 53.0]})
    results += [made_up("vit", 9, 99.0)]
    found = differences(summarise(results)["two"], ["vit"])["vit"]
    assert found.seeds == (0, 1)
    assert found.mean == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("theirs", "verdict", "word"),
    [
        ([53.0, 54.1, 55.0], Verdict.BETTER, "DF-Mamba is better than “ViT” by 3.03 mm"),
        ([47.0, 48.1, 49.0], Verdict.WORSE, "DF-Mamba is worse than “ViT” by 2.97 mm"),
        ([53.0, 48.0, 52.0], Verdict.OPEN, "can't be told apart"),
        ([53.0], Verdict.FEW, "too few seeds"),
    ],
)
def test_verdicts(theirs: list[float], verdict: Verdict, word: str) -> None:
    found = differences(summarise(several({"dfmamba": [50.0, 51.0, 52.0], "vit": theirs}))["two"], ["vit"])
    assert found["vit"].verdict is verdict
    assert word in sentence(found["vit"])


def test_equal_results_are_not_distinguishable() -> None:
    found = differences(summarise(several({"dfmamba": [50.0, 51.0], "vit": [50.0, 51.0]}))["two"], ["vit"])
    assert (found["vit"].p, found["vit"].verdict) == (1.0, Verdict.OPEN)


def test_holm_counts_the_rows_compared() -> None:
    errors = {"dfmamba": [50.0, 51.0, 52.5], "vit": [53.0, 54.1, 55.0], "swin": [53.0, 48.0, 52.0]}
    summaries = summarise(several(errors))["two"]
    alone = differences(summaries, ["vit"])["vit"]
    both = differences(summaries, ["vit", "swin", "convnext"])
    assert set(both) == {"vit", "swin"}
    assert alone.p_holm == alone.p == both["vit"].p
    assert both["vit"].p_holm == pytest.approx(2 * both["vit"].p)


def test_without_the_reference_nothing_is_compared() -> None:
    assert differences(summarise(several({"vit": [1.0, 2.0]}))["two"], ["vit"]) == {}


def test_the_scan_sentences_answer() -> None:
    errors = {"dfmamba": [50.0, 51.0, 52.0], "mamba": [53.0, 54.1, 55.0], "off": [49.0, 52.0, 53.0]}
    found = differences(summarise(several(errors))["two"], errors)
    budget, removed = scan_sentences(found)
    assert "yes" in budget
    assert "+3.03 mm" in budget
    assert "not shown" in removed
    assert "not known" in scan_sentences({})[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": STEPS + 1}, "steps"),
        ({"batch_size": 3}, "batches of 3"),
        ({"backbone_args": {"dims": (1, 2)}}, "definition has changed"),
        ({"backbone": "resnet101"}, "definition has changed"),
        ({"versions": {"synthhands5": "0"}}, "version 0"),
        ({"versions": {}}, "version None"),
        ({"split": "val"}, "'val'"),
        ({"entry": "gone"}, "unknown row"),
        ({"setting": "three"}, "unknown setting"),
        ({"picture_mm": (1.0, 2.0)}, "2 pictures"),
        ({"success": (1.0,)}, "thresholds"),
        ({"figures": {"mpjpe_mm": math.nan}}, "diverged"),
        ({"figures": {}}, "diverged"),
    ],
)
def test_other_definitions_are_left_out(changes: dict[str, Any], reason: str) -> None:
    good = made_up("resnet", 0, 50.0)
    other = replace(made_up("resnet", 1, 50.0), **changes)
    used, apart = sort_out([good, other])
    assert used == [good]
    assert apart[0][0] is other
    assert reason in apart[0][1]


def test_arguments_read_from_json_are_the_same() -> None:
    lists = {
        key: list(v) if isinstance(v, tuple) else v for key, v in find_row("resnet").args["body"].items()
    }
    assert sort_out([made_up("resnet", 0, 50.0, backbone_args={"body": lists})])[1] == []


def test_repeated_and_odd_results_are_left_out() -> None:
    results = several({"resnet": [50.0, 51.0, 52.0]})
    again = made_up("resnet", 0, 1.0)
    larger = made_up("resnet", 5, 50.0, parameters=PARAMETERS + 1)
    elsewhere = made_up("resnet", 6, 50.0, hands_by_hidden=(1, 2, 3, 4, 5))
    used, apart = sort_out([*results, again, larger, elsewhere])
    assert used == results
    reasons = {result.seed: reason for result, reason in apart}
    assert "same seed" in reasons[0]
    assert "parameters" in reasons[5]
    assert "other pictures" in reasons[6]


def test_summaries_average_curves_and_levels() -> None:
    summary = summarise(several({"vit": [40.0, 60.0]}))["two"]["vit"]
    assert summary.by_hidden() == (48.0, 49.0, 50.0, 51.0, None)
    assert summary.success()[5] == pytest.approx(1 - (math.exp(-0.5) + math.exp(-20 / 60)) / 2)
    assert summary.figure("mpjpe_mm") == spread([40.0, 60.0])
    assert summary.figure("mrrpe_mm") is None
    assert (summary.seeds, summary.rates) == ((0, 1), (2e-3,))
