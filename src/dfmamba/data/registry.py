"""The data sets by name."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfmamba.data.indexed import IndexedDataset


@dataclass(frozen=True)
class DatasetInfo:
    """Where the reader of a data set is, and what its copies are known to hold.

    Attributes:
        title: its name in print.
        module: of its reader, in `dfmamba.data.readers`, and of its fixture, in `dfmamba.fixtures`.
        reader: class in that module.
        train: the split to train on, unless told otherwise.
        test: the split to report on.
        counts: published numbers by split; see `count_source`.
        count_source: what is counted, and who says so.
        license: of the data.
    """

    title: str
    module: str
    reader: str
    train: str
    test: str
    counts: dict[str, int] = field(default_factory=dict)
    count_source: str = ""
    license: str = ""


FIXTURE_MARK = "synthetic_fixture.txt"
"""File that tells a fixture from a real copy."""

DATASETS: dict[str, DatasetInfo] = {
    "interhand26m": DatasetInfo(
        "InterHand2.6M", "interhand", "InterHand26M", "train", "test",
        {"train": 1_361_062, "val": 380_125, "test": 849_160},
        "pictures of version 1.0 at 5 frames a second, human and machine annotations (data set page)",
        "CC BY-NC 4.0",
    ),
    "rhp": DatasetInfo(
        "RHP (RHD)", "rhd", "RenderedHands", "training", "evaluation",
        {"training": 41_258, "evaluation": 2_728}, "pictures (data set page)", "research only",
    ),
    "nyu": DatasetInfo(
        "NYU Hand Pose", "nyu", "NyuHands", "train", "test",
        {"train": 72_757, "test": 8_252}, "frames of one camera (data set page)", "CC BY 4.0",
    ),
    "dexycb": DatasetInfo(
        "DexYCB", "dexycb", "DexYCB", "s0_train", "s0_test",
        {"s0_train": 465_504}, "frames before those without a hand are dropped (toolkit)", "CC BY-NC 4.0",
    ),
    "assemblyhands": DatasetInfo(
        "AssemblyHands", "assemblyhands", "AssemblyHands", "train", "val",
        {}, "", "CC BY-NC 4.0",
    ),
    "freihand": DatasetInfo(
        "FreiHAND", "freihand", "FreiHAND", "training", "evaluation",
        {"training": 130_240, "evaluation": 3_960},
        "pictures, four backgrounds a training pose (data set page)", "research only",
    ),
    "own": DatasetInfo("own data", "own", "OwnData", "train", "test"),
    "shards": DatasetInfo("tar shards", "shards", "ShardedDataset", "train", "test"),
}  # fmt: skip
"""All data sets that can be read."""


def dataset_info(name: str) -> DatasetInfo:
    """What is known of a data set.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def reader_class(name: str) -> type[IndexedDataset]:
    """The reader of a data set.

    Raises:
        ValueError: there is none of that name.
    """
    info = dataset_info(name)
    return getattr(importlib.import_module(f"dfmamba.data.readers.{info.module}"), info.reader)


def open_dataset(name: str, root: str | Path, split: str, **options: Any) -> IndexedDataset:
    """Opens one split of a copy of a data set, see `IndexedDataset`.

    Raises:
        ValueError: unknown name, split or option, or nothing usable in it.
        OSError: the folder or a file of labels is missing.
    """
    reader = reader_class(name)
    known = inspect.signature(reader).parameters
    unknown = sorted(set(options) - set(known))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        named = ", ".join(list(known)[2:]) or "none"
        raise ValueError(f"unknown option {unknown[0]!r} of {name}; known: {named}")
    return reader(root, split, **options)


def is_fixture(root: str | Path) -> bool:
    """Whether a folder is a synthetic copy that `dfmamba.fixtures.write_fixture` made."""
    return (Path(root) / FIXTURE_MARK).is_file()
