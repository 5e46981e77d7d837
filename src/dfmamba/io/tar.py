"""Files inside of uncompressed tar files, read where they lie: one seek away, and nothing is unpacked."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfmamba.io.images import decode_image

_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """A file inside of a tar file.

    Attributes:
        tar: the tar file.
        name: of the member.
        offset: of its first byte.
        size: bytes.
    """

    tar: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}: {self.name}"

    def read_bytes(self) -> bytes:
        """Its content.

        Raises:
            OSError: the tar file can't be read, or has become shorter.
        """
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self.tar}: ends inside of {self.name}; it was longer when it was indexed")
        return content


def tar_members(path: Path) -> tuple[list[Member], str]:
    """The regular files of an uncompressed tar file, in its order.

    Returns:
        The members; "", or where and why reading them ended early: the file is damaged, truncated, compressed
        or no tar file.

    Raises:
        OSError: it can't be read.
    """
    found: list[Member] = []
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        last, end = -1, 0
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    end = info.offset
                    if end <= last or info.size < 0 or info.offset_data + info.size > total:
                        return found, f"{path}: damaged or truncated at byte {end} of {total}"
                    last = end
                    if info.isreg() and not info.issparse():
                        found.append(Member(path, info.name, info.offset_data, info.size))
                end = tar.offset
        except Exception as error:
            # tarfile answers damaged headers with several exception types.
            where = (
                "no tar file, or a compressed one" if last < 0 else f"damaged after byte {last} of {total}"
            )
            return found, f"{path}: {where} ({' '.join(str(error).split())})"
        file.seek(end)
        mark = file.read(_BLOCK)
    if len(mark) < _BLOCK or any(mark):
        return found, f"{path}: damaged or truncated at byte {end} of {total}"
    return found, ""


def decode_picture(content: bytes, name: str) -> np.ndarray:
    """(H, W, 3) uint8 of the bytes of a JPEG or PNG file; see `dfmamba.io.images.decode_image`.

    Raises:
        ValueError: another format, damaged, or too large; the message starts with `name`.
    """
    return decode_image(content, name, ("JPEG", "PNG"))
