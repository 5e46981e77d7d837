"""A whole film: decoded, predicted, drawn and encoded, alone and beside busy processes, next to MediaPipe."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.bench.contest import Plan
from dfmamba.predict import Predictor
from dfmamba.predict.track import TrackConfig
from dfmamba.text import Table
from dfmamba.video.film import STAGES, FilmHeader, FilmReport, predict_film
from dfmamba.video.frames import read_frames

BUSY = "while True: pass"

PEER = """
import json, sys, time
import cv2, numpy
from mediapipe import solutions

hands = solutions.hands.Hands(static_image_mode=False, max_num_hands=2)
hands.process(numpy.zeros((64, 64, 3), numpy.uint8))
start, frames, found = time.perf_counter(), 0, 0
film = cv2.VideoCapture(sys.argv[1])
while True:
    there, picture = film.read()
    if not there:
        break
    seen = hands.process(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    frames, found = frames + 1, found + bool(seen.multi_hand_landmarks)
print(json.dumps({"frames": frames, "frames_with_hands": found, "seconds": time.perf_counter() - start}))
"""
"""Prints what MediaPipe's tracking with decoding took, without loading and one empty picture before it."""

NOTE = (
    "Not counted: starting Python, importing, loading models, and one empty picture before the film. "
    "Counted: opening the film and all until the last line and frame are written. Shares are of the time "
    "that all stages take together; decoding, and drawing with encoding, run beside the network."
)


@dataclass(frozen=True)
class FilmBench:
    """What is measured.

    Attributes:
        film: file.
        load: busy processes beside which all is measured once more; 0 for none.
        peer_python: interpreter that has MediaPipe; None for this one.
        model: packaged model or folder.
        device: torch device.
        plan: at least three passes each, or `plan.rounds` if that is less, and then until
            `plan.budget_seconds` are over.

    Raises:
        ValueError: the load is negative.
    """

    film: str
    load: int = 2
    peer_python: str | None = None
    model: str = "nano"
    device: str = "cpu"
    plan: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        if self.load < 0:
            raise ValueError(f"load: expected 0 or more busy processes, got {self.load}")


@dataclass(frozen=True)
class Pass:
    """One film by one competitor: frames, frames/s, and for ours the seconds of each stage."""

    frames: int
    rate: float
    stages: dict[str, float] = field(default_factory=dict)


def run(
    bench: FilmBench, progress: Callable[[str], object] = lambda line: None
) -> tuple[list[dict[str, Any]], list[Table]]:
    """Measure, in turns.

    Returns:
        One mapping a competitor and load, and one table.

    Raises:
        ImportError: PyAV is missing.
        OSError: the film, the model or the interpreter can't be read.
        ValueError: one of them is unusable.
    """
    predictor = Predictor(bench.model, bench.device)
    predictor.predict(np.zeros((64, 64, 3), np.uint8))
    competitors: dict[str, Callable[[], Pass | str]] = {
        "dfmamba, film drawn": lambda: _ours(predictor, bench.film, True),
        "dfmamba, no film": lambda: _ours(predictor, bench.film, False),
        "MediaPipe, tracking and decoding": lambda: _peer(bench),
    }
    results, body = [], []
    for load in sorted({0, bench.load}):
        with _busy(load):
            passes = _turns(competitors, bench.plan, progress)
        for name, (done, problem) in passes.items():
            rates = [one.rate for one in done]
            whole = max(sum(sum(one.stages.values()) for one in done), 1e-9)
            shares = {stage: sum(one.stages.get(stage, 0.0) for one in done) / whole for stage in STAGES}
            ours = name.startswith("dfmamba")
            rate = statistics.median(rates) if rates else None
            results.append(
                {
                    "competitor": name,
                    "ours": ours,
                    "load": load,
                    "status": "ok" if rates else "absent",
                    "note": problem,
                    "frames": done[0].frames if done else None,
                    "frames_per_second": rate,
                    "all_frames_per_second": rates,
                    "shares": shares if ours else None,
                }
            )
            texts = [f"{100 * shares[stage]:.0f} %" if shares[stage] else "–" for stage in SHOWN]
            spread = "–" if rate is None else f"{rate:.1f} ({min(rates):.1f} to {max(rates):.1f})"
            body.append((name, str(load), spread, *texts, problem))
    header = ("competitor", "busy processes", "frames/s", *SHOWN.values(), "remark")
    return results, [Table("A film, whole", header, tuple(body), (NOTE,))]


SHOWN = {"decode": "decode", "detect": "detect", "pose": "network", "draw": "draw", "encode": "encode"}
"""Stages of the table and their names there."""


def _turns(
    competitors: dict[str, Callable[[], Pass | str]], plan: Plan, progress: Callable[[str], object]
) -> dict[str, tuple[list[Pass], str]]:
    """Passes of each, or why there are none; all in turns, each round begun by another."""
    done: dict[str, tuple[list[Pass], str]] = {name: ([], "") for name in competitors}
    spent = 0.0
    for number in range(plan.rounds):
        if number >= min(3, plan.rounds) and spent > plan.budget_seconds:
            break
        names = list(competitors)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            passes, problem = done[name]
            if problem:
                continue
            progress(f"round {number + 1}: {name}")
            outcome = competitors[name]()
            if isinstance(outcome, str):
                done[name] = ([], outcome)
            else:
                passes.append(outcome)
                spent += outcome.frames / outcome.rate / len(names)
    return done


def _ours(predictor: Predictor, film: str, drawn: bool) -> Pass:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, read_frames(film) as reader:
        header = FilmHeader(predictor.name, "built-in", reader.size, float(reader.fps))
        target = Path(folder)
        report: FilmReport = predict_film(
            predictor,
            reader,
            header,
            TrackConfig(),
            target / "film.jsonl",
            target / "film.mp4" if drawn else None,
        )
        seconds = time.perf_counter() - start
    if not report.frames:
        raise ValueError(f"{film}: {report.fault or 'no frame could be read'}")
    return Pass(report.frames, report.frames / seconds, report.watch.seconds)


def _peer(bench: FilmBench) -> Pass | str:
    """MediaPipe's pass, or why there is none."""
    python = bench.peer_python or sys.executable
    try:
        ended = subprocess.run([python, "-c", PEER, bench.film], capture_output=True, text=True, check=False)
    except OSError as error:
        raise OSError(f"--peer_python {python}: can't be run ({error.strerror or error})") from None
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return f"not run: {last}"
    said = json.loads(ended.stdout.splitlines()[-1])
    if not said["frames"]:
        return "not run: OpenCV reads no frame of this film"
    return Pass(said["frames"], said["frames"] / said["seconds"])


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """Processes that do nothing but compute."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        started += (subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count))
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
