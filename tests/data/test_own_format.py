"""Writing the own format and shards: what is written reads back the same."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from dfmamba.data.own_format import (
    Source,
    entry_of,
    write_own,
    write_samples,
    write_shards,
)
from dfmamba.data.readers.own import OwnData
from dfmamba.data.registry import open_dataset
from dfmamba.data.sample import HandSample, encode_depth_png, load_depth_png
from dfmamba.fixtures import write_fixture
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import JOINT_NAMES, JOINT_ORDERS

FIELDS = ("image", "depth_mm", "joints_cam_mm", "joints_2d_px", "valid", "visible", "present", "box_xyxy")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def sample_of(number: int, order: str = "openpose", **changes: object) -> HandSample:
    """Random labels of right, left or both hands on a random picture with depth."""
    rng = np.random.default_rng(number)
    joints = len(JOINT_ORDERS[order].joints)
    present = np.array([number % 3 != 1, number % 3 != 0])
    valid = present[:, None] & (rng.random((2, joints)) < 0.8)
    camera = Camera(40.3, 41.7, 15.5, 11.1)
    cam = rng.uniform([-100, -80, 300], [100, 80, 500], (2, joints, 3)).astype(np.float32)
    cam = np.where(valid[..., None], cam, np.float32(0))
    pixels = camera.project(cam).astype(np.float32)
    pixels = np.where(valid[..., None], pixels, np.float32(0))
    sample = HandSample(
        image=rng.integers(0, 256, (24, 32, 3), dtype=np.uint8),
        depth_mm=rng.integers(0, 65536, (24, 32)).astype(np.float32) * np.float32(0.1),
        joints_cam_mm=cam,
        joints_2d_px=pixels,
        valid=valid,
        visible=valid & (rng.random((2, joints)) < 0.5),
        present=present,
        camera=camera,
        box_xyxy=box_of_points(pixels, valid),
        id=f"random {number}",
        order=order,
    )
    return sample.replace(**changes)


def assert_same(ours: HandSample, theirs: HandSample) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert (ours.id, ours.camera) == (theirs.id, theirs.camera)


def test_samples_read_back_the_same(tmp_path: Path) -> None:
    samples = [sample_of(i) for i in range(6)]
    samples += [sample_of(6, image=None), sample_of(7, depth_mm=None), sample_of(8, camera=None)]
    report = write_samples(map(Source, samples), tmp_path, "val")
    assert report.lines == ["9 samples"]
    dataset = OwnData(tmp_path, "val")
    assert dataset.report.lines == ["9 samples"]
    for ours, theirs in zip(dataset, samples, strict=True):
        assert_same(ours, theirs)


def test_export_of_an_export(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpeg"
    sample = sample_of(0, depth_mm=None)
    Image.fromarray(sample.image).save(photo)
    write_samples([Source(sample, photo), Source(sample_of(1))], tmp_path / "a", "train")
    first = OwnData(tmp_path / "a", "train")
    assert (tmp_path / "a" / first.index[0].picture).read_bytes() == photo.read_bytes()
    write_own(first, tmp_path / "b", "train")
    second = OwnData(tmp_path / "b", "train")
    for i in range(2):
        assert_same(second[i], first[i])
        path = first.index[i].picture
        assert second.index[i].picture == path
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert (tmp_path / "a" / "train.json").read_bytes() == (tmp_path / "b" / "train.json").read_bytes()


def test_damaged_pictures_are_left_out(tmp_path: Path) -> None:
    write_samples(map(Source, [sample_of(0), sample_of(1), sample_of(2)]), tmp_path / "a", "train")
    dataset = OwnData(tmp_path / "a", "train")
    (tmp_path / "a" / dataset.index[1].picture).write_bytes(b"nothing")
    (tmp_path / "a" / dataset.index[2].depth).unlink()
    for report in (write_own(dataset, tmp_path / "b", "test"), write_shards(dataset, tmp_path / "c")):
        assert report.lines == [
            "1 samples",
            "left out 2: picture or depth map is missing or damaged (such as random 1, random 2)",
        ]
    assert [sample.id for sample in OwnData(tmp_path / "b", "test")] == ["random 0"]


def test_joints_of_another_order(tmp_path: Path) -> None:
    sample = sample_of(0, "nyu14", image=None)
    write_samples([Source(sample)], tmp_path, "test")
    (read,) = OwnData(tmp_path, "test")
    names = JOINT_ORDERS["nyu14"].joints
    known = {joint: JOINT_NAMES.index(name) for joint, name in enumerate(names) if name is not None}
    assert len(known) == 10
    for joint, canonical in known.items():
        assert read.valid[0, canonical] == sample.valid[0, joint]
        np.testing.assert_array_equal(read.joints_cam_mm[0, canonical], sample.joints_cam_mm[0, joint])
    assert read.valid.sum() == sample.valid[0, list(known)].sum()


def test_nothing_is_overwritten_or_left_half(tmp_path: Path) -> None:
    write_samples([Source(sample_of(0))], tmp_path, "train")
    with pytest.raises(FileExistsError, match=r"train\.json"):
        write_samples([Source(sample_of(1))], tmp_path, "train")
    with pytest.raises(ValueError, match="split is 'training'"):
        write_samples([], tmp_path, "training")
    with pytest.raises(ValueError, match="neither picture nor depth"):
        write_samples([Source(sample_of(1, image=None, depth_mm=None))], tmp_path, "val")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "train.json"]


def test_shards(tmp_path: Path) -> None:
    samples = [sample_of(i) for i in range(5)] + [sample_of(5, depth_mm=None)]
    write_samples(map(Source, samples), tmp_path / "own", "train")
    dataset = OwnData(tmp_path / "own", "train")
    assert write_shards(dataset, tmp_path / "a", per_shard=4).lines == ["6 samples"]
    shards = sorted((tmp_path / "a").iterdir())
    assert [path.name for path in shards] == ["000000.tar", "000001.tar"]
    members: dict[str, bytes] = {}
    for shard, keys in zip(shards, (range(4), range(4, 6)), strict=True):
        with tarfile.open(shard) as tar:
            inside = {member.name: tar.extractfile(member).read() for member in tar}
        assert {name.split(".")[0] for name in inside} == {f"{key:08d}" for key in keys}
        members |= inside
    assert "00000005.depth.png" not in members
    header = {
        k: v for k, v in json.loads((tmp_path / "own" / "train.json").read_text()).items() if k != "samples"
    }
    for i, sample in enumerate(samples):
        key = f"{i:08d}"
        assert json.loads(members[f"{key}.json"]) == header | entry_of(sample)
        with Image.open(io.BytesIO(members[f"{key}.png"])) as picture:
            np.testing.assert_array_equal(np.asarray(picture), sample.image)
    write_shards(dataset, tmp_path / "b", per_shard=4)
    for shard in shards:
        assert shard.read_bytes() == (tmp_path / "b" / shard.name).read_bytes()
    with pytest.raises(FileExistsError, match="holds shards"):
        write_shards(dataset, tmp_path / "a")
    with pytest.raises(ValueError, match="per_shard is 0"):
        write_shards(dataset, tmp_path / "c", per_shard=0)


@settings(deadline=None, max_examples=40)
@given(arrays(np.float32, (3, 4), elements=st.floats(width=32)))
def test_any_depth(tmp_path_factory: pytest.TempPathFactory, depth: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("depth") / "depth.png"
    path.write_bytes(encode_depth_png(depth))
    read = load_depth_png(path, 0.1)
    fits = (depth > 0.06) & (depth < 6553.5)
    np.testing.assert_allclose(read[fits], depth[fits], atol=0.0506)
    assert (read[~(fits | (np.abs(depth) <= 0.06) | (np.abs(depth - 6553.5) < 0.1))] == 0).all()


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture, written before a test's own cache hides the renderer's compiled kernels."""
    pytest.importorskip("warp")
    root = tmp_path_factory.mktemp("synthetic") / "own"
    write_fixture("own", root, count=6, seed=3)
    return root


def test_fixture(synthetic: Path) -> None:
    train, val = (open_dataset("own", synthetic, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 8)
    assert [int(train.labels(i).present.sum()) for i in range(3)] == [1, 2, 1]
    for sample in train:
        assert sample.image.shape == (192, 192, 3)
        off = sample.camera.project(sample.joints_cam_mm)[sample.valid] - sample.joints_2d_px[sample.valid]
        assert np.abs(off).max() < 0.01
    assert not np.array_equal(train[0].image, val[0].image)
