"""The published definitions, on errors small enough to average by hand."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from dfmamba.data.registry import DATASETS, reader_class
from dfmamba.frameworks.base import FRAMEWORKS
from dfmamba.metrics import PROTOCOLS, HandMetrics
from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS, score_depth
from dfmamba.metrics.protocols import DATASET_PROTOCOLS, SUCCESS, Figure, Protocol

RIGHT, LEFT = 0, 1
INDEX_MCP, LITTLE_TIP = 5, 20


def hands(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions equal to the truth (count, 2, 21, 3), and both hands valid."""
    truth = np.random.default_rng(seed).normal(0, 40, (count, 2, 21, 3)) + np.array((0, 0, 600))
    return truth.copy(), truth, np.ones((count, 2, 21), bool)


def figures(
    pred: np.ndarray, truth: np.ndarray, valid: np.ndarray, interacting: np.ndarray | None = None
) -> dict[str, float]:
    metrics = HandMetrics()
    metrics.update(pred, truth, valid, interacting=interacting)
    return metrics.compute()


def test_interhand_averages_per_joint_and_pools_single_and_interacting() -> None:
    pred, truth, valid = hands(2)
    valid[0, LEFT] = False
    pred[0, RIGHT, INDEX_MCP, 0] += 21
    pred[1, RIGHT, INDEX_MCP, 1] += 42
    pred[1, LEFT, LITTLE_TIP, 2] -= 42
    found = figures(pred, truth, valid)
    assert found["mpjpe_single_mm"] == pytest.approx(21 / 21)
    assert found["mpjpe_two_mm"] == pytest.approx((42 + 42) / 42)
    assert found["mpjpe_interhand_mm"] == pytest.approx(((21 + 42) / 2 + 42) / 42)


def test_wrists_count_with_error_zero() -> None:
    pred, truth, valid = hands(1)
    pred[0, :, 0, 0] += 4.2
    found = figures(pred, truth, valid)
    assert found["mpjpe_interhand_mm"] == pytest.approx(4.2 * 40 / 42)
    assert found["mpjpe_mm"] == pytest.approx(found["mpjpe_interhand_mm"] * 42 / 40)
    assert found["epe_mm"] == pytest.approx(4.2 * 20 / 21)


def test_a_hand_without_its_wrist_does_not_count() -> None:
    pred, truth, valid = hands(2)
    pred[:, RIGHT, INDEX_MCP, 0] += (10, 30)
    valid[1, RIGHT, 0] = False
    assert figures(pred, truth, valid)["mpjpe_interhand_mm"] == pytest.approx(10 / 42)


def test_rhp_puts_right_and_left_hands_into_the_same_21_joints() -> None:
    pred, truth, valid = hands(3)
    valid[:2, LEFT] = valid[2, RIGHT] = False
    pred[0, RIGHT, INDEX_MCP, 0] += 21
    found = figures(pred, truth, valid)
    assert found["epe_mm"] == pytest.approx((21 + 0 + 0) / 3 / 21)
    assert found["mpjpe_interhand_mm"] == pytest.approx((21 + 0) / 2 / 42)


def test_dexycb_absolute_relative_and_aligned() -> None:
    pred, truth, valid = hands(2)
    valid[0, LEFT] = valid[1, RIGHT] = False
    found = figures(pred + np.array((3, 4, 0)), truth, valid)
    assert found["epe_absolute_mm"] == pytest.approx(5)
    # 100 thresholds from 0 to 50 are 50/99 mm apart: the tenth step is the first one beyond 5 mm.
    assert found["auc_absolute_0_50"] == pytest.approx((89 + 0.5) / 99)
    assert found["epe_mm"] == pytest.approx(0, abs=1e-9)
    assert found["epe_pa_mm"] == pytest.approx(0, abs=1e-9)
    centre = truth.mean(2, keepdims=True)
    turned = (truth - centre)[..., [1, 2, 0]] * 0.5 + centre + 7
    found = figures(turned, truth, valid)
    assert found["epe_pa_mm"] == pytest.approx(0, abs=1e-9)
    assert found["auc_pa_0_50"] > 0.99
    assert found["epe_mm"] > 10


def test_detnet_gives_wrist_and_bone_and_counts_15_thresholds_from_20_mm() -> None:
    pred, truth, valid = hands(1)
    wrist = truth[:, :, :1]
    assert figures((truth - wrist) * 3 + wrist + 11, truth, valid)["mpjpe_bone_scaled_mm"] < 1e-9
    pred[0, :, INDEX_MCP, 0] += 21
    found = figures(pred, truth, valid)
    assert found["mpjpe_bone_scaled_mm"] == pytest.approx(1)
    # 21 mm lies between the first two thresholds, 20 and 20 + 30/14 mm.
    one = (13 + 0.5) / 14
    assert found["auc_bone_scaled_20_50"] == pytest.approx((20 + one) / 21)
    assert found["auc_20_50"] == pytest.approx((20 + one) / 21)


def test_assemblyhands_averages_over_the_joints_that_occur() -> None:
    pred, truth, valid = hands(2)
    valid[0, LEFT] = valid[1, RIGHT] = False
    valid[0, RIGHT, 10:] = False
    pred[0, RIGHT, INDEX_MCP, 0] += 31
    assert figures(pred, truth, valid)["mpjpe_interhand_mm"] == pytest.approx(31 / (10 + 21))


def test_nyu_success_is_read_off_the_curve() -> None:
    truth = np.full((4, 14, 3), (320.0, 240.0, 700.0))
    pred = truth.copy()
    pred[:, 3, 2] += (0, 20, 25, 60)
    found = score_depth(DEPTH_BENCHMARKS["nyu"], pred, truth)
    (protocol,) = DATASET_PROTOCOLS["nyu"].protocols
    values = {figure.title: figure.value(found) for figure in protocol.figures}
    assert values == {
        "mean error": pytest.approx(105 / 4 / 14),
        "all <= 20 mm": 50,
        "all <= 30 mm": 75,
        "all <= 40 mm": 75,
    }


def test_nyu_headline_of_published_predictions(samples_dir: Path) -> None:
    expected = json.loads((samples_dir / "nyu" / "expected_metrics.json").read_text())["methods"]
    headline = DATASET_PROTOCOLS["nyu"].headline
    values = {name: headline.value(facts) for name, facts in expected.items()}
    assert values == {
        "DeepPrior++": pytest.approx(12.238, abs=1e-3),
        "Pose-REN": pytest.approx(11.811, abs=1e-3),
        "V2V-PoseNet": pytest.approx(8.419, abs=1e-3),
    }


def test_every_data_set_has_protocols_of_known_figures() -> None:
    assert set(DATASET_PROTOCOLS) == set(DATASETS)
    truth = np.full((1, 14, 3), 700.0)
    scored = set(score_depth(DEPTH_BENCHMARKS["nyu"], truth, truth))
    for name, found in DATASET_PROTOCOLS.items():
        assert found.dataset == name
        assert found.headline in found.figures
        reader = reader_class(name)
        settings = set(inspect.signature(reader.__init__).parameters)
        for protocol in found.protocols:
            assert found.protocol(protocol.name) is protocol
            assert set(protocol.frameworks) <= set(FRAMEWORKS)
            assert {figure.key for figure in protocol.figures} <= set(PROTOCOLS) | scored
            assert set(protocol.splits) <= set(reader.SPLITS)
            assert {*protocol.options, *protocol.needs} <= settings
            assert DATASETS[name].test in protocol.splits
            assert protocol.headline in ("", *(figure.key for figure in protocol.figures))
    with pytest.raises(ValueError, match="known: detnet, toolkit"):
        DATASET_PROTOCOLS["dexycb"].protocol("nothing")


def test_headlines_are_those_of_the_literature() -> None:
    titles = {name: found.headline.title for name, found in DATASET_PROTOCOLS.items()}
    assert titles["interhand26m"] == "all"
    assert titles["rhp"] == "EPE"
    assert titles["nyu"] == "mean error"
    assert DATASET_PROTOCOLS["dexycb"].protocol("toolkit").quoted.title == "root-rel."


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"options": {"fps": 5, "annotations": "all"}}, ""),
        ({"options": {"fps": 30}}, "option fps is 30"),
        ({"options": {"annotations": "human"}}, "option annotations is 'human'"),
        ({"split": "val"}, "split val"),
        ({"framework": "detnet"}, "framework detnet"),
        ({"framework": ""}, "framework none"),
    ],
)
def test_what_breaks_the_protocol_of_interhand(changes: dict, reason: str) -> None:
    (protocol,) = DATASET_PROTOCOLS["interhand26m"].protocols
    given = {"split": "test", "framework": "a2j", "options": {}} | changes
    found = protocol.mismatch(**given)
    assert (reason in found) if reason else (found == "")


def test_what_a_protocol_needs() -> None:
    nyu, detnet = DATASET_PROTOCOLS["nyu"].protocols[0], DATASET_PROTOCOLS["dexycb"].protocol("detnet")
    assert "centres is left out" in nyu.mismatch("test", "a2j_depth", {})
    assert nyu.mismatch("test", "a2j_depth", {"centres": "some.txt"}) == ""
    assert "detnet_filter is None" in detnet.mismatch("s0_test", "detnet", {})
    assert detnet.mismatch("s1_test", "detnet", {"detnet_filter": True}) == ""
    toolkit = DATASET_PROTOCOLS["dexycb"].protocol("toolkit")
    assert "nothing of the wrist's depth" in toolkit.mismatch("s0_test", "a2j", {})


@pytest.mark.parametrize(
    ("figure", "value", "expected"),
    [
        (Figure("a", "A"), 3, 3.0),
        (Figure("a", "A", "%"), 0.5, 50.0),
        (Figure("a", "A", "share"), 0.5, 0.5),
        (Figure("a", "A", at=1), [1.0, 2.0], 2.0),
        (Figure("a", "A", at=2), [1.0, 2.0], None),
        (Figure("a", "A", at=0), 3.0, None),
        (Figure("a", "A"), [1.0], None),
        (Figure("a", "A"), float("nan"), None),
        (Figure("a", "A"), 10**400, None),
        (Figure("a", "A"), True, None),
        (Figure("a", "A"), "3", None),
    ],
)
def test_values_of_figures(figure: Figure, value: object, expected: float | None) -> None:
    assert figure.value({"a": value}) == expected
    assert figure.value({}) is None


def test_the_first_figure_is_quoted_unless_another_is_named() -> None:
    two = (Figure("a", "A"), Figure("b", "B"))
    assert Protocol("p", "", "", two, ("test",)).quoted.key == "a"
    assert Protocol("p", "", "", two, ("test",), headline="b").quoted.key == "b"
    assert SUCCESS in score_depth(DEPTH_BENCHMARKS["nyu"], np.ones((1, 14, 3)), np.ones((1, 14, 3)))
