"""Reader of tar shards in WebDataset's naming, as `own_format.write_shards` writes them.

Labels are those of the own format (docs/train/own_data.md), one JSON file a sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.own_format import header
from dfmamba.data.readers.own import Content, OwnData, check_entry, parse_file
from dfmamba.data.sample import decode_depth_png
from dfmamba.io.tar import Member, decode_picture, tar_members
from dfmamba.io.untrusted import parse_json
from dfmamba.text import printable

PICTURES = ("jpg", "jpeg", "png")
"""What follows the key of a sample in the name of its picture."""

_SHARD, _PICTURE, _DEPTH = 0, 1, 3
"""Places in `Row.extra`: number of the shard; offset and size of the picture; of the depth map; its unit."""


class ShardedDataset(OwnData):
    """A split of a folder of tar shards.

    Of a damaged or truncated shard the samples before the damage are used; it is counted and named in the
    report, once a shard. So is each sample that lacks its labels or picture, or breaks the own format.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        shards: pattern (or patterns) of the shards relative to `root`; "" means `SPLIT/*.tar`.

    Raises:
        OSError, ValueError: see `IndexedDataset`; OSError also where a pattern matches no file.
    """

    NAME = "shards"

    def __init__(self, root: str | Path, split: str, shards: str | Sequence[str] = "") -> None:
        self._contents: dict[str, Content] = {}
        patterns = shards if isinstance(shards, str) else list(shards)
        IndexedDataset.__init__(self, root, split, shards=patterns)

    def sources(self) -> list[Path]:
        """The shards, by name."""
        shards = self.options["shards"] or f"{self.split}/*.tar"
        found: set[Path] = set()
        for pattern in [shards] if isinstance(shards, str) else shards:
            if not pattern or PurePosixPath(pattern).is_absolute():
                raise ValueError(f"shards: expected a pattern relative to {self.root}, got {pattern!r}")
            matches = {path for path in self.root.glob(pattern) if path.is_file()}
            if not matches:
                raise OSError(f"{self.root}: no shard matches {pattern}; expected tar files")
            found |= matches
        return sorted(found)

    def rows(self, report: Report) -> Iterator[Row]:
        """The samples of all shards, in their order."""
        for number, path in enumerate(self.sources()):
            name = path.relative_to(self.root).as_posix()
            members, fault = tar_members(path)
            for key, group in groupby(members, lambda member: _key_of(member.name)[0]):
                if key:
                    found = {_key_of(member.name)[1]: member for member in group}
                    yield from self._sample(number, name, found, report)
            if fault:
                report.leave_out(fault, "the rest of a damaged or truncated shard")

    def shard_numbers(self) -> np.ndarray:
        """(n,) number of each sample's shard, ascending."""
        return self.index.column("extra")[:, _SHARD].astype(np.int64)

    def open_picture(self, row: Row) -> np.ndarray:
        """See `IndexedDataset.open_picture`."""
        member = self._member(row, _PICTURE)
        return _fits(decode_picture(member.read_bytes(), str(member)), row, member)

    def open_depth(self, row: Row) -> np.ndarray:
        """See `IndexedDataset.open_depth`."""
        member = self._member(row, _DEPTH)
        return _fits(decode_depth_png(member.read_bytes(), row.extra[-1], str(member)), row, member)

    def _member(self, row: Row, place: int) -> Member:
        offset, size = (int(number) for number in row.extra[place : place + 2])
        return Member(self.root / (row.picture or row.depth), row.id, offset, size)

    def _sample(
        self, number: int, shard: str, members: Mapping[str, Member], report: Report
    ) -> Iterator[Row]:
        first = next(iter(members.values()))
        labels, depth = members.get("json"), members.get("depth.png")
        picture = next((members[suffix] for suffix in PICTURES if suffix in members), None)
        if labels is None or (picture is None and depth is None):
            report.leave_out(str(first), "the shard lacks its labels, or both picture and depth map")
            return
        try:
            entry, content = self._entry(labels)
            entry |= {"picture": shard if picture else None, "depth": shard if depth else None}
            check_entry(entry, str(labels), content)
        except (OSError, ValueError) as error:
            report.leave_out(printable(error), "labels break the own format")
            return
        if not entry.get("size"):
            try:
                entry["size"] = _measure(picture, depth)
            except ValueError:
                report.leave_out(str(labels), "the picture or depth map is damaged")
                return
        with np.errstate(all="ignore"):
            row = self._row(entry, content)
        name = entry.get("id") or str(PurePosixPath(shard) / first.name.split(".")[0])
        if isinstance(row, str):
            report.leave_out(name, row)
            return
        places = [x for m in (picture, depth) for x in ((m.offset, m.size) if m else (0, 0))]
        yield Row(id=name, extra=(number, *places, content.depth_unit_mm), **row)

    def _entry(self, labels: Member) -> tuple[dict[str, Any], Content]:
        """The entry in a sample's JSON file, and its header, checked."""
        text = parse_json(labels.read_bytes(), labels)
        if not isinstance(text, dict):
            raise ValueError(f"{labels}: expected a JSON object")
        head = {key: text.pop(key) for key in header() if key in text}
        mark = json.dumps(head, sort_keys=True)
        if mark not in self._contents:
            self._contents[mark] = parse_file(head | {"samples": []}, str(labels))
        return text, self._contents[mark]

    def key(self) -> Mapping[str, Any]:
        return IndexedDataset.key(self)


def _key_of(name: str) -> tuple[str, str]:
    """The key of a member's sample, "" for a hidden file, and what the member is to it."""
    folder, _, base = name.rpartition("/")
    key, _, kind = base.partition(".")
    return (f"{folder}/{key}" if key else ""), kind.lower()


def _measure(picture: Member | None, depth: Member | None) -> list[int]:
    """Width and height of what is there."""
    if picture is not None:
        height, width = decode_picture(picture.read_bytes(), str(picture)).shape[:2]
    else:
        assert depth is not None
        height, width = decode_depth_png(depth.read_bytes(), 1.0, str(depth)).shape
    return [width, height]


def _fits(picture: np.ndarray, row: Row, member: Member) -> np.ndarray:
    height, width = picture.shape[:2]
    if (width, height) != row.size:
        raise ValueError(f"{member}: {width} x {height} pixels; the labels say {row.size[0]} x {row.size[1]}")
    return picture
