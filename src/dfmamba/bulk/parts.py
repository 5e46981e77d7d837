"""Parts of the list and their files: what is in a folder of bulk predictions, and whether it may grow."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfmamba.bulk.inputs import Item, digest
from dfmamba.extras import need
from dfmamba.hands.camera import Camera
from dfmamba.io.files import remove_leftovers, write_atomic

SCHEMA = "dfmamba.bulk/1"
MANIFEST = "_bulk.json"
"""The underscore hides it from readers that take the folder for one table."""
FORMATS = ("parquet", "jsonl")
EXAMPLES = 3
"""How many of a part's unusable pictures are named."""

COLUMNS = {
    "picture": "int64",
    "path": "string",
    "width": "int32",
    "height": "int32",
    "side": "string",
    "score": "float32",
    "box_xyxy": "list<float32>",
    "joints_2d_px": "list<list<float32>>",
    "joints_3d_mm": "list<list<float32>>",
    "joint_scores": "list<float32>",
    "root": "string",
    "error": "string",
}
"""Columns of a part and their Arrow types: a row for each hand, or one for a picture without hands."""


@dataclass(frozen=True)
class BulkConfig:
    """What is predicted and how it is stored.

    Attributes:
        out: folder of the parts.
        model: name or folder of a model.
        format: one of `FORMATS`.
        part_size: pictures of one part.
        batch_size: pictures that go through the network together. 1 gives the joints of `Predictor.predict`
            bit for bit; more is faster, but rounding then depends on a picture's neighbours.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threshold: see `dfmamba.predict.Predictor.predict`, as for what follows.
        refine: likewise.
        detector: finds the hands where no box is given: a name for `dfmamba.detect.build.make_detector`, but
            no file of boxes.
        box: x0, y0, x1, y1 in pixels of every picture.
        camera: intrinsics of every picture.
        mirrored: the pictures are mirror images.

    Raises:
        ValueError: a value is not usable.
    """

    out: str
    model: str = "nano"
    format: str = "parquet"
    part_size: int = 2000
    batch_size: int = 1
    device: str = "auto"
    threshold: float = 0.5
    refine: bool = True
    detector: str = "built-in"
    box: tuple[float, float, float, float] | None = None
    camera: Camera | None = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.camera is not None:
            object.__setattr__(self, "camera", Camera.of(self.camera))
        if self.format not in FORMATS:
            raise ValueError(f"format: expected {' or '.join(FORMATS)}, got {self.format!r}")
        if self.detector.endswith(".json"):
            raise ValueError(f"detector: expected one that looks at pictures, got a file, {self.detector}")
        for name in ("part_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Part:
    """Some pictures that follow each other in the list.

    Attributes:
        number: place of the part.
        first: place of its first picture in the list.
        items: the pictures.
    """

    number: int
    first: int
    items: tuple[Item, ...]

    def to_json(self) -> str:
        """The part as text."""
        return json.dumps([self.number, self.first, self.items])

    @classmethod
    def from_json(cls, text: str) -> Part:
        """The inverse of `to_json`."""
        number, first, items = json.loads(text)
        return cls(number, first, tuple(Item(*item) for item in items))


@dataclass(frozen=True)
class PartReport:
    """What is in the file of a part.

    Attributes:
        number: place of the part.
        pictures: pictures in it, unusable ones included.
        hands: hands found.
        failed: unusable pictures.
        faults: what was wrong with the first of them.
    """

    number: int
    pictures: int
    hands: int
    failed: int
    faults: tuple[str, ...] = ()


def cut(items: Sequence[Item], size: int) -> list[Part]:
    """The list in parts of `size` pictures; the last may be smaller."""
    return [
        Part(number, first, tuple(items[first : first + size]))
        for number, first in enumerate(range(0, len(items), size))
    ]


def part_path(config: BulkConfig, number: int) -> Path:
    """Where a part is stored."""
    return Path(config.out) / f"part-{number:06d}.{config.format}"


def open_folder(config: BulkConfig, items: Sequence[Item], fingerprint: str) -> None:
    """Claims the folder for these pictures, this model and these options, or sees that it is theirs.

    Args:
        config: the options.
        items: the whole list.
        fingerprint: of the model.

    Raises:
        OSError: it can't be made or written.
        ValueError: it holds predictions of another list, model or options.
    """
    stored = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("out", "model", "device")}
    wanted = {"schema": SCHEMA, "model": fingerprint, **stored, "pictures": len(items), "list": digest(items)}
    wanted = json.loads(json.dumps(wanted))
    path = Path(config.out) / MANIFEST
    remove_leftovers(config.out)
    if not path.exists():
        if any(Path(config.out).glob("part-*")):
            raise ValueError(f"{config.out}: holds parts but no {MANIFEST}; use another folder for --out")
        write_atomic(path, (json.dumps(wanted, indent=1) + "\n").encode())
        return
    try:
        found = json.loads(path.read_bytes())
        known = found.keys() | wanted.keys()
    except (ValueError, AttributeError, RecursionError):
        raise ValueError(
            f"{path}: not a manifest of bulk predictions; use another folder for --out"
        ) from None
    for name in [*wanted, *sorted(known - wanted.keys())]:
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{path}: the predictions there have {name} {found.get(name)!r}, these would have "
                f"{wanted.get(name)!r}; use another folder for --out"
            )


def write_part(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Stores the rows of a part, whole or not at all.

    Args:
        path: its suffix names one of `FORMATS`.
        rows: with the keys of `COLUMNS`.

    Raises:
        OSError: it can't be written.
        ImportError: Parquet without pyarrow.
    """
    if path.suffix == ".jsonl":
        content = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    else:
        arrow, parquet = need("bulk", "pyarrow", "pyarrow.parquet")
        types = {
            "list<float32>": arrow.list_(arrow.float32()),
            "list<list<float32>>": arrow.list_(arrow.list_(arrow.float32())),
        }
        schema = arrow.schema(
            [(name, types.get(kind, kind)) for name, kind in COLUMNS.items()],
            metadata={"schema": SCHEMA},
        )
        texts = ("path", "error")
        rows = [{**row, **{name: row[name] and utf8_name(row[name]) for name in texts}} for row in rows]
        sink = arrow.BufferOutputStream()
        parquet.write_table(arrow.Table.from_pylist(rows, schema), sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
    write_atomic(path, content)


def utf8_name(name: str) -> str:
    """A file name for Parquet, whose texts are UTF-8: bytes that are none as escape sequences."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_report(config: BulkConfig, part: Part) -> PartReport | None:
    """What is in the file of a part; None where there is none yet.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged or belongs to other pictures.
    """
    path = part_path(config, part.number)
    if not path.exists():
        return None
    columns = ["picture", "side", "path", "error"]
    try:
        if config.format == "jsonl":
            rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        else:
            rows = need("bulk", "pyarrow.parquet")[0].read_table(path, columns=columns).to_pylist()
        report = count(part.number, rows)
        whole = {row["picture"] for row in rows} == set(range(part.first, part.first + len(part.items)))
    except ImportError:
        raise
    except Exception as error:
        # Damaged bytes get almost any exception type.
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: damaged ({reason}); remove it and run again") from None
    if not whole:
        raise ValueError(f"{path}: doesn't hold the pictures of this part; remove it and run again")
    return report


def count(number: int, rows: Sequence[dict[str, Any]]) -> PartReport:
    """Counts pictures, hands and faults in the rows of a part."""
    failed = [row for row in rows if row["error"] is not None]
    return PartReport(
        number,
        pictures=len({row["picture"] for row in rows}),
        hands=sum(row["side"] is not None for row in rows),
        failed=len(failed),
        faults=tuple(f"{row['path']}: {row['error']}" for row in failed[:EXAMPLES]),
    )
