"""MediaPipe's palm detector and landmarks as a detector of hands, where MediaPipe is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dfmamba.hands.affine import box_of_points
from dfmamba.hands.detection import Detection

MOST_HANDS = 8


class MediaPipeDetector:
    """Boxes around the landmarks of MediaPipe's `solutions.hands`, whose models come with its wheel.

    Sides aren't taken over: our network tells them from the crop.

    Args:
        least: lowest score of a palm.

    Raises:
        ImportError: MediaPipe is missing, or a version without `solutions`.
    """

    def __init__(self, least: float = 0.3) -> None:
        try:
            from mediapipe import solutions
        except ImportError as error:
            raise ImportError(
                "--detector mediapipe needs MediaPipe with its solutions API: pip install 'mediapipe<0.10.30'"
            ) from error
        self.hands: Any = solutions.hands.Hands(
            static_image_mode=True, max_num_hands=MOST_HANDS, min_detection_confidence=least
        )

    def detect(self, pictures: Sequence[np.ndarray]) -> list[list[Detection]]:
        """See `dfmamba.detect.Detector.detect`."""
        return [self._of(picture) for picture in pictures]

    def _of(self, picture: np.ndarray) -> list[Detection]:
        height, width = picture.shape[:2]
        result = self.hands.process(np.ascontiguousarray(picture))
        found = []
        sides = result.multi_handedness or []
        for landmarks, side in zip(result.multi_hand_landmarks or [], sides, strict=True):
            points = np.array([[mark.x, mark.y] for mark in landmarks.landmark])
            pixels = points * [width, height] - 0.5
            found.append(Detection(box_of_points(pixels), float(side.classification[0].score)))
        return found
