"""`dfmamba bench film` on a film of twelve frames."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dfmamba.bench.contest import Plan
from dfmamba.bench.film import FilmBench, run
from dfmamba.cli import main as cli
from dfmamba.video.encode import OverlayWriter

QUICK = Plan(rounds=1, fewest=1, warmup=0, sample_seconds=0.0, budget_seconds=1.0)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "noise.mp4"
    random = np.random.default_rng(0)
    with OverlayWriter(path, 25, (64, 48)) as writer:
        for _ in range(12):
            writer.write(random.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return path


def test_rates_and_shares(film: Path) -> None:
    results, tables = run(FilmBench(str(film), load=1, plan=QUICK))
    ours = [one for one in results if one["ours"]]
    assert [(one["competitor"], one["load"]) for one in ours] == [
        (f"dfmamba, {name}", load) for load in (0, 1) for name in ("film drawn", "no film")
    ]
    for one in ours:
        assert (one["status"], one["frames"]) == ("ok", 12)
        assert one["frames_per_second"] > 0
        assert sum(one["shares"].values()) == pytest.approx(1)
        assert (one["shares"]["encode"] > 0) == one["competitor"].endswith("drawn")
    assert len(tables[0].rows) == len(results) == 6


def test_a_peer_that_is_not_there_is_said(film: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="--peer_python"):
        run(FilmBench(str(film), 0, str(tmp_path / "nothing"), plan=QUICK))
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    results, _ = run(FilmBench(str(film), 0, str(bare), plan=QUICK))
    assert results[-1]["status"] == "absent"
    assert "No module named" in results[-1]["note"]


def test_load_is_checked() -> None:
    with pytest.raises(ValueError, match="got -1"):
        FilmBench("film.mp4", load=-1)


def test_command(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "film.json"
    assert cli.main(["bench", "film", str(film), "--load", "0", "--quick", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "dfmamba bench film noise.mp4 --load 0 --quick"
    assert json.loads(file.read_text())["kind"] == "film"
    assert "Not counted: starting Python" in said
