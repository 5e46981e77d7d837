"""Films that are worked on in the background: jobs with progress, and files that are removed in time."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dfmamba.app.config import AppConfig
from dfmamba.app.guard import shorten
from dfmamba.app.uploads import Options, save_upload
from dfmamba.app.work import Predictors
from dfmamba.detect.build import NONE
from dfmamba.extras import need
from dfmamba.io.files import temporary_folder
from dfmamba.predict.predictor import Predictor

OVERLAY, PREDICTIONS = "overlay.mp4", "predictions.jsonl"
UNFINISHED = ("waiting", "running")


class TooMany(Exception):
    """As many films as may be are being worked on."""


class Stopped(Exception):
    """The job was cancelled."""


@dataclass
class Job:
    """A film.

    Attributes:
        id: cannot be guessed.
        folder: its files.
        root: path of the server on the host that shows it.
        state: "waiting", "running", "done", "failed" or "cancelled".
        frames_done: frames that have been predicted.
        frames_total: what the file announces; None where it doesn't.
        hands: hands found in them.
        tracks: different hands among those.
        error: what was wrong; of a job that is done, with what was left out.
        began: `time.monotonic` when work began.
        ended: when it ended.
        stop: set by whoever wants it to end.
    """

    id: str
    folder: Path
    root: str = ""
    state: str = "waiting"
    frames_done: int = 0
    frames_total: int | None = None
    hands: int = 0
    tracks: int = 0
    error: str | None = None
    began: float | None = None
    ended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def note(self, reason: object) -> None:
        """Keeps what was wrong, without the name of the file on this machine."""
        self.error = shorten(str(reason).replace(str(self.folder / "film"), "film") or type(reason).__name__)

    def to_dict(self) -> dict[str, Any]:
        """What a client is told."""
        files = {"overlay": OVERLAY, "predictions": PREDICTIONS} if self.state == "done" else {}
        seconds = None if self.began is None else (self.ended or time.monotonic()) - self.began
        return {
            "id": self.id,
            "state": self.state,
            "frames_done": self.frames_done,
            "frames_total": self.frames_total,
            "hands": self.hands,
            "tracks": self.tracks,
            "seconds": None if seconds is None else round(seconds, 2),
            "error": self.error,
            "files": {kind: f"{self.root}/api/film/{self.id}/{name}" for kind, name in files.items()},
        }


class Films:
    """The jobs, worked on one after the other in a thread of their own.

    Args:
        config: how many, how long and for how long.
        work: predicts a film: job, predictor, options, most frames. For tests.
    """

    def __init__(self, config: AppConfig, work: Callable[..., None] | None = None) -> None:
        self.config = config
        self.work = predict_film if work is None else work
        self.folder = temporary_folder("dfmamba-films-")
        self.jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="dfmamba-film")

    def require_room(self) -> None:
        """Raises:
        TooMany: no further film is taken now.
        """
        waiting = sum(job.state in UNFINISHED for job in list(self.jobs.values()))
        if waiting >= self.config.films:
            raise TooMany(f"{waiting} films are being worked on; try again when one is done")

    def submit(self, file: BinaryIO, predictors: Predictors, options: Options) -> Job:
        """Takes a film over.

        Raises:
            TooMany: no further film is taken now.
            ValueError: an option names something unknown.
            OSError: the film can't be stored.
        """
        predictor = predictors.get(options.model, options.detector)
        options = dataclasses.replace(options, detector=options.detector or predictors.detectors[0])
        if not 0 <= options.threshold <= 1:
            raise ValueError(f"threshold: expected a value from 0 to 1, got {options.threshold}")
        self.sweep(time.monotonic())
        with self._lock:
            self.require_room()
            name = secrets.token_urlsafe(16)
            job = self.jobs[name] = Job(name, self.folder / name, self.config.public_path)
        try:
            job.folder.mkdir()
            save_upload(file, job.folder / "film")
        except OSError:
            self._remove(job)
            raise
        self._pool.submit(self._run, job, predictor, options)
        return job

    def get(self, name: str) -> Job | None:
        """The job of that id, if there still is one."""
        return self.jobs.get(name)

    def cancel(self, job: Job) -> None:
        """Ends a job at its next frame, or removes the files of an ended one."""
        job.stop.set()
        if job.state not in UNFINISHED:
            self._remove(job)

    def sweep(self, now: float) -> None:
        """Removes results that are too old or too many; `now` is `time.monotonic()`."""
        ended = sorted(
            (job for job in list(self.jobs.values()) if job.ended is not None),
            key=lambda job: job.ended or 0.0,
        )
        surplus = ended[: max(len(ended) - self.config.results, 0)]
        for job in ended:
            if job in surplus or now - (job.ended or now) > self.config.keep_seconds:
                self._remove(job)

    def close(self) -> None:
        """Stops all work and removes all files."""
        for job in list(self.jobs.values()):
            job.stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _remove(self, job: Job) -> None:
        self.jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def _run(self, job: Job, predictor: Predictor, options: Options) -> None:
        job.began, job.state = time.monotonic(), "running"
        try:
            if job.stop.is_set():
                raise Stopped
            self.work(job, predictor, options, self.config.film_frames)
            state = "done"
        except Stopped:
            state = "cancelled"
        except Exception as error:
            # Decoders answer damaged bytes with almost any exception type; the thread must go on.
            state = "failed"
            job.note(error)
        (job.folder / "film").unlink(missing_ok=True)
        job.ended = time.monotonic()
        job.state = state


def why_no_films() -> str | None:
    """What must be installed for films; None if nothing."""
    try:
        need("video", "av")
    except ImportError as error:
        return str(error)
    return None


def predict_film(job: Job, predictor: Predictor, options: Options, most_frames: int) -> None:
    """Predicts the film of a job into its files, and keeps its progress.

    Raises:
        Stopped: the job was cancelled.
        ImportError: the extra is missing.
        OSError, ValueError: the film is damaged or too long, or an option is not usable.
    """
    from dfmamba.predict.smooth import SmoothConfig
    from dfmamba.predict.track import TrackConfig
    from dfmamba.video.film import FilmHeader, FilmReport
    from dfmamba.video.film import predict_film as predict
    from dfmamba.video.frames import read_frames

    too_long = ValueError(f"film: longer than the limit of {most_frames} frames; use dfmamba predict FILM")
    smooth = SmoothConfig() if options.smooth else None
    config = TrackConfig(
        smooth=smooth, camera=options.camera, mirrored=options.mirrored, threshold=options.threshold
    )

    def progress(report: FilmReport) -> None:
        job.frames_done, job.hands, job.tracks = report.frames, report.hands, report.tracks
        if job.stop.is_set():
            raise Stopped
        if report.frames > most_frames:
            raise too_long

    with read_frames(job.folder / "film") as reader:
        job.frames_total = reader.total
        if (reader.total or 0) > most_frames:
            raise too_long
        header = FilmHeader(
            model=predictor.name,
            detector=options.detector or NONE,
            size=reader.size,
            fps=float(reader.fps),
            smoothing=smooth,
            mirrored=options.mirrored,
            camera=options.camera,
            source="film",
        )
        report = predict(
            predictor,
            reader,
            header,
            config,
            job.folder / PREDICTIONS,
            job.folder / OVERLAY,
            progress=progress,
            mesh=options.mesh,
        )
    if report.fault is not None:
        job.note(report.fault)
    elif report.broken:
        job.note(f"film: {report.broken} frames could not be read")
