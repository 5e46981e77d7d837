"""Boxes that someone else found: from a file."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dfmamba.hands.detection import Detection
from dfmamba.io.untrusted import numbers, read_json
from dfmamba.text import printable, quote

_SIDES = ("right", "left", None)


class GivenBoxes:
    """Boxes by picture, from a JSON file.

    The file holds an object from a picture's name to a list of boxes, each `[x0, y0, x1, y1]` or
    `{"box_xyxy": [...], "score": 0..1, "side": "right"|"left"}`, in pixels of the picture, around the hand's
    joints. An empty list says that the picture shows no hand.

    A name is the picture's path as given, or the last parts of its path: `p.jpg` and `images/p.jpg` both name
    `set/images/p.jpg`. The longest such name counts, so that a picture's own entry comes before that of
    another picture with its file name. Or, for a picture that is given by a relative path, a name ends in
    that. Folders may be separated by `/` or, as on Windows, by a backslash; it makes no difference how
    letters with accents are encoded (NFC or NFD).

    Args:
        path: of the file.

    Raises:
        OSError: it can't be read.
        ValueError: it is not such a file; the message names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        content = read_json(path)
        if not isinstance(content, Mapping):
            raise ValueError(f"{path}: expected an object of picture names, got {type(content).__name__}")
        self.boxes: dict[str, list[Detection]] = {}
        self._named: dict[str, list[tuple[list[str], str]]] = {}
        for name, boxes in content.items():
            try:
                self.boxes[name] = [_detection(box) for box in _list(boxes)]
            except ValueError as error:
                raise ValueError(f"{path}: {quote(name)}: {error}") from None
            parts = _parts(name)
            self._named.setdefault(parts[-1], []).append((parts, name))

    def of(self, picture: Any) -> list[Detection]:
        """The boxes of a picture; none where the file doesn't name it (see `require`).

        Raises:
            ValueError: the picture is not given by its path, or several names fit it equally.
        """
        if not isinstance(picture, str | os.PathLike):
            raise ValueError(f"boxes of {self.path}: go by file names, got a {type(picture).__name__}")
        name = self._find(os.fspath(picture))
        return [] if name is None else self.boxes[name]

    def require(self, pictures: Iterable[Any]) -> list[str]:
        """Sees whether the file is about these pictures.

        Returns:
            Those that it doesn't name.

        Raises:
            ValueError: it names none of them; or as `of`.
        """
        names = [os.fspath(picture) for picture in pictures if isinstance(picture, str | os.PathLike)]
        lacking = [name for name in names if self._find(name) is None]
        if names and len(lacking) == len(names):
            has = ", ".join(map(quote, list(self.boxes)[:3])) or "no names"
            raise ValueError(
                f"boxes of {self.path}: it names none of {len(names)} pictures, such as "
                f"{printable(names[0])}; it has {has}. Write names as paths of the pictures, or the last "
                "parts of them, with [] for a picture without hands"
            )
        return lacking

    def _find(self, name: str) -> str | None:
        """The name in the file that means this picture."""
        if name in self.boxes:
            return name
        given = _parts(name)
        whole = _parts(os.path.abspath(name))
        named = self._named.get(given[-1], [])
        # Several that are equally long differ in how they are written only.
        fitting = [(len(parts), key) for parts, key in named if whole[-len(parts) :] == parts]
        most = max((length for length, _ in fitting), default=0)
        found = [key for length, key in fitting if length == most]
        if not found and not os.path.isabs(name):
            found = [key for parts, key in named if parts[-len(given) :] == given]
        if len(found) > 1:
            raise ValueError(
                f"boxes of {self.path}: {printable(name)} may be {quote(found[0])} or {quote(found[1])}; "
                "give a longer path"
            )
        return found[0] if found else None


def _parts(name: str) -> list[str]:
    """Folders and file name of a path from any system, in one spelling."""
    plain = posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    return [part for part in plain.split("/") if part] or [""]


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of boxes, got {type(value).__name__}")
    return value


def _detection(value: Any) -> Detection:
    given = value if isinstance(value, Mapping) else {"box_xyxy": value}
    unknown = sorted(set(given) - {"box_xyxy", "score", "side"})
    if unknown or "box_xyxy" not in given:
        raise ValueError(f"a box has box_xyxy and perhaps score and side, got {quote(sorted(given))}")
    box, score = numbers(given["box_xyxy"], (4,)), numbers(given.get("score", 1.0), ())
    if box is None or not np.isfinite(box).all() or not (box[:2] < box[2:]).all():
        raise ValueError(
            f"box: expected x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {quote(given['box_xyxy'])}"
        )
    if score is None or not 0 <= score <= 1 or given.get("side") not in _SIDES:
        raise ValueError("box: expected a score from 0 to 1 and the side right or left")
    return Detection(box, float(score), given.get("side"))
