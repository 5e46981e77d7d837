"""Text for people and for files: tables, JSON that can be read, one line a reason."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_QUOTED = 200
"""Characters of a file's content that a message repeats."""

_LONGEST_LINE = 1200

_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxtuple = 3, 6, 8, 8
_short.maxstring = _short.maxother = MOST_QUOTED


@dataclass(frozen=True)
class Table:
    """Cells of text.

    Attributes:
        title: what is compared.
        header: names of the columns.
        rows: cells, as many in each as in the header.
        notes: lines below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """Aligned columns, for a terminal."""
        grid = [self.header, *self.rows]
        widths = [max(len(row[i]) for row in grid) for i in range(len(self.header))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in grid]
        return "\n".join([self.title, *lines, *self.notes])

    def markdown(self) -> str:
        """The same for a document."""

        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        lines = [f"**{self.title}**", "", line(self.header), "|" + "---|" * len(self.header)]
        lines += [line(row) for row in self.rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)])


def one_line(reason: object) -> str:
    """A message without line breaks and escape sequences, its middle cut out where it is longer than a page.

    An exception without a message gives its type.
    """
    return shorten(" ".join(str(reason).split()), _LONGEST_LINE) or type(reason).__name__


def printable(text: object) -> str:
    """A name or message for a terminal: whatever steers it, or can't be encoded, as its escape sequence."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: object, most: int = MOST_QUOTED) -> str:
    """A name or text of a file, for a message: `printable`, cut off in its middle."""
    text = printable(text)
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[-(most // 2 - 2) :]}"


def quote(value: Any) -> str:
    """What a file holds, for a message: its `repr`, at most `MOST_QUOTED` characters of it.

    Quick for values of any size and depth.
    """
    try:
        text = printable(_short.repr(value))
    except (ValueError, RecursionError):  # a whole number too long for Python to write
        text = type(value).__name__
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 3]}..."


def format_json(data: Mapping[str, Any]) -> str:
    """Indented JSON whose innermost lists stay on one line; never NaN or infinity."""
    return _layout(data, 0) + "\n"


def _layout(value: Any, depth: int) -> str:
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, Mapping) and value:
        lines = [f"{inner}{json.dumps(key)}: {_layout(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{outer}}}"
    if isinstance(value, list) and any(isinstance(item, list | Mapping) for item in value):
        return "[\n" + ",\n".join(inner + _layout(item, depth + 1) for item in value) + f"\n{outer}]"
    return json.dumps(value, allow_nan=False)


MOST_YAML_BYTES = 1 << 20
_DEEPEST_YAML = 50


def check_yaml(content: bytes | str) -> None:
    """Sees that a YAML text is small and shallow, and has no aliases, by which it could stand for a huge one.

    Raises:
        ValueError: it is larger than `MOST_YAML_BYTES`, nested too deeply, or has aliases.
        yaml.YAMLError: it is no YAML.
    """
    import yaml

    if len(content) > MOST_YAML_BYTES:
        raise ValueError(f"{len(content)} bytes of YAML; expected at most {MOST_YAML_BYTES}")
    depth = 0
    for event in yaml.parse(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not read: write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST_YAML:
            raise ValueError("nested too deeply")
