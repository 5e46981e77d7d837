"""Parts of the benchmark's page, each as Markdown and as HTML."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dfmamba.io.files import write_atomic
from dfmamba.text import Table

_MEDIA = {b"\x89PNG\r\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
Block = tuple[str, str]
"""A part of the page: as Markdown, as HTML."""
_STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --ink: #24262b; --muted: #5c6068; --line: #d9dade; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17181b; --ink: #e8e9ec; --muted: #a9adb6; --line: #3a3d44; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 90rem; margin: 0 auto; padding: 1rem; }
p, ul { max-width: 50rem; } ul { padding-left: 1.2rem; } h2 { margin-top: 2.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.78rem; }
caption { text-align: left; font-weight: 600; padding: 0.4rem 0; }
th, td { padding: 0.25rem 0.4rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  font-variant-numeric: tabular-nums; }
td { white-space: nowrap; } td:last-child { white-space: normal; } thead th { vertical-align: bottom; }
tbody th { font-weight: 400; position: sticky; left: 0; background: var(--paper); min-width: 8rem; }
.note, figcaption { color: var(--muted); font-size: 0.875rem; max-width: 50rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
pre { overflow-x: auto; padding: 0.7rem; border: 1px solid var(--line); border-radius: 6px; }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        file: a PNG or JPEG; it is copied beside the page unless it lies in the page's folder.
        title: what it is, for readers who don't see it.
        caption: below it: what is seen, of how many pictures and seeds.
    """

    file: Path
    title: str
    caption: str


def write_page(title: str, blocks: Sequence[Block], out: Path) -> Path:
    """Writes OUT/README.md and OUT/index.html, which needs no other file; returns the latter."""
    write_atomic(out / "README.md", ("\n\n".join(text for text, _ in blocks) + "\n").encode())
    body = "\n".join(web for _, web in blocks)
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body=body)
    write_atomic(out / "index.html", page.encode())
    return out / "index.html"


def _inline(text: str) -> Block:
    """Text that can't be taken for tags; what is between grave accents is code."""
    plain, web = "", ""
    for i, part in enumerate(re.split(r"`([^`]*)`", " ".join(text.split()))):
        plain += f"`{part}`" if i % 2 else html.escape(part, quote=False)
        web += f"<code>{html.escape(part)}</code>" if i % 2 else html.escape(part)
    return plain, web


def heading(text: str, level: int = 2) -> Block:
    """A heading; 1 is the page's."""
    plain, web = _inline(text)
    return f"{'#' * level} {plain}", f"<h{level}>{web}</h{level}>"


def text(text: str) -> Block:
    """A paragraph."""
    plain, web = _inline(text)
    return plain, f"<p>{web}</p>"


def points(texts: Iterable[str]) -> Block:
    """A list."""
    found = [_inline(text) for text in texts]
    return "\n".join(
        f"- {plain}" for plain, _ in found
    ), f"<ul>{''.join(f'<li>{web}</li>' for _, web in found)}</ul>"


def commands(lines: Sequence[str]) -> Block:
    """Lines for a shell."""
    text = "\n".join(lines)
    return f"```bash\n{text}\n```", f"<pre>{html.escape(text)}</pre>"


def shown(table: Table) -> Block:
    """A table."""

    def cells(texts: Iterable[str], form: int) -> tuple[str, ...]:
        return tuple(_inline(text)[form] for text in texts)

    rows = tuple(cells(row, 0) for row in table.rows)
    plain = Table(_inline(table.title)[0], cells(table.header, 0), rows, cells(table.notes, 0))
    head = "".join(f'<th scope="col">{cell}</th>' for cell in cells(table.header, 1))
    web = f"<caption>{_inline(table.title)[1]}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>"
    for first, *others in (cells(row, 1) for row in table.rows):
        web += f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>\n'
    notes = "".join(f'<p class="note">{note}</p>' for note in cells(table.notes, 1))
    return plain.markdown(), f'<div class="wide" tabindex="0"><table>{web}</tbody></table></div>{notes}'


def picture(picture: Picture, folder: Path, names: set[str]) -> Block:
    """A figure, copied into `folder` unless it lies beside the page; `names` are those already taken.

    Raises:
        OSError: it can't be read, or is neither PNG nor JPEG.
        ValueError: its name is taken.
    """
    root, there = folder.parent.resolve(), picture.file.resolve()
    content = there.read_bytes()
    kind = next((kind for start, kind in _MEDIA.items() if content.startswith(start)), None)
    if kind is None:
        raise OSError(f"{picture.file}: neither PNG nor JPEG")
    if not there.is_relative_to(root):
        there = root / folder.name / there.name
    name = there.relative_to(root).as_posix()
    if name in names:
        raise ValueError(f"{picture.file}: another figure of the page is called {name}, too; rename one")
    names.add(name)
    if there != picture.file.resolve():
        write_atomic(there, content)
    (title, alternative), (caption, below) = _inline(picture.title), _inline(picture.caption)
    data = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    figure = f'<figure><img alt="{alternative}" src="{data}"><figcaption>{below}</figcaption></figure>'
    return f"![{title}]({quote(name)})\n\n{caption}", figure
