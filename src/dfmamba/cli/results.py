"""Where the results of `dfmamba predict` go."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfmamba.predict import Prediction
    from dfmamba.view import Viewer


def output_names(
    pictures: Sequence[Path], out: Path, suffixes: Sequence[str] = (".json", ".png")
) -> list[str]:
    """One name for each picture's results, without suffix: its stem where that is unique.

    Otherwise the whole file name, and a number where even that is taken. No result ever takes the place of a
    picture or of another result, also where the file system ignores case.
    """
    stems = Counter(path.stem.casefold() for path in pictures)
    folder = os.path.realpath(out)
    taken = {
        path.name.casefold()
        for path in pictures
        if os.path.realpath(path.parent) == folder or os.path.dirname(os.path.realpath(path)) == folder
    }
    names = []
    for path in pictures:
        candidates = [path.stem] if stems[path.stem.casefold()] == 1 else []
        candidates += [path.name, *(f"{path.name}-{number}" for number in range(2, len(pictures) + 3))]
        for name in candidates:
            files = {f"{name}{suffix}".casefold() for suffix in suffixes}
            if not files & taken:
                break
        taken |= files
        names.append(name)
    return names


def require_writable(option: str, folder: Path) -> None:
    """Make the folder of an option and see whether files can be written there.

    Raises:
        OSError: if not; the message names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{option} {folder}: cannot write there ({error.strerror or error})") from None


def save_list(
    path: Path,
    predictions: Sequence[Prediction],
    failures: Sequence[tuple[str, str]],
    left_out: Mapping[Path, str] | None = None,
) -> None:
    """Write all predictions and failures, and what folders hold that isn't read, into one JSON file.

    Raises:
        OSError: if it cannot be written.
    """
    from dfmamba.io import write_atomic
    from dfmamba.predict.result import LIST_SCHEMA
    from dfmamba.text import format_json, one_line

    content = {
        "schema": LIST_SCHEMA,
        "predictions": [prediction.to_dict() for prediction in predictions],
        "failed": [{"image": image, "reason": one_line(reason)} for image, reason in failures],
        "left_out": [{"file": str(file), "reason": reason} for file, reason in (left_out or {}).items()],
    }
    try:
        write_atomic(path, format_json(content).encode())
    except OSError as error:
        raise OSError(f"--json {path}: cannot write there ({error.strerror or error})") from None


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


@contextlib.contextmanager
def viewing(name: str | None, path: Path) -> Iterator[Viewer | None]:
    """A viewer by name, open until the end; None where none is wished.

    Raises:
        ValueError: unknown, or its extra is missing.
    """
    from dfmamba.view import make_viewer

    if name is None:
        yield None
        return
    try:
        viewer = make_viewer(name, path)
    except ImportError as error:
        raise ValueError(f"--view {name}: {error}") from error
    try:
        yield viewer
    finally:
        viewer.close()
