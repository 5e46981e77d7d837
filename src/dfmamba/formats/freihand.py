"""FreiHAND's submission file: [joints of every picture, vertices of every picture].

Format: `dump` in pred.py and eval.py of github.com/lmb-freiburg/freihand. Joints are (21, 3) metres in the
camera frame (x right, y down, z forward), in our order, one hand a picture, in the order of the data set. The
vertices are empty lists, since we predict no mesh; the official script, which scores meshes too, wants 778 a
picture. FreiHAND's hands are right ones, and the file says no side.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

import numpy as np

from dfmamba.formats.reading import Record
from dfmamba.formats.writing import Summary, rounded
from dfmamba.hands.skeleton import NUM_JOINTS
from dfmamba.io.files import open_atomic

_EMPTY = "pictures without a hand: all joints are written as 0"
_MORE = "hands left out: the format holds one a picture, that of the highest score was taken"
_LEFT = "left hands: the format doesn't say the side"
_RELATIVE = "hands relative to their wrist, as no camera was given: only aligned errors mean something"


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes the file, one picture a line."""
    count = 0
    with open_atomic(path) as file:
        file.write("[[")
        for record in records:
            hands = sorted(record.prediction.hands, key=lambda hand: -hand.score)
            joints_m = np.zeros((NUM_JOINTS, 3))
            if hands:
                joints_m = hands[0].joints_3d_mm / 1000.0
                summary.hands += 1
                summary.note(_LEFT, int(hands[0].side == "left"))
                summary.note(_RELATIVE, int(hands[0].root != "camera"))
            summary.note(_EMPTY, int(not hands))
            summary.note(_MORE, len(hands[1:]))
            file.write(("\n" if count == 0 else ",\n") + json.dumps(rounded(joints_m, 6), allow_nan=False))
            count += 1
        file.write("\n],\n[" + ", ".join(["[]"] * count) + "]]\n")
    summary.files += 1
