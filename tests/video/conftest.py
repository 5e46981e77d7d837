"""Films made for the tests, and a predictor whose hands are scripted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from dfmamba.detect import Detection
from dfmamba.hands.affine import box_iou, box_of_points
from dfmamba.predict.lift import check_box, hand_box
from dfmamba.predict.result import Hand, Prediction
from dfmamba.predict.track import Frame

SIZE = (160, 120)
FPS = 10

_ANGLES = np.repeat(np.linspace(-1.1, 1.1, 5), 4)
_RADII = np.tile(np.linspace(0.4, 1.0, 4), 5)
FAN = np.concatenate([[[0, 0]], np.stack([np.sin(_ANGLES), -np.cos(_ANGLES)], -1) * _RADII[:, None]])
"""(21, 2): a hand with fingers up, one unit long."""


def picture(index: int, size: tuple[int, int] = (96, 64)) -> np.ndarray:
    """A frame by whose colours its number and its corners can be told."""
    width, height = size
    image = np.full((height, width, 3), (20 + 5 * (index % 40), 60, 120), np.uint8)
    image[: height // 2, : width // 2] = (250, 20, 20)
    image[: height // 2, width // 2 :] = (20, 20, 250)
    return image


@pytest.fixture
def make_film(tmp_path: Path) -> Callable[..., Path]:
    """A film of `count` frames: `times` in seconds, `turn` its display matrix, `ratio` that of a pixel."""

    def make(
        name: str = "film.mp4",
        count: int = 20,
        size: tuple[int, int] = (96, 64),
        times: Sequence[float] | None = None,
        turn: dict[str, Any] | None = None,
        codec: str = "libx264",
        ratio: Fraction = Fraction(1),
    ) -> Path:
        path = tmp_path / name
        options = {"movflags": "+faststart"} if name.endswith((".mp4", ".mov")) else {}
        with av.open(str(path), "w", options=options) as film:
            stream: Any = film.add_stream(codec, rate=FPS)
            stream.width, stream.height = size
            stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
            if ratio != 1:
                stream.codec_context.sample_aspect_ratio = ratio
            if codec == "libx264":
                stream.options = {"crf": "12", "g": "10"}
            if turn is not None:
                stream.set_display_rotation(**turn)
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = round(1000 * times[index]), stream.codec_context.time_base
                film.mux(stream.encode(frame))
            film.mux(stream.encode(None))
        return path

    return make


@dataclass
class Actor:
    """A scripted hand.

    Attributes:
        at: frame number to its wrist (x, y).
        side: what it really is.
        taken_for_other: frames in which a look that may choose takes it for the other side.
        hidden: frames in which nobody sees it.
        overlooked: frames in which the detector doesn't.
        vague: frames in which its joints score low.
    """

    at: Callable[[int], tuple[float, float]]
    side: str = "right"
    length: float = 30.0
    taken_for_other: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()
    overlooked: frozenset[int] = frozenset()
    vague: frozenset[int] = frozenset()

    def joints(self, index: int) -> np.ndarray:
        fan = FAN if self.side == "right" else FAN * [-1, 1]
        return np.asarray(self.at(index)) + self.length * fan

    def seen_as(self, index: int) -> str:
        other = "left" if self.side == "right" else "right"
        return other if index in self.taken_for_other else self.side


@dataclass
class Stage:
    """A predictor and detector of scripted hands; the frame's number is its first pixel's red."""

    actors: list[Actor]
    mirrored: bool = False
    detected: list[int] = field(default_factory=list)
    asked: list[tuple[int, list[str | None]]] = field(default_factory=list)
    name: str = "stage"

    def __post_init__(self) -> None:
        self.detector: Any = SimpleNamespace(detect=self._detect)

    def _visible(self, index: int) -> list[Actor]:
        return [actor for actor in self.actors if index not in actor.hidden]

    def _detect(self, pictures: Sequence[np.ndarray]) -> list[list[Detection]]:
        (shown,) = pictures
        index = int(shown[0, -1 if self.mirrored else 0, 0])
        self.detected.append(index)
        found = []
        for actor in self._visible(index):
            if index not in actor.overlooked:
                joints = actor.joints(index)
                joints = [SIZE[0] - 1, 0] + joints * [-1, 1] if self.mirrored else joints
                found.append(Detection(box_of_points(joints), 0.8))
        return [found]

    def predict(self, image, box=None, camera=None, mirrored=False, threshold=0.5, refine=True) -> Prediction:
        index = int(image[0, 0, 0])
        self.detected.append(index)
        return Prediction(tuple(_hand(actor, index, None) for actor in self._visible(index)), SIZE)

    def predict_near(self, image, aims, camera=None, mirrored=False) -> list[Hand]:
        index = int(image[0, 0, 0])
        self.asked.append((index, [aim.side if aim.sure else None for aim in aims]))
        hands = []
        for aim in aims:
            box = box_of_points(aim.joints_2d_px)
            near = [
                (overlap + 0.3 * (actor.seen_as(index) == aim.side), actor)
                for actor in self._visible(index)
                if (overlap := box_iou(box, box_of_points(actor.joints(index)))) > 0.1
            ]
            if near:
                nearest = max(near, key=lambda one: one[0])[1]
                hands.append(_hand(nearest, index, aim.side if aim.sure else None))
            else:
                nothing = Actor(lambda index: (0.0, 0.0), vague=frozenset({index}))
                hands.append(_hand(nothing, index, aim.side))
        return hands

    def predict_at(
        self, images, detections, camera=None, mirrored=False, threshold=0.5, refine=True
    ) -> list[Prediction]:
        ((image,), (places,)) = images, detections
        index = int(image[0, 0, 0])
        self.asked.append((index, [place.side for place in places]))
        left, hands = self._visible(index), []
        for place in places:
            assert place.score >= threshold
            check_box(place.box_xyxy, SIZE)
            overlaps = [box_iou(place.box_xyxy, box_of_points(actor.joints(index))) for actor in left]
            if overlaps and max(overlaps) > 0.1:
                hands.append(_hand(left.pop(int(np.argmax(overlaps))), index, place.side))
        return [Prediction(tuple(sorted(hands, key=lambda hand: hand.side)[::-1]), SIZE)]


def _hand(actor: Actor, index: int, side: str | None) -> Hand:
    joints = actor.joints(index)
    return Hand(
        side=side or actor.seen_as(index),
        score=0.8,
        box_xyxy=hand_box(joints, SIZE),
        joints_2d_px=joints,
        joints_3d_mm=np.concatenate([joints - joints[0], np.zeros((21, 1))], axis=1),
        joint_scores=np.full(21, 0.05 if index in actor.vague else 0.9),
    )


def frames(count: int, step: int = 1) -> list[Frame]:
    """Frames whose first row is their number."""
    made = []
    for index in range(0, count, step):
        image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        image[0] = index
        made.append(Frame(index, index / FPS, image))
    return made


@pytest.fixture
def stage() -> Callable[..., Stage]:
    """Makes a `Stage` of actors."""
    return lambda *actors, **more: Stage(list(actors), **more)


@pytest.fixture
def actor() -> type[Actor]:
    return Actor


@pytest.fixture
def numbered() -> Callable[..., list[Frame]]:
    """`frames`."""
    return frames


@pytest.fixture
def coloured() -> Callable[..., np.ndarray]:
    """`picture`."""
    return picture
