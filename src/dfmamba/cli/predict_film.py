"""The part of `dfmamba predict` for films, cameras and folders of frames."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.results import viewing

if TYPE_CHECKING:
    from dfmamba.predict import Predictor
    from dfmamba.video.film import FilmReport
    from dfmamba.video.frames import FrameReader

OPTIONS = ("film", "fps", "smooth", "detect_every", "seconds", "no_film")
"""Those that mean something for films only."""

SUFFIXES = (".jsonl", ".mp4")
REDRAW_S, LINE_S = 0.5, 30.0
_PROGRAM = "dfmamba predict"


def add_film_arguments(parser: ArgumentParser) -> None:
    """Declare the options for films."""
    parser.add_argument(
        "--film", action="store_true", help="folders are films, their pictures the frames; GIFs are, too"
    )
    parser.add_argument("--fps", type=float, metavar="N", help="with --film: frames a second of folders (25)")
    parser.add_argument(
        "--smooth", action="store_true", help="films: smooth joints over time (one-euro filter)"
    )
    parser.add_argument(
        "--detect_every",
        type=int,
        metavar="N",
        help="films: frames between two runs of the detector (10); hands are followed in between",
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="films and cameras: stop after so long")
    parser.add_argument("--no_film", action="store_true", help="films: no film with the joints drawn in")


def check_film_options(options: Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        ValueError: such a number; the message names the option.
    """
    for name in ("seconds", "fps"):
        value = options[name]
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name}: expected a number above 0, got {value:g}")
    if options.detect_every is not None and options.detect_every < 1:
        raise ValueError(f"--detect_every: expected at least 1 frame, got {options.detect_every}")


def split(paths: Sequence[str], film: bool) -> tuple[list[str], list[str]]:
    """Films and cameras, and what is left for pictures.

    Raises:
        ValueError: if a camera has no number.
    """
    from dfmamba.video.frames import is_film

    films = [name for name in paths if is_film(name, gifs=film) or (film and Path(name).is_dir())]
    return list(dict.fromkeys(films)), [name for name in paths if name not in films]


def run_films(
    predictor: Predictor,
    films: Sequence[str],
    targets: Sequence[Path],
    options: Namespace,
    settings: dict[str, Any],
) -> int:
    """Predict films one after the other; prints a line for each.

    Args:
        predictor: with its detector.
        films: paths, or camera:N.
        targets: for each the path of its results without suffix.
        options: those of `dfmamba predict`.
        settings: box, camera, mirrored, threshold and refine, as for `Predictor.predict`.

    Returns:
        The exit code: 0, 1 if a film ended early or some failed, 2 if all failed, 130 if interrupted.
    """
    from dfmamba.cli.main import fail

    failed = early = 0
    for name, target in zip(films, targets, strict=True):
        try:
            with _interruptible() as interrupted:
                report, camera = _run_one(predictor, name, target, options, settings, interrupted)
        except ImportError as error:
            raise ValueError(f"{name}: {error}") from error
        except BrokenPipeError:
            raise
        except (ValueError, OSError, RuntimeError) as error:
            fail(_PROGRAM, str(error) if name in str(error) else f"{name}: {error}")
            failed += 1
            continue
        print(_summary(name, target, report, options.no_film), flush=True)
        if report.fault is not None:
            fail(_PROGRAM, report.fault)
            early += 1
        if interrupted.is_set() and not camera:
            return 130
    if failed == len(films):
        return 2
    return 1 if failed or early else 0


def _run_one(
    predictor: Predictor,
    name: str,
    target: Path,
    options: Namespace,
    settings: dict[str, Any],
    interrupted: threading.Event,
) -> tuple[FilmReport, bool]:
    """The report, and whether it was a camera."""
    from dfmamba.predict.smooth import SmoothConfig
    from dfmamba.predict.track import TrackConfig
    from dfmamba.video.film import FilmHeader, predict_film
    from dfmamba.video.frames import camera_number, read_frames

    every = {} if options.detect_every is None else {"detect_every": options.detect_every}
    config = TrackConfig(smooth=SmoothConfig() if options.smooth else None, **every, **settings)
    with read_frames(name, options.fps) as reader:
        header = FilmHeader(
            model=predictor.name,
            detector=options.detector if settings["box"] is None else "none",
            size=reader.size,
            fps=float(reader.fps),
            smoothing=config.smooth,
            mirrored=config.mirrored,
            camera=config.camera,
            source=name,
        )
        lines, film = (target.with_name(target.name + suffix) for suffix in SUFFIXES)
        progress = Progress(name, reader, options.seconds)

        def stop(time_s: float) -> bool:
            return interrupted.is_set() or (
                options.seconds is not None and time_s + float(1 / reader.fps) >= options.seconds
            )

        drawn = None if options.no_film else film
        with viewing(options.view, target.with_name(target.name + ".rrd")) as viewer:
            try:
                report = predict_film(
                    predictor, reader, header, config, lines, drawn, stop, progress, viewer, options.mesh
                )
            finally:
                progress.close()
    return report, camera_number(name) is not None


class Progress:
    """Frames, rate and time left: a line that is redrawn on a terminal, now and then a new one in a file."""

    def __init__(self, name: str, reader: FrameReader, seconds: float | None) -> None:
        self.name, self.total = name, reader.total
        if seconds is not None:
            most = max(round(seconds * reader.fps), 1)
            self.total = most if self.total is None else min(self.total, most)
        self.shown, self.drawn, self.terminal = time.monotonic(), False, sys.stderr.isatty()

    def __call__(self, report: FilmReport) -> None:
        now = time.monotonic()
        if now - self.shown < (REDRAW_S if self.terminal else LINE_S):
            return
        self.shown, self.drawn = now, True
        text = self.line(report)
        start, end = ("\r", "\x1b[K") if self.terminal else ("", "\n")
        print(f"{start}{text}{end}", end="", file=sys.stderr, flush=True)

    def line(self, report: FilmReport) -> str:
        """Such as "film.mp4: 40/202 frames, 20.1/s, 0:00:08 left"."""
        from dfmamba.train.meter import clock

        done, rate = report.frames + report.broken, report.frames / max(report.seconds, 1e-9)
        if self.total is None:
            counted, left = f"{done} frames", ""
        else:
            counted = f"{done}/{self.total} frames"
            left = f", {clock(max(self.total - done, 0) / max(rate, 1e-9))} left"
        broken = f", {report.broken} broken" if report.broken else ""
        return f"{self.name}: {counted}, {rate:.1f}/s{left}{broken}"

    def close(self) -> None:
        """Leaves the line."""
        if self.terminal and self.drawn:
            print(file=sys.stderr)


def _summary(name: str, target: Path, report: FilmReport, no_film: bool) -> str:
    counts = f"{report.frames} frames, {report.hands} hands of {report.tracks} tracks, {report.broken} broken"
    rate = report.frames / max(report.seconds, 1e-9)
    files = f"{target}{SUFFIXES[0]}" + ("" if no_film else f", {target.name}{SUFFIXES[1]}")
    return f"{name}: {counts}, {rate:.1f} frames/s ({report.watch.shares()}) -> {files}"


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that the frame at hand is finished; the second interrupts."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
