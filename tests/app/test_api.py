"""The API: predictions as Python makes them, options, refusals, and many askers at once."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import dfmamba
from dfmamba.app.config import AppConfig
from dfmamba.app.server import make_app
from dfmamba.app.uploads import FILM_FIELDS, PICTURE_FIELDS, Options, parse_options
from dfmamba.app.work import Sessions
from dfmamba.detect import Detection
from dfmamba.hands.skeleton import BONES, JOINT_NAMES
from dfmamba.predict import Prediction, Predictor
from dfmamba.predict.surface import with_surface


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """What the server has."""
    return Predictor(dfmamba.load(), "cpu", detector=None)


def _picture(photo: bytes) -> Image.Image:
    return Image.open(io.BytesIO(photo))


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {}),
        ({"threshold": "0.01", "detector": "none", "model": "nano"}, {"threshold": 0.01}),
        (
            {"mirrored": "true", "camera": "500,510,190,195"},
            {"mirrored": True, "camera": (500, 510, 190, 195)},
        ),
        ({"box": "80,40,300,330", "camera": ""}, {"box": (80, 40, 300, 330)}),
    ],
)
def test_the_answer_is_the_prediction_of_python(ask, photo, predictor, options, arguments) -> None:
    answer = ask(photo, **options)
    expected = predictor.predict(_picture(photo), **arguments)
    assert expected.hands
    assert answer.status_code == 200
    assert answer.json() == expected.to_dict()
    assert answer.text == expected.to_json()
    assert Prediction.from_json(answer.text).hands[0].side == expected.hands[0].side


def test_hands_have_a_fit_on_demand(ask, photo, predictor) -> None:
    answer = ask(photo, mesh="true")
    assert answer.json() == with_surface(predictor.predict(_picture(photo))).to_dict()
    assert all("fit" in hand for hand in answer.json()["hands"])


def test_the_time_is_in_a_header(ask, photo) -> None:
    times = dict(part.split(";dur=") for part in ask(photo).headers["server-timing"].split(", "))
    assert list(times) == ["wait", "read", "predict"]
    assert float(times["predict"]) > 0


def test_a_detector_is_asked_unless_the_request_says_none(photo) -> None:
    class Corner:
        """Sees a hand where there is none."""

        def __init__(self) -> None:
            self.asked = 0

        def detect(self, pictures):
            self.asked += 1
            return [[] for _ in pictures]

    detector = Corner()
    with TestClient(make_app(AppConfig(device="cpu"), detector), base_url="http://localhost") as client:

        def hands(**options: str) -> int:
            answer = client.post("/api/predict", files={"picture": ("a.jpg", photo)}, data=options)
            return len(answer.json()["hands"])

        assert client.get("/api/models").json()["detectors"] == ["given", "none"]
        assert hands() == 0
        assert detector.asked == 1
        assert hands(detector="none") == 1
        assert detector.asked == 1


def test_detections_become_hands(photo) -> None:
    class Whole:
        def detect(self, pictures):
            return [[Detection(np.array([60.0, 40.0, 330.0, 330.0]), 0.77)] for _ in pictures]

    with TestClient(make_app(AppConfig(device="cpu"), Whole()), base_url="http://localhost") as client:
        answer = client.post("/api/predict", files={"picture": ("a.jpg", photo)})
    assert [hand["score"] for hand in answer.json()["hands"]] == [0.77]


def test_models_tell_what_the_page_needs(client) -> None:
    facts = client.get("/api/models").json()
    assert facts["models"] == ["nano"]
    assert facts["detectors"] == ["none"]
    assert facts["limits"] == {"upload_bytes": 3_000_000, "megapixels": 100}
    assert facts["skeleton"]["joint_names"] == list(JOINT_NAMES)
    assert facts["skeleton"]["bones"] == [list(bone) for bone in BONES]
    assert len(facts["skeleton"]["joint_colors"]) == len(JOINT_NAMES)
    assert client.get("/api/health").json()["status"] == "ok"


def test_a_prediction_becomes_glb(client, ask, photo) -> None:
    text = ask(photo).text
    answer = client.post("/api/convert?format=glb", content=text)
    assert answer.headers["content-type"] == "model/gltf-binary"
    assert answer.content[:4] == b"glTF"
    for query, body, said in (
        ("format=exe", text, "not offered"),
        ("format=glb", "{}", "schema"),
        ("format=glb", "[" * 5000, "JSON"),
        ("format=glb", text.replace("dfmamba.prediction/1", "other"), "schema"),
    ):
        answer = client.post(f"/api/convert?{query}", content=body)
        assert answer.status_code == 400
        assert said in answer.json()["error"]
    assert client.post("/api/convert", content=" " * 2_500_000).status_code == 413


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": "high"}, "threshold: expected a number, got 'high'"),
        ({"threshold": "nan"}, "threshold: expected a value from 0 to 1, got nan"),
        ({"mirrored": "perhaps"}, "mirrored: expected true or false"),
        ({"camera": "1,2,3"}, "expected four numbers in pixels: fx,fy,cx,cy"),
        ({"box": "1,2"}, "box: expected four numbers x0,y0,x1,y1"),
        ({"box": "900,900,950,950"}, "lies outside the picture"),
        ({"model": "/etc/passwd"}, "is not offered here; expected one of: nano"),
        ({"detector": "boxes.json"}, "is not offered here; expected one of: none"),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_unusable_options_are_one_line(ask, photo, options, said) -> None:
    answer = ask(photo, **options)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]


def test_requests_of_another_form_are_refused(client, photo) -> None:
    post = client.post
    assert post("/api/predict", content=photo).status_code == 415
    assert post("/api/predict", json={}).status_code == 415
    assert post("/api/predict", files={"other": b"1"}).status_code == 400
    two = [("picture", ("a.jpg", photo)), ("picture", ("b.jpg", photo))]
    assert post("/api/predict", files=two).status_code == 400
    assert (
        post("/api/predict", files={"picture": b"1"}, data={f"f{i}": "1" for i in range(20)}).status_code
        == 400
    )
    long = post("/api/predict", files={"picture": b"1"}, data={"camera": "1" * 10_000})
    assert long.status_code == 400
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"hello", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--"):
        answer = post("/api/predict", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]
    for answer in (client.get("/api/predict"), client.get("/api/x"), client.get("/x"), client.get("/docs")):
        assert answer.status_code == 404
        assert len(answer.json()["error"].splitlines()) == 1


def test_paths_outside_of_the_page_are_not_served(client) -> None:
    for path in ("/../config.py", "/%2e%2e/config.py", "/examples/..%2f..%2fconfig.py", "/static/index.html"):
        assert client.get(path).status_code == 404


def test_openapi_lists_the_routes(client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/api/health", "/api/models", "/api/predict", "/api/convert", "/api/film", "/api/film/{name}"),
        "/api/film/{name}/{file}",
    }
    form = paths["/api/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"picture", *PICTURE_FIELDS}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([*PICTURE_FIELDS, "smooth"]), st.text(max_size=30)))
@example({"camera": "1,1,1,1"})
@example({"box": "1,1,nan,2"})
def test_options_are_read_or_refused(fields: dict[str, str]) -> None:
    for known in (PICTURE_FIELDS, FILM_FIELDS):
        try:
            options = parse_options(fields, known)
        except ValueError as error:
            assert str(error)
        else:
            assert options.camera is None or options.camera.fx > 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_pictures_give_a_result_or_a_line(ask, data) -> None:
    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]))
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    answer = ask(bytes(content[: data.draw(st.integers(1, len(content)))]))
    assert answer.status_code in (200, 400, 413, 415)
    if answer.status_code != 200:
        assert len(answer.json()["error"].splitlines()) == 1


def test_twenty_at_once_get_what_one_gets(server: str, photo: bytes) -> None:
    barrier = threading.Barrier(20)

    def post(number: int):
        with httpx2.Client(timeout=120) as client:
            barrier.wait()
            return client.post(f"{server}/api/predict", files={"picture": ("a.jpg", photo)})

    alone = httpx2.post(f"{server}/api/predict", files={"picture": ("a.jpg", photo)}, timeout=120)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20
    assert {answer.text for answer in answers} == {alone.text}
    assert json.loads(alone.text)["hands"]


def test_more_than_all_places_are_sent_away(photo: bytes) -> None:
    class Slow:
        """Answers when it is allowed to."""

        def __init__(self) -> None:
            self.called, self.go = threading.Event(), threading.Event()

        def detect(self, pictures):
            self.called.set()
            assert self.go.wait(60)
            return [[] for _ in pictures]

    slow = Slow()
    app = make_app(AppConfig(device="cpu", threads=1, places=1), slow)
    with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(1) as pool:
        files = {"picture": ("a.jpg", photo)}
        first = pool.submit(client.post, "/api/predict", files=files)
        assert slow.called.wait(60)
        second = client.post("/api/predict", files=files)
        slow.go.set()
        assert first.result().status_code == 200
        assert second.status_code == 503
        assert second.headers["retry-after"] == "1"
        assert client.post("/api/predict", files=files).status_code == 200


def test_pictures_of_a_session_are_a_film(ask, photo) -> None:
    first, second = (ask(photo, session="camera").json()["hands"] for _ in range(2))
    assert [hand["track"] for hand in first] == [hand["track"] for hand in second] == [0]
    apart = np.linalg.norm(np.subtract(first[0]["joints_2d_px"], second[0]["joints_2d_px"]), axis=1)
    assert apart.mean() < 0.02 * np.ptp(first[0]["joints_2d_px"], axis=0).max()
    assert [hand["track"] for hand in ask(photo, session="other").json()["hands"]] == [0]
    assert [hand["track"] for hand in ask(photo).json()["hands"]] == [None]
    # Another option begins anew.
    (mirrored,) = ask(photo, session="camera", mirrored="true").json()["hands"]
    assert {mirrored["side"], second[0]["side"]} == {"left", "right"}


def test_sessions_are_few_and_forgotten(predictor: Predictor, photo: bytes) -> None:
    picture, clock = np.asarray(_picture(photo)), [0.0]
    sessions = Sessions(most=2, keep_seconds=10.0, clock=lambda: clock[0])

    def steps(name: str) -> int:
        sessions.step(predictor, picture, Options(session=name))
        return sessions._sessions[name].frames

    assert [steps("a"), steps("a"), steps("b")] == [1, 2, 1]
    clock[0] = 5.0
    assert [steps("a"), steps("c")] == [3, 1]
    assert set(sessions._sessions) == {"a", "c"}
    clock[0] = 20.0
    assert steps("a") == 1
    assert set(sessions._sessions) == {"a"}
    with pytest.raises(ValueError, match="at most 64 characters"):
        steps("x" * 65)


@pytest.mark.parametrize("box", ["-1e30,-1e30,1e30,1e30", "1e308,0,1.1e308,5", "-1e308,-1e308,1e308,1e308"])
def test_odd_boxes_are_refused(ask, photo, box: str) -> None:
    for more in ({}, {"session": "boxes"}):
        answer = ask(photo, box=box, **more)
        assert answer.status_code == 400
        assert len(answer.json()["error"].splitlines()) == 1
