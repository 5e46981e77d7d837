"""The files of the page, and the command that serves it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from dfmamba.app.config import AppConfig
from dfmamba.app.server import STATIC, address
from dfmamba.cli import main as cli

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEXTS = sorted(path for path in STATIC.rglob("*") if path.suffix in (".html", ".js", ".css", ".svg"))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_nothing_is_loaded_from_elsewhere(path: Path) -> None:
    addresses = re.findall(r"(?:https?:)?//[\w.-]+", re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.M))
    assert set(addresses) <= {"http://www.w3.org", "http://127.0.0.1", "//"}


def test_all_files_that_are_named_exist(client) -> None:
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', (STATIC / "index.html").read_text()))
    for path in STATIC.glob("*.js"):
        named |= set(re.findall(r'from "\./([^"]+)"', path.read_text()))
    assert {"app.js", "style.css", "view3d.js", "icon.svg"} <= named
    for name in named:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        if name.endswith(".js"):
            assert answer.headers["content-type"].startswith("text/javascript")
    assert client.get("/").headers["content-type"].startswith("text/html")


def test_examples_are_those_of_the_repository() -> None:
    shown = {path.name: path.read_bytes() for path in (STATIC / "examples").iterdir()}
    assert shown == {path.name: path.read_bytes() for path in EXAMPLES.glob("*.jpg")}


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_modules_are_correct_javascript(path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    result = subprocess.run(
        [node, "--input-type=module", "--check"],
        input=path.read_text(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


def test_every_control_has_a_name() -> None:
    page = (STATIC / "index.html").read_text()
    labelled = set(re.findall(r'<label[^>]*for="([^"]+)"', page))
    outside = re.sub(r"<label.*?</label>", "", page, flags=re.S)
    for tag in re.findall(r"<(?:input|select|video|progress)[^>]*>", outside):
        name = re.search(r'id="([^"]+)"', tag)
        assert "aria-label" in tag or "hidden" in tag or (name and name.group(1) in labelled), tag


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "--port: expected a number from 0 to 65535"),
        (["--max_upload_mb", "0"], "--max_upload_mb: expected more than 0"),
        (["--host", ""], "--host"),
        (["--host", "203.0.113.7"], "cannot listen there"),
        (["--port", "0", "--model", "no_such_model", "--detector", "none"], "no_such_model"),
        (["--port", "0", "--detector", "no_such_detector"], "no_such_detector"),
        (["--port", "0", "--detector", "none", "--device", "abacus"], "abacus"),
    ],
)
def test_unusable_arguments_are_one_line(words: list[str], said: str, capsys) -> None:
    assert cli.main(["app", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_port_in_use_is_one_line(capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["app", "--port", str(port), "--detector", "none"]) == 2
    assert f"--port {port}: cannot listen there" in capsys.readouterr().err


def test_boxes_of_files_are_no_detector_of_the_page(tmp_path: Path, capsys) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"a.jpg": [[1, 2, 30, 40]]}')
    assert cli.main(["app", "--port", "0", "--detector", str(boxes)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_missing_extra_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    assert cli.main(["app"]) == 2
    assert "pip install 'dfmamba[app]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("box.local", "http://box.local:80"),
    ],
)
def test_the_address_can_be_opened(host: str, shown: str) -> None:
    assert address(host, 80) == shown


@pytest.mark.parametrize("name", ["threads", "places", "films", "film_frames", "results"])
def test_configurations_without_room_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        AppConfig(**{name: 0})
