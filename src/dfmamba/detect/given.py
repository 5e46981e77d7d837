"""Boxes that someone else found: from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.hands.detection import Detection

_SIDES = ("right", "left", None)


class GivenBoxes:
    """Boxes by picture, from a JSON file.

    The file holds an object from a picture's name (its file name, or its path as given) to a list of boxes,
    each `[x0, y0, x1, y1]` or `{"box_xyxy": [...], "score": 0..1, "side": "right"|"left"}`, in pixels of the
    picture, around the hand's joints.

    Args:
        path: of the file.

    Raises:
        OSError: it can't be read.
        ValueError: it is not such a file; the message names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            content = json.loads(Path(path).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
        if not isinstance(content, Mapping):
            raise ValueError(f"{path}: expected an object of picture names, got {type(content).__name__}")
        try:
            self.boxes = {name: [_detection(box) for box in _list(boxes)] for name, boxes in content.items()}
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.path = path

    def of(self, picture: Any) -> list[Detection]:
        """The boxes of a picture; none where the file doesn't name it.

        Raises:
            ValueError: the picture is not given by its path.
        """
        if not isinstance(picture, str | os.PathLike):
            raise ValueError(f"boxes of {self.path}: go by file names, got a {type(picture).__name__}")
        name = os.fspath(picture)
        return self.boxes.get(name) or self.boxes.get(os.path.basename(name)) or []


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of boxes, got {type(value).__name__}")
    return value


def _detection(value: Any) -> Detection:
    given = value if isinstance(value, Mapping) else {"box_xyxy": value}
    unknown = sorted(set(given) - {"box_xyxy", "score", "side"})
    if unknown or "box_xyxy" not in given:
        raise ValueError(f"a box has box_xyxy and perhaps score and side, got {sorted(map(str, given))}")
    try:
        box = np.asarray(given["box_xyxy"], dtype=np.float64)
        score = float(given.get("score", 1.0))
    except (TypeError, ValueError):
        box, score = np.array([]), 0.0
    if box.shape != (4,) or not np.isfinite(box).all() or not (box[:2] < box[2:]).all():
        raise ValueError(f"box: expected x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {given['box_xyxy']!r}")
    if not 0 <= score <= 1 or given.get("side") not in _SIDES:
        raise ValueError("box: expected a score from 0 to 1 and the side right or left")
    return Detection(box, score, given.get("side"))
