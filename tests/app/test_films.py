"""Films: jobs, progress, limits and clean-up."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from dfmamba.app.config import AppConfig
from dfmamba.app.films import OVERLAY, PREDICTIONS, Films, Job, Stopped
from dfmamba.app.server import make_app


class Held:
    """In the place of a model: works at a film until it is let go."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, job: Job, predictor: Any, options: Any, most: int) -> None:
        job.frames_total = 9
        self.began.set()
        while not self.go.wait(0.01):
            if job.stop.is_set():
                raise Stopped
        content = (job.folder / "film").read_bytes()
        if content == b"bad":
            raise ValueError(f"{job.folder / 'film'}: not a film")
        job.frames_done = 9
        for name in (OVERLAY, PREDICTIONS):
            (job.folder / name).write_bytes(b"result")


@pytest.fixture
def held(monkeypatch) -> Held:
    monkeypatch.setattr("dfmamba.app.api.why_no_films", lambda: None)
    return Held()


@pytest.fixture
def films(held: Held) -> Films:
    return Films(AppConfig(films=2, results=2), held)


@pytest.fixture
def asking(films: Films) -> Iterator[TestClient]:
    config = AppConfig(detector="none", device="cpu")
    with TestClient(make_app(config, films=films), base_url="http://localhost") as client:
        yield client


def _post(client: TestClient, content: bytes = b"film", **options: str) -> Any:
    return client.post("/api/film", files={"film": ("../../a.mp4", content)}, data=options)


def _wait(client: TestClient, name: str, seconds: float = 120.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = client.get(f"/api/film/{name}").json()
        if state["state"] not in ("waiting", "running"):
            return state
        time.sleep(0.02)
    raise AssertionError(f"not done: {state}")


def test_a_film_goes_from_waiting_to_done_and_is_removed(asking, films, held) -> None:
    answer = _post(asking)
    assert answer.status_code == 202
    assert held.began.wait(10)
    name = answer.json()["id"]
    state = asking.get(f"/api/film/{name}").json()
    assert (state["state"], state["frames_total"], state["files"]) == ("running", 9, {})
    assert asking.get(f"/api/film/{name}/{OVERLAY}").status_code == 404
    held.go.set()
    state = _wait(asking, name)
    assert (state["state"], state["frames_done"], state["error"]) == ("done", 9, None)
    assert asking.get(state["files"]["overlay"]).headers["content-type"] == "video/mp4"
    assert asking.get(state["files"]["predictions"]).content == b"result"
    assert asking.get(f"/api/film/{name}/film").status_code == 404
    assert asking.get(f"/api/film/{name}/..%2f..%2fpasswd").status_code == 404
    assert not (films.folder / name / "film").exists()
    films.sweep(time.monotonic() + 1000)
    assert asking.get(f"/api/film/{name}").status_code == 200
    films.sweep(time.monotonic() + 2000)
    assert asking.get(f"/api/film/{name}").status_code == 404
    assert list(films.folder.iterdir()) == []


def test_too_many_films_are_refused_and_the_oldest_result_goes(asking, films, held) -> None:
    names = [_post(asking).json()["id"] for _ in range(2)]
    third = _post(asking)
    assert third.status_code == 429
    assert "2 films are being worked on" in third.json()["error"]
    assert asking.get("/api/health").json()["films"] == 2
    held.go.set()
    for name in names:
        assert _wait(asking, name)["state"] == "done"
    last = _post(asking).json()["id"]
    assert _wait(asking, last)["state"] == "done"
    films.sweep(time.monotonic())
    assert [asking.get(f"/api/film/{name}").status_code for name in [*names, last]] == [404, 200, 200]


def test_cancelled_and_damaged_films_end(asking, films, held) -> None:
    running, waiting = (_post(asking).json()["id"] for _ in range(2))
    assert held.began.wait(10)
    for name in (running, waiting):
        assert asking.delete(f"/api/film/{name}").status_code == 200
    assert _wait(asking, running)["state"] == "cancelled"
    assert _wait(asking, waiting)["state"] == "cancelled"
    assert asking.delete(f"/api/film/{running}").status_code == 200
    assert asking.get(f"/api/film/{running}").status_code == 404
    held.go.set()
    state = _wait(asking, _post(asking, b"bad").json()["id"])
    assert (state["state"], state["error"]) == ("failed", "film: not a film")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "x"}, "not offered"),
        ({"threshold": "3"}, "from 0 to 1"),
        ({"box": "1,1,2,2"}, "unknown field"),
    ],
)
def test_unusable_options_are_refused_at_once(asking, films, options, said) -> None:
    answer = _post(asking, **options)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert list(films.folder.iterdir()) == []


def test_closing_ends_the_work_and_removes_the_files(asking, films, held) -> None:
    _post(asking)
    assert held.began.wait(10)
    films.close()
    assert not films.folder.exists()


def test_without_the_extra_the_page_is_told_what_to_install(client, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert "dfmamba[video]" in client.get("/api/models").json()["films"]
    answer = _post(client)
    assert answer.status_code == 503
    assert "dfmamba[video]" in answer.json()["error"]


@pytest.fixture
def make_film(tmp_path: Path, photo: bytes) -> Callable[[int], bytes]:
    """A film of a picture that moves, of so many frames."""
    pytest.importorskip("av", reason="the extra video is not installed")
    from dfmamba.video import OverlayWriter

    def make(frames: int) -> bytes:
        picture = np.asarray(Image.open(io.BytesIO(photo)).resize((192, 192)))
        with OverlayWriter(tmp_path / "film.mp4", 25, (192, 192)) as writer:
            for i in range(frames):
                writer.write(np.ascontiguousarray(np.roll(picture, 2 * i, axis=1)), i / 25)
        return (tmp_path / "film.mp4").read_bytes()

    return make


def test_a_film_gives_joints_and_a_film(client, make_film) -> None:
    answer = _post(client, make_film(6), smooth="true", mesh="true")
    state = _wait(client, answer.json()["id"])
    assert (state["state"], state["frames_done"], state["frames_total"]) == ("done", 6, 6)
    assert state["hands"] >= 5
    assert client.get(state["files"]["overlay"]).content[4:8] == b"ftyp"
    header, *lines = map(json.loads, client.get(state["files"]["predictions"]).text.splitlines())
    assert header["schema"] == "dfmamba.film/1"
    assert header["smoothing"] is not None
    assert [line["index"] for line in lines] == list(range(6))
    hands = [hand for line in lines for hand in line["hands"]]
    assert all(len(hand["fit"]["pose_deg"]) == 25 for hand in hands)
    client.delete(f"/api/film/{state['id']}")


def test_films_that_are_none_or_too_long_fail_in_one_line(make_film) -> None:
    config = AppConfig(detector="none", device="cpu", film_frames=4)
    with TestClient(make_app(config), base_url="http://localhost") as client:
        for content, said in (
            (make_film(5), "limit of 4 frames"),
            (b"hello" * 100, "film"),
            (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "film"),
            (b"", "film"),
        ):
            state = _wait(client, _post(client, content).json()["id"])
            assert state["state"] == "failed"
            assert said in state["error"]
            assert "/tmp" not in state["error"]
