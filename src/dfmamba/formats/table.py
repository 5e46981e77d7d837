"""Tables as CSV (RFC 4180): a row for each joint, or for the angles, of each hand of each picture."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable

from dfmamba.formats.reading import Record
from dfmamba.formats.rig import fitted
from dfmamba.formats.writing import Summary, rounded
from dfmamba.hands.model import DEGREES_OF_FREEDOM, NUM_HAND_ANGLES
from dfmamba.hands.skeleton import JOINT_NAMES
from dfmamba.io.files import open_atomic

COLUMNS = (
    *("picture", "image", "index", "time_s", "hand", "track", "side", "hand_score", "root"),
    *("joint", "joint_name", "u_px", "v_px", "x_mm", "y_mm", "z_mm", "joint_score"),
)
"""`picture` counts from 0 as they come, `hand` within its picture, `joint` in our order; `index` and `time_s`
are those of a film, `root` says whose origin x, y and z have."""

_ANGLES_ONLY = "hands whose joints, place and shape are lost"
_EMPTY = "pictures without a hand have no row"
_LOST = "hands whose box is lost, as are size, camera and model"


ANGLE_COLUMNS = (
    *("picture", "image", "index", "time_s", "hand", "track", "side", "hand_score", "residual_mm", "size"),
    *(name if name == "palm_cupping" else f"{name}_deg" for name in DEGREES_OF_FREEDOM[:NUM_HAND_ANGLES]),
)
"""Angles of the hand model (`dfmamba.hands.model.DEGREES_OF_FREEDOM`) without those of the forearm."""


def write_angles(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes a row of the fitted hand's angles for each hand."""
    with open_atomic(path) as file:
        table = csv.writer(file)
        table.writerow(ANGLE_COLUMNS)
        for picture, record in enumerate(records):
            prediction = fitted(record.prediction, summary)
            summary.note(_EMPTY, int(not prediction.hands))
            for number, hand in enumerate(prediction.hands):
                assert hand.fit is not None
                of_picture = (picture, prediction.image, record.index, record.time_s)
                of_hand = (number, hand.track, hand.side, round(hand.score, 4))
                of_fit = (round(hand.fit.residual_mm, 2), round(hand.fit.size, 4))
                angles = rounded(hand.fit.pose_deg[:NUM_HAND_ANGLES], 3)
                table.writerow((*of_picture, *of_hand, *of_fit, *angles))
                summary.hands += 1
                summary.note(_ANGLES_ONLY)
    summary.files += 1


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes the table with a line of column names; what is not known is empty."""
    with open_atomic(path) as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for picture, record in enumerate(records):
            prediction = record.prediction
            summary.note(_EMPTY, int(not prediction.hands))
            for number, hand in enumerate(prediction.hands):
                of_picture = (picture, prediction.image, record.index, record.time_s)
                of_hand = (number, hand.track, hand.side, round(hand.score, 4), hand.root)
                joints = zip(
                    JOINT_NAMES,
                    rounded(hand.joints_2d_px, 4),
                    rounded(hand.joints_3d_mm, 4),
                    rounded(hand.joint_scores, 4),
                    strict=True,
                )
                for joint, (name, pixel, place, score) in enumerate(joints):
                    table.writerow((*of_picture, *of_hand, joint, name, *pixel, *place, score))
                summary.hands += 1
                summary.note(_LOST)
    summary.files += 1
