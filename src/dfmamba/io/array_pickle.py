"""Reader of pickles that hold numbers, texts and numpy arrays, and of no others.

Python's own unpickler calls whatever a file names. This one is an interpreter of those opcodes that plain
data and numpy arrays need (protocols 0 to 5, written by Python 2 or 3, by numpy before or after 2.0). The
names that numpy gives to arrays, dtypes and scalars are recognised and checked; nothing is imported or called
by name, no attribute is set, and the memory used stays in proportion to the size of the file.

Opcodes: Lib/pickletools.py of Python. State of arrays and dtypes: `numpy.ndarray.__reduce__` and
`numpy.dtype.__reduce__`.
"""

from __future__ import annotations

import codecs
import math
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_MARK = object()
_UINT = struct.Struct("<I")
_LARGEST_KEY = 1 << 60
"""Integer keys beyond it could be chosen to collide."""

_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_GLOBALS = {
    "numpy.core.multiarray._reconstruct": "reconstruct",
    "numpy.core.multiarray.scalar": "scalar",
    "numpy.core.numeric._frombuffer": "frombuffer",
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",
}
"""What a file may name; numpy 2 writes `numpy._core` for `numpy.core`."""


class _Token:
    """Stands for something that a file may name."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Dtype:
    """A dtype between its construction and its state."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


class _Array:
    """An array between its construction and its state."""

    array: np.ndarray | None = None


def read_array_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of dicts, lists, tuples, numbers, texts, bytes, None and numpy arrays and scalars.

    Arrays hold booleans, integers or floating-point numbers and are read-only. Keys of dicts are texts or
    integers. Texts that Python 2 wrote as bytes are decoded as Latin-1.

    Args:
        path: the file; it is read whole.

    Raises:
        OSError: it can't be read; the message names it.
        ValueError: it is damaged, or holds anything else; the message names the file, and what was refused.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return _Machine(data).run()
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error, MemoryError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"damaged ({type(error).__name__})"
        raise ValueError(f"{path}: not a pickle of plain arrays: {reason[:200]}") from None


class _Machine:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0

    def run(self) -> Any:
        data, end, stop, actions = self.data, len(self.data), pickle.STOP[0], _BY_CODE
        while True:
            if self.at >= end:
                raise ValueError("truncated: it ends before its last opcode")
            code = data[self.at]
            self.at += 1
            action = actions[code]
            if action is None:
                if code == stop:
                    break
                raise ValueError(f"opcode {bytes([code])!r} refused")
            action(self)
        if len(self.stack) != 1:
            raise ValueError(f"{len(self.stack)} values at its end; expected one")
        return _plain(_built(self.stack[0]))

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError("truncated: it ends inside of a value")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise ValueError("truncated: it ends inside of a value")
        self.at += 1
        return self.data[self.at - 1]

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise ValueError("truncated: it ends inside of a line")
        start, self.at = self.at, end + 1
        return self.data[start:end]

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("damaged: an opcode lacks its values")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        """The values above the last mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                values = self.stack[at + 1 :]
                del self.stack[at:]
                return values
        raise ValueError("damaged: a mark is missing")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self, kind: type) -> Any:
        value = self.pop()
        self.push(value)
        if type(value) is not kind:
            raise ValueError(f"damaged: a {type(value).__name__} where a {kind.__name__} was expected")
        return value

    def put(self, key: int) -> None:
        if not self.stack:
            raise ValueError("damaged: an opcode lacks its values")
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise ValueError("damaged: a value is used before it was given")
        self.push(_built(self.memo[key]))

    def pop_some(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def push_tuple(self, values: list[Any]) -> None:
        self.stack.append(tuple([_built(value) for value in values]))

    def fill_dict(self, values: list[Any]) -> None:
        _filled(self.top(dict), values)

    def fill_list(self, values: list[Any]) -> None:
        self.top(list).extend(_built(value) for value in values)

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("damaged: a name that is no text")
        token = _GLOBALS.get(f"{module}.{name}".replace("numpy._core.", "numpy.core."))
        if token is None:
            raise ValueError(f"{f'{module}.{name}'[:80]!r} refused: only arrays and plain data are read")
        self.push(_Token(token))

    def reduce(self) -> None:
        arguments, token = self.pop(), self.pop()
        if type(token) is not _Token or type(arguments) is not tuple:
            raise ValueError("a call of something other than numpy's constructors refused")
        if token.name == "reconstruct":
            if len(arguments) != 3 or getattr(arguments[0], "name", None) != "ndarray":
                raise ValueError("an array type other than numpy.ndarray refused")
            self.push(_Array())
        elif token.name == "dtype":
            self.push(_Dtype(_dtype(arguments[0])))
        elif token.name == "scalar":
            dtype, data = arguments
            self.push(self.array((), dtype, data, False)[()])
        elif token.name == "frombuffer":
            data, dtype, shape, order = arguments
            if order not in ("C", "F"):
                raise ValueError("damaged: an array's order is neither C nor F")
            self.push(self.array(shape, dtype, data, order == "F"))
        elif token.name == "encode":
            text, encoding = arguments
            if type(text) is not str or encoding not in ("latin1", "latin-1"):
                raise ValueError("an encoding other than Latin-1 refused")
            self.push(self.encode(text))
        else:
            raise ValueError(f"a call of {token.name} refused")

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if type(state) is not tuple:
            raise ValueError("damaged: the state of an array or dtype is not a tuple")
        if type(target) is _Dtype:
            if len(state) not in (8, 9) or any(part is not None for part in (*state[2:5], *state[8:])):
                raise ValueError("a structured dtype refused")
            if state[1] not in ("<", ">", "|", "="):
                raise ValueError("damaged: an unknown byte order")
            target.dtype = _dtype(target.dtype.newbyteorder(state[1]).str)
            self.push(target)
        elif type(target) is _Array:
            _, shape, dtype, fortran, data = state
            target.array = self.array(shape, dtype, data, bool(fortran))
            self.push(target.array)
        else:
            raise ValueError(f"a state for a {type(target).__name__} refused")

    def array(self, shape: Any, dtype: Any, data: Any, fortran: bool) -> np.ndarray:
        """A read-only array of checked size."""
        if type(dtype) is not _Dtype or type(shape) is not tuple:
            raise ValueError("damaged: an array without dtype or shape")
        if isinstance(data, str):  # what Python 2 wrote as a text
            data = self.encode(data)
        if not isinstance(data, bytes):
            raise ValueError("damaged, or an array of objects: it has no bytes")
        if len(shape) > 32 or not all(type(side) is int and 0 <= side < 1 << 48 for side in shape):
            raise ValueError("damaged: the shape of an array is not up to 32 sizes")
        size = math.prod(shape) * dtype.dtype.itemsize
        if size != len(data):
            raise ValueError(f"damaged: an array of shape {shape} with {len(data)} bytes; expected {size}")
        return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")

    def encode(self, text: str) -> bytes:
        """Latin-1 bytes, of which no file needs more than it holds."""
        self.encoded += len(text)
        if self.encoded > len(self.data):
            raise ValueError("its values would grow beyond the size of the file")
        return text.encode("latin-1")


def _dtype(name: Any) -> np.dtype:
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ValueError("a dtype other than of plain numbers refused")
    return np.dtype(name)


def _filled(target: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    """A dict with further keys and values in turn."""
    if len(values) % 2:
        raise ValueError("damaged: a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if isinstance(key, np.integer):
            key = int(key)
        if not isinstance(key, str) and (not isinstance(key, int) or abs(key) >= _LARGEST_KEY):
            raise ValueError(f"a {type(key).__name__} as key refused; expected texts or small integers")
        target[key] = _built(value)
    return target


def _built(value: Any) -> Any:
    """The array itself, once it has its state."""
    return value.array if type(value) is _Array and value.array is not None else value


def _plain(value: Any) -> Any:
    """The value, if it and all that it holds is plain."""
    seen, left = set(), [value]
    while left:
        one = left.pop()
        if isinstance(one, dict | list | tuple):
            if id(one) not in seen:
                seen.add(id(one))
                left.extend(one.values() if isinstance(one, dict) else one)
        elif one is not None and not isinstance(
            one, bool | int | float | str | bytes | np.ndarray | np.generic
        ):
            raise ValueError("damaged: an unfinished array or dtype among its values")
    return value


def _integer(text: bytes) -> int | bool:
    if text in (b"00", b"01"):
        return text == b"01"
    return int(text[:-1] if text.endswith(b"L") else text)


def _quoted(text: bytes) -> str:
    text = text.strip()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise ValueError("damaged: a text without quotes")
    return bytes(codecs.escape_decode(text[1:-1])[0]).decode("latin-1")


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _number(form: str, convert: Callable[[Any], Any] | None = None) -> Callable[[_Machine], None]:
    """Pushes a number or, with `convert`, what that makes of as many bytes as the number says."""
    packed = struct.Struct(form)
    if convert is None:
        return lambda machine: machine.stack.append(machine.number(packed))
    return lambda machine: machine.stack.append(convert(machine.take(machine.number(packed))))


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: _constant(_MARK),
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(True),
    pickle.NEWFALSE: _constant(False),
    pickle.INT: lambda m: m.push(_integer(m.line())),
    pickle.LONG: lambda m: m.push(_integer(m.line())),
    pickle.FLOAT: lambda m: m.push(float(m.line())),
    pickle.BININT: _number("<i"),
    pickle.BININT1: lambda m: m.stack.append(m.byte()),
    pickle.BININT2: _number("<H"),
    pickle.BINFLOAT: _number(">d"),
    pickle.LONG1: _number("<B", _little),
    pickle.LONG4: _number("<i", _little),
    pickle.STRING: lambda m: m.push(_quoted(m.line())),
    pickle.BINSTRING: _number("<i", _latin),
    pickle.SHORT_BINSTRING: _number("<B", _latin),
    pickle.UNICODE: lambda m: m.push(m.line().decode("raw-unicode-escape")),
    pickle.SHORT_BINUNICODE: _number("<B", _utf8),
    pickle.BINUNICODE: _number("<I", _utf8),
    pickle.BINUNICODE8: _number("<Q", _utf8),
    pickle.SHORT_BINBYTES: _number("<B", bytes),
    pickle.BINBYTES: _number("<I", bytes),
    pickle.BINBYTES8: _number("<Q", bytes),
    pickle.BYTEARRAY8: _number("<Q", bytes),
    pickle.EMPTY_TUPLE: _constant(()),
    pickle.TUPLE: lambda m: m.push_tuple(m.pop_mark()),
    pickle.TUPLE1: lambda m: m.push_tuple(m.pop_some(1)),
    pickle.TUPLE2: lambda m: m.push_tuple(m.pop_some(2)),
    pickle.TUPLE3: lambda m: m.push_tuple(m.pop_some(3)),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push([_built(value) for value in m.pop_mark()]),
    pickle.APPEND: lambda m: m.fill_list([m.pop()]),
    pickle.APPENDS: lambda m: m.fill_list(m.pop_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: lambda m: m.push(_filled({}, m.pop_mark())),
    pickle.SETITEM: lambda m: m.fill_dict(m.pop_some(2)),
    pickle.SETITEMS: lambda m: m.fill_dict(m.pop_mark()),
    pickle.PUT: lambda m: m.put(int(m.line())),
    pickle.BINPUT: lambda m: m.put(m.byte()),
    pickle.LONG_BINPUT: lambda m: m.put(m.number(_UINT)),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.GET: lambda m: m.get(int(m.line())),
    pickle.BINGET: lambda m: m.get(m.byte()),
    pickle.LONG_BINGET: lambda m: m.get(m.number(_UINT)),
    pickle.GLOBAL: lambda m: m.name(_latin(m.line()), _latin(m.line())),
    pickle.STACK_GLOBAL: lambda m: m.name(*m.pop_some(2)),
    pickle.REDUCE: lambda m: m.reduce(),
    pickle.BUILD: lambda m: m.build(),
}
_BY_CODE = [_ACTIONS.get(bytes([code])) for code in range(256)]
