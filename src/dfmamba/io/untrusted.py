"""JSON, YAML and arrays from files that nobody vouches for."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.text import check_yaml, printable, shorten

MOST_MEMBER_BYTES = 1 << 30
_NPY_HEADER_BYTES = 1 << 16


def numbers(value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
    """Nested lists of numbers as float64, nan and infinity among them; None for anything else.

    Args:
        value: as a JSON file holds it.
        shape: that is expected; None takes any.
    """
    try:
        array = np.array(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None
    if array.dtype.kind not in "iuf" or (shape is not None and array.shape != shape):
        return None
    return array.astype(np.float64)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it can't be read; the message names it.
    """
    try:
        return Path(path).read_bytes()
    except ValueError as error:  # a zero byte in the name
        raise OSError(f"{printable(path)}: cannot be read ({error})") from None
    except OSError as error:
        raise type(error)(f"{printable(path)}: cannot be read ({error.strerror or error})") from None


def parse_json(
    content: bytes | str, name: object, hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """The value of a JSON text, UTF-8 with or without byte order mark.

    Args:
        content: the text.
        name: of the file, for messages.
        hook: gets every object of the text, the inner ones first; what it returns takes their place.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds a number too long; the message names the file.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{printable(name)}: not valid JSON: not UTF-8 text, the file is damaged ({error.reason})"
        ) from None
    try:
        return json.loads(text, object_hook=hook)
    except RecursionError:
        raise ValueError(f"{printable(name)}: not valid JSON (nested too deeply)") from None
    except ValueError as error:
        reason = shorten(error)
        raise ValueError(
            f"{printable(name)}: not valid JSON, the file is damaged or cut off ({reason})"
        ) from None


def read_json(path: str | os.PathLike[str], hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON file; see `parse_json`.

    Raises:
        OSError: it can't be read; the message names it.
        ValueError: as `parse_json`.
    """
    return parse_json(read_bytes(path), path, hook)


def parse_yaml(content: bytes | str, name: object) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: as `check_yaml`, or it is no YAML; the message names the file.
    """
    import yaml

    try:
        check_yaml(content)
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except Exception as error:
        # Its constructors answer odd values with almost any exception type.
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error) or type(error).__name__
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{printable(name)}{where}: not valid YAML ({shorten(reason)})") from None


def parse_npy(content: bytes, name: object) -> np.ndarray:
    """An array of numbers or booleans from the bytes of a .npy file.

    Raises:
        ValueError: it is none, is damaged or holds objects; the message starts with `name`.
    """
    try:
        stream = io.BytesIO(content)
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version](stream, max_header_size=_NPY_HEADER_BYTES)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or dtype.kind not in "biufcUS" or size > len(content):
            raise ValueError(f"{size} bytes of {dtype} in a file of {len(content)}")
        stream.seek(0)
        return np.lib.format.read_array(stream, allow_pickle=False, max_header_size=_NPY_HEADER_BYTES)
    except Exception as error:
        # Damaged headers get almost any exception type, of the tokenizer among others.
        raise ValueError(f"{printable(name)}: damaged array ({_reason(error)})") from None


def map_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """An array of numbers of a .npy file, mapped into memory for reading.

    Raises:
        OSError: it can't be read; the message names it.
        ValueError: it is none, is damaged or holds objects; the message names it.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r", max_header_size=_NPY_HEADER_BYTES)
    except OSError as error:
        raise OSError(f"{printable(path)}: cannot be read ({error.strerror or error})") from None
    except Exception as error:
        raise ValueError(f"{printable(path)}: damaged array ({_reason(error)})") from None


def read_npz(
    path: str | os.PathLike[str], names: Sequence[str] | None = None, most_bytes: int = MOST_MEMBER_BYTES
) -> dict[str, np.ndarray]:
    """Arrays of a .npz file.

    Args:
        path: the file.
        names: of the arrays; None reads all.
        most_bytes: that one may have, unpacked.

    Raises:
        OSError: it can't be read; the message names it.
        ValueError: it is damaged, or an array is missing, too large or holds objects; the message names it.
    """
    content, arrays = read_bytes(path), {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name.removesuffix(".npy"): info for name, info in archive.NameToInfo.items()}
            for name in members if names is None else names:
                if name not in members:
                    raise ValueError(f"array {name!r} is missing")
                size = members[name].file_size
                if size > most_bytes:
                    raise ValueError(f"array {name!r} is too large: {size} bytes")
                with archive.open(members[name]) as stream:
                    arrays[name] = parse_npy(stream.read(size), name)
    except Exception as error:
        # Damaged archives get almost any exception type.
        raise ValueError(f"{printable(path)}: damaged arrays ({_reason(error)})") from None
    return arrays


def _reason(error: Exception) -> str:
    return shorten(" ".join(str(error).split())) or type(error).__name__
