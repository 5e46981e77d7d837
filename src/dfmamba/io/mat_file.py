"""Arrays and texts from MATLAB files of version 5, the form of NYU's labels.

Format: "MAT-File Format" (The MathWorks), level 5. Numbers, texts and cells of them are understood; sparse
and complex arrays, structures and objects aren't. `scipy.io.loadmat` is not used because it ends the whole
process by a segmentation fault on damaged files (1.17.1: one of the first few hundred files with a few bytes
changed), and because it unpacks whatever a file declares.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.io.untrusted import read_bytes
from dfmamba.text import printable

_HEADER_BYTES = 128
_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
"""Version and byte order mark, the last four bytes of the header."""

_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Type of an element -> how its numbers are stored."""

_CLASSES = {
    6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"
}  # fmt: skip
"""Class of an array of numbers -> type of its values, which may be stored in a smaller one."""

_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15
_CELL, _CHAR = 1, 4
_COMPLEX = 0x0800
_ENCODINGS = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16", 17: "utf-16", 18: "utf-32"}
_MOST_AXES = 16
_DEEPEST = 4
"""Cells in cells in cells."""

MOST_BYTES = 1 << 29
"""No array is larger; those of NYU have 189 MB."""

_RATIO, _FREE_BYTES = 100, 1 << 24
"""What a compressed element may unpack to: so many times its size, or as many bytes."""


def read_mat(path: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Variables of a MATLAB version 5 file (`save -v6` or `-v7`).

    Args:
        path: the file.
        names: which variables.

    Returns:
        The named variables: numbers as arrays with MATLAB's axes (at least 2), which can't be written to;
        texts as strings, of matrices of characters one a row; cells as lists.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no such file, is damaged or cut short, or lacks a variable; the message names it.
    """
    path, content = printable(path), read_bytes(path)
    if content.startswith(b"MATLAB 7.3"):
        raise ValueError(f"{path}: a MATLAB 7.3 (HDF5) file; expected version 5: save it with -v7")
    order = _ORDERS.get(content[_HEADER_BYTES - 4 : _HEADER_BYTES])
    if order is None:
        raise ValueError(f"{path}: not a MATLAB file of version 5, or a damaged one")
    found: dict[str, Any] = {}
    try:
        data, at = memoryview(content), _HEADER_BYTES
        while at < len(data):
            kind, payload, at = _element(data, at, order, padded=False)
            if kind == _COMPRESSED:
                kind, payload = _inflate(payload, order)
            if kind == _MATRIX:
                name, value = _matrix(payload, order, names)
                found |= {name: value} if name in names else {}
    except _Damaged as error:
        raise ValueError(f"{path}: damaged or incomplete MATLAB file ({error})") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path}: variable {missing[0]!r} is missing; expected {', '.join(names)}")
    return {name: found[name] for name in names}


class _Damaged(ValueError):
    """What is wrong, without the name of the file."""


def _element(data: memoryview, at: int, order: str, padded: bool = True) -> tuple[int, memoryview, int]:
    """Type and bytes of the element that starts at `at`, and where the next one starts."""
    if at + 8 > len(data):
        raise _Damaged("it ends within an element")
    first, size = struct.unpack_from(f"{order}II", data, at)
    if first >> 16:  # up to four bytes stand in the tag itself
        size = first >> 16
        if size > 4:
            raise _Damaged(f"a short element of {size} bytes")
        return first & 0xFFFF, data[at + 4 : at + 4 + size], at + 8
    end = at + 8 + size
    if end > len(data):
        raise _Damaged(f"an element of {size} bytes where {len(data) - at - 8} are left")
    return first, data[at + 8 : end], end + (-size % 8 if padded else 0)


def _inflate(payload: memoryview, order: str) -> tuple[int, memoryview]:
    """Type and bytes of the one element in a compressed one."""
    stream = zlib.decompressobj()
    try:
        tag = stream.decompress(payload, 8)
        if len(tag) < 8:
            raise _Damaged("an empty compressed element")
        kind, size = struct.unpack(f"{order}II", tag)
        if size > min(MOST_BYTES, max(_FREE_BYTES, _RATIO * len(payload))):
            raise _Damaged(f"a compressed element of {len(payload)} bytes that says it holds {size}")
        content = stream.decompress(stream.unconsumed_tail, size + 1)
    except zlib.error as error:
        raise _Damaged(str(error)) from None
    if len(content) != size or not stream.eof:
        raise _Damaged("a compressed element of another size than it says")
    return kind, memoryview(content)


def _matrix(
    payload: memoryview, order: str, names: Sequence[str] | None = None, depth: int = 0
) -> tuple[str, Any]:
    """Name and value of an array; the value is None where the name is not among `names`."""
    kind, flags, at = _element(payload, 0, order)
    if kind != _UINT32 or len(flags) != 8:
        raise _Damaged("an array without flags")
    (word,) = struct.unpack_from(f"{order}I", flags)
    kind, sizes, at = _element(payload, at, order)
    if kind != _INT32 or len(sizes) % 4 or not 8 <= len(sizes) <= 4 * _MOST_AXES:
        raise _Damaged("an array without a shape")
    shape = tuple(struct.unpack(f"{order}{len(sizes) // 4}i", sizes))
    if min(shape) < 0:
        raise _Damaged(f"an array of shape {shape}")
    _, letters, at = _element(payload, at, order)
    name = bytes(letters).decode("ascii", "replace")
    if names is not None and name not in names:
        return name, None
    return name, _value(word, shape, payload[at:], order, depth)


def _value(word: int, shape: tuple[int, ...], payload: memoryview, order: str, depth: int) -> Any:
    count, class_ = math.prod(shape), word & 0xFF
    if class_ == _CELL:
        if depth == _DEEPEST or count > len(payload) // 8:
            raise _Damaged(f"cells of shape {shape} in {len(payload)} bytes")
        cells, at = [], 0
        for _ in range(count):
            kind, inner, at = _element(payload, at, order)
            if kind != _MATRIX:
                raise _Damaged(f"a cell of type {kind}")
            cells.append(_matrix(inner, order, depth=depth + 1)[1] if len(inner) else None)
        return cells
    if class_ not in (*_CLASSES, _CHAR) or word & _COMPLEX:
        raise _Damaged(f"an array of class {class_} with flags {word >> 8:#x}; expected numbers or texts")
    kind, raw, _ = _element(payload, 0, order)
    if class_ == _CHAR:
        return _texts(kind, raw, shape, order)
    if kind not in _STORED:
        raise _Damaged(f"numbers of type {kind}")
    stored = np.dtype(order + _STORED[kind])
    if len(raw) != count * stored.itemsize:
        raise _Damaged(f"{len(raw)} bytes of numbers for shape {shape}")
    with np.errstate(all="ignore"):
        return np.frombuffer(raw, stored).reshape(shape, order="F").astype(_CLASSES[class_], copy=False)


def _texts(kind: int, raw: memoryview, shape: tuple[int, ...], order: str) -> str | list[str]:
    if kind not in _ENCODINGS:
        raise _Damaged(f"texts of type {kind}")
    encoding = _ENCODINGS[kind]
    if encoding != "utf-8":
        encoding += "-le" if order == "<" else "-be"
    letters = list(bytes(raw).decode(encoding, "replace"))
    if len(letters) != math.prod(shape) or len(shape) != 2:
        raise _Damaged(f"{len(letters)} letters for shape {shape}")
    rows = ["".join(letters[row :: shape[0]]) for row in range(shape[0])]
    return rows[0] if len(rows) == 1 else rows or ""
