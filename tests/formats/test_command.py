"""`dfmamba export-predictions`, and the names of its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfmamba.cli.main import main
from dfmamba.formats import FORMATS, Record, read_records
from dfmamba.formats.openpose import to_openpose
from dfmamba.formats.writing import OutputFiles
from dfmamba.predict import Prediction


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_from_the_command_line(
    two_hands: Prediction, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    two_hands.save_json(tmp_path / "in" / "a.json")
    out = tmp_path / "out"
    assert main(["export-predictions", str(tmp_path / "in"), "--format", format, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    files = 2 if format == "bvh" else 1
    hands = 1 if format == "freihand" else 2
    assert printed.out == f"1 pictures, {hands} hands, {files} files; {format} in {out}\n"
    written = list(out.iterdir()) if out.is_dir() else [out]
    assert len(written) == files
    assert all(path.stat().st_size > 500 for path in written)
    # What is lost is said, but there is nothing that OpenPose loses of a pair in the camera.
    assert bool(printed.err) == (format != "openpose")


def test_mirrored_names(two_hands: Prediction, tmp_path: Path) -> None:
    two_hands.save_json(tmp_path / "a.json")
    words = ["export-predictions", str(tmp_path / "a.json"), "--mirrored_names"]
    assert main([*words, "--format", "mediapipe", "--out", str(tmp_path / "m.jsonl")]) == 0
    first = json.loads((tmp_path / "m.jsonl").read_text())["handedness"][0][0]
    assert first["category_name"] == "Left"
    assert main([*words, "--format", "csv", "--out", str(tmp_path / "m.csv")]) == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["absent.json", "--format", "csv", "--out", "t.csv"], "no such file"),
        (["a.json", "--format", "usd", "--out", "t.usd"], "--format: expected one of openpose"),
        (["a.json", "--format", "csv", "--out", "a.json"], "is one of the prediction files"),
        (["broken.json", "--format", "csv", "--out", "t.csv"], "broken.json: not a usable prediction file"),
        (["a.json", "--out", "t.csv"], "format"),
        (["empty.json", "--format", "glb", "--out", "t"], "no prediction to write"),
    ],
)
def test_failures_are_one_line(
    two_hands: Prediction,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    two_hands.save_json("a.json")
    Path("broken.json").write_text('{"schema": "dfmamba.prediction/1"}')
    Path("empty.json").write_text('{"schema": "dfmamba.predictions/1", "predictions": []}')
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["export-predictions", *words]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert read_records(["a.json"]).__next__().prediction.hands


@given(
    names=st.lists(
        st.text() | st.sampled_from(["", "..", "a/b", "A", "a", "a-2", "\0", "x" * 500]), max_size=6
    )
)
def test_file_names_are_safe_and_unique(names: list[str]) -> None:
    files = OutputFiles("out", ".glb")
    paths = [files.next(name) for name in names]
    assert len({str(path).casefold() for path in paths}) == len(paths)
    for path in paths:
        assert path.parent == Path("out")
        assert not path.name.startswith(".")
        assert "\0" not in path.name
        assert len(path.name) < 120


def test_names_of_records(prediction: Callable) -> None:
    assert Record(prediction()).name == "a"
    assert Record(prediction(image=None)).name == "picture"
    assert Record(prediction(image=None), "x/film.jsonl", 3).name == "film_000000000003"
    assert to_openpose(prediction()) == {"version": 1.3, "people": []}
