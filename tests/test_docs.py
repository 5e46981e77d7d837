"""What README.md and docs/*.md say can be typed is run; links lead somewhere."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import docs_runner
import pytest
from docs_runner import PAGES, ROOT, SHELLS, Block, blocks, check, headings, lay_out, links, missing_extras

RUNNABLE = (*SHELLS, "python")
BY_PAGE = {path.relative_to(ROOT).as_posix(): blocks(path) for path in PAGES}
FAST = [page for page, found in BY_PAGE.items() if any(b.language in RUNNABLE for b in found)]
SLOW = [page for page, found in BY_PAGE.items() if any(b.slow for b in found)]


def run_page(page: str, slow: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = BY_PAGE[page]
    missing = missing_extras([block for block in found if slow or block.slow is None])
    if missing:
        pytest.skip(f"{page} needs extras that are missing: pip install 'dfmamba[{','.join(missing)}]'")
    lay_out(folder)
    monkeypatch.chdir(folder)
    if docs_runner.run(found, slow, monkeypatch):
        pytest.skip(f"{page}: {docs_runner.DETECTOR_ABSENT}")


@pytest.mark.parametrize("page", FAST)
def test_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, False, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_all_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # those of the libraries that a page is about, as readers see them
        run_page(page, True, tmp_path, monkeypatch)


def test_blocks_that_are_not_run_say_why(record_property: pytest.RecordProperty) -> None:
    """Lists them (`pytest -s`); each is still parsed by `test_blocks_run`."""
    run, left = 0, []
    for found in BY_PAGE.values():
        for block in found:
            if block.language in RUNNABLE:
                run += block.not_run is None
                if block.not_run is not None:
                    left.append(f"{block.place}: {block.not_run}")
    print("", *left, f"{run} blocks run, {len(left)} not", sep="\n")
    record_property("not run", left)
    assert all(re.search(r": (needs|takes) \w", line) for line in left)
    assert run > len(left)


def test_marks_belong_to_blocks() -> None:
    for path in PAGES:
        marks = len(re.findall(r"^<!-- (?:not run|slow)", path.read_text(encoding="utf-8"), re.MULTILINE))
        found = BY_PAGE[path.relative_to(ROOT).as_posix()]
        assert marks == sum(b.not_run is not None or b.slow is not None for b in found), path.name


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "dfmamba predcit photo.jpg\n"),
        ("sh", "dfmamba predict photo.jpg --no_such_option\n"),
        ("sh", "torchrun --nproc-per-node 2 -m dfmamba train --no_such_option 1\n"),
        ("sh", 'pip install "dfmamba[nothing]"\n'),
        ("sh", "make nothing\n"),
        ("sh", "python -m pytest tests/test_nothing.py\n"),
        ("python", "import dfmamba as\n"),
    ],
)
def test_wrong_blocks_are_noticed(language: str, text: str) -> None:
    with pytest.raises((AssertionError, SyntaxError)):
        check(Block("page.md", 1, language, text, not_run="needs nothing"))


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n<!-- not run: needs a\ncamera -->\n\n<!-- slow: takes a minute -->\n```sh\nA=1 dfmamba info \\\n"
        "  --json x  # why\n```\n\n<!-- not run: needs a camera -->\n```python\n1 +\n```\n```\ntext\n```\n"
    )
    first, second, third = blocks(page)
    assert (first.line, first.slow, first.not_run) == (8, "takes a minute", None)
    assert list(docs_runner.commands(first)) == [["dfmamba", "info", "--json", "x"]]
    assert (second.language, second.not_run) == ("python", "needs a camera")
    assert (third.language, third.text) == ("", "text\n")


@pytest.mark.parametrize(
    "path", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{path.name}: {target}"
        assert there.is_relative_to(ROOT), f"{path.name}: {target}"
        if anchor:
            assert anchor in headings(there), f"{path.name}: {target} names no heading"


def test_every_page_is_reached_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        seen.add(path)
        for target in links(path):
            there = (path.parent / target.partition("#")[0]).resolve()
            if there.suffix == ".md" and there.is_file() and there not in seen:
                todo.append(there)
    assert set(PAGES) <= seen


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


def test_pictures_of_the_pages_are_used_and_small() -> None:
    shown = {
        (path.parent / target).resolve()
        for path in PAGES
        for target in links(path)
        if not target.startswith("http")
    }
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    assert pictures
    for picture in pictures:
        assert picture in shown, picture.name
        assert picture.stat().st_size < 150_000, picture.name
