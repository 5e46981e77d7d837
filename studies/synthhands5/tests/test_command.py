"""`python -m studies.synthhands5` as a user calls it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dfmamba.cli.main import run_command
from studies.synthhands5 import rows
from studies.synthhands5.pictures import render
from studies.synthhands5.settings import SETTINGS, SPLITS

COUNTS = {"train": 20, "val": 4, "test": 6}


def main(words: list[str]) -> int:
    return run_command("python -m studies.synthhands5", "studies.synthhands5.__main__", words)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("warp", reason="the renderer is missing: pip install 'dfmamba[synthetic]'")
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in COUNTS.items():
        render("two", split, folder, workers=0, count=count, progress=False)
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    """Few pictures, and rows that are quick."""
    for name, count in COUNTS.items():
        monkeypatch.setitem(SPLITS, name, replace(SPLITS[name], pictures=count))
    small = {"dims": (8, 8, 8, 8), "stem_dim": 4}
    for name in ("dfmamba", "resnet"):
        row = replace(rows.FAMILIES[name], backbone="dfmamba_test", args=small)
        monkeypatch.setitem(rows.ROWS, name, row)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_settings_of_the_help_are_those_of_the_benchmark(capsys) -> None:
    assert main(["render", "--help"]) == 0
    assert ", ".join(SETTINGS) in " ".join(capsys.readouterr().out.split())


def test_list_names_every_row(tmp_path: Path, capsys) -> None:
    assert main(["list", "--json", str(tmp_path / "rows.json")]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in rows.ROWS)
    listed = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["name"] for row in listed] == list(rows.ROWS)


@pytest.mark.usefixtures("tiny")
def test_a_row_is_run_and_reported(pictures: Path, tmp_path: Path, capsys) -> None:
    places = [
        "--results",
        str(tmp_path / "results"),
        "--runs",
        str(tmp_path / "runs"),
        "--data",
        str(pictures),
    ]
    for row in ("dfmamba", "resnet"):
        words = ["run", "--row", row, "--lr", "0.01", "--seed", "3", "--steps", "2", *places]
        assert main([*words, "--json", str(tmp_path / f"{row}.json")]) == 0
        assert f"two {row} seed 3 lr 0.01 test: MPJPE " in capsys.readouterr().out
    found = json.loads((tmp_path / "resnet.json").read_text())
    assert found == json.loads((tmp_path / "results" / "two" / "2-steps" / "resnet-s3.json").read_text())
    assert (found["entry"], found["steps"], found["figures"]["samples"]) == ("resnet", 2, COUNTS["test"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--row", "resnett", "--lr", "1"], "unknown row 'resnett'; known: dfmamba"),
        (
            ["run", "--row", "resnet", "--lr", "1", "--setting", "three"],
            "unknown setting 'three'; known: two",
        ),
        (["run", "--row", "resnet", "--lr", "1", "--data", "nowhere"], "nowhere"),
        (["render", "--split", "exam"], "unknown split 'exam'; known: train, val, test"),
        (["sweep", "--rows", "vmambo"], "unknown row 'vmambo'"),
        (["run", "--row", "vit", "--steps", "0"], "--steps is 0"),
    ],
)
def test_misuse_is_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_page_without_results_says_how_to_make_some(tmp_path: Path, capsys) -> None:
    assert main(["page", "--results", str(tmp_path)]) == 2
    assert "python -m studies.synthhands5 sweep" in capsys.readouterr().err
