"""Pickles of plain arrays: what numpy and Python write is read, anything else is refused and never run."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfmamba.io.array_pickle import read_array_pickle

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RNG = np.random.default_rng(0)

VALUES: dict[Any, Any] = {
    0: {"xyz": RNG.normal(size=(42, 3)).astype(np.float32), "K": np.eye(3)},
    1: [np.asfortranarray(RNG.normal(size=(3, 2))), np.arange(4, dtype=">i2"), np.array([True, False])],
    "texts": ("wrist", "ä\n'\"", b"\x00\xff\n", ""),
    "numbers": [0, 1, -2, 300, 70_000, 2**70, -(2**70), 1.5, True, False, None],
    "scalar": np.float64(2.5),
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "empty": [{}, []],
}


def load(folder: Path, data: bytes) -> Any:
    path = folder / "some.pickle"
    path.write_bytes(data)
    return read_array_pickle(path)


def refused(folder: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        load(folder, data)
    assert str(caught.value).startswith(str(folder / "some.pickle"))
    assert "\n" not in str(caught.value)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(6))
def test_round_trip(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(VALUES, protocol=protocol)
    read = load(tmp_path, data)
    assert same(VALUES, read)
    assert not read[0]["xyz"].flags.writeable
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        if protocol < 4:  # names follow their length from protocol 4 on
            assert same(VALUES, load(tmp_path, data.replace(old, new)))


def test_memoised_array_is_one_object(tmp_path: Path) -> None:
    array = np.arange(3)
    read = load(tmp_path, pickle.dumps([array, array, (array,)], protocol=2))
    assert read[0] is read[1]
    assert read[2][0] is read[0]


def test_python_2_texts(tmp_path: Path) -> None:
    """As Python 2 wrote arrays: names, dtype and data are byte strings."""
    values = np.array([[1.5, -2.0]], "<f4")
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x01K\x02\x86cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08" + values.tobytes() + b"tb"
    )
    read = load(tmp_path, b"\x80\x02}K\x07}U\x03xyz" + array + b"ss.")
    assert same({7: {"xyz": values}}, read)


class Hostile:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
def test_calls_are_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "run"
    for value, named in (
        (Hostile(os.system, (f"touch {marker}",)), "system"),
        (Hostile(eval, (f"open({str(marker)!r}, 'w')",)), "eval"),
        (Hostile(getattr, (Hostile(__import__, ("os",)), "system")), "getattr|__import__"),
        (Hostile(np.load, (str(marker),)), "load"),
        (Hostile(np.frombuffer, (b"12345678",)), "frombuffer"),
        (OrderedDict(a=1), "OrderedDict"),
        (Path("x"), "Path"),
        (np.datetime64("2020-01-01"), "dtype"),
        (np.array([Hostile(os.system, (f"touch {marker}",))], object), "system|dtype"),
        (np.array([None]), "dtype|objects"),
        (np.zeros(2, [("a", "f4")]), "dtype"),
        (np.array(["text"]), "dtype"),
        (np.ma.masked_array([1.0]), "refused"),
        (np.float32, "numpy.float32"),
        (np.random.default_rng(0), "refused"),
        (1j, "complex"),
        ({(1, 2): 3}, "tuple as key refused"),
        ({1.5: 3}, "float as key refused"),
        ({2**61: 3}, "int as key refused"),
        ({None: 3}, "NoneType as key refused"),
    ):
        refused(tmp_path, pickle.dumps({0: [value]}, protocol=protocol), named)
        assert not marker.exists()


GETATTR = b"c__builtin__\ngetattr\n(cnumpy\nndarray\nU\x04dumptR."
DTYPE = b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GETATTR, "__builtin__.getattr"),
        (b"(S'true'\nios\nsystem\n.", "opcode b'i'"),
        (b"(cos\nsystem\nU\x04trueo.", "os.system"),
        (b"cnumpy\nndarray\n(K\x02tR.", "ndarray refused"),
        (b"cnumpy\nndarray\n)\x81.", "opcode"),
        (b"cnumpy\nndarray\n}U\x01aK\x01sb.", "not a tuple"),
        (b"cnumpy\nndarray\n(K\x01tb.", "a state for"),
        (b"U\x03abc(K\x01tR.", "constructors refused"),
        (b"\x82\x01.", "opcode"),
        (b"Pname\n.", "opcode"),
        (b"K\x01Q.", "opcode"),
        (b"cos.path\njoin\n.", "os.path.join"),
        (b"cnumpy\nndarray.dump\n.", "refused"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.", "refused"),
        (b"\x80\x04]\x8c\x01a\x93.", "no text"),
        (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\nK\x00\x85U\x01btR.",
            "other than numpy.ndarray",
        ),
        (b"c_codecs\nencode\nU\x03abcU\x05rot13\x86R.", "Latin-1"),
        (ARRAY + b".", "unfinished"),
        (DTYPE + b".", "unfinished"),
        (b"cnumpy\nndarray\n.", "unfinished"),
        (b"]" + ARRAY + b"a.", "unfinished"),
        (
            ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + DTYPE + b"\x89U\x08" + bytes(8) + b"tb.",
            "expected 17179869176",
        ),
        (ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + DTYPE + b"\x89U\x08" + bytes(8) + b"tb.", "sizes"),
        (ARRAY + b"(K\x01K\x01\x85" + DTYPE + b"\x89U\x04" + bytes(4) + b"tb.", "4 bytes; expected 8"),
        (ARRAY + b"(K\x01K\x01\x85" + DTYPE + b"\x89]tb.", "objects"),
        (b"cnumpy\ndtype\n(U\x02O8K\x00K\x01tR.", "dtype"),
        (b"cnumpy\ndtype\n(U\x0712000f8K\x00K\x01tR.", "dtype"),
        (b"\x8e" + struct.pack("<Q", 1 << 62) + b".", "truncated"),
        (b"T" + struct.pack("<i", -5) + b"abcdef.", "truncated"),
        (b"\x8b" + struct.pack("<i", -1) + b".", "truncated"),
        (b"", "truncated"),
        (b"K\x01", "truncated"),
        (b".", "0 values"),
        (b"K\x01K\x01.", "2 values"),
        (b"(.", "unfinished"),
        (b"h\x05.", "before it was given"),
        (b"a.", "lacks its values"),
        (b"t.", "mark"),
        (b"}(K\x01u.", "key without"),
        (b"K\x01K\x02a.", "expected"),
        (b"I" + b"9" * 5000 + b"\n.", "digits"),
        (b"S'abc\n.", "quotes"),
    ],
)
def test_crafted(tmp_path: Path, data: bytes, reason: str) -> None:
    refused(tmp_path, data, reason)


def test_memory_follows_the_size_of_the_file(tmp_path: Path) -> None:
    """A far memo index costs nothing; a long text can't be turned into bytes again and again."""
    assert load(tmp_path, b"K\x01r\xff\xff\xff\xff.") == 1
    text = b"X" + struct.pack("<I", 4000) + b"a" * 4000 + b"q\x00c_codecs\nencode\nq\x01"
    once = b"](" + text + b"h\x00U\x06latin1\x86R"
    refused(tmp_path, once + b"h\x01h\x00U\x06latin1\x86R" * 100 + b"e.", "grow beyond")
    frombuffer = b"](T" + struct.pack("<i", 8000) + bytes(8000) + b"q\x00" + DTYPE + b"q\x01"
    part = b"cnumpy.core.numeric\n_frombuffer\n(h\x00h\x01M\xe8\x03\x85U\x01CtR"
    refused(tmp_path, frombuffer + part * 50 + b"e.", "grow beyond")


def test_nesting(tmp_path: Path) -> None:
    """Shared and deep values neither overflow the stack nor take exponential time."""
    assert load(tmp_path, b"K\x01" + b"q\x00h\x00\x86" * 60 + b".")
    refused(tmp_path, b"}" + b")" + b"\x85" * 200_000 + b"K\x01s.", "tuple as key refused")
    refused(tmp_path, b"c" + b"a" * 100_000 + b"\nb\n.", "refused")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"none\.pickle: cannot be read"):
        read_array_pickle(tmp_path / "none.pickle")
    with pytest.raises(OSError, match="cannot be read"):
        read_array_pickle(tmp_path)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_truncated_anywhere(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(
        {0: {"K": np.eye(2), "s": np.float32(1)}, "l": [1, "a", (2.5, None)]}, protocol=protocol
    )
    for length in range(0, len(data), 2):
        refused(tmp_path, data[:length], "not a pickle of plain arrays")


@settings(QUICK, max_examples=150)
@given(
    protocol=st.integers(0, 5),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_mutated_bytes(tmp_path: Path, protocol: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(pickle.dumps(VALUES, protocol=protocol))
    for at, byte in changes:
        data[at % len(data)] = byte
    try:
        load(tmp_path, bytes(data))
    except ValueError as error:
        assert str(error).startswith(str(tmp_path / "some.pickle"))


@settings(QUICK, max_examples=150)
@given(
    data=st.lists(
        st.sampled_from(
            [
                ARRAY,
                DTYPE,
                b"K\x01",
                b"U\x01a",
                b"(",
                b"t",
                b"\x85",
                b"R",
                b"b",
                b"}",
                b"]",
                b"s",
                b"u",
                b"e",
                b"a",
                b"N",
                b"h\x00",
                b"q\x00",
                b"\x94",
            ]
        ),
        max_size=12,
    )
)
def test_any_opcodes(tmp_path: Path, data: list[bytes]) -> None:
    try:
        load(tmp_path, b"".join(data) + b".")
    except ValueError as error:
        assert str(error).startswith(str(tmp_path / "some.pickle"))
