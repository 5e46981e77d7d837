"""Tables of text, for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
