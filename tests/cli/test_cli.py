"""The `dfmamba` command: what it writes, what it prints, and how it fails."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dfmamba
from dfmamba.cli import main as cli
from dfmamba.cli.results import output_names
from dfmamba.draw import draw_prediction
from dfmamba.machine import choose_device
from dfmamba.models import MODELS, HandPoseModel, load
from dfmamba.models.native import inference_form
from dfmamba.predict import Prediction


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return self.err.splitlines()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model of the tests, untrained."""
    folder = tmp_path_factory.mktemp("weights") / "test"
    torch.manual_seed(0)
    HandPoseModel(MODELS["test"]).save(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 90)), ("b.jpg", (70, 50))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command in this process."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def predict(command, weights: Path, tmp_path: Path, monkeypatch) -> Callable[..., Outcome]:
    """Runs `dfmamba predict` with the tiny model and small drawings; results go to `tmp_path / "out"`."""
    small = functools.partial(draw_prediction, height=90)
    monkeypatch.setattr("dfmamba.draw.draw_prediction", small)

    def run(*words: object) -> Outcome:
        fixed = ["--out", tmp_path / "out", "--model", weights, "--device", "cpu", "--threshold", "0"]
        fixed += ["--detector", "none"]
        return command("predict", *fixed, *words)

    return run


def count_hands(folder: Path) -> int:
    """Hands in all result files of a folder."""
    return sum(len(Prediction.load_json(path).hands) for path in folder.glob("*.json"))


def test_a_folder_of_pictures(predict, photos: Path, tmp_path: Path) -> None:
    done = predict(photos, "--json", tmp_path / "all.json", "--camera", "100,100,40,30", "--mirrored")
    assert (done.code, done.err) == (0, "")
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["a.json", "a.png", "b.json", "b.png"]
    prediction = Prediction.load_json(out / "a.json")
    assert (prediction.image, prediction.image_size) == (str(photos / "a.png"), (90, 60))
    assert prediction.mirrored
    assert prediction.camera is not None
    assert [hand.side for hand in prediction.hands] == ["right", "left"]
    with Image.open(out / "b.png") as drawing:
        assert min(drawing.size) > 100
    lines = done.out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{photos / 'a.png'}: 2 hands (right 0.")
    assert lines[0].endswith(f"-> {out / 'a.json'}, a.png")
    assert lines[2].startswith(f"2 pictures, {count_hands(out)} hands, 0 failed")

    listing = json.loads((tmp_path / "all.json").read_text())
    assert listing["schema"] == "dfmamba.predictions/1"
    assert [entry["image"] for entry in listing["predictions"]] == [
        str(photos / "a.png"),
        str(photos / "b.jpg"),
    ]
    assert listing["failed"] == []
    assert listing["predictions"][0] == json.loads((out / "a.json").read_text())


def test_a_second_run_over_its_own_results_reads_the_photos_only(predict, photos: Path) -> None:
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    listing = photos / "all.json"
    for _ in range(2):
        done = predict(photos, "--out", photos, "--json", listing)
        assert done.code == 0
        assert done.out.splitlines()[-1].startswith("2 pictures, ")
    assert f"{photos}: left out 2 (a.png.png, b.png): a drawing of this program" in done.err
    left_out = {entry["file"]: entry["reason"] for entry in json.loads(listing.read_text())["left_out"]}
    assert left_out[str(photos / "b.png")] == "a drawing of this program"
    assert left_out[str(photos / "gone.jpg")] == "a link to a file that doesn't exist"


def test_boxes_of_other_pictures_are_an_error(predict, photos: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"elsewhere/a.png": [[1, 2, 40, 50]]}))
    done = predict(photos, "--detector", boxes)
    assert done.code == 2
    assert "names none of 2 pictures" in done.err
    boxes.write_text(json.dumps({"photos\\a.png": [[1, 2, 40, 50]]}))
    done = predict(photos, "--detector", boxes)
    assert done.code == 0
    assert "doesn't name 1 picture" in done.err


def test_no_hands_is_fine(predict, photos: Path) -> None:
    done = predict(photos / "a.png", "--threshold", "1")
    assert done.code == 0
    assert "a.png: 0 hands ->" in done.out


def make_bad_files(folder: Path) -> None:
    Image.effect_noise((64, 64), 90).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:900])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("hello")
    header = b"IHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0"
    size, check = len(header) - 4, zlib.crc32(header)
    (folder / "huge.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + size.to_bytes(4) + header + check.to_bytes(4) + b"\0\0\0\0IDAT5\xaf\x06\x1e"
    )
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    (folder / "none").mkdir()


BAD_FILES = {
    "nothere.jpg": "no such file",
    "none": "no pictures in this folder",
    "none/*.png": "no pictures match",
    "empty.jpg": "empty",
    "cut.jpg": "truncated",
    "huge.png": "too large",
    "moving.gif": "animated picture",
    "text.jpg": "not a picture",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_an_unusable_picture(predict, tmp_path: Path, name: str) -> None:
    make_bad_files(tmp_path)
    done = predict(tmp_path / name)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert done.err.startswith("dfmamba predict: error: ")
    assert name in done.err
    assert BAD_FILES[name] in done.err


def test_several_with_bad_ones(predict, photos: Path, tmp_path: Path) -> None:
    make_bad_files(tmp_path)
    bad = [tmp_path / name for name in BAD_FILES]
    done = predict(*bad[:4], photos, *bad[4:], "--json", tmp_path / "all.json")
    assert done.code == 1
    assert len(done.error_lines) == len(bad)
    assert sorted(os.listdir(tmp_path / "out")) == ["a.json", "a.png", "b.json", "b.png"]
    hands = count_hands(tmp_path / "out")
    assert hands > 1
    assert done.out.splitlines()[-1].startswith(f"2 pictures, {hands} hands, {len(bad)} failed")
    listing = json.loads((tmp_path / "all.json").read_text())
    assert {Path(entry["image"]).name for entry in listing["failed"]} == {path.name for path in bad}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--box", "1,2,3"], "--box: expected four numbers"),
        (["--box", "1,2,3,x"], "--box"),
        (["--box", "10,10,5,40"], "x0 < x1"),
        (["--box", "0,0,inf,9"], "finite"),
        (["--box", "500,500,600,600"], "outside the picture of 90 x 60"),
        (["--box=-50,-50,-9,-9"], "outside the picture of 90 x 60"),
        (["--camera", "500"], "fx,fy,cx,cy"),
        (["--camera", "a,b,c,d"], "fx,fy,cx,cy"),
        (["--camera", "0,500,10,10"], "positive"),
        (["--camera", "nan,500,10,10"], "finite"),
        (["--threshold", "1.5"], "threshold"),
        (["--threshold", "high"], "threshold"),
        (["--device", "quantum"], "quantum"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--model", "nosuchmodel"], "nosuchmodel"),
        (["--model", "."], "--model"),
        (["--colour", "red"], "--colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unusable_arguments(predict, photos: Path, words: list[str], reason: str) -> None:
    done = predict(photos / "a.png", *words)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert reason in done.err


def test_weights_cut_short(predict, weights: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(weights, folder)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        file.write_bytes(whole[:length])
        done = predict(photos, "--model", folder)
        assert done.code == 2
        assert len(done.error_lines) == 1
        assert str(file) in done.err


@pytest.mark.parametrize("change", ["wider", "not json", "unknown key"])
def test_weights_of_another_model(predict, weights: Path, photos: Path, tmp_path: Path, change: str) -> None:
    folder = tmp_path / "other"
    shutil.copytree(weights, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["head"]["dim"] = 24
    if change == "unknown key":
        config["colour"] = "red"
    file.write_text("{" if change == "not json" else json.dumps(config))
    done = predict(photos, "--model", folder)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert str(folder) in done.err


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_a_place_that_cannot_be_written(predict, photos: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    done = predict(photos, option, tmp_path / "file" / "x")
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert option in done.err
    assert str(tmp_path / "file") in done.err


def test_the_list_never_replaces_a_picture(predict, photos: Path) -> None:
    before = (photos / "a.png").read_bytes()
    assert predict(photos, "--json", photos / "a.png").code == 2
    assert predict(photos, "--out", photos).code == 0
    assert (photos / "a.png").read_bytes() == before
    assert sorted(os.listdir(photos)) == ["a.png", "a.png.json", "a.png.png", "b.jpg", "b.json", "b.png"]


@pytest.mark.parametrize(
    ("pictures", "names"),
    [
        (["x/a.jpg", "x/b.jpg"], ["a", "b"]),
        (["x/a.jpg", "x/a.png"], ["a.jpg", "a.png"]),
        (["x/a.jpg", "y/A.JPG"], ["a.jpg", "A.JPG-2"]),
        (["x/a.jpg", "y/a.jpg", "z/a.jpg"], ["a.jpg", "a.jpg-2", "a.jpg-3"]),
        (["x/a.jpg", "x/a.png", "x/a.jpg.gif"], ["a.jpg", "a.png", "a.jpg.gif"]),
        (["out/a.png", "x/b.png"], ["a.png", "b"]),
        (["out/a.png.png", "out/a.png"], ["a.png.png", "a.png-2"]),
    ],
)
def test_names_of_results(pictures: list[str], names: list[str]) -> None:
    assert output_names([Path(picture) for picture in pictures], Path("out")) == names


def test_interrupted(predict, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dfmamba.cli.predict.predict_file", interrupt)
    done = predict(photos)
    assert (done.code, done.err) == (130, "dfmamba predict: interrupted\n")


def test_a_bug_is_one_line_unless_asked_for(predict, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("what\nnow")

    monkeypatch.setattr("dfmamba.cli.predict.predict_file", fail)
    done = predict(photos)
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert "unexpected KeyError" in done.err
    monkeypatch.setenv(cli.SHOW_TRACEBACK, "1")
    with pytest.raises(KeyError):
        predict(photos)


def test_info(command, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfmamba.models.PACKAGED", weights.parent)
    done = command("info", "--json", tmp_path / "info.json")
    assert (done.code, done.err) == (0, "")
    assert f"dfmamba {dfmamba.__version__}, python 3." in done.out
    row = done.out.splitlines()[-1].split("  ")
    assert row[0] == "test"
    assert "64 x 64 RGB" in done.out
    facts = json.loads((tmp_path / "info.json").read_text())
    assert facts["schema"] == "dfmamba.info/1"
    assert facts["operators"][-1] == "torch"
    form = type(inference_form(load(str(weights)), choose_device("auto"))).__name__
    expected = "C" if form == "NativeNetwork" else "PyTorch"
    assert facts["networks"].split()[0] == expected
    assert f"networks run in: {expected}" in done.out
    assert facts["models"][0]["parameters"] > 1000
    assert facts["models"][0]["macs"] > 1000
    (tmp_path / "file").touch()
    assert command("info", "--json", tmp_path / "file" / "x.json").code == 2


def test_overview_and_unknown_verbs(command) -> None:
    assert command("--version").out == f"dfmamba {dfmamba.__version__}\n"
    for word in ("--help", "-h", "help"):
        done = command(word)
        assert done.code == 0
        assert all(verb in done.out for verb in cli.VERBS)
    assert command().code == 2
    done = command("predict")
    assert done.code == 2
    assert len(done.error_lines) == 1
    assert "predict" in done.err


def test_help_is_quick_and_does_not_import_torch() -> None:
    code = (
        "import sys; from dfmamba.cli.main import main; code = main(['predict', '--help']); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    )
    path = os.pathsep.join(filter(None, ["src", os.environ.get("PYTHONPATH")]))
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for option in (
        "PATH",
        "--out",
        "--box",
        "--camera",
        "--mirrored",
        "--device",
        "--model",
        "--threshold",
        "--json",
    ):
        assert option in done.stdout


@pytest.mark.parametrize("name", ["ünïcode ☺.png", "with space.png", "[x].png", "-dash.png", "123"])
def test_odd_file_names(predict, photos: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(photos / "a.png", tmp_path / name)
    done = predict(tmp_path / name)
    assert (done.code, done.err) == (0, "")
    assert Prediction.load_json(tmp_path / "out" / f"{Path(name).stem}.json").image == str(tmp_path / name)


def test_a_file_name_that_is_not_text(predict, photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"odd\xff.png")
    shutil.copy(photos / "a.png", tmp_path / name)
    done = predict(tmp_path / name)
    assert done.code == 0
    assert Prediction.load_json(tmp_path / "out" / f"{Path(name).stem}.json").image == str(tmp_path / name)


def test_a_reader_that_leaves_ends_the_command_quietly(
    predict, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("dfmamba.cli.predict.predict_file", broken)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    done = predict(photos)
    assert (done.code, done.err) == (1, "")
