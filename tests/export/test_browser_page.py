"""The page in Chromium: photos and a film as camera in, the joints of `Predictor` out."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_fixtures import (  # noqa: F401
    browser,
    fake_camera,
    launch_browser,
    serve_folder,
    write_camera_film,
)
from PIL import Image

from dfmamba.detect.network import NetworkDetector
from dfmamba.export import ExportConfig, pose_subject
from dfmamba.export.browser import RUNTIME_FILES, export_page
from dfmamba.export.check import EXAMPLES
from dfmamba.hands.skeleton import FINGER_COLORS_RGB
from dfmamba.models import HandPoseModel, load
from dfmamba.predict import Prediction, Predictor

pytestmark = [pytest.mark.slow, pytest.mark.browser]

RUNTIME_VARIABLE = "DFMAMBA_ORT_WEB"
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
PATIENCE_MS = 180_000


@pytest.fixture(scope="module")
def ort_web() -> Path:
    """onnxruntime-web's `dist`."""
    beside = Path(__file__).parents[2] / "node_modules" / "onnxruntime-web" / "dist"
    folder = Path(os.environ.get(RUNTIME_VARIABLE, beside))
    if not all((folder / name).is_file() for name in RUNTIME_FILES):
        pytest.skip(
            "onnxruntime-web not found (npm install --no-save onnxruntime-web in the repository, or set "
            f"{RUNTIME_VARIABLE} to its dist)"
        )
    return folder


@pytest.fixture(scope="module")
def nano_folder(ort_web: Path, detector: HandPoseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with the packaged model and the random detector, which `open_page` switches off."""
    folder = tmp_path_factory.mktemp("nano") / "page"
    export_page(pose_subject(load("nano")), folder, ort_web, ExportConfig(check=False), detector=detector)
    return folder


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """Opens the page of an address, ready for pictures, and watches what it asks the network for."""
    contexts, problems, asked = [], [], []

    def open_(url: str, chromium: Any = None, **options: Any) -> Any:
        contexts.append((chromium or browser).new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: said.type == "error" and problems.append(said.text))
        page.on("request", lambda request: asked.append((url, request.method, request.url)))
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        page.set_checked("#detector", False)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []
    assert asked
    for url, method, address in asked:
        assert method == "GET", address
        assert address.startswith((url, f"blob:{url}", "data:")), address


def wait_for(page: Any, name: str, least: float) -> float:
    """Waits until a number that the page shows in its body's data is at least this."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < end:
        value = float(page.get_attribute("body", f"data-{name}") or -1)
        if value >= least:
            return value
        page.wait_for_timeout(100)
    pytest.fail(f"{name} stayed below {least}; the page says {page.inner_text('#status')!r}")


def downloaded(page: Any) -> Prediction:
    with page.expect_download() as waiting:
        page.click("#download")
    return Prediction.from_json(Path(waiting.value.path()).read_bytes())


def as_png(name: str, folder: Path) -> tuple[Path, np.ndarray]:
    pixels = np.array(Image.open(EXAMPLES / name).convert("RGB"))
    path = folder / f"{Path(name).stem}.png"
    Image.fromarray(pixels).save(path)
    return path, pixels


@pytest.mark.parametrize("headers", [{}, ISOLATED], ids=["one_thread", "threads"])
def test_joints_equal_pythons(
    nano_folder: Path, open_page: Callable[..., Any], headers: dict[str, str], tmp_path: Path
) -> None:
    predictor = Predictor("nano", "cpu")
    with serve_folder(nano_folder, headers) as url:
        page = open_page(url)
        cores = page.evaluate("navigator.hardwareConcurrency") - 1 if headers else 1
        threads = max(min(4, cores), 1)
        said = page.inner_text("#status")
        assert said == f"Ready: model nano, {f'{threads} threads' if threads > 1 else 'one thread'}."
        for number, name in enumerate(("one_hand.jpg", "egocentric.jpg", "two_hands.jpg")):
            path, pixels = as_png(name, tmp_path)
            page.set_input_files("#file", path)
            wait_for(page, "pictures", number + 1)
            found, expected = downloaded(page), predictor.predict(pixels)
            assert (found.image, found.model, found.image_size) == (path.name, "nano", expected.image_size)
            assert [hand.side for hand in found.hands] == [hand.side for hand in expected.hands]
            assert expected.hands
            for got, hand in zip(found.hands, expected.hands, strict=True):
                # A pixel of the second crop may be rounded the other way: 0.1 px at the worst joint.
                assert np.abs(got.joints_2d_px - hand.joints_2d_px).mean() < 0.1
                assert np.abs(got.joints_2d_px - hand.joints_2d_px).max() < 0.2
                assert np.abs(got.joints_3d_mm - hand.joints_3d_mm).max() < 0.2
                assert np.abs(got.box_xyxy - hand.box_xyxy).max() < 0.2
                assert got.score == pytest.approx(hand.score, abs=0.01)
                assert got.root == "wrist"


def test_detector_in_the_page(
    nano_folder: Path, detector: HandPoseModel, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    """A random detector's boxes lead the page to the hands to which they lead Python."""
    path, pixels = as_png("two_hands.jpg", tmp_path)
    expected = Predictor("nano", "cpu", detector=NetworkDetector(detector)).predict(pixels)
    assert expected.hands
    with serve_folder(nano_folder) as url:
        page = open_page(url)
        page.set_checked("#detector", True)
        page.set_input_files("#file", path)
        wait_for(page, "pictures", 1)
        found = downloaded(page)
    assert [hand.side for hand in found.hands] == [hand.side for hand in expected.hands]
    for got, hand in zip(found.hands, expected.hands, strict=True):
        assert np.abs(got.joints_2d_px - hand.joints_2d_px).max() < 0.1
        assert got.score == pytest.approx(hand.score, abs=0.01)


def test_camera(
    nano_folder: Path,
    open_page: Callable[..., Any],
    tmp_path: Path,
    launch_browser: Any,  # noqa: F811
) -> None:
    """A hand moves before the camera: it is followed, on its side, and the mirror is of the preview only."""
    pixels = np.array(Image.open(EXAMPLES / "one_hand.jpg").convert("RGB"))
    wide = np.pad(pixels, ((48, 48), (128, 128), (0, 0)), mode="edge")
    frames = [np.roll(wide, round(10 * np.sin(step / 3)), axis=1) for step in range(19)]
    (expected,) = Predictor("nano", "cpu").predict(wide).hands
    chromium = launch_browser(*fake_camera(write_camera_film(tmp_path / "film.mjpeg", frames)))
    with serve_folder(nano_folder) as url:
        page = open_page(url, chromium)
        page.click("#camera")
        wait_for(page, "pictures", 8)
        assert wait_for(page, "drawn", 8) >= float(page.get_attribute("body", "data-pictures") or 0)
        assert _shows_hand(page.locator("#screen").screenshot())
        (hand,) = downloaded(page).hands
        assert hand.side == expected.side
        assert hand.track == 0
        off = (hand.joints_2d_px - expected.joints_2d_px).mean(axis=0)
        assert abs(off[0]) < 25
        assert abs(off[1]) < 15
        assert np.abs(hand.joints_2d_px - off - expected.joints_2d_px).max() < 30
        assert re.fullmatch(r"\d+ ms, \d+\.\d pictures/s", page.inner_text("#rate"))
        assert page.get_attribute("#camera", "aria-pressed") == "true"

        page.click("#camera")
        page.wait_for_selector("#camera[aria-pressed=false]")
        assert page.inner_text("#camera") == "Start the camera"
        page.click("#camera")
        wait_for(page, "pictures", float(page.get_attribute("body", "data-pictures")) + 2)

        film = tmp_path / "film.webm"
        _write_webm(film, frames)
        page.set_input_files("#file", film)
        wait_for(page, "pictures", float(page.get_attribute("body", "data-pictures")) + 4)
        assert page.inner_text("#camera") == "Stop the film"
        assert page.get_attribute("#video", "class") in (None, "")


def _shows_hand(png: bytes) -> bool:
    """Whether the colours of joints are in a picture of the stage."""
    seen = np.array(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.int64).reshape(-1, 3)
    blue = np.array(FINGER_COLORS_RGB["ring"])
    return bool((np.abs(seen - blue).max(axis=1) < 12).sum() > 20)


def _write_webm(path: Path, frames: list[np.ndarray]) -> None:
    av = pytest.importorskip("av", reason="the extra video is not installed")
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libvpx", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"deadline": "realtime", "cpu-used": "8"}
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        film.mux(stream.encode(None))


def test_a_folder_of_a_host_without_headers(nano_folder: Path, browser: Any, tmp_path: Path) -> None:  # noqa: F811
    """A service worker isolates the page where the server sends no headers, below any path."""
    (tmp_path / "demo").symlink_to(nano_folder)
    with serve_folder(tmp_path) as url:
        for cores, isolated in ((4, True), (2, False)):
            context = browser.new_context()
            context.add_init_script(
                f"Object.defineProperty(Navigator.prototype, 'hardwareConcurrency', {{ get: () => {cores} }})"
            )
            page = context.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"{url}/demo/")
            page.wait_for_selector("body[data-ready]")
            assert page.evaluate("crossOriginIsolated") is isolated
            page.set_checked("#detector", False)
            page.click("#examples button:first-child")
            wait_for(page, "pictures", 1)
            assert page.locator("#hands tbody tr").count() == 1
            context.close()
    said = (nano_folder / "LICENSES.txt").read_text()
    for part in ("the page", "pose.onnx (model nano)", "detector.onnx", "examples/", "MIT, see ort/LICENSE"):
        assert part in said


def test_refusals_keyboard_and_a_phones_width(
    nano_folder: Path, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    with serve_folder(nano_folder) as url:
        page = open_page(url, viewport={"width": 360, "height": 740}, color_scheme="dark")
        page.on("filechooser", lambda chooser: None)  # from here on, so that none is missed
        page.set_input_files("#file", tmp_path / "text.jpg")
        page.wait_for_selector("#status.problem")
        assert page.inner_text("#status") == "text.jpg is not a picture that the browser can read."
        assert page.is_disabled("#download")
        page.set_input_files("#file", as_png("one_hand.jpg", tmp_path)[0])
        wait_for(page, "pictures", 1)
        assert "problem" not in (page.get_attribute("#status", "class") or "")
        assert page.locator("#hands tbody tr").count() == 1

        assert page.locator("body").bounding_box()["width"] <= 360
        assert page.locator(".panes").bounding_box()["width"] <= 360
        page.focus("#view")
        before = page.get_attribute("#view", "data-yaw")
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("#view", "data-yaw") != before
        page.keyboard.press("Tab")
        page.keyboard.press("Shift+Tab")
        page.focus("#choose")
        with page.expect_file_chooser():
            page.keyboard.press("Enter")


def test_a_folder_that_is_not_complete_says_so(nano_folder: Path, browser: Any, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "page"
    folder.mkdir()
    for path in nano_folder.iterdir():
        if path.name != "pose.onnx":
            (folder / path.name).symlink_to(path)
    with serve_folder(folder) as url:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        page.wait_for_selector("#status.problem")
        assert page.inner_text("#status") == "/pose.onnx: the server answers 404; is the folder complete?"
        assert json.loads((folder / "settings.json").read_text())["pose"]["file"] == "pose.onnx"
        page.close()
