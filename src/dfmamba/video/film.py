"""A film's results on disk: JSON Lines, written as the film goes on, and a film with the joints drawn in."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import JOINT_NAMES
from dfmamba.predict.predictor import Predictor
from dfmamba.predict.result import SCALE, Hand, Prediction
from dfmamba.predict.smooth import SmoothConfig
from dfmamba.predict.surface import FilmSurfaces
from dfmamba.predict.track import TrackConfig, Tracked, track_film
from dfmamba.video.frames import FrameReader

if TYPE_CHECKING:
    from dfmamba.view import Viewer

T = TypeVar("T")

SCHEMA = "dfmamba.film/1"
STAGES = ("decode", "detect", "pose", "fit", "draw", "encode")


@dataclass(frozen=True)
class FilmHeader:
    """First line of a film's JSON Lines.

    Attributes:
        model: name of the model.
        detector: name of the detector; "none" if the model looked at whole frames.
        size: width and height of the frames in pixels.
        fps: frames a second, the mean where it varies.
        smoothing: the one-euro filter's settings; None if joints are as the model gave them.
        mirrored: the film was declared a mirror image, see `Prediction.mirrored`.
        camera: intrinsics that were given; None without.
        source: what was read.
    """

    model: str
    detector: str
    size: tuple[int, int]
    fps: float
    smoothing: SmoothConfig | None = None
    mirrored: bool = False
    camera: Camera | None = None
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        values = dataclasses.asdict(self) | {"size": list(self.size), "fps": round(self.fps, 4)}
        return {"schema": SCHEMA, **values, "scale": SCALE, "joint_names": list(JOINT_NAMES)}

    @classmethod
    def from_dict(cls, data: Any) -> FilmHeader:
        """The inverse of `to_dict`.

        Raises:
            ValueError: if it is not that.
        """
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"expected a film of schema {SCHEMA!r}")
        names = [one.name for one in dataclasses.fields(cls)]
        if set(data) != {"schema", "scale", "joint_names", *names}:
            raise ValueError(f"film: expected the keys {names}, got {sorted(data)}")
        if data["joint_names"] != list(JOINT_NAMES) or data["scale"] != SCALE:
            raise ValueError("film: joint_names or scale are not those of dfmamba")
        values: dict[str, Any] = {name: data[name] for name in names}
        try:
            width, height = values["size"]
            values["size"], values["fps"] = (int(width), int(height)), float(values["fps"])
            kinds: dict[str, Any] = {"smoothing": SmoothConfig, "camera": Camera}
            for name, kind in kinds.items():
                values[name] = None if values[name] is None else kind(**values[name])
        except (TypeError, AttributeError) as error:
            raise ValueError(f"film: a value of its header is not usable ({error})") from None
        return cls(**values)


@dataclass(frozen=True, eq=False)
class FilmFrame:
    """A later line: a frame's number, its time in seconds, and its hands with `track`."""

    index: int
    time_s: float
    hands: tuple[Hand, ...]


class Stopwatch:
    """Adds up the seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def shares(self) -> str:
        """Such as "decode 3 %, pose 97 %"."""
        whole = max(sum(self.seconds.values()), 1e-9)
        return ", ".join(
            f"{stage} {100 * seconds / whole:.0f} %" for stage, seconds in self.seconds.items() if seconds
        )


@dataclass
class FilmReport:
    """What became of a film.

    Attributes:
        frames: predicted.
        hands: in all frames together.
        tracks: different hands.
        broken: frames left out.
        fault: why it ended early, if it did.
        seconds: all of it took.
        watch: how long each of `STAGES` took.
    """

    frames: int = 0
    hands: int = 0
    tracks: int = 0
    broken: int = 0
    fault: str | None = None
    seconds: float = 0.0
    watch: Stopwatch = field(default_factory=Stopwatch)


def predict_film(
    predictor: Predictor,
    reader: FrameReader,
    header: FilmHeader,
    config: TrackConfig,
    lines: Path,
    film: Path | None,
    stop: Callable[[float], bool] = lambda time_s: False,
    progress: Callable[[FilmReport], None] = lambda report: None,
    viewer: Viewer | None = None,
    mesh: bool = False,
) -> FilmReport:
    """Predict a film into files, which hold everything so far at any time.

    Decoding, and drawing with encoding, run in a thread each beside the networks; at most `AHEAD` frames wait
    before and after them.

    Args:
        predictor: with its detector.
        reader: the film, open.
        header: first line of the results.
        config: what is predicted.
        lines: the JSON Lines file; it is replaced.
        film: the film with joints drawn in; None for none.
        stop: asked after each frame, with its time, whether that was the last one.
        progress: told after each frame.
        viewer: shown each frame.
        mesh: whether hands get a fit and are drawn as surfaces.

    Raises:
        ImportError: PyAV is missing and `film` is given.
        OSError: a file cannot be written.
    """
    report, start = FilmReport(), time.perf_counter()
    watch = report.watch
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(lines.open("w", encoding="utf-8"))
        out.write(_line(header.to_dict()))
        out.flush()
        drawing = None if film is None else stack.enter_context(_Drawing(film, reader, config, watch))
        frames = stack.enter_context(contextlib.closing(in_background(_watched(iter(reader), watch))))
        surfaces = FilmSurfaces() if mesh else None
        for tracked in track_film(predictor, frames, config, watch):
            if surfaces is not None:
                with watch("fit"):
                    fitted = surfaces(tracked.prediction, tracked.frame.time_s)
                tracked = dataclasses.replace(tracked, prediction=fitted)
            frame, hands = tracked.frame, tracked.prediction.hands
            values = {"index": frame.index, "time_s": round(frame.time_s, 6)}
            out.write(_line({**values, "hands": [hand.to_dict() for hand in hands]}))
            out.flush()
            if drawing is not None:
                drawing.put(tracked)
            if viewer is not None:
                viewer.log(frame.index, frame.time_s, frame.picture, tracked.prediction)
            report.frames += 1
            report.hands += len(hands)
            report.tracks = max(
                [report.tracks, *(1 + hand.track for hand in hands if hand.track is not None)]
            )
            report.broken, report.seconds = reader.broken, time.perf_counter() - start
            progress(report)
            if stop(frame.time_s):
                break
            del tracked, frame
    report.broken, report.fault = reader.broken, reader.fault
    report.seconds = time.perf_counter() - start
    return report


AHEAD = 2
"""Frames that are decoded before they are asked for, and that wait to be drawn."""


def in_background(items: Iterable[T], most: int = AHEAD) -> Generator[T]:
    """Items in their order, which a thread takes ahead of who asks for them, at most `most` at a time.

    What taking them raises is raised here in its turn. Closing the generator waits for the item at hand.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(most)
    closed = threading.Event()

    def put(item: T | None, error: BaseException | None = None) -> bool:
        while not closed.is_set():
            try:
                ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
                del item
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=work, name="dfmamba-decode", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
            del item
    finally:
        closed.set()
        thread.join()


class _Drawing:
    """Draws and encodes frames in a thread, in the order that they are put. A context manager.

    Raises:
        ImportError: PyAV is missing.
        OSError: the film cannot be written; at the next frame, or at the end.
    """

    def __init__(self, film: Path, reader: FrameReader, config: TrackConfig, watch: Stopwatch) -> None:
        from dfmamba.video.encode import OverlayWriter

        self.writer, self.smoothed, self.watch = (
            OverlayWriter(film, reader.fps, reader.size),
            config.smooth is not None,
            watch,
        )
        self.waiting: queue.Queue[Tracked | None] = queue.Queue(AHEAD)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._work, name="dfmamba-draw", daemon=True)
        self.thread.start()

    def put(self, tracked: Tracked) -> None:
        """Waits until there is room."""
        self.waiting.put(tracked)
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        from dfmamba.video.encode import draw_tracked

        while (tracked := self.waiting.get()) is not None:
            if self.error is None:
                try:
                    with self.watch("draw"):
                        drawn = draw_tracked(tracked, self.smoothed)
                    with self.watch("encode"):
                        self.writer.write(drawn, tracked.frame.time_s)
                except BaseException as error:  # told to whoever puts the next one
                    self.error = error
            del tracked

    def __enter__(self) -> _Drawing:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.waiting.put(None)
        self.thread.join()
        with self.watch("encode"):
            self.writer.close()
        if self.error is not None and kind is None:
            raise self.error


def read_film(path: str | os.PathLike[str]) -> tuple[FilmHeader, Iterator[FilmFrame]]:
    """Read what `predict_film` wrote, frame by frame. A last line that is not whole is left out.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a line is not as expected, at once for the first, else when it is reached.
    """
    with Path(path).open("rb") as file:
        try:
            header = FilmHeader.from_dict(json.loads(file.readline()))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: line 1: {error}") from None
    return header, _frames(Path(path))


def as_prediction(header: FilmHeader, frame: FilmFrame) -> Prediction:
    """A line of a film as the prediction of a single picture."""
    return Prediction(frame.hands, header.size, header.camera, header.model, mirrored=header.mirrored)


def _frames(path: Path) -> Iterator[FilmFrame]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                continue
            if not line.endswith(b"\n"):
                return
            try:
                data = json.loads(line)
                if not isinstance(data, dict) or set(data) != {"index", "time_s", "hands"}:
                    raise ValueError("expected index, time_s and hands")
                index, seconds = data["index"], data["time_s"]
                if type(index) is not int or type(seconds) not in (int, float):
                    raise ValueError("index and time_s: expected numbers")
                if not isinstance(data["hands"], list):
                    raise ValueError("hands: expected a list")
                frame = FilmFrame(index, float(seconds), tuple(map(Hand.from_dict, data["hands"])))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: line {number}: {error}") from None
            yield frame


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, allow_nan=False, separators=(",", ":")) + "\n"


def _watched(frames: Iterator[Any], watch: Stopwatch) -> Iterator[Any]:
    while True:
        with watch("decode"):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame
        del frame
