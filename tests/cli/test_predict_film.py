"""`dfmamba predict` for films, cameras and folders of frames."""

from __future__ import annotations

import functools
import json
import signal
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dfmamba.cli import main as cli
from dfmamba.cli.predict_film import Progress
from dfmamba.draw import draw_prediction
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.predict import Predictor
from dfmamba.video import decode, read_film, read_frames
from dfmamba.video.film import FilmReport


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny model of the tests, untrained."""
    folder = tmp_path_factory.mktemp("weights") / "test"
    torch.manual_seed(0)
    HandPoseModel(MODELS["test"]).save(folder)
    return folder


def write_film(path: Path, count: int = 6) -> Path:
    """A film of noise, 5 frames a second."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as film:
        stream = film.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(count):
            noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        film.mux(stream.encode(None))
    return path


@pytest.fixture
def predict(weights: Path, tmp_path: Path, capsys, monkeypatch) -> Callable[..., SimpleNamespace]:
    """Runs the command with the tiny model and small drawings; results go to `tmp_path / "out"`."""
    monkeypatch.setattr("dfmamba.draw.draw_prediction", functools.partial(draw_prediction, height=90))

    def run(*words: object) -> SimpleNamespace:
        capsys.readouterr()
        fixed = ["--out", tmp_path / "out", "--model", weights, "--device", "cpu", "--threshold", "0"]
        code = cli.main(["predict", *map(str, [*fixed, "--detector", "none", "--single_pass", *words])])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def test_a_film(predict, tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4")
    done = predict(film, "--camera", "60,60,32,24", "--mirrored", "--smooth", "--detect_every", 3)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{film}: 6 frames, ")
    assert done.out.rstrip().endswith(f"-> {tmp_path / 'out' / 'a.jsonl'}, a.mp4")
    assert "decode" in done.out
    assert "pose" in done.out
    header, frames = read_film(tmp_path / "out" / "a.jsonl")
    assert (header.model, header.detector, header.size, header.fps) == ("test", "none", (64, 48), 5.0)
    assert (header.mirrored, header.source) == (True, str(film))
    assert header.smoothing is not None
    assert header.camera is not None
    assert [frame.index for frame in frames] == list(range(6))
    with read_frames(tmp_path / "out" / "a.mp4") as drawn:
        assert (drawn.size, drawn.fps, len(list(drawn))) == ((64, 48), 5, 6)


def test_lines_only_and_the_first_seconds(predict, tmp_path: Path) -> None:
    done = predict(write_film(tmp_path / "a.mp4", 12), "--no_film", "--seconds", 1, "--box", "5,5,60,40")
    assert done.code == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jsonl"]
    header, frames = read_film(tmp_path / "out" / "a.jsonl")
    assert len(list(frames)) == 5
    assert header.smoothing is None


def test_a_film_beside_a_picture(predict, tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 3)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    done = predict(tmp_path / "a.png", film, "--json", tmp_path / "all.json")
    assert done.code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.json", "a.png", "a.jsonl", "a.mp4"}
    assert len(json.loads((tmp_path / "all.json").read_text())["predictions"]) == 1


def test_a_source_is_never_replaced(predict, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    film = write_film(tmp_path / "out" / "a.mp4", 3)
    before = film.read_bytes()
    assert predict(film).code == 0
    assert film.read_bytes() == before
    assert (tmp_path / "out" / "a.mp4.jsonl").exists()
    assert (tmp_path / "out" / "a.mp4.mp4").exists()


def test_a_folder_of_frames(predict, tmp_path: Path) -> None:
    folder = tmp_path / "frames.v2"
    folder.mkdir()
    for index in (1, 2, 10):
        Image.new("RGB", (40, 30), (20 * index, 50, 90)).save(folder / f"{index}.png")
    assert predict(folder).out.count("-> ") == 3  # single pictures
    done = predict(folder, "--film", "--fps", 10)
    assert done.code == 0
    _, frames = read_film(tmp_path / "out" / "frames.jsonl")
    assert [frame.time_s for frame in frames] == [0.0, 0.1, 0.2]


def test_a_camera_for_some_seconds(predict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(decode, "camera_address", lambda number: ("testsrc=size=64x48:rate=5", "lavfi"))
    assert predict("camera:0", "--seconds", 2).code == 0
    assert len(list(read_film(tmp_path / "out" / "camera-0.jsonl")[1])) == 10
    with read_frames(tmp_path / "out" / "camera-0.mp4") as drawn:
        assert len(list(drawn)) == 10


@pytest.mark.parametrize(("source", "code"), [("camera:0", 0), ("film", 130)])
def test_interrupted(predict, tmp_path: Path, monkeypatch, source: str, code: int) -> None:
    monkeypatch.setattr(decode, "camera_address", lambda number: ("testsrc=size=64x48:rate=5", "lavfi"))
    source = str(write_film(tmp_path / "camera-0.mp4", 20)) if source == "film" else source
    calls: list[int] = []

    def interrupting(look):
        def interrupted(self, *args, **more):
            calls.append(1)
            if len(calls) == 4:
                signal.raise_signal(signal.SIGINT)
            return look(self, *args, **more)

        return interrupted

    for name in ("predict_at", "predict_near"):  # once a frame, one or the other
        monkeypatch.setattr(Predictor, name, interrupting(getattr(Predictor, name)))
    before = signal.getsignal(signal.SIGINT)
    done = predict(source)
    assert done.code == code
    assert signal.getsignal(signal.SIGINT) is before
    kept = list(read_film(tmp_path / "out" / "camera-0.jsonl")[1])
    # While there is no hand, the network is asked at every second frame: the fourth time at the seventh.
    assert 1 <= len(kept) <= 7
    with read_frames(tmp_path / "out" / "camera-0.mp4") as drawn:
        assert len(list(drawn)) == len(kept)


def test_a_film_cut_off(predict, tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 20)
    film.write_bytes(film.read_bytes()[:-20000])
    done = predict(film)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith(f"dfmamba predict: error: {film}: it ends early, after ")
    assert 2 <= len(list(read_film(tmp_path / "out" / "a.jsonl")[1])) < 20


def test_unusable_films(predict, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("hello")
    done = predict(tmp_path / "bad.mp4")
    assert done.code == 2
    assert done.err.startswith(f"dfmamba predict: error: {tmp_path / 'bad.mp4'}: not a film")
    assert not list((tmp_path / "out").iterdir())
    done = predict(tmp_path / "bad.mp4", write_film(tmp_path / "good.mp4", 3))
    assert (done.code, len(done.err.splitlines())) == (1, 1)
    done = predict("camera:99")
    assert done.code == 2
    assert "camera:99" in done.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["photo.png", "--smooth"], "--smooth: works with films"),
        (["photo.png", "--film"], "--film: works with films"),
        (["photo.png", "film.mp4", "--film"], "--film: expected folders of frames and films"),
        (["film.mp4", "--json", "all.json"], "--json: works with pictures"),
        (["film.mp4", "--engine", "local", "--smooth"], "--smooth: works without --engine"),
        (["film.mp4", "--detect_every", "0"], "detect_every: expected at least 1"),
        (["frames", "--film", "--fps", "-3"], "fps: expected"),
        (["film.mp4", "--seconds", "-5"], "--seconds: expected a number above 0, got -5"),
        (["film.mp4", "--seconds", "0"], "--seconds: expected"),
        (["film.mp4", "--seconds", "nan"], '"seconds": Expected'),
        (["frames", "--film", "--fps", "inf"], '"fps": Expected'),
        (["rtsp://10.0.0.1/live"], "rtsp://10.0.0.1/live: addresses aren't opened; record it first"),
        (["raw.h264"], "raw.h264: a raw stream of coded pictures has no container"),
        (["camera:x"], "expected camera:N"),
        (["photo.png", "--detector", "nowhere.json"], "--detector"),
    ],
)
def test_unusable_arguments(predict, tmp_path: Path, monkeypatch, words: list[str], reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("photo.png")
    write_film(Path("film.mp4"), 3)
    Path("raw.h264").write_bytes(b"\0\0\0\x01\x67" + bytes(100))
    Path("frames").mkdir()
    Image.new("RGB", (40, 30)).save("frames/1.png")
    done = predict(*words)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert reason in done.err


def test_without_pyav(predict, tmp_path: Path, monkeypatch) -> None:
    film = write_film(tmp_path / "a.mp4", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    done = predict(film)
    assert done.code == 2
    assert "pip install 'dfmamba[video]'" in done.err


def test_progress(capsys, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dfmamba.cli.predict_film.time", SimpleNamespace(monotonic=lambda: now[0]))
    reader = SimpleNamespace(total=1000, fps=Fraction(25))
    progress = Progress("a.mp4", reader, None)  # type: ignore[arg-type]
    report = FilmReport(frames=100, broken=2, seconds=10.0)
    progress(report)
    assert capsys.readouterr().err == ""
    now[0] = 31.0
    progress(report)
    progress(report)
    assert capsys.readouterr().err == "a.mp4: 102/1000 frames, 10.0/s, 0:01:29 left, 2 broken\n"
    endless = SimpleNamespace(total=None, fps=Fraction(25))
    assert Progress("camera:0", endless, None).line(report) == "camera:0: 102 frames, 10.0/s, 2 broken"  # type: ignore[arg-type]
    assert "102/150 frames" in Progress("camera:0", endless, 6.0).line(report)  # type: ignore[arg-type]
