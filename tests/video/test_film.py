"""What is written of a film: lines, and the film with joints."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dfmamba.hands.camera import Camera
from dfmamba.predict import Prediction
from dfmamba.predict.track import track_film
from dfmamba.video import OverlayWriter, SmoothConfig, TrackConfig, read_film, read_frames
from dfmamba.video.encode import draw_tracked
from dfmamba.video.film import FilmHeader, as_prediction, predict_film
from dfmamba.video.frames import FrameReader

HEADER = FilmHeader(
    model="nano",
    detector="none",
    size=(160, 120),
    fps=29.97,
    smoothing=SmoothConfig(),
    mirrored=True,
    camera=Camera(200.0, 200.0, 80.0, 60.0),
    source="a/b.mp4",
)


class Numbered(FrameReader):
    """Scripted frames as a film."""

    def __init__(self, frames) -> None:
        self.frames, self.fps, self.size, self.total = frames, Fraction(10), (160, 120), len(frames)

    def __iter__(self):
        yield from self.frames


@pytest.fixture
def written(stage, actor, numbered, tmp_path: Path):
    """Report and files of a film of 12 frames with a hand in all but the seventh."""
    film = stage(actor(lambda index: (50 + index, 80), hidden=frozenset({6})))
    lines, drawn = tmp_path / "a.jsonl", tmp_path / "a.mp4"
    report = predict_film(film, Numbered(numbered(12)), HEADER, TrackConfig(), lines, drawn)
    return report, lines, drawn


def test_lines_come_back(written) -> None:
    report, lines, _ = written
    assert (report.frames, report.hands, report.tracks, report.broken) == (12, 11, 1, 0)
    took = report.watch.seconds
    assert {stage for stage, seconds in took.items() if seconds > 0} == set(took) - {"fit"}
    first = json.loads(lines.read_text().splitlines()[0])
    assert first["schema"] == "dfmamba.film/1"
    assert {"model", "detector", "size", "fps", "smoothing", "joint_names", "mirrored", "camera"} < set(first)
    assert first["smoothing"] == {"min_cutoff_hz": 1.5, "beta": 4.0, "speed_cutoff_hz": 1.0}
    header, frames = read_film(lines)
    assert header == HEADER
    found = list(frames)
    assert [frame.index for frame in found] == list(range(12))
    assert [frame.time_s for frame in found] == [index / 10 for index in range(12)]
    assert [[hand.track for hand in frame.hands] for frame in found] == [[0]] * 6 + [[]] + [[0]] * 5
    prediction = as_prediction(header, found[3])
    assert Prediction.from_json(prediction.to_json()).to_dict() == prediction.to_dict()


def test_a_header_without_the_optional(tmp_path: Path) -> None:
    bare = dataclasses.replace(HEADER, smoothing=None, camera=None, fps=25.0)
    (tmp_path / "a.jsonl").write_text(json.dumps(bare.to_dict()) + "\n")
    assert read_film(tmp_path / "a.jsonl")[0] == bare


def test_a_line_cut_short_is_left_out(written) -> None:
    _, lines, _ = written
    content = lines.read_bytes()
    lines.write_bytes(content[:-20])
    assert len(list(read_film(lines)[1])) == 11
    lines.write_bytes(content.replace(b'"index":4', b'"index":"4"'))
    with pytest.raises(ValueError, match=r"a\.jsonl: line 6: index"):
        list(read_film(lines)[1])


@pytest.mark.parametrize(
    "change", [{"schema": "dfmamba.film/9"}, {"more": 1}, {"size": 3}, {"joint_names": []}, {"camera": [1]}]
)
def test_other_headers_are_refused(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(HEADER.to_dict() | change) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: line 1"):
        read_film(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: line 1"):
        read_film(path)


def test_the_drawn_film(written) -> None:
    _, _, drawn = written
    with read_frames(drawn) as film:
        frames = list(film)
        assert (film.fps, film.size) == (10, (160, 120))
    assert len(frames) == 12
    coloured = [int((np.ptp(frame.picture.astype(int), axis=2) > 60).sum()) for frame in frames]
    assert coloured[6] == 0
    assert min(coloured[:6] + coloured[7:]) > 200


def test_it_says_that_it_is_smoothed(stage, actor, numbered) -> None:
    (tracked,) = track_film(stage(actor(lambda index: (60, 60))), numbered(1))
    plain, smoothed = draw_tracked(tracked), draw_tracked(tracked, smoothed=True)
    where = np.argwhere((plain != smoothed).any(axis=2))
    assert len(where) > 100
    assert where.min(axis=0).tolist() > [95, 80]


def test_it_stops_when_told(stage, actor, numbered, tmp_path: Path) -> None:
    lines, drawn = tmp_path / "a.jsonl", tmp_path / "a.mp4"
    film = stage(actor(lambda index: (60, 80)))
    report = predict_film(
        film, Numbered(numbered(50)), HEADER, TrackConfig(), lines, drawn, stop=lambda time_s: time_s >= 0.5
    )
    assert report.frames == 6
    assert len(list(read_film(lines)[1])) == 6
    with read_frames(drawn) as written:
        assert len(list(written)) == 6


def test_a_program_that_dies_leaves_what_it_has(stage, actor, numbered, tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"

    def die(report) -> None:
        if report.frames == 8:
            raise RuntimeError("power cut")

    film = stage(actor(lambda index: (60, 80)))
    with pytest.raises(RuntimeError, match="power cut"):
        predict_film(film, Numbered(numbered(50)), HEADER, TrackConfig(), lines, None, progress=die)
    assert len(list(read_film(lines)[1])) == 8


@pytest.mark.parametrize("size", [(64, 48), (63, 47)])
@pytest.mark.parametrize("fps", [25, 24000 / 1001, 12.5])
def test_rate_and_size_are_kept(tmp_path: Path, size: tuple[int, int], fps: float) -> None:
    path = tmp_path / "a.mp4"
    with OverlayWriter(path, fps, size) as film:
        for level in range(10):
            film.write(np.full((size[1], size[0], 3), 20 * level, np.uint8))
        with pytest.raises(ValueError, match="expected frames of"):
            film.write(np.zeros((8, 8, 3), np.uint8))
    with av.open(str(path)) as written:
        stream = written.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-4)
        assert (stream.width, stream.height) == (64, 48)
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in written.decode(stream)]
    np.testing.assert_allclose(levels, 20.0 * np.arange(10), atol=6)


def test_uneven_times_are_kept(tmp_path: Path) -> None:
    path, times = tmp_path / "a.mkv", [0.0, 0.04, 0.2, 0.21, 1.0]
    with OverlayWriter(path, 25, (64, 48)) as film:
        for time_s in times:
            film.write(np.zeros((48, 64, 3), np.uint8), time_s)
    with read_frames(path) as written:
        np.testing.assert_allclose([frame.time_s for frame in written], times, atol=2e-3)


def test_a_killed_writer_leaves_a_film(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    film = OverlayWriter(path, 25, (64, 48))
    for level in range(600):
        film.write(np.full((48, 64, 3), level % 200, np.uint8))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(path.read_bytes())
    film.close()
    with read_frames(copy) as written:
        assert len(list(written)) > 200


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot be written"):
        OverlayWriter(tmp_path / "missing" / "a.mp4", 25, (64, 48))
