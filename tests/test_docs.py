"""What README.md and docs/*.md say can be typed is run; links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import docs_runner
import pytest
from docs_runner import PAGES, ROOT, SHELLS, Block, blocks, check, headings, lay_out, links, missing_extras

from dfmamba.cli.main import VERBS
from dfmamba.models import MODELS

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
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    docs_runner.run(found, slow, monkeypatch)


@pytest.fixture(autouse=True)
def what_pages_add(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Backbones and models that a page names are gone after it."""
    monkeypatch.setattr("dfmamba.backbones.registry._ADDED", {})
    before = dict(MODELS)
    yield
    MODELS.clear()
    MODELS.update(before)


@pytest.mark.parametrize("page", FAST)
def test_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page(page, False, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_all_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("warp") is not None:  # its kernels are kept where the cache is now
        from dfmamba.synth import raster

        raster.warm_up()
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
    assert all(len(line.split()) > 2 for line in left)
    assert run > len(left)


@pytest.mark.slow
def test_requests_of_the_page_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends what docs/use/app.md shows to a server, and follows a film to its end."""
    if shutil.which("curl") is None:
        pytest.skip("curl not found (apt-get install curl)")
    if missing_extras(BY_PAGE["docs/start/quickstart.md"]):
        pytest.skip("needs pip install 'dfmamba[app,video]'")
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = [sys.executable, "-m", "dfmamba", "app", "--port", "0", "--detector", "none"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            lines = iter(server.stdout.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http://[\w.]+:\d+", line)))
            assert send_requests(address) == 10
        finally:
            server.send_signal(signal.SIGINT)
    assert server.returncode == 0
    assert Path("photo.glb").read_bytes()[:4] == b"glTF"
    assert Path("overlay.mp4").stat().st_size > 1000
    assert len(Path("predictions.jsonl").read_text().splitlines()) == 5


def send_requests(address: str) -> int:
    """Runs the requests of docs/use/app.md in their order; returns their number."""

    def curl(*words: str) -> str:
        done = subprocess.run(["curl", "--silent", "--fail", *words], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    sent, film = 0, ""
    shells = [block for block in BY_PAGE["docs/use/app.md"] if block.language in SHELLS]
    for program, *words in (words for block in shells for words in docs_runner.commands(block)):
        if program != "curl":
            continue
        words = [word.replace("http://127.0.0.1:7860", address) for word in words]
        answer, sent = curl(*(re.sub(r"/ID\b", f"/{film}", word) for word in words)), sent + 1
        if words[-1].endswith("/api/predict"):
            Path("photo.json").write_text(answer)
            assert len(json.loads(answer)["hands"]) > 0
        elif words[-1].endswith("/api/film"):
            film, state = json.loads(answer)["id"], "waiting"
            while state in ("waiting", "running"):
                time.sleep(0.1)
                state = json.loads(curl(f"{address}/api/film/{film}"))["state"]
            assert state == "done"
    return sent


def test_verbs_in_the_text_exist() -> None:
    for path in PAGES:
        for verb in re.findall(r"`dfmamba ([a-z][\w-]*)[^`]*`", path.read_text(encoding="utf-8")):
            assert verb in VERBS, f"{path.name}: dfmamba {verb}"


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
        "# A\n\n<!-- not run: needs a\ncamera -->\n\n<!-- slow: takes a minute -->\n```sh\n"
        "A=1 dfmamba info \\\n  --json x  # why\n```\n\n"
        "<!-- not run: needs a camera -->\n```python\n1 +\n```\n```\ntext\n```\n"
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


def test_environment_variables_are_in_the_table() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    read = re.compile(
        r"environ(?:\.get|\.setdefault)?[\[(]\"(\w+)\"|\"(\w+)\" not in os\.environ|\"(DFMAMBA_\w+)\""
    )
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= {name for match in read.finditer(text) for name in match.groups() if name}
    assert found > {"DFMAMBA_BACKEND", "XDG_CACHE_HOME", "RANK"}
    assert not {name for name in found if f"`{name}`" not in page}


def test_the_drawing_of_the_architecture_is_that_of_the_contract() -> None:
    spec = importlib.util.spec_from_file_location(
        "draw_architecture", ROOT / "tools" / "draw_architecture.py"
    )
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8") == tool.svg()
    page = (ROOT / "docs" / "understand" / "architecture.md").read_text(encoding="utf-8")
    rooms = {room for floor in tool.floors() for room in floor}
    assert not {room for room in rooms if f"`{room}/`" not in page and f"`{room}.py`" not in page}
