"""Tar shards: what is written reads back the same, from damaged ones too; any bytes give an answer."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfmamba.data.own_format import Source, entry_of, header, write_shards, write_tar
from dfmamba.data.readers.shards import ShardedDataset
from dfmamba.data.sample import HandSample
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.camera import Camera
from dfmamba.io.tar import decode_picture, tar_members

FIELDS = ("image", "depth_mm", "joints_cam_mm", "joints_2d_px", "valid", "visible", "present", "box_xyxy")
CAMERA = Camera(40.3, 41.7, 15.5, 11.1)
DAMAGED = "the rest of a damaged or truncated shard"


def sample_of(number: int, **changes: object) -> HandSample:
    """A right hand at random on a random picture with depth."""
    rng = np.random.default_rng(number)
    joints = np.zeros((2, 21, 3), np.float32)
    joints[0] = rng.uniform([-100, -80, 300], [100, 80, 500], (21, 3))
    valid = np.repeat([[True], [False]], 21, axis=1)
    pixels = np.where(valid[..., None], CAMERA.project(joints), 0).astype(np.float32)
    sample = HandSample(
        image=rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
        depth_mm=rng.integers(0, 65536, (24, 32)).astype(np.float32) * np.float32(0.1),
        joints_cam_mm=joints,
        joints_2d_px=pixels,
        valid=valid,
        visible=valid & (rng.random((2, 21)) < 0.5),
        present=np.array([True, False]),
        camera=CAMERA,
        box_xyxy=box_of_points(pixels, valid),
        id=f"number {number}",
    )
    return sample.replace(**changes)


def write(root: Path, counts: tuple[int, ...], split: str = "train") -> list[Path]:
    """Shards with so many samples each, numbered on."""
    paths, first = [], 0
    for shard, count in enumerate(counts):
        paths.append(root / split / f"{shard:06d}.tar")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        write_tar(paths[-1], (Source(sample_of(first + i)) for i in range(count)), first)
        first += count
    return paths


def ids(dataset: ShardedDataset) -> list[int]:
    return [int(sample.id.split()[1]) for sample in dataset]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_samples_read_back_the_same(tmp_path: Path) -> None:
    samples = [sample_of(0), sample_of(1, image=None), sample_of(2, depth_mm=None), sample_of(3, camera=None)]
    (tmp_path / "val").mkdir()
    assert write_tar(tmp_path / "val" / "000000.tar", map(Source, samples), 5) == 4
    dataset = ShardedDataset(tmp_path, "val")
    assert dataset.report.lines == ["4 samples"]
    for copy in (dataset, pickle.loads(pickle.dumps(dataset))):
        for ours, theirs in zip(copy, samples, strict=True):
            for name in FIELDS:
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
            assert (ours.id, ours.camera) == (theirs.id, theirs.camera)


def test_shards_of_shards_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, (3, 2))
    write_shards(ShardedDataset(tmp_path, "train"), tmp_path / "again", per_shard=3)
    for name in ("000000.tar", "000001.tar"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "train" / name).read_bytes()


def test_the_index_is_renewed_with_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, (2, 3))
    assert ids(ShardedDataset(tmp_path, "train")) == list(range(5))
    with monkeypatch.context() as patch:
        patch.setattr("dfmamba.data.readers.shards.tar_members", None)
        assert len(ShardedDataset(tmp_path, "train")) == 5
    write(tmp_path, (2, 3, 1))
    assert ids(ShardedDataset(tmp_path, "train")) == list(range(6))


def test_shards_are_chosen_by_patterns(tmp_path: Path) -> None:
    write(tmp_path, (2, 1, 3))
    assert ids(ShardedDataset(tmp_path, "train", shards="train/*2.tar")) == [3, 4, 5]
    both = ShardedDataset(tmp_path / "train", "train", shards=["000002.tar", "00000[12].tar"])
    assert ids(both) == [2, 3, 4, 5]
    np.testing.assert_array_equal(both.shard_numbers(), [0, 1, 1, 1])
    with pytest.raises(OSError, match=r"no shard matches val/\*\.tar"):
        ShardedDataset(tmp_path, "val")
    for pattern in ("/elsewhere/*.tar", ["train/000000.tar", ""]):
        with pytest.raises(ValueError, match="expected a pattern relative to"):
            ShardedDataset(tmp_path, "train", shards=pattern)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 0.999])
def test_a_truncated_shard_is_used_up_to_its_end(tmp_path: Path, share: float) -> None:
    paths = write(tmp_path, (1, 4, 2))
    content = paths[1].read_bytes()
    with tarfile.open(paths[1]) as tar:
        ends = [m.offset_data + m.size for m in tar if m.name.endswith(".json")]
    cut = int(share * (ends[-1] + 512))
    paths[1].write_bytes(content[:cut])
    dataset = ShardedDataset(tmp_path, "train")
    whole = sum(end <= cut for end in ends)
    assert ids(dataset) == [0, *range(1, 1 + whole), 5, 6]
    left_out = dict(dataset.report.left_out)
    assert left_out.pop(DAMAGED) == 1
    assert sum(left_out.values()) <= 1  # the sample that was cut
    assert "train/000001.tar" in dataset.report.examples[DAMAGED][0]


def test_empty_compressed_and_foreign_files(tmp_path: Path) -> None:
    paths = write(tmp_path, (2, 0, 1))
    assert ShardedDataset(tmp_path, "train").report.lines == ["3 samples"]
    with tarfile.open(paths[1], "w:gz") as tar:
        add(tar, "a.json", b"{}")
    (tmp_path / "train" / "notes.tar").write_text("nothing of the kind")
    dataset = ShardedDataset(tmp_path, "train")
    assert ids(dataset) == [0, 1, 2]
    assert dataset.report.left_out == {DAMAGED: 2}
    assert all("no tar file, or a compressed one" in text for text in dataset.report.examples[DAMAGED])
    for path in (paths[0], paths[2]):
        path.unlink()
    with pytest.raises(ValueError, match="no usable sample in shards train"):
        ShardedDataset(tmp_path, "train")


def test_other_writers_and_samples_that_cannot_be_used(tmp_path: Path) -> None:
    text = header() | entry_of(sample_of(0))
    picture = next(
        m for m in tar_members(write(tmp_path, (1,))[0])[0] if m.name.endswith("00.png")
    ).read_bytes()
    (tmp_path / "val").mkdir()
    with tarfile.open(tmp_path / "val" / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("folder/.hidden"))
        add(tar, "ä/x.1.json", b"{}")
        long = "long/" * 50
        add(tar, f"{long}one.json", json.dumps({k: v for k, v in text.items() if k != "size"}).encode())
        add(tar, f"{long}one.PNG", picture)
        add(tar, f"{long}one.cls", b"7")
        add(tar, "two.png", picture)
        add(tar, "three.json", json.dumps(text).encode())
        for name, change in (("four", {"units": "ells"}), ("five", {"colour": 1}), ("six", {"hands": 3})):
            add(tar, f"{name}.png", picture)
            add(tar, f"{name}.json", json.dumps(text | change).encode())
        add(tar, "seven.png", picture)
        add(tar, "seven.json", b"[" * 100_000)
        add(tar, "eight.png", picture)
        add(tar, "eight.json", json.dumps(text | {"camera": [0, 0, 0, 0]}).encode())
        add(tar, "nine.png", b"no picture")
        add(tar, "nine.json", json.dumps({k: v for k, v in text.items() if k != "size"}).encode())
    dataset = ShardedDataset(tmp_path, "val")
    assert [sample.id for sample in dataset] == ["number 0"]
    assert dataset.labels(0).box_xyxy.any()
    assert dataset.report.left_out == {
        "the shard lacks its labels, or both picture and depth map": 3,
        "labels break the own format": 4,
        "the camera is not four usable numbers: wrong intrinsics": 1,
        "the picture or depth map is damaged": 1,
    }
    named = dataset.report.examples["labels break the own format"]
    assert "a.tar: four.json: units are 'ells'" in named[0]
    assert "a.tar: five.json: unknown key 'colour'" in named[1]


def test_pictures_that_are_damaged_or_gone(tmp_path: Path) -> None:
    (path,) = write(tmp_path, (2,))
    dataset = ShardedDataset(tmp_path, "train")
    members = tar_members(path)[0]
    content = bytearray(path.read_bytes())
    content[members[0].offset : members[0].offset + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"000000\.tar: number 0: not a picture"):
        dataset[0]
    path.write_bytes(content[: members[4].offset + 3])
    with pytest.raises(OSError, match="ends inside of number 1; it was longer when it was indexed"):
        dataset[1]
    path.unlink()
    with pytest.raises(FileNotFoundError):
        dataset[1]


def test_a_picture_of_another_size(tmp_path: Path) -> None:
    text = header() | entry_of(sample_of(0)) | {"size": [24, 32]}
    (path,) = write(tmp_path, (1,))
    picture, depth, _ = (member.read_bytes() for member in tar_members(path)[0])
    with tarfile.open(path, "w") as tar:
        for name, content in (("a.png", picture), ("a.depth.png", depth)):
            add(tar, name, content)
        add(tar, "a.json", json.dumps(text).encode())
    dataset = ShardedDataset(tmp_path, "train")
    with pytest.raises(ValueError, match="32 x 24 pixels; the labels say 24 x 32"):
        dataset[0]


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("one"), (3,))[0].read_bytes()


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes(one_shard: bytes, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(one_shard)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, len(content) - 1), st.integers(0, 511)))
        new = data.draw(st.one_of(st.binary(min_size=1, max_size=12), st.just(b"\x80" + b"\xff" * 11)))
        content[at : at + len(new)] = new
    path = tmp_path / "train" / "000000.tar"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        dataset = ShardedDataset(tmp_path, "train")
    except ValueError as error:
        assert "no usable sample" in str(error)
        return
    assert len(dataset) <= 3
    for i in range(len(dataset)):
        try:
            assert dataset[i].joints_cam_mm.shape == (2, 21, 3)
        except ValueError as error:
            assert "000000.tar" in str(error)


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=200))
def test_any_picture(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"somewhere: (the file is empty|not a picture|damaged)"):
        decode_picture(content, "somewhere")
