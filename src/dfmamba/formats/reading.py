"""Prediction files, whoever of the project wrote them, one picture at a time.

Read are the JSON files of `dfmamba predict` and its `--json` lists, the JSON Lines of a film, and the parts
of bulk prediction (Parquet or JSON Lines), also whole folders of these. What is read is checked, as anybody
may have written it.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfmamba.bulk.parts import COLUMNS, MANIFEST
from dfmamba.bulk.parts import SCHEMA as BULK_SCHEMA
from dfmamba.extras import need
from dfmamba.formats.writing import Summary
from dfmamba.hands.skeleton import JOINT_NAMES
from dfmamba.io.untrusted import parse_json
from dfmamba.predict.result import LIST_SCHEMA, SCALE, SCHEMA, Hand, Prediction
from dfmamba.text import one_line, quote
from dfmamba.video.film import SCHEMA as FILM_SCHEMA
from dfmamba.video.film import as_prediction, read_film

SUFFIXES = (".json", ".jsonl", ".parquet")
_FAILED = "pictures could not be predicted and are left out"
_TWICE = "predictions stand in a second file, too, and are written once"
_DIFFER = "pictures have other hands in a second file, of the same model: those of the first file are written"
_OTHER = "JSON files of a folder hold no predictions and are left out"
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Record:
    """A prediction and where it stands.

    Attributes:
        prediction: of one picture.
        source: the file that it was read from; "" for one that came from memory.
        index: number of the picture in its film; None for single pictures.
        time_s: seconds since the film began; None where unknown.
    """

    prediction: Prediction
    source: str = ""
    index: int | None = None
    time_s: float | None = None

    @property
    def name(self) -> str:
        """For files: the picture's name without suffix, or the film's and the picture's number."""
        stem = Path(self.source if self.index is not None else self.prediction.image or self.source).stem
        return stem or "picture" if self.index is None else f"{stem or 'film'}_{self.index:012d}"


def as_records(predictions: Iterable[Prediction | Record]) -> Iterator[Record]:
    """Predictions from memory as records; records stay as they are."""
    for one in predictions:
        yield one if isinstance(one, Record) else Record(one)


def read_records(paths: Iterable[str | os.PathLike[str]], summary: Summary | None = None) -> Iterator[Record]:
    """The predictions of files and folders, in the order given; of a folder by name.

    Lists are read whole, all else bit by bit. Of a picture that several JSON files hold, as where a folder
    has a list beside the single files, the first prediction of each model counts. JSON files of a folder that
    are of another kind, such as exported ones, are left out.

    Args:
        paths: prediction files, or folders of them.
        summary: gets notes of pictures that had failed when they were predicted, and of what is left out.

    Raises:
        OSError: a file can't be read.
        ValueError: it is not a prediction file, or damaged; the message names it.
        ImportError: a Parquet file without pyarrow.
    """
    summary = Summary() if summary is None else summary
    known: dict[tuple[Any, ...], int] = {}
    for inside, path in ((Path(one).is_dir(), file) for one in paths for file in _files(Path(one))):
        try:
            for record in _READERS[path.suffix.lower()](path, summary):
                if path.suffix.lower() != ".json" or _is_first(record.prediction, known, summary):
                    yield record
        except _OtherKind as error:
            if not inside:
                raise ValueError(f"{path}: not a usable prediction file ({error})") from None
            summary.note(_OTHER)
        except (ImportError, OSError):
            raise
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            reason = one_line(error).removeprefix(f"{path}: ") or type(error).__name__
            raise ValueError(f"{path}: not a usable prediction file ({reason[:300]})") from None


class _OtherKind(ValueError):
    """JSON that is no prediction."""


def _is_first(prediction: Prediction, known: dict[tuple[Any, ...], int], summary: Summary) -> bool:
    """Whether no prediction of the same picture and model came before; else a note."""
    if prediction.image is None:
        return True
    key = (prediction.image, prediction.model, prediction.image_size)
    mark = hash(prediction.to_json())
    if key not in known:
        known[key] = mark
        return True
    summary.note(_TWICE if known[key] == mark else _DIFFER)
    return False


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted(
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() in SUFFIXES and not entry.name.startswith((".", "_"))
        )
        if not inside:
            raise ValueError(f"{path}: no prediction files in this folder (looked for {' '.join(SUFFIXES)})")
        return inside
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a prediction file, {' '.join(SUFFIXES)}")
    return [path]


def _read_json(path: Path, summary: Summary) -> Iterator[Record]:
    data = parse_json(path.read_bytes(), "the file")
    if not isinstance(data, dict):
        raise _OtherKind(f"expected a JSON object, got {type(data).__name__}")
    if data.get("schema") == LIST_SCHEMA:
        predictions, failed = data.get("predictions"), data.get("failed", [])
        if not isinstance(predictions, list) or not isinstance(failed, list):
            raise ValueError("predictions: expected a list")
        summary.note(_FAILED, len(failed))
        for number, one in enumerate(predictions):
            try:
                yield Record(Prediction.from_dict(one), str(path))
            except ValueError as error:
                raise ValueError(f"picture {number}: {error}") from None
    elif data.get("schema") == SCHEMA:
        yield Record(Prediction.from_dict(data), str(path))
    else:
        raise _OtherKind(f"expected the schema {SCHEMA} or {LIST_SCHEMA}, got {quote(data.get('schema'))}")


def _read_lines(path: Path, summary: Summary) -> Iterator[Record]:
    with path.open("rb") as file:
        first = file.readline()
        head = _object(first, "line 1")
        if "picture" in head:
            rows = (
                _object(line, f"line {number}")
                for number, line in enumerate(itertools.chain([first], file), 1)
                if line.strip()
            )
            yield from _read_bulk(path, rows, summary)
            return
    if head.get("schema") != FILM_SCHEMA:
        raise ValueError(f"line 1: expected the head of a film ({FILM_SCHEMA}) or a row of bulk prediction")
    header, frames = read_film(path)
    for frame in frames:
        time_s = frame.time_s if math.isfinite(frame.time_s) else None
        yield Record(as_prediction(header, frame), str(path), frame.index, time_s)


def _read_parquet(path: Path, summary: Summary) -> Iterator[Record]:
    (parquet,) = need("bulk", "pyarrow.parquet")
    with path.open("rb") as raw:
        try:
            with parquet.ParquetFile(raw) as file:
                batches = file.iter_batches(batch_size=_ROWS, columns=list(COLUMNS))
                rows = (row for batch in batches for row in batch.to_pylist())
                yield from _read_bulk(path, rows, summary)
        except Exception as error:  # damaged bytes get almost any exception type
            raise ValueError(str(error)) from None


def _read_bulk(path: Path, rows: Iterable[Mapping[str, Any]], summary: Summary) -> Iterator[Record]:
    settings = _manifest(path.parent / MANIFEST)
    for _, group in itertools.groupby(rows, key=lambda row: row.get("picture")):
        own = list(group)
        first = own[0]
        if any(name not in row for row in own for name in COLUMNS):
            raise ValueError(f"a row of bulk prediction has the columns {', '.join(COLUMNS)}")
        if first["error"] is not None:
            summary.note(_FAILED)
            continue
        hands = [row for row in own if row["side"] is not None]
        names = ("side", "score", "box_xyxy", "joints_2d_px", "joints_3d_mm", "joint_scores", "root")
        for name in ("path", "side", "root"):
            if not isinstance(first[name], str | None):
                raise ValueError(f"{name}: unexpected value {quote(first[name])}")
        size = (first["width"], first["height"])
        if any(type(side) is not int for side in size):
            raise ValueError(f"width, height: expected pixels, got {quote(size)}")
        prediction = Prediction(
            hands=tuple(Hand(**{name: row[name] for name in names}) for row in hands),
            image_size=size,
            image=first["path"],
            **settings,
        )
        yield Record(prediction, str(path))


def _manifest(path: Path) -> dict[str, Any]:
    """What the predictions of a folder have in common."""
    if not path.is_file():
        return {}
    data = _object(path.read_bytes(), path.name)
    if data.get("schema") != BULK_SCHEMA:
        raise ValueError(f"{path.name} beside it: expected the schema {BULK_SCHEMA}")
    empty = {
        "schema": SCHEMA,
        "model": data.get("model"),
        "image": None,
        "size": [1, 1],
        "camera": data.get("camera"),
        "mirrored": data.get("mirrored"),
        "scale": SCALE,
        "joint_names": list(JOINT_NAMES),
        "hands": [],
    }
    checked = Prediction.from_dict(empty)
    return {"model": checked.model, "camera": checked.camera, "mirrored": checked.mirrored}


def _object(text: bytes, what: str) -> dict[str, Any]:
    data = parse_json(text, what)
    if not isinstance(data, dict):
        raise ValueError(f"{what}: expected a JSON object, got {type(data).__name__}")
    return data


_READERS = {".json": _read_json, ".jsonl": _read_lines, ".parquet": _read_parquet}
