"""InterHand2.6M's joint file: 42 joints in mm and their validity, by capture and frame.

Format: InterHand2.6M_*_joint_3d.json of the data set (mks0601.github.io/InterHand2.6M), `[capture][frame]`
with `world_coord` 42x3 mm, `joint_valid` 42x1, `hand_type` and `seq`. The 42 are the right hand's 21 and the
left's, each finger from tip to base, the wrist last. There is one capture, "0"; its frames are the pictures,
numbered as they come, in a film as there; `seq` is the picture's path, or the film's file. "World" is the
camera frame (x right, y down, z forward).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from dfmamba.formats.reading import Record
from dfmamba.formats.writing import Summary, best_of_each_side, rounded
from dfmamba.hands.skeleton import HAND_NAMES, NUM_JOINTS, convert_joints
from dfmamba.io.files import open_atomic
from dfmamba.predict.result import Hand

_EMPTY = "pictures without a hand are left out"
_MORE = "hands left out: the format holds one right and one left hand, those of the highest score were taken"
_RELATIVE = "hands relative to their own wrist, as no camera was given"
_LOST = "hands whose pixels, score and track are lost"


def to_interhand(hands: dict[str, Hand]) -> dict[str, Any]:
    """The joints of a right hand, a left hand or both; the joints of an absent hand are 0 and not valid."""
    joints = np.zeros((len(HAND_NAMES), NUM_JOINTS, 3))
    valid = np.zeros((len(HAND_NAMES), NUM_JOINTS, 1), dtype=int)
    for number, side in enumerate(HAND_NAMES):
        if side in hands:
            joints[number], valid[number] = hands[side].joints_3d_mm, 1
    return {
        "world_coord": rounded(convert_joints(joints, "openpose", "interhand"), 4),
        "joint_valid": convert_joints(valid, "openpose", "interhand").tolist(),
        "hand_type": "interacting" if len(hands) == 2 else next(iter(hands), None),
    }


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes the file, one picture a line."""
    used: set[int] = set()
    following = 0
    with open_atomic(path) as file:
        file.write('{"0": {')
        for record in records:
            frame = following if record.index is None or record.index in used else record.index
            following = max(following, frame + 1)
            hands = best_of_each_side(record.prediction.hands)
            summary.note(_MORE, len(record.prediction.hands) - len(hands))
            if not hands:
                summary.note(_EMPTY)
                continue
            content = {**to_interhand(hands), "seq": record.prediction.image or record.source}
            line = f'"{frame}": {json.dumps(content, allow_nan=False)}'
            file.write((",\n" if used else "\n") + line)
            used.add(frame)
            summary.hands += len(hands)
            summary.note(_LOST, len(hands))
            summary.note(_RELATIVE, sum(hand.root != "camera" for hand in hands.values()))
        file.write("\n}}\n")
    summary.files += 1
