"""Changes to bytes, texts and JSON that make files odd or damaged; the same seed gives the same changes."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable
from typing import Any

ODD_NUMBERS = (
    "-1",
    "0",
    "1e999",
    "-1e308",
    "NaN",
    "Infinity",
    "9" * 25,
    "9" * 400,
    "9" * 5000,
    "1e-320",
    "65536",
)
ODD_TEXTS = (
    "null",
    "true",
    '""',
    '"\\u0000"',
    '"\\ud800"',
    "[]",
    "{}",
    "[[]]",
    "*a",
    "\x1b[31m",
    "\0",
    "\u202e",
)
ODD_WORDS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000000, 0x00FFFFFF)
DEEP = 100_000

_NUMBER = re.compile(rb"-?\d+\.?\d*(?:[eE][+-]?\d+)?")


def mutate(seed: bytes, kind: str, rng: random.Random) -> bytes:
    """A changed copy of a file's bytes; `kind` is "bytes", "text" or "json"."""
    how: list[Callable[[bytes, random.Random], bytes]] = [_bytes]
    if kind in ("text", "json"):
        how += [_text, _text]
    if kind == "json":
        how += [_tree, _tree, _tree]
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        seed = rng.choice(how)(seed, rng)
    return seed


def _place(content: bytes, rng: random.Random) -> int:
    """Mostly near the start, where headers are, else anywhere."""
    return min(int(len(content) * rng.random() ** rng.choice((1, 3, 8))), max(len(content) - 1, 0))


def _bytes(content: bytes, rng: random.Random) -> bytes:
    data, at, some = bytearray(content), _place(content, rng), rng.randrange(1, 17)
    what = rng.randrange(9)
    if not data:
        return rng.randbytes(some)
    if what == 0:
        data[at] = rng.randrange(256)
    elif what == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif what == 2:
        order = rng.choice("<>")
        data[at : at + 4] = struct.pack(f"{order}I", rng.choice(ODD_WORDS))
    elif what == 3:
        data[at : at + 2] = struct.pack("<H", rng.choice(ODD_WORDS) & 0xFFFF)
    elif what == 4:
        del data[at : at + some]
    elif what == 5:
        data[at:at] = rng.randbytes(some)
    elif what == 6:
        del data[at:]
    elif what == 7:
        other = _place(content, rng)
        data[at:at] = data[other : other + rng.choice((4, 16, 64, 512))]
    else:
        data[at : at + some] = bytes(some)
    return bytes(data)


def _text(content: bytes, rng: random.Random) -> bytes:
    found = list(_NUMBER.finditer(content[: 1 << 16]))
    if not found or rng.random() < 0.2:
        at = _place(content, rng)
        odd = rng.choice((*ODD_TEXTS, "[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP))
        return content[:at] + odd.encode("utf-8", "surrogatepass") + content[at:]
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(ODD_NUMBERS + ODD_TEXTS).encode() + content[match.end() :]


def _odd_value(rng: random.Random) -> Any:
    return rng.choice(
        (
            *(
                None,
                True,
                False,
                -1,
                0,
                1,
                0.5,
                2**31,
                2**63,
                10**30,
                10**400,
                1e308,
                float("nan"),
                float("inf"),
            ),
            *(
                "",
                "x" * 100_000,
                "\0",
                "\x1b[2J",
                "../../../x",
                "/etc/passwd",
                "a\\b",
                "\ud800",
                "right",
                "1.0",
            ),
            *([], {}, [[]], [None], [1, "a"], {"a": 1}, [[1, 2], [3]], [[[[[[]]]]]]),
        )
    )


def _tree(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    at = rng.randrange(len(lines)) if _is_lines(lines) else None
    try:
        value = json.loads(content if at is None else lines[at])
    except (ValueError, RecursionError):
        return content
    holder: Any = [value]
    parent, key = holder, 0
    while isinstance(parent[key], list | dict) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    what = rng.randrange(6)
    if what < 3:
        parent[key] = _odd_value(rng)
    elif what == 3 and parent is not holder:
        del parent[key]
    elif what == 4 and isinstance(parent, dict):
        parent[rng.choice(("", "x", "\x1b[0m", "y" * 5000))] = parent.pop(key)
    elif isinstance(parent, list) and parent is not holder:
        parent[key:key] = [parent[key]] * rng.choice((1, 2, 100))
    try:
        text = json.dumps(holder[0]).encode()
    except (ValueError, RecursionError):
        return content
    return text if at is None else b"\n".join([*lines[:at], text, *lines[at + 1 :]])


def _is_lines(lines: list[bytes]) -> bool:
    return len(lines) > 1 and all(line[:1] == b"{" for line in lines[:2])
