"""Reads the code blocks of README.md and docs/*.md, and runs or checks them.

Blocks of `sh`, `bash` and `console` hold commands, those of `python` code. One page is one namespace and one
folder. A comment on the line before a block says what is different about it:

- `<!-- not run: REASON -->` it needs something that tests don't have. Python is compiled, verbs and options
  of `dfmamba` are parsed, extras, targets of make and files of tests are looked up;
- `<!-- slow: REASON -->` it runs in the slow tests only; blocks after it must not need it.

Commands for `camera:N`, and those of pip and make, are checked only, wherever they stand.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from dfmamba.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "studies").glob("*/README.md")),
]
SHELLS = ("sh", "bash", "console")

MODULES = {
    "report": "matplotlib",
    "app": "fastapi",
    "baselines": "timm",
    "bench": "mambapy",
    "board": "tensorboard",
    "docs": "mkdocs",
    "bulk": "pyarrow",
    "export": "onnxruntime",
    "ray": "ray",
    "synthetic": "warp",
    "video": "av",
    "viewer": "rerun",
}
"""What shows that an extra is installed."""

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (not run|slow): (.+?) -->\n\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path relative to the repository.
        line: of its first line of code, from 1.
        language: as written after the fence; "" for none.
        text: the code.
        not_run: why it isn't run; None if it is.
        slow: why only the slow tests run it; None if all do.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None
    slow: str | None = None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page."""
    content, found = path.read_text(encoding="utf-8"), []
    for match in _FENCE.finditer(content):
        mark = _MARK.search(content[: match.start()])
        kind, reason = mark.groups() if mark else (None, None)
        found.append(
            Block(
                page=path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name,
                line=content.count("\n", 0, match.start(2)) + 1,
                language=match[1],
                text=match[2],
                not_run=reason if kind == "not run" else None,
                slow=reason if kind == "slow" else None,
            )
        )
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block as words, without comments, prompts and variables set for them."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words:
            yield words


def check(block: Block) -> None:
    """See that a block could be run: what `<!-- not run -->` leaves of it.

    Raises:
        SyntaxError, AssertionError: it couldn't.
    """
    if block.language == "python":
        compile("\n" * (block.line - 1) + block.text, block.page, "exec")
    elif block.language in SHELLS:
        for words in commands(block):
            check_command(words, block.place)


def check_command(words: list[str], place: str) -> None:
    """See that what a command names exists: verbs, options, extras, targets, tests."""
    program, rest = words[0], words[1:]
    if program == "torchrun" and "dfmamba" in rest:
        program, rest = "dfmamba", rest[rest.index("dfmamba") + 1 :]
    if program == "python" and rest[0].endswith(".py"):  # one that ends in `dfmamba.cli.main.main()`
        program, rest = "dfmamba", rest[1:]
    if program == "dfmamba" or is_study(words):
        parse(rest, place)
    elif program == "pip":
        assert rest[0] == "install", f"{place}: {words}"
        for package in rest[1:]:
            unknown = extras_of(package) - set(_project()["optional-dependencies"])
            assert not unknown, f"{place}: no such extra {unknown}"
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(rest) <= set(targets), f"{place}: {words}"
    elif words[1:3] == ["-m", "pytest"]:
        missing = [word for word in words[3:] if not word.startswith("-") and not (ROOT / word).exists()]
        assert not missing, f"{place}: {missing}"


def is_study(words: list[str]) -> bool:
    """Whether a command is that of a study: `python -m studies.NAME`."""
    return words[:2] == ["python", "-m"] and len(words) > 2 and words[2].startswith("studies.")


def parse(words: list[str], place: str) -> None:
    """See that the command line takes these words: those after `dfmamba`, or `-m studies.NAME` and so on."""
    assert words, f"{place}: no verb"
    assert words[0] in cli.VERBS or words[0] == "-m", f"{place}: no such verb {words[0]!r}"
    name = f"{words[1]}.__main__" if words[0] == "-m" else cli.VERBS[words[0]].module
    module, rest = importlib.import_module(name), words[2:] if words[0] == "-m" else words[1:]
    if hasattr(module, "variant"):
        name, rest = module.variant(rest)
        module = importlib.import_module(name)
    options = cli._parse(f"dfmamba {words[0]}", module, rest)
    assert isinstance(options, Namespace), f"{place}: not understood: {shlex.join(words)}"


def run(page: list[Block], slow: bool, monkeypatch: Any) -> None:
    """Run blocks in the current folder, one after the other in one namespace; check those that aren't run.

    Args:
        page: blocks of one page.
        slow: also the slow ones.
        monkeypatch: pytest's.
    """
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in page:
        check(block)
        if block.not_run is not None or (block.slow is not None and not slow):
            continue
        if block.language == "python":
            text = "\n" * (block.line - 1) + block.text
            exec(compile(text, block.page, "exec"), vars(module))
        elif block.language in SHELLS:
            for words in commands(block):
                if words[0] in ("pip", "make"):
                    continue
                if any(re.fullmatch(r"camera:\d+", word) for word in words):
                    continue
                study = is_study(words)
                known = study or words[0] == "dfmamba"
                assert known, f"{block.place}: mark the block, {words[0]} is not run here"
                code = (
                    cli.run_command(shlex.join(words[:3]), f"{words[2]}.__main__", words[3:])
                    if study
                    else cli.main(words[1:])
                )
                assert code == 0, f"{block.place}: {shlex.join(words)}"


def missing_extras(page: list[Block]) -> list[str]:
    """Extras that a page tells to install and that aren't."""
    named = set()
    for block in page:
        if block.language in SHELLS and block.not_run is None:
            for words in commands(block):
                if words[0] == "pip":
                    named |= set().union(*map(extras_of, words[1:]))
    return sorted(name for name in named & set(MODULES) if not _installed(MODULES[name]))


def extras_of(package: str) -> set[str]:
    """Of "dfmamba[a,b]": a and b."""
    match = re.fullmatch(r"(?:dfmamba|\.)\[([\w,]+)\]", package)
    return set(match[1].split(",")) if match else set()


def headings(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    content = _FENCE.sub("", path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for text in re.findall(r"^#{1,6} +(.+?) *$", content, re.MULTILINE):
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (slug if not number else f"{slug}-{number}") in found:
            number += 1
        found.add(slug if not number else f"{slug}-{number}")
    return found


def links(path: Path) -> list[str]:
    """Targets of a page's links and pictures."""
    content = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", path.read_text(encoding="utf-8")))
    return re.findall(r"\]\(\s*<?([^)>\s]+)>?\s*\)", content)


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return name in sys.modules


def lay_out(folder: Path) -> None:
    """What readers have where they type: photo.jpg, selfie.jpg, film.mp4, frames/ and examples/."""
    import shutil

    from PIL import Image, ImageOps

    (folder / "frames").mkdir()
    (folder / "examples").mkdir()
    for path in sorted((ROOT / "examples").glob("*.jpg")):
        shutil.copy(path, folder / "examples" / path.name)
    shutil.copy(ROOT / "examples" / "two_hands.jpg", folder / "photo.jpg")
    with Image.open(ROOT / "examples" / "one_hand.jpg") as picture:
        ImageOps.mirror(picture).save(folder / "selfie.jpg", quality=95)
        still = picture.convert("RGB").resize((192, 192))
    moved = [still.transform(still.size, Image.Transform.AFFINE, (1, 0, 2 * i, 0, 1, i)) for i in range(4)]
    for number, picture in enumerate(moved):
        picture.save(folder / "frames" / f"{number}.jpg", quality=92)
    if _installed("av"):
        import numpy as np

        from dfmamba.video import OverlayWriter

        with OverlayWriter(os.fspath(folder / "film.mp4"), 25, still.size) as film:
            for picture in moved:
                film.write(np.asarray(picture))
