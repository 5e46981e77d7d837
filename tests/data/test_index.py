"""Indices on disk: what goes in comes out, and what doesn't fit is made anew."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfmamba.data import index as index_module
from dfmamba.data.index import (
    FACTS_FILE,
    Index,
    Report,
    Row,
    cache_root,
    fingerprint,
    index_folder,
    open_index,
    write_index,
)
from dfmamba.hands.camera import Camera

KEY: dict[str, Any] = {"reader": ["toy", 1], "files": [["a", 3, 5]]}


def row(i: int, **changes: Any) -> Row:
    rng = np.random.default_rng(i)
    values: dict[str, Any] = {
        "id": f"name {i}",
        "picture": f"pictures/{i}.png",
        "joints_cam_mm": rng.normal(size=(2, 3, 3)),
        "joints_2d_px": rng.normal(size=(2, 3, 2)),
        "valid": rng.random((2, 3)) < 0.5,
        "visible": rng.random((2, 3)) < 0.5,
        "present": rng.random(2) < 0.5,
        "camera": Camera(100 + i, 101, 30.25, 20) if i % 2 else None,
        "box_xyxy": rng.normal(size=4),
        "size": (640 + i, 480),
        "depth": "" if i % 3 else f"depth/{i}.png",
        "group": "g" * i,
        "extra": (float(i), 0.1),
    }
    return Row(**(values | changes))


def write(folder: Path, rows: list[Row], key: dict[str, Any] | None = None) -> Index:
    return write_index(folder, rows, Report(), KEY if key is None else key, "nyu14", 3)


def assert_same(found: Row, wanted: Row) -> None:
    for name in ("id", "picture", "depth", "group", "size", "camera", "extra"):
        assert getattr(found, name) == getattr(wanted, name), name
    for name in ("joints_cam_mm", "joints_2d_px", "box_xyxy"):
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-6)
    for name in ("valid", "visible", "present"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_rows_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(index_module, "CHUNK", chunk)
    rows = [row(i) for i in range(7)]
    written = write(tmp_path / "index", rows)
    opened = open_index(tmp_path / "index", KEY)
    assert opened is not None
    for index in (written, opened, pickle.loads(pickle.dumps(opened))):
        assert len(index) == index.report.kept == 7
        assert index.order == "nyu14"
        for i in range(7):
            assert_same(index[i], rows[i])
        assert index.text("group", 3) == "ggg"
        assert index.column("size")[2].tolist() == [642, 480]
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_pickled_index_is_small(tmp_path: Path) -> None:
    index = write(tmp_path / "index", [row(i) for i in range(300)])
    assert len(pickle.dumps(index)) < 2000


def test_an_empty_index(tmp_path: Path) -> None:
    write(tmp_path / "index", [])
    index = open_index(tmp_path / "index", KEY)
    assert index is not None
    assert len(index) == 0
    assert index.column("joints_cam_mm").shape == (0, 2, 3, 3)
    assert index.column("camera").shape == (0, 4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.text(st.characters(codec=None), max_size=6), min_size=1, max_size=6))
def test_any_text_comes_back(tmp_path: Path, names: list[str]) -> None:
    index = write(tmp_path / "index", [row(i, id=name, depth="") for i, name in enumerate(names)])
    assert [index.text("id", i) for i in range(len(names))] == names
    assert [index.text("depth", i) for i in range(len(names))] == [""] * len(names)


def test_another_key_is_another_index(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    write(folder, [row(1)])
    assert open_index(folder, KEY | {"reader": ["toy", 2]}) is None
    assert open_index(folder, {}) is None
    assert open_index(tmp_path / "none", KEY) is None
    write(folder, [row(1), row(2)], {"options": (1, Path("x"))})
    again = open_index(folder, {"options": (1, Path("x"))})
    assert again is not None
    assert len(again) == 2


def test_rows_of_other_shapes_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "index", [row(1)])
    for chunk in (1, 10):
        monkeypatch.setattr(index_module, "CHUNK", chunk)
        with pytest.raises(ValueError, match=r"shape|rows of"):
            write(tmp_path / "index", [row(1), row(2, extra=())])
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    old = open_index(tmp_path / "index", KEY)
    assert old is not None
    assert len(old) == 1


def test_an_interrupted_reader_leaves_nothing_behind(tmp_path: Path) -> None:
    def rows() -> Iterator[Row]:
        yield row(1)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_index(tmp_path / "index", rows(), Report(), KEY, "nyu14", 3)
    assert not list(tmp_path.iterdir())


def test_two_processes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one finishes between the removal of the old index and the appearance of the new one."""
    folder, other = tmp_path / "index", tmp_path / "other"
    write(other, [row(1)])
    replace = os.replace

    def late(source: Path, target: Path) -> None:
        shutil.copytree(other, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    assert len(write(folder, [row(1)])) == 1
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="index"):
        write(folder, [row(1)], {"another": "key"})


def test_damaged_files_are_no_index(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    write(folder, [row(i) for i in range(3)])
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for damage in (b"", b"PK\x03\x04", b"[]", b"\x93NUMPY", whole[: len(whole) // 2], whole[:-1]):
            if path.name == FACTS_FILE or damage != whole:
                path.write_bytes(damage)
                if not (path.name == "depth.npy" and damage == whole[:-1]):
                    assert open_index(folder, KEY) is None, (path.name, damage[:10])
        path.unlink()
        assert open_index(folder, KEY) is None, path.name
        path.write_bytes(whole)
    assert open_index(folder, KEY) is not None


@pytest.mark.parametrize("facts", [[], 3, {}, {"version": 1, "key": KEY}, {"report": 3}])
def test_damaged_facts_are_no_index(tmp_path: Path, facts: Any) -> None:
    write(tmp_path, [row(1)])
    path = tmp_path / FACTS_FILE
    merged = json.loads(path.read_text()) | facts if isinstance(facts, dict) and "report" in facts else facts
    path.write_text(json.dumps(merged))
    assert open_index(tmp_path, KEY) is None


def test_columns_of_other_lengths_are_no_index(tmp_path: Path) -> None:
    write(tmp_path / "index", [row(1), row(2)])
    np.save(tmp_path / "index" / "visible.npy", np.zeros((1, 2, 3), bool))
    assert open_index(tmp_path / "index", KEY) is None


def test_report_counts_and_names_the_first() -> None:
    report = Report(kept=4)
    for i in range(5):
        report.leave_out(f"a{i}", "picture missing")
    report.leave_out("b", "no valid joint")
    assert report.left_out == {"picture missing": 5, "no valid joint": 1}
    assert report.lines == [
        "4 samples",
        "left out 5: picture missing (such as a0, a1, a2)",
        "left out 1: no valid joint (such as b)",
    ]


def test_fingerprint_notices_changes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    first = fingerprint([path, tmp_path / "none"])
    assert first[0][:2] == [str(path), 3]
    assert first[1] == [str(tmp_path / "none"), -1, -1]
    assert fingerprint([path, tmp_path / "none"]) == first
    os.utime(path, ns=(1, 1))
    assert fingerprint([path])[0] != first[0]


def test_folders_of_indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "dfmamba"
    names = {
        index_folder("toy", split, root, options)
        for split in ("a", "b")
        for root in (tmp_path, tmp_path / "x")
        for options in ({}, {"n": 1}, {"n": "1"}, {"at": Path("1")})
    }
    assert len(names) == 16
    assert all(name.parent == tmp_path / "dfmamba" / "index" for name in names)
    first, again = (index_folder("toy", "a", tmp_path, o) for o in ({"n": 1, "m": 2}, {"m": 2, "n": 1}))
    assert first == again
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "dfmamba"
