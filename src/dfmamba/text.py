"""Text for people and for files: tables, JSON that can be read, one line a reason."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


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
    """A message without line breaks, and with control characters, which names of files may hold, escaped.

    An exception without a message gives its type.
    """
    text = " ".join(str(reason).split()) or type(reason).__name__
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
