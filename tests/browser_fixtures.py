"""What tests of pages share: Chromium driven by Playwright, a folder served on localhost, a film as a camera.

A test module takes the fixtures into its folder's conftest.py, `from browser_fixtures import browser`, and
marks itself `pytestmark = [pytest.mark.slow, pytest.mark.browser]`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

CHROMIUM_VARIABLE = "DFMAMBA_CHROMIUM"
"""Environment variable with the path of a Chromium, where it is not found by name."""

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Options with which Chromium runs as root, without a screen and without calling its maker."""


def chromium_executable() -> str | None:
    """Path of a Chromium on this machine; None where there is none."""
    named = os.environ.get(CHROMIUM_VARIABLE)
    if named:
        return named
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


def fake_camera(film: Path | None = None) -> tuple[str, ...]:
    """Options with which Chromium has a camera and lets every page use it.

    Args:
        film: .mjpeg or .y4m that the camera shows again and again; None: Chromium's own test picture.
    """
    options = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    return options if film is None else (*options, f"--use-file-for-fake-video-capture={film}")


def write_camera_film(path: Path, pictures: Sequence[np.ndarray]) -> Path:
    """Write pictures (H, W, 3) uint8, all of one size and with even sides, as a film for `fake_camera`."""
    content = io.BytesIO()
    for picture in pictures:
        Image.fromarray(picture).save(content, "JPEG", quality=92, subsampling=2)
    path.write_bytes(content.getvalue())
    return path


@pytest.fixture(scope="module")
def launch_browser() -> Iterator[Callable[..., Any]]:
    """A function that starts a Chromium with further options and gives Playwright's `Browser`.

    Its scope is one module: as long as it runs, Playwright keeps an event loop in the thread of the tests.
    """
    executable = chromium_executable()
    if executable is None:
        pytest.skip(f"Chromium not found (apt-get install chromium, or set {CHROMIUM_VARIABLE} to its path)")
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright not installed (pip install playwright)"
    )
    with api.sync_playwright() as playwright:
        started: list[Any] = []

        def launch(*options: str) -> Any:
            started.append(
                playwright.chromium.launch(executable_path=executable, headless=True, args=[*QUIET, *options])
            )
            return started[-1]

        yield launch
        for one in started:
            one.close()


@pytest.fixture(scope="module")
def browser(launch_browser: Callable[..., Any]) -> Any:
    """A headless Chromium: Playwright's `Browser`, the same for all tests of a module."""
    return launch_browser()


@contextlib.contextmanager
def serve_folder(folder: Path, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serves the files of a folder on localhost.

    Args:
        folder: what the address's root shows.
        headers: added to every answer, for instance those of cross-origin isolation.

    Yields:
        the address, "http://127.0.0.1:PORT".
    """
    handler = functools.partial(_Handler, directory=str(folder), extra=dict(headers or {}))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".json": "application/json",
        ".onnx": "application/octet-stream",
    }

    def __init__(self, *args: Any, extra: dict[str, str], **kwargs: Any) -> None:
        self.extra = extra
        super().__init__(*args, **kwargs)

    def end_headers(self) -> None:
        for name, value in self.extra.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass
