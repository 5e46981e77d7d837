"""From the joints of predictions to posed hands with a surface, for single pictures and films."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from dfmamba.hands.fit import FittedHands, HandFit, fit_hand
from dfmamba.predict.result import Hand, Prediction
from dfmamba.predict.smooth import GAP_S, OneEuro, SmoothConfig

LEAST_SCORE = 0.02
"""Joints that score less still say a little."""
SHAPE_FRAMES = 10
"""A hand of a film keeps the mean shape of so many frames."""
SMOOTHING = SmoothConfig(min_cutoff_hz=3.0, beta=4.0)
"""Of a film's angles; a quarter turn is their unit."""


def with_surface(prediction: Prediction) -> Prediction:
    """The prediction with `Hand.fit` for every hand whose joints can be fitted."""
    return dataclasses.replace(
        prediction, hands=tuple(dataclasses.replace(hand, fit=fit_of(hand)) for hand in prediction.hands)
    )


def fit_of(hand: Hand) -> HandFit | None:
    """The hand model fitted to a hand's joints; None for joints without extent, which no hand has."""
    fitted = _try_fit(hand)
    return None if fitted is None else fitted[0]


def _try_fit(hand: Hand, **settings: object) -> FittedHands | None:
    try:
        scores = np.maximum(hand.joint_scores, LEAST_SCORE)
        return fit_hand(hand.joints_3d_mm, hand.side, scores, **settings)  # type: ignore[arg-type]
    except ValueError:
        return None


@dataclass
class _Track:
    last: FittedHands
    time_s: float
    smooth: OneEuro
    shapes: list[np.ndarray]
    sizes: list[float]


class FilmSurfaces:
    """`with_surface` for the pictures of a film, in their order.

    A hand is fitted from where it was in the last picture. It keeps one shape, the mean of what its first
    pictures say, and its angles are smoothed.
    """

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, int], _Track] = {}

    def __call__(self, prediction: Prediction, time_s: float) -> Prediction:
        """The prediction of the picture at that time with `Hand.fit`."""
        hands = tuple(dataclasses.replace(hand, fit=self._fit(hand, time_s)) for hand in prediction.hands)
        return dataclasses.replace(prediction, hands=hands)

    def _fit(self, hand: Hand, time_s: float) -> HandFit | None:
        if hand.track is None:
            return fit_of(hand)
        track = self._tracks.get((hand.side, hand.track))
        settings: dict[str, object] = {}
        if track is not None:
            if 0 < time_s - track.time_s <= GAP_S:
                settings["start"] = track.last
            else:
                track.smooth = OneEuro(SMOOTHING)
            if len(track.sizes) >= SHAPE_FRAMES:
                settings |= {"shape": np.mean(track.shapes, axis=0), "size": np.mean(track.sizes)}
        fitted = _try_fit(hand, **settings)
        if fitted is None:
            return None
        if track is None:
            track = _Track(fitted, time_s, OneEuro(SMOOTHING), [], [])
            self._tracks[hand.side, hand.track] = track
        if len(track.sizes) < SHAPE_FRAMES:
            track.shapes.append(fitted.shape[0])
            track.sizes.append(float(fitted.size[0]))
        track.last, track.time_s = fitted, time_s
        pose = track.smooth(fitted.pose_deg[0], time_s, 90.0)
        return dataclasses.replace(fitted[0], pose_deg=pose)
