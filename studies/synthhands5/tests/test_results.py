"""Errors of runs, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dfmamba.metrics import PROTOCOLS
from studies.synthhands5.compare import STEPS
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.results import (
    HIDDEN,
    SCHEMA,
    THRESHOLDS_MM,
    Result,
    constant_pose,
    measure,
    read_results,
    versions,
    write_result,
)

Made = Callable[..., Pictures]


@pytest.fixture(scope="module")
def made(blank) -> Made:
    """Hands of random points; the first picture has two, the second a right, the third a left hand."""

    def make(hidden: int = 0) -> Pictures:
        pictures = blank(3)
        generator = torch.Generator().manual_seed(0)
        for i, hand in ((0, 0), (0, 1), (1, 0), (2, 1)):
            joints = torch.randn(21, 3, generator=generator) * 40 + torch.tensor([0.0, 0.0, 500.0])
            pictures.joints_mm[i, hand] = joints
            pictures.valid[i, hand] = True
            pictures.visible[i, hand] = torch.arange(21) >= hidden
        return pictures

    return make


def off_by(pictures: Pictures, mm: float) -> torch.Tensor:
    """The truth with all joints but the wrists moved sideways."""
    joints = pictures.joints_mm.clone()
    joints[:, :, 1:, 0] += mm
    return joints * pictures.valid[..., None]


def a_result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "setting": "two", "entry": "tiny", "seed": 0, "lr": 0.002, "steps": 10, "batch_size": 4,
        "figures": {"mpjpe_mm": 12.5}, "success": [0.0, 1.0], "by_hidden": [1.0, None],
        "hands_by_hidden": [3, 0], "picture_mm": [1.5, 2.5], "parameters": 10, "macs": 20, "seconds": 1.5,
        "split": "test", "backbone": "dfmamba_test", "backbone_args": {"dims": [4, 8]}, "machine": "any",
        "versions": versions(),
    }  # fmt: skip
    return Result(**{**values, **changes})


def test_the_truth_has_no_error(made: Made) -> None:
    pictures = made()
    found = measure(pictures.joints_mm, pictures)
    assert found["figures"]["mpjpe_mm"] == found["figures"]["pa_mpjpe_mm"] == 0
    assert found["figures"]["samples"] == 3
    assert set(found["figures"]) <= set(PROTOCOLS)
    assert found["success"] == (1.0,) * len(THRESHOLDS_MM)
    assert found["picture_mm"] == (0, 0, 0)


def test_known_errors(made: Made) -> None:
    pictures = made()
    found = measure(off_by(pictures, 10.0), pictures)
    assert found["figures"]["mpjpe_mm"] == pytest.approx(10, abs=1e-3)
    assert found["figures"]["epe_mm"] == pytest.approx(10 * 20 / 21, abs=1e-3)
    assert found["success"] == tuple(float(limit >= 10) for limit in THRESHOLDS_MM)
    assert found["picture_mm"] == (10, 10, 10)
    assert found["by_hidden"] == (10, None, None, None, None)
    assert found["hands_by_hidden"] == (4, 0, 0, 0, 0)


def test_depth_of_the_whole_hand_and_rotations(made: Made) -> None:
    pictures = made()
    moved = pictures.joints_mm + torch.tensor([3.0, 4.0, 90.0])
    assert measure(moved, pictures)["figures"]["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    wrist = pictures.joints_mm[:, :, :1]
    turned = wrist + 0.5 * (pictures.joints_mm - wrist)[..., [1, 2, 0]]
    found = measure(turned, pictures)["figures"]
    assert found["pa_mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    assert found["mpjpe_mm"] > 20


def test_a_picture_with_two_hands_is_the_mean_over_their_joints(made: Made) -> None:
    pictures = made()
    joints = pictures.joints_mm.clone()
    joints[0, 0, 1:, 1] += 8.0
    found = measure(joints, pictures)
    assert found["picture_mm"] == (4, 0, 0)
    assert found["figures"]["mpjpe_mm"] == pytest.approx(2, abs=1e-3)
    assert found["success"][THRESHOLDS_MM.index(4)] == 0.75


def test_absent_hands_and_what_is_predicted_for_them_do_not_count(made: Made) -> None:
    pictures = made()
    wild = torch.where(pictures.valid[..., None], pictures.joints_mm, 1e4)
    assert measure(wild, pictures) == measure(pictures.joints_mm, pictures)


def test_hidden_joints_are_told_apart(made: Made) -> None:
    pictures = made(7)
    joints = pictures.joints_mm.clone()
    joints[:, :, 1:7, 2] += 6.0
    found = measure(joints, pictures)["figures"]
    assert found["mpjpe_occluded_mm"] == pytest.approx(6, abs=1e-3)
    assert found["mpjpe_visible_mm"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("hidden", "level"), [(0, 0), (4, 0), (5, 1), (8, 1), (9, 2), (12, 2), (13, 3), (16, 3), (17, 4), (21, 4)]
)
def test_levels_of_occlusion(made: Made, hidden: int, level: int) -> None:
    pictures = made(hidden)
    found = measure(off_by(pictures, 5.0), pictures)
    assert HIDDEN[level] <= hidden / 21 <= HIDDEN[level + 1]
    assert found["hands_by_hidden"] == tuple(4 * (i == level) for i in range(5))
    assert found["by_hidden"] == tuple(5.0 if i == level else None for i in range(5))


def test_every_hand_of_the_benchmark_has_a_level(load) -> None:
    for setting in ("two", "ego", "object"):
        pictures = load(setting)
        found = measure(off_by(pictures, 5.0), pictures)
        assert sum(found["hands_by_hidden"]) == int(pictures.valid.any(-1).sum())


def test_constant_pose_is_the_mean_of_the_training_hands(made: Made) -> None:
    train, test = made(), made()
    test.joints_mm[:] = torch.where(test.valid[..., None], test.joints_mm * 0.5 + 300, 0.0)
    found = constant_pose(train, test)
    relative = train.joints_mm - train.joints_mm[:, :, :1]
    right = (relative[0, 0] + relative[1, 0]) / 2
    torch.testing.assert_close(found[1, 0], test.joints_mm[1, 0, :1] + right)
    torch.testing.assert_close(
        found[0, 0] - found[0, 0, :1], found[1, 0] - found[1, 0, :1], atol=1e-3, rtol=0
    )
    assert torch.equal(found[:, :, 0], test.joints_mm[:, :, 0])
    assert not found[~test.valid].any()


def test_files_hold_what_was_written(tmp_path: Path, made: Made) -> None:
    pictures = made(5)
    results = [
        replace(a_result(entry=entry, seed=seed), **measure(off_by(pictures, 5.0), pictures))
        for entry, seed in (("vim", 0), ("dfmamba", 11), ("dfmamba", 2))
    ]
    paths = [write_result(tmp_path, result) for result in results]
    assert paths[1] == tmp_path / "two" / "10-steps" / "dfmamba-s11.json"
    assert json.loads(paths[0].read_text())["schema"] == SCHEMA
    assert read_results(tmp_path) == [results[2], results[1], results[0]]
    usual = replace(results[0], steps=STEPS)
    assert write_result(tmp_path, usual) == tmp_path / "two" / "vim-s0.json"
    assert read_results(tmp_path) == [results[2], results[1], results[0], usual]


def test_trials_lie_apart(tmp_path: Path) -> None:
    trials = [a_result(split="val", lr=lr, seed=100) for lr in (0.002, 0.004)]
    paths = {write_result(tmp_path, trial) for trial in trials}
    assert {path.parent for path in paths} == {tmp_path / "two" / "tuning"}
    assert len(paths) == 2
    assert read_results(tmp_path) == []
    assert sorted(read_results(tmp_path, "val"), key=lambda r: r.lr) == trials


def test_no_folder_holds_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path / "nothing") == []


CONTENT = json.dumps(a_result().to_dict())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": "dfmamba.other/1"}, "expected the schema"),
        ({"schema": None}, "expected the schema"),
        ({"colour": "red"}, "unknown result setting 'colour'"),
        ({"seed": ...}, "'seed' is missing"),
        ({"seed": None}, "seed"),
        ({"figures": 3}, "figures"),
        ({"picture_mm": "abc"}, "picture_mm"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    values = {**json.loads(CONTENT), **change}
    path = tmp_path / "two" / "tiny-s0.json"
    path.parent.mkdir()
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    with pytest.raises(ValueError, match=text) as caught:
        read_results(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.binary(max_size=40), st.integers(0, len(CONTENT) - 1).map(lambda n: CONTENT[:n].encode()))
)
@example(b"[1]")
@example(b"\xff\xfe{}")
@example(b"[" * 100_000 + b"]" * 100_000)
@example(json.dumps({**json.loads(CONTENT), "seed": "x"}).encode())
@example(json.dumps({**json.loads(CONTENT), "setting": None}).encode())
@example(json.dumps({**json.loads(CONTENT), "steps": []}).encode())
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tiny-s0.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny-s0\.json: no result of the benchmark"):
        read_results(tmp_path)
