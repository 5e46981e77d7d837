"""`dfmamba predict --engine`: processes that share the work, die, are stopped, and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dfmamba.bulk.engines import run_local
from dfmamba.bulk.inputs import find_items
from dfmamba.bulk.parts import BulkConfig, cut, read_report
from dfmamba.cli import main as cli
from dfmamba.models import load
from dfmamba.predict import Prediction, Predictor

pytestmark = pytest.mark.usefixtures("one_thread")

DISTINCT = 40
"""Pictures of the large folders that differ; the rest are links to them."""


@pytest.fixture(scope="module")
def expected(
    one_thread: None, weights: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Prediction]:
    """What one process predicts for `DISTINCT` pictures, by path."""
    folder = tmp_path_factory.mktemp("distinct")
    rng = np.random.default_rng(0)
    for i in range(DISTINCT):
        pixels = rng.integers(0, 256, (48, 40 + i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    predictor = Predictor(load(weights), "cpu", detector=None)
    return {str(path): predictor.predict(path, threshold=0.52) for path in sorted(folder.iterdir())}


def links(expected: dict[str, Prediction], folder: Path, number: int) -> Path:
    """A folder of `number` pictures, which are links to the distinct ones in turns."""
    folder.mkdir()
    paths = list(expected)
    for i in range(number):
        os.link(paths[i % len(paths)], folder / f"{i:05d}.png")
    return folder


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in a process group of its own, which doesn't outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def run(call: list[str], **pipes: Any) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(call, text=True, start_new_session=True, **pipes))
        return started[-1]

    yield run
    for running in started:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.communicate()


def rows_of(folder: Path) -> list[dict]:
    """The rows of all parts, in order."""
    rows: list[dict] = []
    for path in sorted(folder.glob("part-*")):
        if path.suffix == ".jsonl":
            rows += [json.loads(line) for line in path.read_text().splitlines()]
        else:
            rows += pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return rows


def assert_same(rows: list[dict], number: int, expected: dict[str, Prediction]) -> None:
    """No picture is missing or double, and the hands are those that one process finds."""
    by_picture: dict[int, list[dict]] = {}
    for row in rows:
        by_picture.setdefault(row["picture"], []).append(row)
    assert sorted(by_picture) == list(range(number))
    predictions = list(expected.values())
    for i, mine in by_picture.items():
        assert {Path(row["path"]).name for row in mine} == {f"{i:05d}.png"}
        hands = predictions[i % len(predictions)].hands
        assert [row["side"] for row in mine] == ([hand.side for hand in hands] or [None])
        for row, hand in zip(mine, hands, strict=False):
            values = hand.to_dict()
            for name in ("joints_2d_px", "joints_3d_mm", "joint_scores"):
                np.testing.assert_array_equal(np.float32(row[name]), np.float32(values[name]), name)


def words(folder: Path, out: Path, weights: str, *more: str) -> list[str]:
    fixed = ["--model", weights, "--threshold", "0.52", "--device", "cpu", "--detector", "none"]
    return ["predict", str(folder), "--out", str(out), *fixed, *more]


def test_two_workers_and_again(expected, weights: str, tmp_path: Path, capsys) -> None:
    folder, out = links(expected, tmp_path / "in", 12), tmp_path / "out"
    call = words(folder, out, weights, "--engine", "local", "--workers", "2", "--part_size", "5")
    pytest.importorskip("pyarrow")
    assert cli.main(call) == 0
    assert_same(rows_of(out), 12, expected)
    assert sorted(path.name for path in out.iterdir()) == [
        "_bulk.json",
        *(f"part-{i:06d}.parquet" for i in range(3)),
    ]
    parts = {path: path.read_bytes() for path in sorted(out.glob("part-*"))}
    times = {path: path.stat().st_mtime_ns for path in parts}
    (lost, *kept) = parts
    lost.unlink()
    capsys.readouterr()
    assert cli.main(call) == 0
    assert "12 pictures (7 were there)" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in parts} == parts
    assert {path: times[path] for path in kept} == {path: path.stat().st_mtime_ns for path in kept}

    assert cli.main([*call, "--batch_size", "2"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert "have batch_size 1, these would have 2; use another folder for --out" in error[0]


def test_names_that_are_not_utf8_cost_nothing(expected, weights: str, tmp_path: Path, capsys) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in (b"a.png", b"b\xff.png"):
        os.link(next(iter(expected)), os.fsencode(folder) + b"/" + name)
    (folder / os.fsdecode(b"c\xff.png")).write_bytes(b"")
    out.mkdir()
    (out / ".part-000000.parquet.0123456789ab.part").write_bytes(b"of a killed run")
    pytest.importorskip("pyarrow")
    assert cli.main(words(folder, out, weights, "--engine", "local", "--workers", "1")) == 1
    said = capsys.readouterr().err
    assert r"2 names are not UTF-8 and are written with escape sequences, such as " in said
    assert f"{folder}/c\\udcff.png: " in said
    paths = [row["path"].removeprefix(f"{folder}/") for row in rows_of(out)]
    assert sorted(set(paths)) == ["a.png", r"b\xff.png", r"c\xff.png"]
    assert sorted(os.listdir(out)) == ["_bulk.json", "part-000000.parquet"]


def test_unusable_pictures_are_counted(expected, weights: str, tmp_path: Path, capsys) -> None:
    folder, out = links(expected, tmp_path / "in", 3), tmp_path / "out"
    (folder / "00001.png").unlink()
    (folder / "00001.png").write_text("hello")
    call = words(folder, out, weights, "--engine", "local", "--workers", "1", "--format", "jsonl")
    for _ in range(2):  # also when all parts were there
        assert cli.main(call) == 1
        printed = capsys.readouterr()
        assert "3 pictures" in printed.out
        assert "1 failed" in printed.out
        assert [line for line in printed.err.splitlines() if "error" in line] == [
            f"dfmamba predict: error: {folder / '00001.png'}: not a picture, or one of an unknown format "
            "(known: JPEG, PNG, WEBP, BMP, TIFF, GIF)"
        ]
    assert [row["picture"] for row in rows_of(out) if row["error"]] == [1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--workers", "2"], "--workers: works with --engine"),
        (["--format", "jsonl"], "--format: works with --engine"),
        (["--engine", "dask"], "engine: expected local or ray, got 'dask'"),
        (["--engine", "local", "--json", "all.json"], "--json: doesn't work with --engine"),
        (["--engine", "local", "--format", "csv"], "format: expected parquet or jsonl, got 'csv'"),
        (["--engine", "local", "--part_size", "0"], "part_size: expected at least 1, got 0"),
        (["--engine", "local", "--workers", "0"], "workers: expected at least 1, got 0"),
        (["--engine", "local", "--threshold", "2"], "--threshold: expected a value from 0 to 1"),
        (["--engine", "local", "--device", "warp9"], "device 'warp9' can't be used here"),
        (["--engine", "ray", "--device", "cuda:1"], "--device cuda:1: Ray hands out the GPUs"),
    ],
)
def test_unusable_options(options, reason: str, expected, weights: str, tmp_path: Path, capsys) -> None:
    if "ray" in options:
        pytest.importorskip("ray")
    folder = links(expected, tmp_path / "in", 2)
    assert cli.main([*words(folder, tmp_path / "out", weights), *options]) == 2
    printed = capsys.readouterr()
    assert reason in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_source_that_is_missing_stops_all(expected, weights: str, tmp_path: Path, capsys) -> None:
    folder = links(expected, tmp_path / "in", 2)
    call = words(folder, tmp_path / "out", weights, "--engine", "local", "--format", "jsonl")
    assert cli.main([*call[:2], str(tmp_path / "none.tar"), *call[2:]]) == 2
    assert "none.tar: no such tar file" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(expected, weights: str, tmp_path: Path) -> None:
    items = find_items([links(expected, tmp_path / "in", 200)])
    config = BulkConfig(
        str(tmp_path / "out"), weights, "jsonl", part_size=20, device="cpu", threshold=0.52, detector="none"
    )
    killed: list[int] = []

    def kill(done: int) -> None:
        if done >= 50 and not killed:
            victim = active_children()[0].pid
            assert victim is not None
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    parts = cut(items, config.part_size)
    reports = list(run_local(config, parts, 2, kill))
    assert len(killed) == 1
    assert sorted(report.number for report in reports) == list(range(10))
    assert all(read_report(config, part) is not None for part in parts)
    assert_same(rows_of(tmp_path / "out"), 200, expected)


@pytest.mark.slow
def test_ctrl_c_leaves_whole_parts(expected, weights: str, tmp_path: Path, start) -> None:
    folder, out = links(expected, tmp_path / "in", 100), tmp_path / "out"
    more = ["--engine", "local", "--workers", "2", "--part_size", "5", "--format", "jsonl"]
    call = [sys.executable, "-m", "dfmamba", *words(folder, out, weights, *more)]
    running = start(call, stderr=subprocess.PIPE)
    wait_for_part(running, out)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    error = running.communicate()[1]
    assert running.returncode == 130
    assert error.splitlines()[-1] == "dfmamba predict: interrupted"
    assert "Traceback" not in error
    assert not list(out.glob(".*"))
    assert 0 < len(list(out.glob("part-*"))) < 20
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0
    assert "were there)" in done.stdout
    assert_same(rows_of(out), 100, expected)


@pytest.mark.slow
def test_2000_pictures_on_ray_with_a_worker_killed(expected, weights: str, tmp_path: Path, start) -> None:
    pytest.importorskip("ray")
    folder, out = links(expected, tmp_path / "in", 2000), tmp_path / "out"
    more = ["--engine", "ray", "--workers", "2", "--part_size", "50"]
    call = [sys.executable, "-m", "dfmamba", *words(folder, out, weights, *more)]
    running = start(call, stdout=subprocess.PIPE)
    wait_for_part(running, out)
    actors = [pid for pid in descendants(running.pid) if b"MapWorker" in command_of(pid)]
    assert len(actors) == 2
    os.kill(actors[0], signal.SIGKILL)
    printed = running.communicate()[0]
    assert running.returncode == 0
    assert printed.splitlines()[-1].startswith("2000 pictures, ")  # after Ray's word on the lost actor
    assert len(list(out.glob("part-*.parquet"))) == 40
    assert_same(rows_of(out), 2000, expected)


def wait_for_part(running: subprocess.Popen[str], out: Path) -> None:
    """Returns once the first part is there."""
    while not list(out.glob("part-*")):
        assert running.poll() is None
        time.sleep(0.05)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(ancestor: int) -> list[int]:
    """Processes that a process started, directly or not."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [ancestor]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]
