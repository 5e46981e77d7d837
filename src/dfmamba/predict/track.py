"""Hands through a film: each is looked at where it was, and keeps its number and its side.

A detector runs on the first frame, on every `TrackConfig.detect_every`-th and when a hand is lost. On all
others the boxes are those of the previous joints, moved on by their velocity.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dfmamba.detect.given import GivenBoxes
from dfmamba.hands.affine import box_iou, box_of_points
from dfmamba.hands.camera import Camera
from dfmamba.hands.detection import Detection
from dfmamba.predict.assign import assign
from dfmamba.predict.lift import mirror_box, mirror_picture
from dfmamba.predict.looking import SeenHand, without_doubles
from dfmamba.predict.result import SIDES, Hand, Prediction
from dfmamba.predict.smooth import HandSmoother, SmoothConfig

if TYPE_CHECKING:
    from dfmamba.predict.predictor import Predictor

NEAR = 0.6
"""A hand is a track's if its joints lie closer to the expected ones than this share of the hand's size."""

OTHER_SIDE = 0.15
"""What another side adds to that distance: of two hands in one place the one of the same side is likelier."""

NEW_IOU, MOVED_IOU = 0.1, 0.3
"""Overlap from which a detection is a track's, and up to which its box replaces the expected one."""

SETTLED = 5.0
"""Lead of one side in votes from which the network is asked for it only when the detector runs."""

BEGUN, COLLAPSED = 0.25, 0.15
"""Mean of the joints' scores from which a hand is followed, and below which a look shows none."""

INSIDE = 0.3
"""Share of the joints that must be in the picture; with less the hand has left it."""

MISSES = 2
"""Runs of the detector in a row without a hand after which its track ends."""

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
        now, size = frame.time_s, (frame.picture.shape[1], frame.picture.shape[0])
        self.tracks = [track for track in self.tracks if _in_sight(track.expected(now), size)]
        self._since += 1
        due = self._since >= self.config.detect_every or any(track.lost for track in self.tracks)
        boxes, new = {track.number: box_of_points(track.expected(now)) for track in self.tracks}, []
        if due:
            self._since = 0
            with self.watch("detect"):
                detections = [one for one in self._detect(frame) if _touches(one.box_xyxy, size)]
            new = self._match(detections, boxes)
        with self.watch("pose"):
            places = [
                self._place(track, boxes[track.number], track.settled and not due) for track in self.tracks
            ]
            prediction = self._look(frame.picture, [*places, *new])
            hands = self._follow(list(prediction.hands), frame, new)
        if self.config.smooth is not None:
            hands = [self._smoothed(hand, now, size) for hand in hands]
        return dataclasses.replace(prediction, hands=tuple(sorted(hands, key=_order)))

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

    def _match(self, detections: list[Detection], boxes: dict[int, np.ndarray]) -> list[Detection]:
        """Tells the tracks of their detections, ends those without, and gives the detections left over."""
        costs = [
            [1 - box_iou(boxes[one.number], each.box_xyxy) for each in detections] for one in self.tracks
        ]
        pairs = assign(np.array(costs).reshape(len(self.tracks), len(detections)), 1 - NEW_IOU)
        for i, track in enumerate(self.tracks):
            track.unseen = 0 if i in pairs else track.unseen + 1
            if i in pairs:
                track.score = detections[pairs[i]].score
                if costs[i][pairs[i]] > 1 - MOVED_IOU:
                    boxes[track.number] = np.asarray(detections[pairs[i]].box_xyxy, dtype=np.float64)
        self.tracks = [track for track in self.tracks if track.unseen < MISSES]
        return [one for j, one in enumerate(detections) if j not in pairs.values()]

    def _place(self, track: Track, box: np.ndarray, sided: bool) -> Detection:
        # The detector's word holds until its next: a track is not below the threshold in between.
        return Detection(box, max(track.score, self.config.threshold), track.side if sided else None)

    def _look(self, picture: np.ndarray, places: list[Detection]) -> Prediction:
        config = self.config
        return self.predictor.predict_at(
            [picture], [places], config.camera, config.mirrored, config.threshold, config.refine
        )[0]

    def _follow(self, hands: list[Hand], frame: Frame, new: list[Detection]) -> list[Hand]:
        """The hands with the numbers of their tracks; begins tracks at new detections."""
        now = frame.time_s
        costs = [[_distance(track, hand, now) for hand in hands] for track in self.tracks]
        pairs = assign(np.array(costs).reshape(len(self.tracks), len(hands)), NEAR + OTHER_SIDE)
        seen: list[tuple[Track, Hand]] = []
        for i, track in enumerate(self.tracks):
            track.lost = True
            hand = hands[pairs[i]] if i in pairs else None
            if hand is None:
                continue
            track.voted(hand)
            if hand.side != track.side:
                hand = self._again(track, hand, frame.picture)
            if hand is not None and hand.joint_scores.mean() >= COLLAPSED:
                seen.append((track, hand))
        for j, hand in enumerate(hands):
            box = box_of_points(hand.joints_2d_px)
            claimed = j in pairs.values() or not any(box_iou(box, one.box_xyxy) > NEW_IOU for one in new)
            if claimed or hand.joint_scores.mean() < BEGUN:
                continue
            track = Track(self._begun, np.asarray(hand.joints_2d_px), now, hand.score)
            track.voted(hand)
            self._begun += 1
            self.tracks.append(track)
            seen.append((track, hand))
        seen = _once(seen)
        for track, hand in seen:
            track.moved(hand, now)
        return [dataclasses.replace(hand, track=track.number, score=track.score) for track, hand in seen]

    def _again(self, track: Track, hand: Hand, picture: np.ndarray) -> Hand | None:
        """A hand that one look took for the other side, as the side of its track."""
        place = self._place(track, box_of_points(hand.joints_2d_px), True)
        found = (
            self._look(picture, [place]).hands if _in_sight(hand.joints_2d_px, picture.shape[1::-1]) else ()
        )
        return found[0] if found else None

    def _smoothed(self, hand: Hand, now: float, size: tuple[int, int]) -> Hand:
        track = next(one for one in self.tracks if one.number == hand.track)
        if track.smoother is None:
            assert self.config.smooth is not None
            track.smoother = HandSmoother(self.config.smooth, size)
        return track.smoother(hand, now)


def _distance(track: Track, hand: Hand, time_s: float) -> float:
    """Between expected and seen joints, in sizes of the hand."""
    expected = track.expected(time_s)
    size = max(float(np.ptp(joints, axis=0).max()) for joints in (expected, hand.joints_2d_px))
    apart = float(np.linalg.norm(expected - hand.joints_2d_px, axis=1).mean()) / max(size, 1.0)
    return apart + (OTHER_SIDE if hand.side != track.side else 0.0)


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
