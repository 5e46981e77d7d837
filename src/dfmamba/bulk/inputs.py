"""The list of pictures of a bulk prediction, and reading one of them."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from dfmamba.io.images import SUFFIXES, Listing, decode_image, list_images, load_image
from dfmamba.io.tar import Member, tar_members

TAR = ".tar"


class Item(NamedTuple):
    """A picture: a file, or a member of a tar file.

    Attributes:
        path: absolute path of the file.
        member: name inside of it; "" for a picture file.
        offset: of the member's first byte.
        size: bytes of the member.
    """

    path: str
    member: str = ""
    offset: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        """The picture's path, with that of the tar file as its folder."""
        return f"{self.path}/{self.member}" if self.member else self.path


def find_items(sources: Iterable[str | os.PathLike[str]]) -> list[Item]:
    """The items of `list_items`."""
    return list_items(sources)[0]


def list_items(sources: Iterable[str | os.PathLike[str]]) -> tuple[list[Item], Listing]:
    """List the pictures of files, folders, patterns and tar files, in an order that is always the same.

    As `dfmamba.io.list_images`, except that tar files (named, matched by a pattern that ends in `.tar`, or
    directly inside of a folder, after its pictures) give their members with a picture's suffix, in their
    order. Nothing is listed twice.

    Returns:
        The pictures; what was left out.

    Raises:
        OSError: if a source is missing or can't be read.
        ValueError: if a source holds no pictures, or a tar file is damaged or compressed.
    """
    files: dict[str, None] = {}
    left_out: dict[Path, str] = {}
    for source in sources:
        found = _files(source)
        files.update(dict.fromkeys(os.path.abspath(path) for path in found.images))
        left_out.update(found.left_out)
    items: list[Item] = []
    for path in files:
        if not path.lower().endswith(TAR):
            items.append(Item(path))
            continue
        inside, others = _members(path)
        items += inside
        left_out.update((Path(path) / name, "not a picture, by its suffix") for name in others)
    return items, Listing((), tuple(left_out.items()))


def read_picture(item: Item) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright; see `dfmamba.io.load_image`.

    Raises:
        OSError, ValueError: if it can't be used; the message says why, after the item's name.
    """
    if not item.member:
        return load_image(item.path)
    content = Member(Path(item.path), item.member, item.offset, item.size).read_bytes()
    return decode_image(content, item.name)


def digest(items: Sequence[Item]) -> str:
    """16 hexadecimal digits that stand for the list: names and order, and the places in tar files."""
    found = hashlib.sha256()
    for item in items:
        found.update(repr(tuple(item)).encode("utf-8", "surrogateescape"))
    return found.hexdigest()[:16]


def _files(source: str | os.PathLike[str]) -> Listing:
    path, name = Path(source), str(source)
    if path.is_dir():
        tars = sorted(
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() == TAR and not entry.name.startswith(".") and entry.is_file()
        )
        found = list_images([path], none=bool(tars))
        others = tuple(entry for entry in found.left_out if entry[0] not in tars)
        return Listing((*found.images, *tars), others)
    if not name.lower().endswith(TAR):
        return list_images([path])
    if os.path.lexists(path):
        return Listing((path,))
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    if not matches:
        raise FileNotFoundError(f"{name}: no such tar file")
    return Listing(tuple(map(Path, matches)))


def _members(path: str) -> tuple[list[Item], list[str]]:
    """The pictures of a tar file, and the names of its other members, hidden ones excepted."""
    members, fault = tar_members(Path(path))
    if fault:
        raise ValueError(fault)
    shown = [member for member in members if not PurePosixPath(member.name).name.startswith(".")]
    images = [member for member in shown if _is_image(member)]
    if not images:
        raise ValueError(f"{path}: no pictures in this tar file (looked for {' '.join(sorted(SUFFIXES))})")
    items = [Item(path, member.name, member.offset, member.size) for member in images]
    return items, [member.name for member in shown if not _is_image(member)]


def _is_image(member: Member) -> bool:
    return PurePosixPath(member.name).suffix.lower() in SUFFIXES
