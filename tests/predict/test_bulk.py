"""Bulk prediction without its processes: the list, the parts, and what a worker writes."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dfmamba.bulk.engines import devices_of
from dfmamba.bulk.inputs import Item, digest, find_items, read_picture
from dfmamba.bulk.parts import (
    COLUMNS,
    FORMATS,
    BulkConfig,
    Part,
    cut,
    open_folder,
    part_path,
    read_report,
    write_part,
)
from dfmamba.bulk.run import Progress, predict_bulk
from dfmamba.bulk.worker import PartWorker, fingerprint
from dfmamba.hands.camera import Camera
from dfmamba.io import load_image
from dfmamba.models import load
from dfmamba.predict import Predictor

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = ((48, 64), (50, 40), (64, 64), (20, 90))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of seven pictures and a text file that says it is one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        pixels = rng.integers(0, 256, (*SIZES[i % len(SIZES)], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "3.jpg").write_text("hello")
    return folder


def pack(folder: Path, target: Path, mode: str = "w") -> Path:
    """A tar file of a folder, with labels between the pictures."""
    with tarfile.open(target, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(folder.iterdir()):
            tar.add(path, f"seq/{path.name}")
            label = tarfile.TarInfo(f"seq/{path.stem}.json")
            label.size = 2
            tar.addfile(label, io.BytesIO(b"{}"))
    return target


def test_the_list(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    tar = pack(pictures, tmp_path / "b.tar")
    monkeypatch.chdir(tmp_path)
    names = [str(pictures / name) for name in sorted(path.name for path in pictures.iterdir())]
    members = [f"{tar}/seq/{Path(name).name}" for name in names]
    assert [item.name for item in find_items(["pictures", "b.tar"])] == names + members
    assert [item.name for item in find_items(["*.tar", str(pictures), "pictures/0.png"])] == members + names
    shards = tmp_path / "shards"
    shards.mkdir()
    tar.rename(shards / "b.tar")
    assert len(find_items([shards])) == 8
    (pictures / "0.png").rename(shards / "0.png")
    assert [item.member for item in find_items([shards])][:2] == ["", "seq/0.png"]


def test_sources_that_cannot_be_listed(pictures: Path, tmp_path: Path) -> None:
    packed = pack(pictures, tmp_path / "packed.tar", "w:gz")
    whole = pack(pictures, tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    for source, reason in (
        (packed, "compressed"),
        (tmp_path / "cut.tar", "cut.tar"),
        (tmp_path / "empty.tar", "no pictures in this tar"),
        (tmp_path / "none.tar", "no such tar file"),
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "*.tar.tar", "no such tar file"),
    ):
        with pytest.raises((ValueError, OSError), match=reason):
            find_items([pictures, source])


def test_members_are_read_like_files(pictures: Path, tmp_path: Path) -> None:
    tar = pack(pictures, tmp_path / "a.tar")
    for item in find_items([tar]):
        path = pictures / Path(item.member).name
        if path.suffix == ".jpg":
            with pytest.raises(ValueError, match=r"a\.tar/seq/3\.jpg: not a picture"):
                read_picture(item)
        else:
            np.testing.assert_array_equal(read_picture(item), load_image(path))
    item = find_items([tar])[-1]
    tar.write_bytes(tar.read_bytes()[: item.offset + 9])
    with pytest.raises(OSError, match=r"a\.tar"):
        read_picture(item)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
many = st.lists(st.builds(Item, names, names | st.just(""), st.integers(0), st.integers(0)), max_size=12)


@given(many, st.integers(1, 5))
def test_every_picture_is_in_one_part(items: list[Item], size: int) -> None:
    parts = [Part.from_json(part.to_json()) for part in cut(items, size)]
    assert [item for part in parts for item in part.items] == items
    assert [part.first for part in parts] == list(range(0, len(items), size))
    assert all(len(part.items) == size for part in parts[:-1])
    if items:
        assert digest(items) == digest(list(items))
        assert len({digest(items), digest(items[1:]), digest([*items, items[0]])}) == 3


def test_a_folder_belongs_to_one_call(tmp_path: Path) -> None:
    config = BulkConfig(str(tmp_path / "out"), camera=Camera(100.0, 100.0, 32.0, 24.0), box=(0, 0, 9, 9))
    items = [Item("a"), Item("b", "c", 512, 9)]
    open_folder(config, items, "test 1")
    open_folder(dataclasses.replace(config, device="cuda"), items, "test 1")
    others = {"threshold": 0.4, "batch_size": 2, "part_size": 7, "refine": False, "camera": None, "box": None}
    for name, value in others.items():
        with pytest.raises(ValueError, match=f"have {name} .*use another folder"):
            open_folder(dataclasses.replace(config, **{name: value}), items, "test 1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="have model 'test 1', these would have 'test 2'"):
        open_folder(config, items, "test 2")
    with pytest.raises(ValueError, match="have pictures 2, these would have 1"):
        open_folder(config, items[:1], "test 1")
    with pytest.raises(ValueError, match="have list '"):
        open_folder(config, items[::-1], "test 1")


def test_folders_of_unknown_origin(tmp_path: Path) -> None:
    config = BulkConfig(str(tmp_path))
    (tmp_path / "part-000000.parquet").touch()
    with pytest.raises(ValueError, match=r"holds parts but no _bulk\.json"):
        open_folder(config, [], "test")
    for content in ("[]", "{", "3"):
        (tmp_path / "_bulk.json").write_text(content)
        with pytest.raises(ValueError, match="not a manifest"):
            open_folder(config, [], "test")


@pytest.mark.parametrize(
    "changes", [{"format": "csv"}, {"part_size": 0}, {"batch_size": 0}, {"detector": "boxes.json"}]
)
def test_unusable_settings(changes: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))}: expected"):
        BulkConfig("out", **changes)
    with pytest.raises(ValueError, match="device"):
        devices_of("warp9")


def read_rows(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()


@pytest.mark.parametrize("form", FORMATS)
def test_a_part_holds_what_the_predictor_says(
    form: str, weights: str, pictures: Path, tmp_path: Path
) -> None:
    camera = Camera(100.0, 100.0, 32.0, 24.0)
    config = BulkConfig(
        str(tmp_path / "out"), weights, form, threshold=0.52, camera=camera, mirrored=True, detector="none"
    )
    counted: list[int] = []
    worker = PartWorker(config, "cpu", counted.append)
    part = Part(4, 100, tuple(find_items([pictures])))
    report = worker(part)
    assert counted == [1] * 8
    rows = read_rows(part_path(config, 4))
    assert (report.number, report.pictures, report.failed) == (4, 8, 1)
    assert report.hands == sum(row["side"] is not None for row in rows) > 0
    assert report.faults[0].startswith(f"{pictures / '3.jpg'}: not a picture")
    assert list(rows[0]) == list(COLUMNS)

    predictor = Predictor(load(weights), "cpu", detector=None)
    sides = []
    for i, item in enumerate(part.items):
        mine = [row for row in rows if row["picture"] == 100 + i]
        assert {row["path"] for row in mine} == {item.path}
        if item.path.endswith("3.jpg"):
            assert [(row["width"], row["side"]) for row in mine] == [(None, None)]
            assert mine[0]["error"].startswith("not a picture")
            continue
        expected = predictor.predict(item.path, threshold=0.52, camera=camera, mirrored=True)
        assert {(row["width"], row["height"], row["error"]) for row in mine} == {(*expected.image_size, None)}
        found = [row["side"] for row in mine if row["side"] is not None]
        assert found == [hand.side for hand in expected.hands]
        assert len(mine) == max(1, len(found))
        sides.append(len(found))
        for row, hand in zip(mine, expected.hands, strict=False):
            values = hand.to_dict()
            assert row["root"] == "camera"
            for name in ("score", "box_xyxy", "joints_2d_px", "joints_3d_mm", "joint_scores"):
                np.testing.assert_array_equal(np.float32(row[name]), np.float32(values[name]), name)
    assert len(set(sides)) > 1  # pictures with and without some hand

    content = part_path(config, 4).read_bytes()
    assert worker(part) == report
    assert part_path(config, 4).read_bytes() == content
    assert len(counted) == 8


def test_a_box_off_some_pictures_fails_only_those(weights: str, pictures: Path, tmp_path: Path) -> None:
    config = BulkConfig(str(tmp_path), weights, "jsonl", batch_size=8, threshold=0.0, box=(45, 0, 60, 15))
    part = Part(0, 0, tuple(find_items([pictures])))
    PartWorker(config, "cpu")(part)
    rows = read_rows(part_path(config, 0))
    failed = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    assert sorted(failed) == ["1.png", "3.jpg", "5.png"]
    assert failed["1.png"].startswith("box")
    assert {row["picture"] for row in rows} == set(range(8))


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_parts_are_named(form: str, tmp_path: Path) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    config, part = BulkConfig(str(tmp_path), format=form), Part(0, 5, (Item("a"), Item("b")))
    path = part_path(config, 0)
    assert read_report(config, part) is None
    rows = [{**dict.fromkeys(COLUMNS), "picture": i, "path": "p"} for i in (5, 6)]
    write_part(path, rows)
    assert read_report(config, part).pictures == 2  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"part-000000.*damaged.*remove it"):
        read_report(config, part)
    write_part(path, rows[:1])
    with pytest.raises(ValueError, match="doesn't hold the pictures of this part"):
        read_report(config, part)


def test_missing_extras_are_named(monkeypatch, pictures: Path, weights: str, tmp_path: Path) -> None:
    model = load(weights)
    for extra, library, engine in (("bulk", "pyarrow.parquet", "local"), ("ray", "ray.data", "ray")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            config = BulkConfig(
                str(tmp_path), weights, "jsonl" if engine == "ray" else "parquet", detector="none"
            )
            with pytest.raises(ImportError, match=rf"pip install 'dfmamba\[{extra}\]'"):
                predict_bulk([str(pictures)], config, model, engine)
    assert not list(tmp_path.glob("*.json"))


def test_fingerprints_tell_models_apart(weights: str, tmp_path: Path) -> None:
    first = load(weights)
    assert fingerprint(first, weights) == fingerprint(load(weights), "elsewhere")
    changed = load(weights)
    with torch.no_grad():
        next(changed.parameters()).flatten()[0] += 1e-3
    assert fingerprint(first, weights) != fingerprint(changed, weights)


def test_the_line_of_progress() -> None:
    progress = Progress(total=1000, earlier=200)
    assert progress.line(0, 5.0) == "200/1000 pictures, 0.0/s, ? left"
    progress.failed = 2
    assert progress.line(100, 10.0) == "300/1000 pictures, 10.0/s, 0:01:10 left, 2 failed"
