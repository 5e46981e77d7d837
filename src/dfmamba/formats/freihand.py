"""FreiHAND's submission file: [joints of every picture, vertices of every picture].

Format: `dump` in pred.py and eval.py of github.com/lmb-freiburg/freihand. Joints are (21, 3) metres in the
camera frame (x right, y down, z forward), in our order, one hand a picture, in the order of the data set. The
vertices are those of the hand's fitted surface, which is not MANO's, where the prediction has one
(`dfmamba predict --mesh`), else the joints: the official script moves them along with the joints and so wants
some for every picture, but its figures on meshes then mean nothing. FreiHAND's hands are right ones, and the
file says no side.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
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
_NO_MESH = "hands without a fitted surface: joints stand for their vertices, figures on meshes mean nothing"


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes the file, one picture a line."""
    with open_atomic(path) as file, tempfile.TemporaryFile("w+", encoding="utf-8") as vertices:
        file.write("[[")
        between = "\n"
        for record in records:
            hands = sorted(record.prediction.hands, key=lambda hand: -hand.score)
            joints_mm = surface_mm = np.zeros((NUM_JOINTS, 3))
            if hands:
                best = hands[0]
                joints_mm = best.joints_3d_mm
                surface_mm = joints_mm if best.fit is None else best.vertices_mm()
                summary.hands += 1
                summary.note(_LEFT, int(best.side == "left"))
                summary.note(_RELATIVE, int(best.root != "camera"))
                summary.note(_NO_MESH, int(best.fit is None))
            summary.note(_EMPTY, int(not hands))
            summary.note(_MORE, len(hands[1:]))
            file.write(between + _metres(joints_mm))
            vertices.write(between + _metres(surface_mm))
            between = ",\n"
        file.write("\n],\n[")
        vertices.seek(0)
        shutil.copyfileobj(vertices, file)
        file.write("\n]]\n")
    summary.files += 1


def _metres(points_mm: np.ndarray) -> str:
    return json.dumps(rounded(points_mm / 1000.0, 6), allow_nan=False)
