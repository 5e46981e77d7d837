"""Hands through a film: each is seen once a frame, where it was, and keeps its number and its side.

A detector runs on the first frame, on every `TrackConfig.detect_every`-th, when a hand is lost, and every
other frame while there is none. A hand that is followed costs one upright view a frame, aimed by its joints
in the frame before, moved on by their velocity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dfmamba.detect.given import GivenBoxes
from dfmamba.hands.affine import box_iou, box_of_points
from dfmamba.hands.camera import Camera
from dfmamba.hands.detection import Detection
from dfmamba.predict.lift import mirror_box, mirror_picture
from dfmamba.predict.looking import Aim, SeenHand, without_doubles
from dfmamba.predict.result import SIDES, Hand, Prediction
from dfmamba.predict.smooth import HandSmoother, SmoothConfig

if TYPE_CHECKING:
    from dfmamba.predict.predictor import Predictor

NEAR = 0.6
"""A hand is a track's if its joints lie closer to the expected ones than this share of the hand's size."""

NEW_IOU, MOVED_IOU = 0.1, 0.3
"""Overlap from which a detection is a track's, and up to which the hand is looked for there instead of where
it is expected."""

SETTLED = 5.0
"""Lead of one side in votes from which the network is asked for it only when the detector runs."""

BEGUN, COLLAPSED = 0.25, 0.15
"""Mean of the joints' scores from which a hand is followed, and below which a view shows none."""

INSIDE = 0.3
"""Share of the joints that must be in the picture; with less the hand has left it."""

MISSES = 2
"""Runs of the detector in a row without a hand after which its track ends."""

SEARCH_EVERY = 2
"""Frames from one run of the detector to the next while no hand is followed."""

LEAST_PX = 4.0
"""Smallest extent of a hand that is followed."""

COAST_S = 0.2
"""A hand that isn't seen is expected to move on for this long."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a film.

    Attributes:
        index: its number in the film from 0; broken frames count, so numbers may be missing.
        time_s: seconds since the film's beginning, by its own time stamps; strictly growing.
        picture: (H, W, 3) uint8 RGB, upright.
        path: of the picture, in a folder of frames; else None.
    """

    index: int
    time_s: float
    picture: np.ndarray
    path: str | None = None


@dataclass(frozen=True)
class TrackConfig:
    """What is predicted, and how hands are followed.

    Attributes:
        detect_every: frames from one run of the detector to the next.
        smooth: one-euro smoothing of the joints; None for none.
        box: where the hands are, xyxy in pixels of every frame, for the detector's part.
        camera, mirrored, threshold, refine: as for `Predictor.predict`.

    Raises:
        ValueError: a value is not usable.
    """

    detect_every: int = 10
    smooth: SmoothConfig | None = None
    box: tuple[float, float, float, float] | None = None
    camera: Camera | None = None
    mirrored: bool = False
    threshold: float = 0.5
    refine: bool = True

    def __post_init__(self) -> None:
        if self.camera is not None:
            object.__setattr__(self, "camera", Camera.of(self.camera))
        if self.detect_every < 1:
            raise ValueError(f"detect_every: expected at least 1 frame, got {self.detect_every}")
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold: expected a value from 0 to 1, got {self.threshold}")


@dataclass(frozen=True, eq=False)
class Tracked:
    """A frame and its hands, whose `track` is their number in the film."""

    frame: Frame
    prediction: Prediction


Watch: TypeAlias = Callable[[str], AbstractContextManager[object]]
"""Measures how long a stage of the work takes."""


@dataclass
class Track:
    """A hand that is being followed.

    Attributes:
        number: in the film.
        joints: (21, 2) pixels where it was last seen, not smoothed.
        seen_s: when that was.
        score: the detector's last.
        velocity: (2,) pixels a second.
        votes: for right and left; that of a frame counts as much as its joints score on average.
        unseen: runs of the detector without it, in a row.
        lost: it was not seen in the last frame.
    """

    number: int
    joints: np.ndarray
    seen_s: float
    score: float
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    votes: list[float] = field(default_factory=lambda: [0.0, 0.0])
    unseen: int = 0
    lost: bool = False
    smoother: HandSmoother | None = None

    @property
    def side(self) -> str:
        """What most frames said."""
        return SIDES[0 if self.votes[0] >= self.votes[1] else 1]

    @property
    def settled(self) -> bool:
        """Whether its side is known well enough not to be asked for."""
        return abs(self.votes[0] - self.votes[1]) >= SETTLED

    def voted(self, hand: Hand) -> None:
        """Counts what a look says of its side."""
        self.votes[SIDES.index(hand.side)] += float(hand.joint_scores.mean())

    def expected(self, time_s: float) -> np.ndarray:
        """Its joints (21, 2) at a time, if it moves on."""
        return self.joints + self.velocity * min(time_s - self.seen_s, COAST_S)

    def moved(self, hand: Hand, time_s: float) -> None:
        """Takes note of where it is seen."""
        step = max(time_s - self.seen_s, 1e-6)
        speed = (hand.joints_2d_px - self.joints).mean(axis=0) / step
        self.velocity = np.zeros(2) if step > COAST_S else (self.velocity + speed) / 2
        self.joints, self.seen_s, self.lost = np.asarray(hand.joints_2d_px), time_s, False


def track_film(
    predictor: Predictor,
    frames: Iterable[Frame],
    config: TrackConfig | None = None,
    watch: Watch | None = None,
) -> Iterator[Tracked]:
    """Follow the hands of a film, frame by frame.

    Args:
        predictor: with its detector; without one it looks at whole frames instead, which finds at most one
            right and one left hand.
        frames: of one size, in order.
        config: `TrackConfig()` if None.
        watch: is told of the stages "detect" and "pose".

    Raises:
        ValueError: if the box lies outside of the frames, or the model's output is not finite.
    """
    tracker = Tracker(predictor, config or TrackConfig(), watch or (lambda stage: nullcontext()))
    for frame in frames:
        yield Tracked(frame, tracker.step(frame))
        del frame


class Tracker:
    """The tracks at one moment of a film; see `track_film`."""

    def __init__(self, predictor: Predictor, config: TrackConfig, watch: Watch) -> None:
        self.predictor, self.config, self.watch = predictor, config, watch
        self.tracks: list[Track] = []
        self._begun = 0
        self._since = config.detect_every

    def step(self, frame: Frame) -> Prediction:
        """The hands of the next frame."""
        config, image, now = self.config, frame.picture, frame.time_s
        size = (image.shape[1], image.shape[0])
        self.tracks = [track for track in self.tracks if _in_sight(track.expected(now), size)]
        self._since += 1
        every = config.detect_every if self.tracks else min(SEARCH_EVERY, config.detect_every)
        due = self._since >= every or any(track.lost for track in self.tracks)
        elsewhere: dict[int, Detection] = {}
        new: list[Detection] = []
        if due:
            self._since = 0
            with self.watch("detect"):
                detections = [one for one in self._detect(frame) if _touches(one.box_xyxy, size)]
            elsewhere, new = self._match(detections, now)
        with self.watch("pose"):
            seen = _once([*self._followed(image, now, due, elsewhere), *self._begin(image, now, new)])
            for track, hand in seen:
                track.moved(hand, now)
            hands = [dataclasses.replace(hand, track=track.number, score=track.score) for track, hand in seen]
        if config.smooth is not None:
            hands = [self._smoothed(hand, now, size) for hand in hands]
        return Prediction(
            hands=tuple(sorted(hands, key=_order)),
            image_size=size,
            camera=config.camera,
            model=self.predictor.name,
            mirrored=config.mirrored,
        )

    def _detect(self, frame: Frame) -> list[Detection]:
        config, detector, picture = self.config, self.predictor.detector, frame.picture
        if detector is None or config.box is not None:
            seen = self.predictor.predict(
                picture, config.box, config.camera, config.mirrored, config.threshold, config.refine
            )
            return [Detection(box_of_points(hand.joints_2d_px), hand.score) for hand in seen.hands]
        if isinstance(detector, GivenBoxes):
            if frame.path is None:
                raise ValueError(
                    f"boxes of {detector.path}: they go by file names, which frames of a film don't have; "
                    "cut it into a folder of frames"
                )
            return [one for one in detector.of(frame.path) if one.score >= config.threshold]
        width = picture.shape[1]
        shown = mirror_picture(picture) if config.mirrored else picture
        return [
            Detection(mirror_box(one.box_xyxy, width), one.score, one.side) if config.mirrored else one
            for one in detector.detect([shown])[0]
            if one.score >= config.threshold
        ]

    def _match(self, detections: list[Detection], now: float) -> tuple[dict[int, Detection], list[Detection]]:
        """Tells the tracks of their detections, and ends those without.

        Returns:
            By the numbers of tracks, detections that lie elsewhere than their hands are expected; and those
            that are no track's.
        """
        boxes = [box_of_points(track.expected(now)) for track in self.tracks]
        costs = np.array([[1 - box_iou(box, one.box_xyxy) for one in detections] for box in boxes])
        pairs = assign(costs.reshape(len(boxes), len(detections)), 1 - NEW_IOU)
        elsewhere = {}
        for i, track in enumerate(self.tracks):
            track.unseen = 0 if i in pairs else track.unseen + 1
            if i in pairs:
                track.score = detections[pairs[i]].score
                if costs[i, pairs[i]] > 1 - MOVED_IOU:
                    elsewhere[track.number] = detections[pairs[i]]
        self.tracks = [track for track in self.tracks if track.unseen < MISSES]
        return elsewhere, [one for j, one in enumerate(detections) if j not in pairs.values()]

    def _followed(
        self, image: np.ndarray, now: float, due: bool, elsewhere: dict[int, Detection]
    ) -> list[tuple[Track, Hand]]:
        """The tracks' hands in this frame; marks tracks whose hands aren't seen as lost."""
        sure = [track.settled and not due for track in self.tracks]
        expected = [track.expected(now) for track in self.tracks]
        for i, track in enumerate(self.tracks):
            if track.number in elsewhere:
                place = elsewhere[track.number]
                found = self._look(image, [Detection(place.box_xyxy, place.score, track.side)])
                if found:
                    expected[i] = np.asarray(found[0].joints_2d_px)
        hands = self._see(image, self.tracks, expected, sure)
        for i, (track, hand) in enumerate(zip(self.tracks, hands, strict=True)):
            track.voted(hand)
            if hand.side != track.side:
                (hands[i],) = self._see(image, [track], expected[i : i + 1], [True])
        seen = []
        for track, hand, joints in zip(self.tracks, hands, expected, strict=True):
            track.lost = bool(hand.joint_scores.mean() < COLLAPSED or _distance(joints, hand) > NEAR)
            if not track.lost:
                seen.append((track, hand))
        return seen

    def _begin(self, image: np.ndarray, now: float, new: list[Detection]) -> list[tuple[Track, Hand]]:
        """Tracks that begin at detections."""
        begun = []
        for hand in self._look(image, new):
            if hand.joint_scores.mean() < BEGUN or not _in_sight(hand.joints_2d_px, image.shape[1::-1]):
                continue
            track = Track(self._begun, np.asarray(hand.joints_2d_px), now, hand.score)
            track.voted(hand)
            self._begun += 1
            self.tracks.append(track)
            begun.append((track, hand))
        return begun

    def _see(
        self, image: np.ndarray, tracks: Sequence[Track], joints: Sequence[np.ndarray], sure: Sequence[bool]
    ) -> list[Hand]:
        """Hands that are about where these joints (21, 2) are, seen upright."""
        aims = [Aim(at, track.side, known) for track, at, known in zip(tracks, joints, sure, strict=True)]
        return self.predictor.predict_near(image, aims, self.config.camera, self.config.mirrored)

    def _look(self, image: np.ndarray, places: Sequence[Detection]) -> tuple[Hand, ...]:
        """Hands at detections."""
        config = self.config
        if not places:
            return ()
        return self.predictor.predict_at(
            [image], [places], config.camera, config.mirrored, config.threshold, config.refine
        )[0].hands

    def _smoothed(self, hand: Hand, now: float, size: tuple[int, int]) -> Hand:
        track = next(one for one in self.tracks if one.number == hand.track)
        if track.smoother is None:
            assert self.config.smooth is not None
            track.smoother = HandSmoother(self.config.smooth, size)
        return track.smoother(hand, now)


def assign(costs: np.ndarray, most: float) -> dict[int, int]:
    """As many pairs as possible, and of those choices the one of least total cost.

    Args:
        costs: (n, m) of row i with column j, not negative.
        most: pairs that cost more are not made.

    Returns:
        The column of each paired row.
    """
    allowed = costs <= most
    if not allowed.any():
        return {}
    if min(costs.shape) == 1:  # one hand: without SciPy, whose import takes as long as a second of film
        i, j = np.unravel_index(np.argmin(np.where(allowed, costs, np.inf)), costs.shape)
        return {int(i): int(j)}
    from scipy.optimize import linear_sum_assignment

    # A pair that may not be made costs more than all that may be made together.
    forbidden = 1.0 + most * min(costs.shape)
    rows, columns = linear_sum_assignment(np.where(allowed, costs, forbidden))
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if allowed[i, j]}


def _distance(expected: np.ndarray, hand: Hand) -> float:
    """Between expected joints (21, 2) and seen ones, in sizes of the hand."""
    size = max(float(np.ptp(joints, axis=0).max()) for joints in (expected, hand.joints_2d_px))
    return float(np.linalg.norm(expected - hand.joints_2d_px, axis=1).mean()) / max(size, 1.0)


def _touches(box: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether some of a box is in the picture."""
    return bool((box[2:] > -0.5).all() and (box[:2] < np.array(size) - 0.5).all())


def _in_sight(joints: np.ndarray, size: tuple[int, ...]) -> bool:
    """Whether enough of a hand is in the picture, and it has a size that a hand may have."""
    inside = ((joints > -0.5) & (joints < np.array(size) - 0.5)).all(axis=1).mean()
    extent = float(np.ptp(joints, axis=0).max())
    return bool(inside >= INSIDE and LEAST_PX <= extent <= 4 * max(size))


def _once(seen: list[tuple[Track, Hand]]) -> list[tuple[Track, Hand]]:
    """Without the younger of two tracks that show one hand."""
    found = [
        (i, SeenHand(hand.joints_2d_px, hand.joint_scores, float(-track.number)))
        for i, (track, hand) in enumerate(seen)
    ]
    return [seen[i] for i in sorted(i for i, _ in without_doubles(found))]


def _order(hand: Hand) -> tuple[int, float]:
    return SIDES.index(hand.side), -hand.score
