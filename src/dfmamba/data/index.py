"""The labels of a data set in columns on disk: read once, checked, and mapped into memory from then on.

An index remembers size and time of every file that it was made of. When one of them changes, or the reader
does, it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
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
from dfmamba.io.files import draft_folder
from dfmamba.io.untrusted import parse_json, read_bytes
from dfmamba.text import shorten

VERSION = 2
FACTS_FILE = "index.json"
EXAMPLES = 3
"""How many of the entries left out for one reason are named."""
CHUNK = 4096
"""Rows that are held in memory while an index is written."""


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
        depth_px: (2, J) of a sample labelled in pixels only, whose `joints_cam_mm` are zeros.
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
    depth_px: np.ndarray | None = None
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
        reason = shorten(reason)
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        named = self.examples.setdefault(reason, [])
        if len(named) < EXAMPLES:
            named.append(shorten(name))

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
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dfmamba"


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
        self._made_of = folder, facts
        self.report = Report(**facts["report"])
        self.order: str = facts["order"]
        self._strings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._columns: dict[str, np.ndarray] = {}
        for name in facts["columns"]:
            self._columns[name] = _mapped(folder / f"{name}.npy")
        for name in facts["texts"]:
            self._strings[name] = (
                _mapped(folder / f"{name}.npy"),
                _mapped(folder / f"{name}-ends.npy"),
            )

        ends = (ends for _, ends in self._strings.values())
        if {len(column) for column in (*self._columns.values(), *ends)} != {self.report.kept}:
            raise ValueError(f"{folder}: columns differ in length")

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy for another process maps the files again; pickled arrays would hold all labels.
        return Index, self._made_of

    def __len__(self) -> int:
        return len(self._columns["valid"])

    def text(self, name: str, i: int) -> str:
        """One entry of a column of text: "id", "picture", "depth" or "group"."""
        data, ends = self._strings[name]
        start = int(ends[i - 1]) if i else 0
        return bytes(data[start : int(ends[i])]).decode(errors="surrogatepass")

    def column(self, name: str) -> np.ndarray:
        """A whole column of numbers: a field of `Row`; cameras are (n, 4), nan where unknown."""
        return self._columns[name]

    def __getitem__(self, i: int) -> Row:
        get = self._columns
        camera = get["camera"][i]
        width, height = get["size"][i].tolist()
        valid, cam = get["valid"][i], get["joints_cam_mm"][i]
        pixels_only = valid.any() and not cam[valid].any()
        return Row(
            id=self.text("id", i),
            picture=self.text("picture", i),
            depth=self.text("depth", i),
            group=self.text("group", i),
            joints_cam_mm=cam,
            depth_px=get["depth_px"][i] if pixels_only else None,
            joints_2d_px=get["joints_2d_px"][i],
            valid=valid,
            visible=get["visible"][i],
            present=get["present"][i],
            box_xyxy=get["box_xyxy"][i],
            camera=None if math.isnan(camera[0]) else Camera(*camera.tolist()),
            size=(width, height),
            extra=tuple(get["extra"][i].tolist()),
        )


def _mapped(path: Path) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="r")


_TEXTS = ("id", "picture", "depth", "group")
_NUMBERS: dict[str, type] = {
    "joints_cam_mm": np.float32,
    "joints_2d_px": np.float32,
    "depth_px": np.float32,
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
        ValueError: rows differ in shape.
    """
    with draft_folder(folder) as draft:
        report.kept = _write_columns(draft, rows, joints)
        facts = {
            "version": VERSION,
            "key": dict(key),
            "order": order,
            "columns": list(_NUMBERS),
            "texts": list(_TEXTS),
            "report": {"kept": report.kept, "left_out": report.left_out, "examples": report.examples},
        }
        (draft / FACTS_FILE).write_text(json.dumps(facts, indent=1, default=str), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            os.replace(draft, folder)
        except OSError:
            # Another process may have made the same index at the same time.
            found = open_index(folder, key)
            if found is None:
                raise
            return found
        return Index(folder, facts)


def _write_columns(folder: Path, rows: Iterable[Row], joints: int) -> int:
    """Writes the .npy files of an index, `CHUNK` rows at a time; returns the number of rows."""
    empty = {"joints_cam_mm": (2, joints, 3), "joints_2d_px": (2, joints, 2), "box_xyxy": (4,)} | {
        "depth_px": (2, joints), "valid": (2, joints), "visible": (2, joints), "present": (2,),
        "camera": (4,), "size": (2,), "extra": (0,),
    }  # fmt: skip
    count = 0
    with contextlib.ExitStack() as stack:
        files: dict[str, ColumnFile] = {}
        for name, dtype in {**_NUMBERS, **{n: np.uint8 for n in _TEXTS}}.items():
            files[name] = stack.enter_context(ColumnFile(folder / f"{name}.npy", dtype))
        for name in _TEXTS:
            files[f"{name}-ends"] = stack.enter_context(ColumnFile(folder / f"{name}-ends.npy", np.int64))
        ends = dict.fromkeys(_TEXTS, 0)
        source = iter(rows)
        while chunk := list(itertools.islice(source, CHUNK)):
            count += len(chunk)
            for name, dtype in _NUMBERS.items():
                files[name].append(np.stack([np.asarray(_value(row, name), dtype) for row in chunk]))
            for name in _TEXTS:
                words = [getattr(row, name).encode(errors="surrogatepass") for row in chunk]
                files[name].append(np.frombuffer(b"".join(words), np.uint8))
                places = ends[name] + np.cumsum([len(word) for word in words], dtype=np.int64)
                files[f"{name}-ends"].append(places)
                ends[name] = int(places[-1])
        if not count:
            for name, dtype in _NUMBERS.items():
                files[name].append(np.zeros((0, *empty[name]), dtype))
    return count


def _value(row: Row, name: str) -> Any:
    camera = row.camera
    if name == "depth_px" and row.depth_px is None:
        return np.full(np.shape(row.valid), math.nan)
    if name != "camera":
        return getattr(row, name)
    return [math.nan] * 4 if camera is None else [camera.fx, camera.fy, camera.cx, camera.cy]


class ColumnFile:
    """A .npy file that grows: its header, whose length doesn't depend on the rows, is written last."""

    def __init__(self, path: Path, dtype: type) -> None:
        self._file = path.open("wb")
        self._dtype = np.dtype(dtype)
        self._rows = 0
        self._entry: tuple[int, ...] | None = None

    def append(self, values: np.ndarray) -> None:
        """Writes further rows.

        Raises:
            ValueError: their shape differs from those before.
        """
        if self._entry is None:
            self._entry = values.shape[1:]
            self._write_header()
        if values.shape[1:] != self._entry or values.dtype != self._dtype:
            raise ValueError(
                f"{self._file.name}: rows of {values.dtype} {values.shape[1:]}, "
                f"those before of {self._dtype} {self._entry}"
            )
        self._file.write(np.ascontiguousarray(values).tobytes())
        self._rows += len(values)

    def __enter__(self) -> ColumnFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._write_header()

    def _write_header(self) -> None:
        self._file.seek(0)
        shape = (self._rows, *(self._entry or ()))
        facts = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, facts)


def open_index(folder: Path, key: Mapping[str, Any]) -> Index | None:
    """The index of a folder, or None where there is none for this key, or a damaged one."""
    try:
        facts = parse_json(read_bytes(folder / FACTS_FILE), FACTS_FILE)
        wanted = json.loads(json.dumps(dict(key), default=str))
        if facts.get("version") != VERSION or facts.get("key") != wanted:
            return None
        return Index(folder, facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def index_folder(name: str, split: str, root: Path, options: Mapping[str, Any]) -> Path:
    """Where the index of one split of one copy of a data set lies."""
    named = json.dumps([str(root.resolve()), dict(options)], sort_keys=True, default=str)
    mark = hashlib.sha256(named.encode()).hexdigest()[:10]
    return cache_root() / "index" / f"{name}-{split}-{mark}"
