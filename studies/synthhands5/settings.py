"""What the benchmark consists of: five settings, three splits, one version.

The protocol is described in README.md. Whatever changes a picture or a label needs a new `VERSION`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

VERSION = 1
PICTURE = 128
"""Side of the pictures in pixels."""
MARGIN = 1.4
"""Side of the pictures relative to the box of all joints: more than a test crop, for training to shift it."""
CROP_FACTOR = 1.2
"""Side of the crop that a model is tested on, relative to that box."""


@dataclass(frozen=True)
class Setting:
    """One kind of picture, after a data set that needs a licence.

    Attributes:
        name: by which it is asked for.
        title: in tables and figures.
        mirrors: the data set whose difficulty it has.
        kind: of the generator's scenes (`dfmamba.data.kinds.SYNTHETIC_KINDS`).
        number: part of the seeds, so that no two settings share a scene.
    """

    name: str
    title: str
    mirrors: str
    kind: str
    number: int


SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("two", "Two hands", "InterHand2.6M", "two", 1),
        Setting("distractors", "One hand, distractors", "RHP", "single", 2),
        Setting("depth", "Depth", "NYU", "depth", 3),
        Setting("object", "Hand and object", "DexYCB", "object", 4),
        Setting("ego", "Egocentric, object", "AssemblyHands", "ego", 5),
    )
}


@dataclass(frozen=True)
class Split:
    """A fixed series of pictures of each setting.

    Attributes:
        name: "train", "val" or "test".
        pictures: how many.
        number: part of the seeds.
    """

    name: str
    pictures: int
    number: int


SPLITS: dict[str, Split] = {
    split.name: split for split in (Split("train", 10_000, 1), Split("val", 500, 2), Split("test", 1000, 3))
}


def seed_of(setting: Setting, split: Split) -> int:
    """Seed of the generator for one split of one setting."""
    return 50_000_000 + 1000 * VERSION + 10 * setting.number + split.number


def known(name: str, table: Collection[str], noun: str) -> None:
    """Checks a name.

    Raises:
        ValueError: it isn't in the table.
    """
    if name not in table:
        raise ValueError(f"unknown {noun} {name!r}; known: {', '.join(table)}")
