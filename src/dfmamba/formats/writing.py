"""What all formats share: files that appear whole, their names, and a count of what a format can't hold."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dfmamba.predict.result import Hand

LONGEST_NAME = 100
"""Characters of a file's name that come from a picture's."""


@dataclass
class Summary:
    """What was written, and what could not be.

    Attributes:
        pictures: read.
        hands: written.
        files: written.
        notes: what is missing or to be known -> how often.
    """

    pictures: int = 0
    hands: int = 0
    files: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def note(self, text: str, count: int = 1) -> None:
        """Counts an omission; nothing if there is none."""
        if count:
            self.notes[text] += count


class OutputFiles:
    """Names the files of a format that needs one for each picture or hand.

    Args:
        path: a folder; or the one file, if it has the format's suffix.
        suffix: of the format, such as ".glb".
    """

    def __init__(self, path: str | os.PathLike[str], suffix: str) -> None:
        self.path, self.suffix = Path(path), suffix
        self.single = self.path.suffix.lower() == suffix and not self.path.is_dir()
        self.taken: set[str] = set()

    def next(self, name: str) -> Path:
        """The path for the result of that name, which is made safe and, with a number, unique.

        Raises:
            ValueError: a second result where the path is that of one file.
        """
        if self.single:
            if self.taken:
                raise ValueError(f"{self.path}: holds one result, and there are more; name a folder instead")
            self.taken.add("")
            return self.path
        plain = re.sub(r"[^\w.-]", "_", name[-LONGEST_NAME:]).lstrip(".") or "picture"
        free, number = plain, 2
        while free.casefold() in self.taken:
            free, number = f"{plain}-{number}", number + 1
        self.taken.add(free.casefold())
        return self.path / f"{free}{self.suffix}"


def best_of_each_side(hands: Sequence[Hand]) -> dict[str, Hand]:
    """The hand of the highest score of each side that is there."""
    best: dict[str, Hand] = {}
    for hand in hands:
        if hand.side not in best or hand.score > best[hand.side].score:
            best[hand.side] = hand
    return best


def rounded(values: np.ndarray, decimals: int) -> list:
    """Nested lists of rounded numbers, without negative zeros."""
    return (np.round(values, decimals) + 0.0).tolist()
