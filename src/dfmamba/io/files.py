"""Files that are either written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}\.part")


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` so that a reader never sees half a file, even after a power cut.

    The bytes go to a temporary file in the same folder, which then takes the name; file and folder are
    flushed to the disk. An existing file is replaced; missing folders are made.

    Raises:
        OSError: if the folder cannot be made or written; nothing is left behind.
    """
    with _open_draft(path) as draft, draft.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """A text file to be written bit by bit, which takes its name when all is written.

    Raises:
        OSError: the folder can't be made or written; nothing is left behind.
    """
    with (
        _open_draft(path) as draft,
        draft.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file
        file.flush()
        os.fsync(file.fileno())


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Deletes what `write_atomic` left in a folder when its process was killed.

    Only for folders in which no other process writes.
    """
    for path in Path(folder).glob(".*.part"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_draft(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside `path` that takes its name in the end, or is removed where something went wrong."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, cannot write a file there")
    draft = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.part")
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Makes a new name last through a power cut, where the system lets folders be flushed."""
    with contextlib.suppress(OSError):  # Windows, and some network file systems
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
