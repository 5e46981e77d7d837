"""The predictors of the server, and the threads in which they run."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dfmamba.app.config import AppConfig
from dfmamba.app.uploads import Options
from dfmamba.detect.build import NONE, make_detector
from dfmamba.detect.given import GivenBoxes
from dfmamba.hands.detection import Detector
from dfmamba.machine import choose_device
from dfmamba.models import list_models, load
from dfmamba.predict.predictor import Predictor
from dfmamba.predict.result import Prediction
from dfmamba.predict.track import Frame, TrackConfig, Tracker

T = TypeVar("T")
LONGEST_SESSION = 64
"""Characters of a session's name."""


class Busy(Exception):
    """All places are taken."""


class Threads:
    """A few threads with a bounded queue. PyTorch works outside of Python's lock, so they use several cores.

    Args:
        threads: calls that run at the same time.
        places: requests that are inside; further ones are refused.
    """

    def __init__(self, threads: int, places: int) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="dfmamba-picture")
        self.places, self.inside = places, 0

    def require_place(self) -> None:
        """Raises:
        Busy: all places are taken.
        """
        if self.inside >= self.places:
            raise Busy(f"{self.places} requests are being worked on; try again in a moment")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place; used in the event loop only.

        Raises:
            Busy: there is none.
        """
        self.require_place()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a call in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)

    def close(self) -> None:
        """Ends the threads; what has not begun is dropped."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class Predictors:
    """Predictors by the names of model and detector.

    Requests choose among the packaged models and the one that the server was started with, and among its
    detector and none; they never name files.

    Args:
        config: model, detector and device.
        detector: takes the place of the configuration's, for tests.

    Raises:
        ValueError, OSError: the configured model, detector or device can't be used.
    """

    def __init__(self, config: AppConfig, detector: Detector | None = None) -> None:
        packaged = list_models()
        self.device = str(choose_device(config.device))
        self.default = config.model if config.model in packaged else Path(config.model).name
        self.sources = {self.default: config.model}
        self.detector_name = Path(config.detector).name if detector is None else "given"
        self._detector = detector if detector is not None else _make_detector(config.detector, self.device)
        self._made: dict[tuple[str, bool], Predictor] = {}
        self._lock = threading.Lock()
        self.get()
        for name in packaged:
            if name not in self.sources:
                self._offer(name)

    @property
    def models(self) -> list[str]:
        """Names that `get` knows, the default first."""
        return list(self.sources)

    @property
    def detectors(self) -> list[str]:
        """Names of detectors that `get` knows, the default first."""
        return list(dict.fromkeys([self.detector_name, NONE]))

    def get(self, model: str | None = None, detector: str | None = None) -> Predictor:
        """The predictor for these names; None stands for the default.

        Raises:
            ValueError: a name is not among `models` or `detectors`.
        """
        model = self.default if model is None else model
        detector = self.detectors[0] if detector is None else detector
        for kind, name, known in (("model", model, self.models), ("detector", detector, self.detectors)):
            if name not in known:
                raise ValueError(f"{kind} {name!r} is not offered here; expected one of: {', '.join(known)}")
        finds = detector != NONE
        with self._lock:
            if (model, finds) not in self._made:
                self._made[model, finds] = self._make(model, finds)
            return self._made[model, finds]

    def _offer(self, name: str) -> None:
        """Adds a packaged model, if it is one that finds joints in pictures."""
        self.sources[name] = name
        try:
            self.get(name)
        except ValueError:
            del self.sources[name]

    def _make(self, model: str, finds: bool) -> Predictor:
        other = self._made.get((model, not finds))
        network = other.model if other is not None else load(self.sources[model])
        return Predictor(network, self.device, detector=self._detector if finds else None)


def _make_detector(name: str, device: str) -> Detector | None:
    try:
        detector = make_detector(name, device)
    except ImportError as error:
        raise ValueError(f"--detector {name}: {error}") from None
    if isinstance(detector, GivenBoxes):
        raise ValueError(f"--detector {name}: boxes go by the names of files, which the page doesn't have")
    return detector


@dataclass
class _Session:
    """A camera's tracker, for as long as its pictures and options stay alike."""

    like: tuple[Any, ...]
    tracker: Tracker
    frames: int = 0
    used: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """The hands of cameras whose pictures come one by one: followed as those of a film are.

    Args:
        most: cameras; one more ends that whose last picture is the oldest.
        keep_seconds: after which a camera is forgotten.
        clock: seconds; for tests.
    """

    def __init__(
        self, most: int = 16, keep_seconds: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most, self.keep_seconds, self.clock = most, keep_seconds, clock
        self._sessions: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def step(self, predictor: Predictor, picture: np.ndarray, options: Options) -> Prediction:
        """The hands of a session's next picture.

        Raises:
            ValueError: an option can't be used, or the session's name is too long.
        """
        name, started = options.session or "", self.clock()
        if len(name) > LONGEST_SESSION:
            raise ValueError(f"session: expected a name of at most {LONGEST_SESSION} characters")
        config = TrackConfig(
            box=options.box, camera=options.camera, mirrored=options.mirrored, threshold=options.threshold
        )
        like = (id(predictor), config, picture.shape)
        with self._lock:
            for other in [n for n, one in self._sessions.items() if started - one.used > self.keep_seconds]:
                del self._sessions[other]
            if name not in self._sessions and len(self._sessions) >= self.most:
                del self._sessions[min(self._sessions, key=lambda other: self._sessions[other].used)]
            session = self._sessions.get(name)
            if session is None or session.like != like:
                tracker = Tracker(predictor, config, lambda stage: nullcontext())
                session = self._sessions[name] = _Session(like, tracker)
            session.used = started
        with session.lock:
            frame = Frame(session.frames, started, picture)
            session.frames += 1
            prediction = session.tracker.step(frame)
        return dataclasses.replace(prediction, seconds=self.clock() - started)
