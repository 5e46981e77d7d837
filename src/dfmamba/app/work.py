"""The predictors of the server, and the threads in which they run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dfmamba.app.config import AppConfig
from dfmamba.detect.build import NONE, make_detector
from dfmamba.detect.given import GivenBoxes
from dfmamba.hands.detection import Detector
from dfmamba.machine import choose_device
from dfmamba.models import list_models, load
from dfmamba.predict.predictor import Predictor

T = TypeVar("T")


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

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place; used in the event loop only.

        Raises:
            Busy: there is none.
        """
        if self.inside >= self.places:
            raise Busy(f"{self.places} requests are being worked on; try again in a moment")
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
        if other is not None:
            network = other.model
        else:
            network = load(self.sources[model])
        return Predictor(network, self.device, detector=self._detector if finds else None)


def _make_detector(name: str, device: str) -> Detector | None:
    try:
        detector = make_detector(name, device)
    except ImportError as error:
        raise ValueError(f"--detector {name}: {error}") from None
    if isinstance(detector, GivenBoxes):
        raise ValueError(f"--detector {name}: boxes go by the names of files, which the page doesn't have")
    return detector
