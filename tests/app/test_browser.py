"""The page in a headless Chromium: photos, films, the camera, keys, and a phone's width."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_fixtures import fake_camera, write_camera_film
from PIL import Image

import dfmamba
from dfmamba.draw.canvas import joint_color
from dfmamba.hands.skeleton import JOINT_NAMES
from dfmamba.predict import Predictor

pytestmark = [pytest.mark.slow, pytest.mark.browser]

PATIENCE_MS = 60_000
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def open_page(browser: Any, server: str) -> Iterator[Callable[..., Any]]:
    """Opens the app in a fresh context; at the end there were no errors, and nothing was loaded elsewhere."""
    contexts, faults = [], []

    def open_page(chromium: Any = None, **settings: Any) -> Any:
        context = (chromium or browser).new_context(accept_downloads=True, **settings)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: _note(message, faults))
        page.on("request", lambda request: _own(request.url, server, faults))
        page.goto(server)
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _note(message: Any, faults: list[str]) -> None:
    # A refused upload is an answer of the API, which Chromium lists as an error of its own.
    if message.type == "error" and "the server responded with a status of 4" not in message.text:
        faults.append(message.text)


def _own(url: str, server: str, faults: list[str]) -> None:
    if not url.startswith((server, "blob:", "data:")):
        faults.append(f"request to {url}")


def _upload(page: Any, content: bytes, name: str = "hand.png", kind: str = "image/png") -> None:
    page.set_input_files("#photo-file", {"name": name, "mimeType": kind, "buffer": content})


def _summary(page: Any, tab: str, text: str) -> None:
    page.wait_for_selector(f"#{tab} .summary:has-text('{text}')")


def _table(page: Any, tab: str) -> np.ndarray:
    """The numbers of the table of joints: u, v, x, y, z, score."""
    rows = page.locator(f"#{tab} tbody tr")
    assert [text.replace(" ", "_") for text in rows.locator("th").all_text_contents()] == list(JOINT_NAMES)
    cells = rows.locator("td").all_text_contents()
    return np.array([float(cell) for cell in cells]).reshape(len(JOINT_NAMES), 6)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(dfmamba.load(), "cpu", detector=None)


@pytest.fixture(scope="module")
def png() -> bytes:
    """A rendered picture of one hand without loss."""
    buffer = io.BytesIO()
    Image.open(EXAMPLES / "one_hand.jpg").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_photo_gives_the_joints_of_python(open_page, png, predictor, tmp_path) -> None:
    page = open_page()
    expected = predictor.predict(Image.open(io.BytesIO(png)))
    hand = expected.hands[0]
    _upload(page, png)
    _summary(page, "photo", f"1 hand: {hand.side} {hand.score:.2f}")
    page.click("#photo .joints summary")
    shown = _table(page, "photo")
    np.testing.assert_allclose(shown[:, :2], hand.joints_2d_px, atol=0.06)
    np.testing.assert_allclose(shown[:, 2:5], hand.joints_3d_mm, atol=0.06)
    np.testing.assert_allclose(shown[:, 5], hand.joint_scores, atol=0.006)
    with page.expect_download() as saved:
        page.click("#photo [data-save=json]")
    assert saved.value.suggested_filename == "hand.json"
    saved.value.save_as(tmp_path / "hand.json")
    assert json.loads((tmp_path / "hand.json").read_text()) == expected.to_dict()
    with page.expect_download() as saved:
        page.click("#photo [data-save=glb]")
    saved.value.save_as(tmp_path / "hand.glb")
    assert (tmp_path / "hand.glb").read_bytes()[:4] == b"glTF"


def test_joints_are_drawn_where_they_are(open_page, png, predictor) -> None:
    page = open_page()
    _upload(page, png)
    _summary(page, "photo", "1 hand")
    hand = predictor.predict(Image.open(io.BytesIO(png))).hands[0]
    inside = ((hand.joints_2d_px > 5) & (hand.joints_2d_px < 378)).all(axis=1)
    joint = int(np.argmax(np.where(inside, hand.joint_scores, 0)))
    color = page.evaluate(
        """([u, v, side]) => {
            const canvas = document.querySelector("#photo .overlay"), scale = canvas.width / side;
            const at = [(u + 0.5) * scale, (v + 0.5) * scale].map(Math.round);
            return [...canvas.getContext("2d").getImageData(...at, 1, 1).data].slice(0, 3);
        }""",
        [*hand.joints_2d_px[joint].tolist(), 384],
    )
    np.testing.assert_allclose(color, joint_color(joint), atol=10)


def test_the_view_in_space_is_turned_by_keys_and_mouse(open_page, png) -> None:
    page = open_page()
    _upload(page, png)
    _summary(page, "photo", "1 hand")
    view = page.locator("#photo .view")
    state = lambda: [float(view.get_attribute(f"data-{name}")) for name in ("yaw", "pitch", "zoom")]  # noqa: E731
    picture = lambda: view.evaluate("canvas => canvas.toDataURL()")  # noqa: E731
    view.focus()
    start, drawn = state(), picture()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("+")
    turned = state()
    assert (turned[0] - start[0], turned[1] - start[1]) == (-10, 10)
    assert turned[2] > start[2]
    assert picture() != drawn
    page.keyboard.press("Home")
    assert state() == start
    assert picture() == drawn
    view.scroll_into_view_if_needed()
    box = view.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y, steps=4)
    page.mouse.up()
    assert state()[0] == pytest.approx(start[0] + 30, abs=1)


def test_keys_alone_are_enough(open_page) -> None:
    page = open_page()
    page.focus("#tab-photo")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#video")
    assert not page.is_visible("#photo")
    page.keyboard.press("End")
    assert page.is_visible("#webcam")
    page.keyboard.press("Home")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "example":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    _summary(page, "photo", "1 hand")


def test_two_hands_can_be_chosen_and_thresholds_set(open_page) -> None:
    page = open_page()
    page.click(".example:nth-child(2)")
    _summary(page, "photo", "2 hands: right")
    page.click("#photo .joints summary")
    first = _table(page, "photo")
    assert page.text_content("#photo caption") == "right hand"
    page.check("#photo .hands label:nth-of-type(2) input")
    assert page.text_content("#photo caption") == "left hand"
    assert not np.array_equal(first, _table(page, "photo"))
    page.fill("#options [name=camera]", "600,600,191.5,191.5")
    page.keyboard.press("Tab")
    page.wait_for_selector("#photo .where:has-text('camera')")
    assert (_table(page, "photo")[:, 4] > 100).all()
    page.fill("#options [name=camera]", "1,2")
    page.keyboard.press("Tab")
    page.wait_for_selector("#trouble:has-text('expected four numbers')")


def test_mirror_images_change_the_side(open_page, png) -> None:
    page = open_page()
    _upload(page, png)
    _summary(page, "photo", "1 hand")
    side = re.search("right|left", page.text_content("#photo .summary"))
    page.check("#photo-mirrored")
    _summary(page, "photo", {"right": "left", "left": "right"}[side.group()])


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"hello", "note.jpg", "note.jpg: not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg", "a.svg: not a picture"),
        (b"", "empty.png", "empty.png: the file is empty"),
        (bytes(51_000_000), "huge.jpg", "huge.jpg: larger than the limit of 50 MB"),
    ],
)
def test_refusals_are_shown_as_one_line(open_page, png, content, name, said) -> None:
    page = open_page()
    if len(content) > 50_000_000:
        # Playwright sends no files of this size; the page makes it itself.
        page.evaluate(
            """size => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(size)], "huge.jpg"));
                document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
            }""",
            len(content),
        )
    else:
        _upload(page, content, name, "application/octet-stream")
    page.wait_for_selector(f"#trouble:has-text('{said}')")
    assert page.is_hidden("#photo .result")
    _upload(page, png)
    _summary(page, "photo", "1 hand")
    assert page.is_hidden("#trouble")


def test_it_fits_a_phone_and_the_dark(open_page, png) -> None:
    for settings in ({"color_scheme": "light"}, {"color_scheme": "dark"}):
        page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, **settings)
        _upload(page, png)
        _summary(page, "photo", "1 hand")
        page.click("#photo .joints summary")
        for tab in ("photo", "video", "webcam"):
            page.click(f"#tab-{tab}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", dark))) < 200) is (settings["color_scheme"] == "dark")


def test_a_film_is_worked_on_and_can_be_watched(open_page, png, tmp_path) -> None:
    pytest.importorskip("av", reason="the extra video is not installed")
    from dfmamba.video import OverlayWriter

    picture = np.asarray(Image.open(io.BytesIO(png)).resize((192, 192)))
    with OverlayWriter(tmp_path / "film.mp4", 25, (192, 192)) as writer:
        for i in range(8):
            writer.write(np.ascontiguousarray(np.roll(picture, i, axis=1)), i / 25)
    page = open_page()
    page.click("#tab-video")
    page.set_input_files("#video-file", tmp_path / "film.mp4")
    page.wait_for_selector("#video-state:has-text('8 frames, 1 hand')")
    page.wait_for_function("document.getElementById('video-player').videoWidth === 192")
    with page.expect_download() as saved:
        page.click("#video-lines")
    saved.value.save_as(tmp_path / "film.jsonl")
    lines = (tmp_path / "film.jsonl").read_text().splitlines()
    assert saved.value.suggested_filename == "film.jsonl"
    assert len(lines) == 9
    page.set_input_files("#video-file", {"name": "note.mp4", "mimeType": "video/mp4", "buffer": b"hello"})
    page.wait_for_selector("#trouble:has-text('note.mp4: not a film')")


@pytest.fixture(scope="module")
def camera(launch_browser: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Chromium whose camera sees one rendered hand."""
    picture = np.asarray(Image.open(EXAMPLES / "one_hand.jpg"))
    film = write_camera_film(tmp_path_factory.mktemp("camera") / "film.mjpeg", [picture] * 2)
    return launch_browser(*fake_camera(film))


def test_the_camera_shows_a_mirror_and_the_side_is_right(open_page, camera, predictor) -> None:
    page = open_page(camera)
    picture = np.asarray(Image.open(EXAMPLES / "one_hand.jpg"))
    *_, last = predictor.stream([picture] * 6)  # the tab's hands are followed
    (hand,) = last.hands
    page.click("#tab-webcam")
    page.click("#webcam-switch")
    _summary(page, "webcam", f"1 hand: {hand.side}")
    page.wait_for_selector("#webcam-rate:has-text('pictures/s')")
    page.click("#webcam .joints summary")
    np.testing.assert_allclose(_table(page, "webcam")[:, :2], hand.joints_2d_px, atol=6)
    # The left half of the preview is the right half of the picture.
    small = page.evaluate(
        """() => {
            const small = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
            const context = small.getContext("2d");
            context.imageSmoothingQuality = "high";
            context.drawImage(document.querySelector("#webcam .overlay"), 0, 0, 8, 8);
            return [...context.getImageData(0, 0, 8, 8).data];
        }"""
    )
    shown = np.array(small, dtype=float).reshape(8, 8, 4)[..., :3]
    given = np.asarray(Image.fromarray(picture).resize((8, 8), Image.Resampling.BOX), dtype=float)
    assert np.abs(shown - given[:, ::-1]).mean() < np.abs(shown - given).mean() - 5
    other = {"right": "left", "left": "right"}[hand.side]
    page.check("#webcam-mirrored")
    _summary(page, "webcam", f"1 hand: {other}")
    page.click("#webcam-switch")
    assert page.text_content("#webcam-switch") == "Start the camera"
    assert page.evaluate("document.getElementById('webcam-video').srcObject") is None


def test_leaving_the_tab_stops_the_camera(open_page, camera) -> None:
    page = open_page(camera)
    page.click("#tab-webcam")
    page.click("#webcam-switch")
    _summary(page, "webcam", "hand")
    page.click("#tab-photo")
    assert page.evaluate("document.getElementById('webcam-video').srcObject") is None
