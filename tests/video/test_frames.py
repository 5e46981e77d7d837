"""Frames of films, folders and cameras: whole, turned, cut off, damaged."""

from __future__ import annotations

import gc
import weakref
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dfmamba.video import decode, read_frames
from dfmamba.video.frames import Frame, FrameReader, is_film, natural


def test_a_film(make_film, coloured) -> None:
    with read_frames(make_film()) as film:
        assert (film.size, float(film.fps), film.total) == ((96, 64), 10.0, 20)
        frames = list(film)
    assert [frame.index for frame in frames] == list(range(20))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(20) / 10, atol=1e-6)
    assert (film.broken, film.fault) == (0, None)
    for frame in frames:
        assert frame.picture.dtype == np.uint8
        assert np.abs(frame.picture.astype(int) - coloured(frame.index)).mean() < 12


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.mov", "mpeg4"),
    ],
)
def test_containers(make_film, name: str, codec: str) -> None:
    path = make_film(name, codec=codec)
    assert is_film(path)
    with read_frames(path) as film:
        assert len(list(film)) == 20
    assert (film.broken, film.fault) == (0, None)
    bare = path.rename(path.with_name("a.bin"))
    assert is_film(bare) or name == "a.ts"  # which has no mark of its own
    with read_frames(bare) as film:
        assert len(list(film)) == 20


def test_frames_that_come_irregularly(make_film) -> None:
    times = [0.5, 0.6, 0.65, 0.9, 1.5, 1.6, 2.4]
    with read_frames(make_film("a.mkv", len(times), times=times)) as film:
        found = [frame.time_s for frame in film]
    np.testing.assert_allclose(found, np.array(times) - times[0], atol=2e-3)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_the_turn_of_phones(make_film, coloured, quarters: int, mirrored: bool) -> None:
    path = make_film(count=3, turn={"degrees": 90 * quarters, "hflip": mirrored})
    expected = np.rot90(coloured(0), quarters)
    expected = expected[:, ::-1] if mirrored else expected
    with read_frames(path) as film:
        first = next(iter(film)).picture
    assert film.size == first.shape[1::-1]
    assert first.shape == expected.shape
    assert np.abs(first.astype(int) - expected).mean() < 12


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_film_cut_off(make_film, name: str) -> None:
    path = make_film(name, 40, codec="mpeg4" if name == "a.avi" else "libx264")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with read_frames(path) as film:
        frames = list(film)
    assert 2 <= len(frames) < 30
    assert film.fault is not None
    assert film.fault.startswith(f"{path}: ")
    assert "early" in film.fault or "stopped" in film.fault


def test_broken_frames_are_left_out_and_counted(make_film) -> None:
    path = make_film(count=40)
    with av.open(str(path)) as film:
        places = [(packet.pos, packet.size) for packet in film.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for number in (12, 13, 25):
        position, size = places[number]
        content[position + 5 : position + size] = bytes(size - 5)
    path.write_bytes(content)
    with read_frames(path) as film:
        frames = list(film)
    assert film.fault is None
    assert film.broken >= 2
    assert len(frames) + film.broken == 40
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] == 39
    assert frames[-1].time_s == pytest.approx(3.9, abs=0.01)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_frames_or_one_line(make_film, tmp_path: Path, name: str, data) -> None:
    whole = tmp_path / f"whole_{name}"
    if not whole.exists():
        make_film(whole.name, 12)
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        with read_frames(path) as film:
            frames = list(film)
    except (ValueError, OSError) as error:
        assert str(path) in str(error)
        return
    assert len(frames) >= 2
    assert all(frame.picture.shape == (film.size[1], film.size[0], 3) for frame in frames)
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))


def test_what_is_no_film(tmp_path: Path, make_film) -> None:
    for name, content in (
        ("a.mp4", b"not a film"),
        ("b.mkv", b"\x1a\x45\xdf\xa3" + bytes(50)),
        ("c.mp4", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: not a film"):
            read_frames(tmp_path / name)
    with pytest.raises(OSError, match=r"gone\.mp4: no such file"):
        read_frames(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="1 readable frames"):
        read_frames(make_film(count=1))


def test_play_lists_are_not_followed(tmp_path: Path, make_film) -> None:
    secret = make_film("secret.ts")
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{secret.name}\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    for name in ("list.mp4", "concat.mp4"):
        with pytest.raises(ValueError, match="not a film"):
            read_frames(tmp_path / name)


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as film:
        stream = film.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        film.mux(stream.encode(sound))
        film.mux(stream.encode(None))
    with pytest.raises(ValueError, match="no pictures in it"):
        read_frames(path)


def test_which_files_are_films(tmp_path: Path, make_film, coloured) -> None:
    image = Image.fromarray(coloured(0))
    for name in ("a.jpg", "a.png", "a.webp", "a.bmp", "a.tiff", "a.gif"):
        image.save(tmp_path / name)
        assert not is_film(tmp_path / name)
    image.save(tmp_path / "disguised.mp4", "JPEG")
    assert not is_film(tmp_path / "disguised.mp4")
    assert is_film(tmp_path / "a.gif", gifs=True)
    assert is_film(make_film("film.jpg.mp4").rename(tmp_path / "film.jpg"))
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(8))
    assert not is_film(tmp_path / "photo.heic")
    assert not is_film(tmp_path)
    assert not is_film(tmp_path / "missing.mp4")
    assert is_film("camera:0")
    with pytest.raises(ValueError, match=r"camera:x.*camera:0"):
        is_film("camera:x")


def test_a_gif(make_film) -> None:
    with read_frames(make_film("a.gif", 6, codec="gif")) as film:
        assert len(list(film)) == 6


def test_a_folder(tmp_path: Path, coloured) -> None:
    for index in (0, 1, 2, 9, 10, 11):
        Image.fromarray(coloured(index)).save(tmp_path / f"f{index}.png")
    Image.fromarray(coloured(0, (20, 20))).save(tmp_path / "f3.png")
    (tmp_path / "f4.png").write_bytes(b"\x89PNG broken")
    with read_frames(tmp_path, fps=50) as film:
        assert (film.size, film.fps, film.total) == ((96, 64), 50, 8)
        frames = list(film)
    assert film.broken == 2
    assert [frame.index for frame in frames] == [0, 1, 2, 5, 6, 7]
    assert [Path(str(frame.path)).name for frame in frames][-3:] == ["f9.png", "f10.png", "f11.png"]
    assert frames[-1].time_s == pytest.approx(7 / 50)
    with pytest.raises(ValueError, match="fps"):
        read_frames(tmp_path, fps=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures in this folder"):
        read_frames(tmp_path / "empty")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**6), max_size=8))
def test_natural_order(numbers: list[int]) -> None:
    names = [f"frame_{number}.png" for number in numbers]
    assert sorted(names, key=natural) == [f"frame_{number}.png" for number in sorted(numbers)]


def test_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    # FFmpeg's own test picture stands in for a device.
    monkeypatch.setattr(decode, "camera_address", lambda number: ("testsrc=size=64x48:rate=10", "lavfi"))
    with read_frames("camera:0") as film:
        assert (film.size, film.total) == ((64, 48), None)
        frames = [frame for frame, _ in zip(film, range(30), strict=False)]
    assert [frame.index for frame in frames] == list(range(30))
    assert frames[10].time_s == pytest.approx(1.0)
    monkeypatch.setattr(decode, "camera_address", lambda number: ("testsrc=size=64x48:duration=1", "lavfi"))
    with read_frames("camera:1") as film:
        assert len(list(film)) == 25
    assert film.fault == "camera:1: the camera stopped"


def test_no_camera() -> None:
    with pytest.raises(OSError, match="camera:77"):
        read_frames("camera:77")


def test_frames_are_read_as_they_are_asked_for(make_film) -> None:
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0
    with read_frames(make_film(count=60)) as film:
        assert isinstance(film, FrameReader)
        for frame in film:
            alive.add(frame)
            gc.collect(0)
            most = max(most, len(alive))
            del frame
    assert 1 <= most <= 2


def test_without_pyav(make_film, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_film()
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ImportError, match=r"dfmamba\[video\]"):
        read_frames(path)


@pytest.mark.parametrize(("ratio", "size"), [((4, 3), (128, 64)), ((1, 2), (96, 128)), ((1, 1), (96, 64))])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_pixels_that_are_not_square(make_film, name: str, ratio: tuple[int, int], size) -> None:
    with read_frames(make_film(name, count=3, ratio=Fraction(*ratio))) as film:
        assert film.size == size
        for frame in film:
            height, width = frame.picture.shape[:2]
            assert (width, height) == size
            assert frame.picture[height // 4, width * 3 // 8, 0] > 200  # the red quarter grew with it
            assert frame.picture[height // 4, width * 5 // 8, 2] > 200


def test_pixels_that_are_not_square_in_a_film_that_is_turned(make_film) -> None:
    with read_frames(make_film(count=3, ratio=Fraction(4, 3), turn={"degrees": 90, "hflip": False})) as film:
        assert film.size == (64, 128)
        assert [frame.picture.shape for frame in film] == [(128, 64, 3)] * 3


def test_a_shape_of_pixels_that_makes_no_sense(make_film) -> None:
    with read_frames(make_film(count=3, ratio=Fraction(1, 200))) as film:
        assert film.size == (96, 64)


@pytest.mark.parametrize(("later", "kept"), [((64, 96), 3), ((48, 32), 7)])
def test_a_size_that_changes(tmp_path: Path, later: tuple[int, int], kept: int) -> None:
    """Another shape is left out and said; another size of the same shape is brought to the first."""
    path = tmp_path / "a.mjpeg"
    with path.open("wb") as file:
        for index in range(7):
            picture = Image.new("RGB", (96, 64) if index < 3 else later, (200, 30, 30))
            picture.save(file, "JPEG", quality=95)
    with read_frames(path) as film:
        frames = list(film)
    assert [frame.picture.shape for frame in frames] == [(64, 96, 3)] * kept
    assert film.broken == 7 - kept
    if kept == 7:
        assert film.fault is None
    else:
        assert film.fault is not None
        assert "4 frames from 0.1 s on are 64 x 96 pixels, those before 96 x 64" in film.fault


def test_the_stream_that_players_show(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as film:
        streams: list = [film.add_stream("mpeg4", rate=10) for _ in range(2)]
        for stream, side in zip(streams, (32, 64), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for _ in range(5):
            for stream, side in zip(streams, (32, 64), strict=True):
                image = np.full((side, side, 3), 90, np.uint8)
                film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            film.mux(stream.encode(None))
    with read_frames(path) as reader:
        assert reader.size == (64, 64)
        assert [frame.picture.shape for frame in reader] == [(64, 64, 3)] * 5


@pytest.mark.parametrize("name", ["rtsp://10.0.0.1/live", "http://10.0.0.1/a.mp4"])
def test_addresses_are_named(name: str) -> None:
    with pytest.raises(ValueError, match="addresses aren't opened; record it first"):
        read_frames(name)


def test_a_raw_stream_is_named(make_film, tmp_path: Path) -> None:
    raw = tmp_path / "a.h264"
    raw.write_bytes(b"\0\0\0\x01\x67" + bytes(100))
    assert is_film(raw)
    with pytest.raises(ValueError, match=r"a\.h264: a raw stream of coded pictures has no container"):
        read_frames(raw)
