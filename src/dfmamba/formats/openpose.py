"""OpenPose's JSON output: a file a picture, its people with the keypoints of their hands.

Format: "JSON Output Format" and "Hand Output Format" in doc/02_output.md of OpenPose, version 1.3 of the
files. Keypoints are flat lists x, y, confidence (pixels of the picture) and x, y, z, 1 (here: mm of the
camera frame); the joints are ours. A hand that is not there is all zeros.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from dfmamba.formats.reading import Record
from dfmamba.formats.writing import OutputFiles, Summary, rounded
from dfmamba.hands.skeleton import NUM_JOINTS
from dfmamba.io.files import write_atomic
from dfmamba.predict.result import Hand, Prediction

_RELATIVE = "hands without 3D keypoints: theirs are relative to the wrist, as no camera was given"
_TRACKS = "hands whose track number is lost: they share a person with another hand"


def to_openpose(prediction: Prediction, summary: Summary | None = None) -> dict[str, Any]:
    """The content of an OpenPose file.

    A right and a left hand that are alone in the picture are taken to be of one person. Of more hands nobody
    knows whose they are: each is a person of its own, whose `person_id` is the hand's track.

    Args:
        prediction: of one picture.
        summary: gets notes of what is lost.
    """
    summary = Summary() if summary is None else summary
    hands = prediction.hands
    pair = len(hands) == 2 and hands[0].side != hands[1].side
    people = [list(hands)] if pair else [[hand] for hand in hands]
    if pair:
        summary.note(_TRACKS, sum(hand.track is not None for hand in hands))
    summary.note(_RELATIVE, sum(hand.root != "camera" for hand in hands))
    summary.hands += len(hands)
    return {"version": 1.3, "people": [_person(own) for own in people]}


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes NAME_keypoints.json for each picture into a folder."""
    files = OutputFiles(path, "_keypoints.json")
    for record in records:
        content = to_openpose(record.prediction, summary)
        write_atomic(files.next(record.name), json.dumps(content, allow_nan=False).encode())
        summary.files += 1


def _person(hands: list[Hand]) -> dict[str, Any]:
    track = hands[0].track if len(hands) == 1 else None
    flat: dict[str, dict[str, list]] = {
        "2d": {side: [0.0] * (3 * NUM_JOINTS) for side in ("left", "right")},
        "3d": {side: [] for side in ("left", "right")},
    }
    for hand in hands:
        scores = hand.joint_scores[:, None]
        flat["2d"][hand.side] = rounded(np.concatenate([hand.joints_2d_px, scores], axis=1), 4)
        if hand.root == "camera":
            found = np.ones_like(scores)
            flat["3d"][hand.side] = rounded(np.concatenate([hand.joints_3d_mm, found], axis=1), 4)
    person: dict[str, Any] = {"person_id": [-1 if track is None else track]}
    for kind in ("2d", "3d"):
        person |= {f"pose_keypoints_{kind}": [], f"face_keypoints_{kind}": []}
        for side in ("left", "right"):
            person[f"hand_{side}_keypoints_{kind}"] = np.ravel(flat[kind][side]).tolist()
    return person
