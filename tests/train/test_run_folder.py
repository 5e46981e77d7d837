"""The environment of a run: every start of it, without names and places of the machine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from dfmamba.train.run_folder import command_line, git_state, read_starts, write_environment


def test_each_start_is_kept(tmp_path: Path) -> None:
    write_environment(tmp_path, "cpu", 1, 0)
    write_environment(tmp_path, "cpu", 2, 250)
    first, second = read_starts(tmp_path / "environment.json")
    assert (first["step"], second["step"]) == (0, 250)
    assert (first["processes"], second["processes"]) == (1, 2)
    assert first["versions"]["torch"] == torch.__version__
    assert first["device"] == "cpu"
    assert first["threads"] == torch.get_num_threads()
    assert first["cpu"]
    text = (tmp_path / "environment.json").read_text()
    assert os.uname().nodename not in text
    assert json.loads(text)["schema"] == "dfmamba.environment/1"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"starts": 3}', b'{"starts": [1]}', b"\xff"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "environment.json").write_bytes(content)
    write_environment(tmp_path, "cpu", 1, 3)
    assert [start["step"] for start in read_starts(tmp_path / "environment.json")] == [3]


def test_the_home_folder_is_left_out_of_the_command() -> None:
    home = Path("/home/somebody")
    words = [
        "/home/somebody/venv/bin/python",
        "-m",
        "dfmamba",
        "--data=/home/somebody/sets",
        "/home/somebodyelse",
    ]
    assert command_line(words, home) == ["python", "-m", "dfmamba", "--data=~/sets", "/home/somebodyelse"]
    assert command_line(["a", "/b/c"], Path("/")) == ["a", "/b/c"]
    assert command_line([], home) == []


def test_the_state_of_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    assert git_state(tmp_path) is None

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init")
    sources, installed = tmp_path / "src", tmp_path / "site"
    for folder in (sources, installed):
        folder.mkdir()
        (folder / "a.py").write_text("1")
    git("add", "src")
    git("commit", "-m", "a")
    assert git_state(sources) == {"commit": git("rev-parse", "HEAD"), "clean": True}
    assert git_state(installed) is None
    (sources / "a.py").write_text("2")
    assert git_state(sources) == {"commit": git("rev-parse", "HEAD"), "clean": False}
