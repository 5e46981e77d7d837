"""Renders the pictures of docs/use/pictures.md, from examples/ and from scenes that the package renders.

python tools/render_docs_pictures.py docs/images [--detector built-in] [--only app]

The people scene needs boxes: those of a detector, or without one those of the scene's own labels, which the
page then has to say. Needs the extras synthetic, app and video, Playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from render_examples import PICTURES, SEED

from dfmamba.detect import Detection
from dfmamba.draw import draw_overlay
from dfmamba.hands.affine import box_of_points
from dfmamba.predict import Predictor

EXAMPLES = Path(__file__).parents[1] / "examples"
LIMIT_BYTES = 150_000
GAP = 8
PEOPLE = (7, (3, 9, 21))
"""Seed and indices of the scenes with whole people."""


def save(picture: Image.Image, path: Path) -> None:
    """Writes a JPEG below the limit."""
    for quality in (90, 84, 78, 70, 60):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size < LIMIT_BYTES:
            print(f"{path}: {picture.size}, {path.stat().st_size / 1000:.0f} KB")
            return
    raise SystemExit(f"{path}: larger than {LIMIT_BYTES} bytes")


def row(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size side by side."""
    wide, high = pictures[0].size
    rows = -(-len(pictures) // columns)
    size = (columns * (wide + GAP) - GAP, rows * (high + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * (wide + GAP), number // columns * (high + GAP)))
    return sheet


def overlays(out: Path, _: str | None) -> None:
    """The four examples with what the packaged model finds."""
    predictor = Predictor("nano", "cpu")
    drawn = []
    for name in PICTURES:
        picture = Image.open(EXAMPLES / f"{name}.jpg").convert("RGB")
        drawn.append(draw_overlay(picture, predictor.predict(picture)))
    save(row(drawn, 4).resize((1200, 296), Image.Resampling.LANCZOS), out / "overlay.jpg")


def views(out: Path, _: str | None) -> None:
    """Two hands in one space, with the intrinsics of the rendered camera."""
    from dfmamba.synth import SyntheticConfig, SyntheticHands

    kind, index = PICTURES["two_hands"]
    sample = SyntheticHands(SyntheticConfig(size=384, seed=SEED, kinds={kind: 1.0})).sample(index)
    assert sample.image is not None
    prediction = Predictor("nano", "cpu").predict(sample.image, camera=sample.camera)
    save(prediction.plot(sample.image), out / "views.jpg")


def film(out: Path, _: str | None) -> None:
    """Five frames of a film: the view moves over a picture of two hands."""
    from dfmamba.video import Frame, track_film
    from dfmamba.video.encode import draw_tracked

    still = Image.open(EXAMPLES / "two_hands.jpg").convert("RGB")
    frames, centre = [], (still.width - 1) / 2
    for number in range(25):
        angle, zoom = np.deg2rad(1.2 * (number - 12)), 1.25 - 0.01 * number
        a, b = zoom * np.cos(angle), zoom * np.sin(angle)
        shift = 30.0 * np.sin(number / 4)
        move = (a, b, centre - a * centre - b * centre + shift, -b, a, centre + b * centre - a * centre)
        picture = still.transform(
            still.size, Image.Transform.AFFINE, move, Image.Resampling.BICUBIC, fillcolor=(90, 88, 86)
        )
        frames.append(Frame(number, number / 25, np.asarray(picture)))
    tracked = list(track_film(Predictor("nano", "cpu"), iter(frames)))
    chosen = [Image.fromarray(draw_tracked(one)) for one in tracked[::6]]
    save(row(chosen, 5).resize((1200, 234), Image.Resampling.LANCZOS), out / "film.jpg")


def people(out: Path, detector: str | None) -> None:
    """Scenes with whole people and the hands in them."""
    from dfmamba.synth.background import sample_background
    from dfmamba.synth.people import render_people
    from dfmamba.synth.post import recompose

    seed, indices = PEOPLE
    predictor = Predictor("nano", "cpu", detector=detector)
    drawn = []
    for index in indices:
        scene = render_people(seed, index, 512)
        rng = np.random.default_rng([seed, index])
        picture = recompose(scene.rgba, sample_background(rng, 512))
        if detector is None:
            boxes = [
                Detection(box_of_points(points))
                for points, seen in zip(scene.joints_px, scene.visible, strict=True)
                if seen > 0.5
            ]
            (prediction,) = predictor.predict_at([picture], [boxes], threshold=0.0)
        else:
            prediction = predictor.predict(picture)
        drawn.append(draw_overlay(picture, prediction))
    save(row(drawn, 3).resize((1200, 396), Image.Resampling.LANCZOS), out / "people.jpg")


def app(out: Path, _: str | None) -> None:
    """The app on a desk and on a phone."""
    import shutil

    from playwright.sync_api import sync_playwright

    with serving() as address, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        sizes: dict[str, dict[str, Any]] = {
            "app": {"viewport": {"width": 1100, "height": 820}},
            "app_phone": {"viewport": {"width": 360, "height": 900}, "is_mobile": True, "has_touch": True,
                          "color_scheme": "dark"},
        }  # fmt: skip
        for name, settings in sizes.items():
            page = chromium.new_context(**settings).new_page()
            page.goto(address)
            page.wait_for_selector("body[data-ready]")
            page.click(".example:nth-child(2)")
            page.wait_for_selector("#photo .summary:has-text('2 hands')")
            with tempfile.TemporaryDirectory() as folder:
                page.screenshot(path=f"{folder}/page.png")
                save(Image.open(f"{folder}/page.png").convert("RGB"), out / f"{name}.jpg")
        chromium.close()


@contextmanager
def serving() -> Iterator[str]:
    """The app on a free port; yields its address."""
    import uvicorn

    from dfmamba.app.config import AppConfig
    from dfmamba.app.server import make_app

    listener = socket.create_server(("127.0.0.1", 0))
    application = make_app(AppConfig(detector="none", device="cpu"))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


RENDERERS: dict[str, Callable[[Path, str | None], None]] = {
    "overlays": overlays,
    "views": views,
    "film": film,
    "people": people,
    "app": app,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--detector", help="finds the hands of the people scenes; the labels' boxes without")
    parser.add_argument("--only", choices=RENDERERS, nargs="+", default=list(RENDERERS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        RENDERERS[name](options.out, options.detector)
