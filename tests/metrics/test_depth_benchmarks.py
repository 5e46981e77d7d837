"""Scores of the depth benchmarks: published figures and curves, and files that are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmamba.cli.main import main
from dfmamba.io.joint_files import read_joint_file
from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS, THRESHOLDS_MM, score_depth

METHODS = {"DeepPrior++": 12.238, "Pose-REN": 11.811, "V2V-PoseNet": 8.419}
CURVES = {
    "fraction_of_frames_with_max_error_le_0_to_84mm": "fraction_of_frames_with_max_error_le_threshold",
    "fraction_of_frames_with_mean_error_le_0_to_84mm": "fraction_of_frames_with_mean_error_le_threshold",
    "fraction_of_joints_with_error_le_0_to_84mm": "fraction_of_joints_with_error_le_threshold",
}


@pytest.mark.parametrize("method", list(METHODS))
def test_published_figures(method: str, samples_dir: Path, tmp_path: Path, capsys) -> None:
    folder = samples_dir / "nyu"
    expected = json.loads((folder / "expected_metrics.json").read_text())["methods"][method]
    words = ["--predictions", str(folder / expected["file"])]
    words += ["--groundtruth", str(folder / "nyu_test_groundtruth_label.txt")]
    assert main(["eval", "nyu", *words, "--json", str(tmp_path / "score.json")]) == 0
    assert f"{METHODS[method]:.3f}" in capsys.readouterr().out
    found = json.loads((tmp_path / "score.json").read_text())
    assert found["mean_error_mm"] == pytest.approx(METHODS[method], abs=1e-3)
    for key in ("median_error_mm", "mean_of_frame_max_error_mm", "frames"):
        assert found[key] == pytest.approx(expected[key], abs=1e-4)
    per_joint = list(expected["per_joint_mean_error_mm"].values())
    assert list(found["per_joint_mean_error_mm"].values()) == pytest.approx(per_joint, abs=1e-4)
    for theirs, ours in CURVES.items():
        assert found[ours] == pytest.approx(expected[theirs], abs=1e-6)


@pytest.mark.parametrize("name", list(DEPTH_BENCHMARKS))
def test_a_known_displacement(name: str) -> None:
    benchmark = DEPTH_BENCHMARKS[name]
    truth = np.full((3, len(benchmark.joints), 3), 500.0)
    truth[..., :2] = (benchmark.u0, benchmark.v0)
    moved = truth.copy()
    moved[1, 2, 0] += 10 * benchmark.fx / 500  # 10 mm to the right
    moved[2, :, 2] += 4  # 4 mm deeper on the axis
    figures = score_depth(benchmark, moved, truth)
    joints = len(benchmark.joints)
    assert figures["mean_error_mm"] == pytest.approx((10 + 4 * joints) / (3 * joints))
    assert figures["per_joint_mean_error_mm"][benchmark.joints[2]] == pytest.approx(14 / 3)
    assert figures["mean_of_frame_max_error_mm"] == pytest.approx(14 / 3)
    curve = figures["fraction_of_frames_with_max_error_le_threshold"]
    assert [curve[t] for t in (0, 3, 4, 9, 11)] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])


@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([" ", ",", "\t", ", "]), st.booleans())
def test_files_are_read_as_they_were_written(
    tmp_path_factory, frames: int, joints: int, between: str, windows: bool
) -> None:
    values = np.random.default_rng(frames * 7 + joints).normal(size=(frames, joints, 3)) * 100
    lines = [between.join(repr(float(v)) for v in row.ravel()) for row in values]
    path = tmp_path_factory.mktemp("joints") / "file.txt"
    path.write_bytes(("\r\n" if windows else "\n").join([*lines, "", "  "]).encode())
    assert np.array_equal(read_joint_file(path, joints), values)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no frames"),
        (b"1 2 3\n1 2\n", "line 2: 2 numbers, expected 3"),
        (b"1 2 three\n", "line 1: 'three' is no number"),
        (b"1 2 nan\n", "line 1: a value is not finite"),
        (b"\xff\xfe\x00", "not a text file"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_joint_file(path, 1)
    with pytest.raises(OSError, match="cannot be read"):
        read_joint_file(tmp_path / "absent.txt", 1)


def test_command_explains_what_is_missing(tmp_path: Path, capsys) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    line = " ".join(["1"] * 48) + "\n"
    one.write_text(line)
    two.write_text(line * 2)
    assert main(["eval", "icvl", "--predictions", str(one)]) == 2
    assert "'icvl' needs --groundtruth FILE" in capsys.readouterr().err
    assert main(["eval", "icvl", "--predictions", str(one), "--groundtruth", str(two)]) == 2
    assert "one.txt has 1 frames" in capsys.readouterr().err
    assert main(["eval", "nyu", "--predictions", str(one), "--groundtruth", str(two)]) == 2
    assert "line 1: 48 numbers, expected 42" in capsys.readouterr().err
    assert main(["eval", "icvl", "--predictions", str(two), "--groundtruth", str(two)]) == 0
    assert len(THRESHOLDS_MM) == 85
