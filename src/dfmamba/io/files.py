"""Files that are either written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

try:
    import fcntl
except ImportError:  # Windows, which refuses to remove files that are open
    fcntl = None  # type: ignore[assignment]

_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{12}\.part", re.DOTALL)
_tidied: set[str] = set()
"""Folders in which this process has looked for leftovers."""


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path` so that a reader never sees half a file, even after a power cut.

    The bytes go to a temporary file in the same folder, which then takes the name; file and folder are
    flushed to the disk. A regular file is replaced and keeps its permissions; missing folders are made. A
    link stays, and what it names is written. Pipes and character devices, /dev/stdout among them, are
    written to as they are.

    Raises:
        OSError: the folder can't be made or written, or a folder, a block device or a socket has the name;
            nothing is left behind.
    """
    with open_atomic_bytes(path) as file:
        file.write(content)


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """A text file to be written bit by bit, which takes its name when all is written; see `write_atomic`.

    Raises:
        OSError: as `write_atomic`.
    """
    with open_atomic_bytes(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        try:
            yield text
        finally:
            text.detach()  # flushes, and leaves the file open


@contextlib.contextmanager
def open_atomic_bytes(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """As `open_atomic`, for bytes."""
    through = _open_through(path)
    if through is not None:
        with through:
            yield through
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, cannot write a file there")
    with _locked_draft(target) as (file, draft):
        yield file
        file.flush()
        with contextlib.suppress(OSError):
            os.chmod(draft, stat.S_IMODE(target.stat().st_mode))
        os.fsync(file.fileno())
        if fcntl is None:
            file.close()
        try:
            os.replace(draft, target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            shutil.copyfile(draft, target)  # a file that is a mount point, as in a container
    _flush_folder(target.parent)


@contextlib.contextmanager
def draft_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder beside `path` for the caller to fill and to rename; removed if it is still there.

    Like a file's draft it is removed by `remove_leftovers` once its process is dead.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _tidy(target.parent)

    def make() -> Path:
        draft = _draft_name(target)
        draft.mkdir()
        return draft

    draft, lock = _held_folder(make)
    try:
        yield draft
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(draft, ignore_errors=True)


def temporary_folder(prefix: str) -> Path:
    """A new folder for temporary files, which the next call with this prefix removes once we are dead.

    Only this user can read it. The caller removes it in the end.
    """
    for other in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        remove_unlocked(other)
    return _held_folder(lambda: Path(tempfile.mkdtemp(prefix=prefix)))[0]


def _held_folder(make: Callable[[], Path]) -> tuple[Path, int | None]:
    """A new folder and the descriptor that holds it; again where another process took it for a leftover."""
    while True:
        folder = make()
        lock = hold(folder)
        if fcntl is None or (lock is not None and os.fstat(lock).st_nlink):
            return folder, lock
        if lock is not None:
            os.close(lock)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Deletes what killed processes left in a folder: drafts that nobody has locked.

    The first write of a process into a folder does it, too.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _LEFTOVER.fullmatch(entry.name)]:
            remove_unlocked(Path(folder) / name)


def remove_unlocked(path: Path) -> None:
    """Deletes a file or folder unless a living process holds it (see `hold`), or might."""
    lock = hold(path)
    if lock is None:
        return
    try:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        os.close(lock)


def hold(path: Path) -> int | None:
    """Marks a file or folder as in use until this process ends or closes the descriptor that it returns.

    None where another process has marked it, or where the system can't tell.
    """
    if fcntl is None:
        return None
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
    except OSError:
        pass
    os.close(number)
    return None


def _open_through(path: str | os.PathLike[str]) -> BinaryIO | None:
    """What is at `path`, open for writing, if it is neither absent nor a regular file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    number = _own_descriptor(os.fspath(path))
    if number is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        return os.fdopen(os.dup(number), "wb")
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode):
        kind = "block device" if stat.S_ISBLK(mode) else "socket"
        raise OSError(f"{path}: is a {kind}; expected a file, a pipe or a character device")
    return open(path, "wb")


def _own_descriptor(path: str) -> int | None:
    """N where a path leads to /proc/self/fd/N, as /dev/stdout does."""
    for _ in range(40):
        folder, name = os.path.split(os.path.abspath(path))
        folder = os.path.realpath(folder)
        if folder == f"/proc/{os.getpid()}/fd" and name.isdigit():
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None


def _draft_name(target: Path) -> Path:
    return target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}.part")


@contextlib.contextmanager
def _locked_draft(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file beside `target`, open and locked, that is removed where something goes wrong."""
    _tidy(target.parent)
    while True:
        draft = _draft_name(target)
        file = draft.open("xb")
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink == 0:  # taken for a leftover before it was locked
                file.close()
                continue
        break
    try:
        with file:
            yield file, draft
    finally:
        draft.unlink(missing_ok=True)


def _tidy(folder: Path) -> None:
    name = os.path.realpath(folder)
    if name not in _tidied:
        _tidied.add(name)
        remove_leftovers(folder)


def _flush_folder(folder: Path) -> None:
    """Makes a new name last through a power cut, where the system lets folders be flushed."""
    with contextlib.suppress(OSError):  # Windows, and some network file systems
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
