"""MediaPipe's hand landmarks: the fields of a HandLandmarkerResult, one picture a line of JSON Lines.

Format: HandLandmarkerResult of MediaPipe Tasks (ai.google.dev/edge/api/mediapipe/python, module
mp.tasks.vision) and the guide of the Hand Landmarker. The 21 landmarks are in our order.

* `hand_landmarks`: x and y from 0 to 1 over the picture's width and height (pixel 0 spans 0 to 1 / width),
  z the depth relative to the wrist, smaller is nearer, in the unit of x: picture widths.
* `hand_world_landmarks`: metres, x right, y down, z forward, the origin in the middle of the hand.
* `handedness`: since MediaPipe 0.10.15 "Left" and "Right" are the person's own, in a picture that is not
  mirrored, which is our convention. Earlier versions and the older Solutions assume a mirrored picture, so
  that for a normal one they say the opposite; `mirrored_names` writes that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from dfmamba.formats.reading import Record
from dfmamba.formats.writing import Summary, rounded
from dfmamba.hands.skeleton import WRIST
from dfmamba.io.files import open_atomic
from dfmamba.predict.result import Hand, Prediction

_REAL = "pictures declared mirrored: landmarks lie on them as given, world landmarks are of the real hand"
_LOST = "hands whose place in the camera, joint scores and track are lost"


def to_mediapipe_world(hand: Hand) -> np.ndarray:
    """A hand as MediaPipe's world landmarks, which tools such as dex-retargeting take.

    Returns:
        (21, 3) float64 metres in MediaPipe's order (ours), x right, y down, z forward; the origin is the mean
        of the landmarks. The size is that of a mean adult hand.
    """
    return (hand.joints_3d_mm - hand.joints_3d_mm.mean(axis=0)) / 1000.0


def to_mediapipe_image(hand: Hand, prediction: Prediction) -> np.ndarray:
    """A hand as MediaPipe's landmarks on the picture.

    Args:
        hand: one of `prediction.hands`.
        prediction: says the picture's size and camera.

    Returns:
        (21, 3) float64: x, y as shares of width and height, z in picture widths relative to the wrist.
    """
    width, height = prediction.image_size
    image = (hand.joints_2d_px + 0.5) / (width, height)
    depth = hand.joints_3d_mm[:, 2] - hand.joints_3d_mm[WRIST, 2]
    return np.concatenate([image, (depth * _pixels_per_mm(hand, prediction) / width)[:, None]], axis=1)


def to_mediapipe(prediction: Prediction, mirrored_names: bool = False) -> dict[str, Any]:
    """A prediction with the fields of MediaPipe's HandLandmarkerResult.

    Args:
        prediction: of one picture.
        mirrored_names: swap "Left" and "Right", as MediaPipe before 0.10.15 does.
    """
    swap = {"right": "left", "left": "right"}
    result: dict[str, Any] = {"handedness": [], "hand_landmarks": [], "hand_world_landmarks": []}
    for hand in prediction.hands:
        name = (swap[hand.side] if mirrored_names else hand.side).capitalize()
        category = {
            "index": 0 if hand.side == "right" else 1,
            "score": round(hand.score, 6),
            "display_name": name,
            "category_name": name,
        }
        result["handedness"].append([category])
        result["hand_landmarks"].append(_landmarks(to_mediapipe_image(hand, prediction)))
        result["hand_world_landmarks"].append(_landmarks(to_mediapipe_world(hand)))
    return result


def write(
    records: Iterable[Record],
    path: str | os.PathLike[str],
    summary: Summary,
    mirrored_names: bool = False,
) -> None:
    """Writes one result a line, with `image`, `index` and `timestamp_ms` of the picture before it."""
    with open_atomic(path) as file:
        for record in records:
            time = record.time_s
            place = {
                "image": record.prediction.image,
                "index": record.index,
                "timestamp_ms": None if time is None else round(1000 * time),
            }
            result = to_mediapipe(record.prediction, mirrored_names)
            file.write(json.dumps({**place, **result}, allow_nan=False) + "\n")
            summary.hands += len(record.prediction.hands)
            summary.note(_LOST, len(record.prediction.hands))
            summary.note(_REAL, int(record.prediction.mirrored))
    summary.files += 1


def _landmarks(points: np.ndarray) -> list[dict[str, float]]:
    return [dict(zip("xyz", point, strict=True)) for point in rounded(points, 7)]


def _pixels_per_mm(hand: Hand, prediction: Prediction) -> float:
    """Pixels of a millimetre at the wrist's depth, by which 2.5D counts depth; 0 where nothing tells it."""
    camera = prediction.camera
    if hand.root == "camera" and camera is not None and hand.joints_3d_mm[WRIST, 2] > 0:
        return camera.focal / float(hand.joints_3d_mm[WRIST, 2])
    pixels = hand.joints_2d_px - hand.joints_2d_px[WRIST]
    mm = hand.joints_3d_mm[:, :2] - hand.joints_3d_mm[WRIST, :2]
    extent = float((mm**2).sum())
    return float((pixels**2).sum() / extent) ** 0.5 if extent > 0 else 0.0
