"""Files that are either written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}\.part")


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` so that a reader never sees half a file, even after a power cut.

    The bytes go to a temporary file in the same folder, which then takes the name; file and folder are
    flushed to the disk. An existing file is replaced; missing folders are made.

    Raises:
        OSError: if the folder cannot be made or written; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, cannot write a file there")
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Deletes what `write_atomic` left in a folder when its process was killed.

    Only for folders in which no other process writes.
    """
    for path in Path(folder).glob(".*.part"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Makes a new name last through a power cut, where the system lets folders be flushed."""
    with contextlib.suppress(OSError):  # Windows, and some network file systems
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
