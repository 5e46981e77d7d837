"""The labels of a data set in columns on disk: read once, checked, and mapped into memory from then on.

An index remembers size and time of every file that it was made of. When one of them changes, or the reader
does, it is made anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.hands.camera import Camera

VERSION = 1
FACTS_FILE = "index.json"
EXAMPLES = 3
"""How many of the entries left out for one reason are named."""


@dataclass(frozen=True)
class Row:
    """The labels of one sample; see `dfmamba.data.sample.HandSample` for frames and units.

    Attributes:
        id: name within the data set.
        picture: path of the picture relative to the root of the data set; "" where there is none.
        joints_cam_mm: (2, J, 3).
        valid: (2, J) bool.
        camera: intrinsics of the picture; None where unknown.
        box_xyxy: (4,) as labelled; None takes the box of the valid joints.
        joints_2d_px: (2, J, 2) where the source has them; None projects `joints_cam_mm`.
        visible: (2, J) bool; None: valid joints inside of the picture.
        present: (2,) bool; None: hands with a valid joint.
        size: width and height of the picture in pixels.
        depth: path of the depth map, likewise; "" where there is none.
        group: name of a subset, such as a sequence.
        extra: further numbers of the source, (n,) with the same n for all rows of an index.
    """

    id: str
    picture: str
    joints_cam_mm: np.ndarray
    valid: np.ndarray
    camera: Camera | None
    size: tuple[int, int]
    box_xyxy: np.ndarray | None = None
    joints_2d_px: np.ndarray | None = None
    visible: np.ndarray | None = None
    present: np.ndarray | None = None
    depth: str = ""
    group: str = ""
    extra: tuple[float, ...] = ()


@dataclass
class Report:
    """What an index holds and what was left out.

    Attributes:
        kept: number of samples.
        left_out: reason -> number.
        examples: reason -> names of the first entries.
    """

    kept: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, name: str, reason: str) -> None:
        """Counts an entry that is not used, and why."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            named.append(name)

    @property
    def lines(self) -> list[str]:
        """One line for the samples and one for each reason."""
        lines = [f"{self.kept} samples"]
        for reason, count in sorted(self.left_out.items(), key=lambda item: -item[1]):
            named = ", ".join(self.examples[reason])
            lines.append(f"left out {count}: {reason} (such as {named})")
        return lines


def cache_root() -> Path:
    """Folder of everything that can be made again: `$XDG_CACHE_HOME/dfmamba`, or `~/.cache/dfmamba`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dfmamba"


def fingerprint(sources: Iterable[Path]) -> list[list[Any]]:
    """Name, size and time (ns) of each file, -1 for one that is missing."""
    marks: list[list[Any]] = []
    for path in sources:
        try:
            status = path.stat()
            marks.append([str(path), status.st_size, status.st_mtime_ns])
        except OSError:
            marks.append([str(path), -1, -1])
    return marks


class Index:
    """Columns of labels, opened from a folder that `write_index` made.

    Attributes:
        report: what it holds and what was left out when it was made.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.report = Report(**facts["report"])
        self.order: str = facts["order"]
        self._strings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._columns: dict[str, np.ndarray] = {}
        for name in facts["columns"]:
            self._columns[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in facts["texts"]:
            self._strings[name] = (
                np.load(folder / f"{name}.npy", mmap_mode="r"),
                np.load(folder / f"{name}-ends.npy", mmap_mode="r"),
            )

    def __len__(self) -> int:
        return len(self._columns["valid"])

    def text(self, name: str, i: int) -> str:
        """One entry of a column of text: "id", "picture", "depth" or "group"."""
        data, ends = self._strings[name]
        start = int(ends[i - 1]) if i else 0
        return bytes(data[start : int(ends[i])]).decode()

    def column(self, name: str) -> np.ndarray:
        """A whole column of numbers: a field of `Row`; cameras are (n, 4), nan where unknown."""
        return self._columns[name]

    def __getitem__(self, i: int) -> Row:
        get = self._columns
        camera = get["camera"][i]
        width, height = get["size"][i].tolist()
        return Row(
            id=self.text("id", i),
            picture=self.text("picture", i),
            depth=self.text("depth", i),
            group=self.text("group", i),
            joints_cam_mm=get["joints_cam_mm"][i],
            joints_2d_px=get["joints_2d_px"][i],
            valid=get["valid"][i],
            visible=get["visible"][i],
            present=get["present"][i],
            box_xyxy=get["box_xyxy"][i],
            camera=None if math.isnan(camera[0]) else Camera(*camera.tolist()),
            size=(width, height),
            extra=tuple(get["extra"][i].tolist()),
        )


_TEXTS = ("id", "picture", "depth", "group")
_NUMBERS: dict[str, type] = {
    "joints_cam_mm": np.float32,
    "joints_2d_px": np.float32,
    "valid": np.bool_,
    "visible": np.bool_,
    "present": np.bool_,
    "box_xyxy": np.float32,
    "camera": np.float64,
    "size": np.int32,
    "extra": np.float64,
}


def write_index(
    folder: Path, rows: Iterable[Row], report: Report, key: Mapping[str, Any], order: str, joints: int
) -> Index:
    """Writes complete, checked rows into a folder that appears at once, and opens it.

    Args:
        folder: where; what was there is replaced.
        rows: complete rows; consumed before `report` is read.
        report: counts; `kept` is set here.
        key: what the index depends on; `open_index` compares it.
        order: the joints' order.
        joints: how many there are, for an index without rows.

    Raises:
        OSError: the folder can't be written.
    """
    texts: dict[str, list[bytes]] = {name: [] for name in _TEXTS}
    numbers: dict[str, list[Any]] = {name: [] for name in _NUMBERS}
    for row in rows:
        for name in _TEXTS:
            texts[name].append(getattr(row, name).encode())
        camera = row.camera
        for name, dtype in _NUMBERS.items():
            value: Any = getattr(row, name)
            if name == "camera":
                value = [math.nan] * 4 if camera is None else [camera.fx, camera.fy, camera.cx, camera.cy]
            numbers[name].append(np.asarray(value, dtype))
    report.kept = len(texts["id"])
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    empty = {"joints_cam_mm": (2, joints, 3), "joints_2d_px": (2, joints, 2), "box_xyxy": (4,)} | {
        "valid": (2, joints), "visible": (2, joints), "present": (2,), "camera": (4,), "size": (2,),
        "extra": (0,),
    }  # fmt: skip
    for name, values in numbers.items():
        column = np.stack(values) if values else np.zeros((0, *empty[name]), _NUMBERS[name])
        np.save(draft / f"{name}.npy", column)
        values.clear()
    for name, words in texts.items():
        np.save(draft / f"{name}.npy", np.frombuffer(b"".join(words), np.uint8))
        np.save(draft / f"{name}-ends.npy", np.cumsum([len(word) for word in words], dtype=np.int64))
    facts = {
        "version": VERSION,
        "key": dict(key),
        "order": order,
        "columns": list(_NUMBERS),
        "texts": list(_TEXTS),
        "report": {"kept": report.kept, "left_out": report.left_out, "examples": report.examples},
    }
    (draft / FACTS_FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)
    return Index(folder, facts)


def open_index(folder: Path, key: Mapping[str, Any]) -> Index | None:
    """The index of a folder, or None where there is none for this key, or a damaged one."""
    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        if facts.get("version") != VERSION or facts.get("key") != json.loads(json.dumps(dict(key))):
            return None
        return Index(folder, facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def index_folder(name: str, split: str, root: Path, options: Mapping[str, Any]) -> Path:
    """Where the index of one split of one copy of a data set lies."""
    named = json.dumps([str(root.resolve()), dict(options)], sort_keys=True)
    mark = hashlib.sha256(named.encode()).hexdigest()[:10]
    return cache_root() / "index" / f"{name}-{split}-{mark}"
