"""DexYCB: the official splits, a synthetic copy in the official layout, and broken copies of it."""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dfmamba.data.own_format import write_own, write_shards
from dfmamba.data.readers.dexycb import (
    SEQUENCES,
    SERIALS,
    SUBJECTS,
    DexYCB,
    read_intrinsics,
    read_labels,
    read_meta,
    split_of,
)
from dfmamba.data.readers.own import OwnData
from dfmamba.data.registry import open_dataset
from dfmamba.fixtures import dexycb as fixture
from dfmamba.fixtures import write_fixture

pytest.importorskip("warp")

QUICK = settings(deadline=None, max_examples=60)
SEED = 5
TEST_SUBJECT = SUBJECTS[2]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dexycb") / "copy"
    write_fixture("dexycb", root, count=16, seed=SEED)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def one(copy: Path, tmp_path: Path) -> Path:
    """A copy of one subject of S0's test part: eight frames, one a camera."""
    root = tmp_path / "one"
    shutil.copytree(copy / "calibration", root / "calibration")
    shutil.copytree(copy / TEST_SUBJECT, root / TEST_SUBJECT)
    return root


def frame(root: Path, camera: int = 0) -> Path:
    """Folder of the only frame of a camera in `one`."""
    return next((root / TEST_SUBJECT).glob(f"*/{SERIALS[camera]}"))


def relabel(root: Path, change: Callable[[dict[str, np.ndarray]], object], camera: int = 0) -> None:
    path = frame(root, camera) / "labels_000000.npz"
    with np.load(path, allow_pickle=False) as arrays:
        labels = dict(arrays)
    change(labels)
    np.savez_compressed(path, **labels)


def reasons(root: Path, **options: Any) -> dict[str, int]:
    """What was left out of `one`, without the nine other subjects."""
    dataset = DexYCB(root, "s0_test", **options)
    left_out = dict(dataset.report.left_out)
    assert left_out.pop("the subject's folder is missing") == 7
    assert len(dataset) + sum(left_out.values()) == 8
    return left_out


@pytest.mark.parametrize(
    ("name", "subjects", "serials", "sequences"),
    [
        ("s0_train", 10, 8, 80), ("s0_val", 2, 8, 20), ("s0_test", 8, 8, 20),
        ("s1_train", 7, 8, 100), ("s1_val", 1, 8, 100), ("s1_test", 2, 8, 100),
        ("s2_train", 10, 6, 100), ("s2_val", 10, 1, 100), ("s2_test", 10, 1, 100),
        ("s3_train", 10, 8, 75), ("s3_val", 10, 8, 10), ("s3_test", 10, 8, 15),
    ],
)  # fmt: skip
def test_split_sizes(name: str, subjects: int, serials: int, sequences: int) -> None:
    split = split_of(name)
    assert [len(split.subjects), len(split.serials), len(split.sequences)] == [subjects, serials, sequences]


@pytest.mark.parametrize("setup", ["s0", "s1", "s2", "s3"])
def test_splits_are_apart_and_complete(setup: str) -> None:
    parts = []
    for part in ("train", "val", "test"):
        split = split_of(f"{setup}_{part}")
        parts.append({(a, b, c) for a in split.subjects for b in split.serials for c in split.sequences})
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10 * 8 * SEQUENCES


def test_split_members() -> None:
    assert split_of("s0_val").subjects == (0, 1)
    assert split_of("s0_test").sequences[:3] == (4, 9, 14)
    assert split_of("s1_train").subjects == (0, 1, 2, 3, 4, 5, 9)
    assert split_of("s1_val").subjects == (6,)
    assert split_of("s1_test").subjects == (7, 8)
    assert (split_of("s2_val").serials, split_of("s2_test").serials) == ((6,), (7,))
    assert split_of("s3_val").sequences == (*range(15, 20), *range(95, 100))
    assert split_of("s3_test").sequences == (*range(35, 40), *range(55, 60), *range(75, 80))
    with pytest.raises(ValueError, match="s4_train"):
        split_of("s4_train")


def test_fixture_fills_every_split(copy: Path) -> None:
    pictures = {}
    for split in DexYCB.SPLITS:
        chosen = split_of(split)
        folders = [
            sorted((copy / SUBJECTS[i]).iterdir())[k] for i in chosen.subjects for k in chosen.sequences
        ]
        wanted = {SERIALS[i] for i in chosen.serials}
        pictures[split] = [
            path for folder in folders for path in folder.glob("*/color_*.jpg") if path.parent.name in wanted
        ]
        assert len(pictures[split]) >= 5
    for split in ("s0_train", "s0_test", "s1_val", "s3_test"):
        report = DexYCB(copy, split).report
        assert report.kept + sum(report.left_out.values()) == len(pictures[split])
        assert report.left_out == ({"no hand is labelled": 8} if split == "s0_train" else {})
    assert [len(pictures[f"s0_{part}"]) for part in ("train", "val", "test")] == [24 + 8, 8, 8]


def test_labels_are_the_renderers(copy: Path) -> None:
    dataset = open_dataset("dexycb", copy, "s0_train", depth=True, mask=True)
    rendered = fixture._Renderer(SEED)
    for index, scene, camera in ((0, 0, 0), (6, 0, 6), (8, 1, 0)):
        sample, truth = dataset[index], rendered(scene, camera)
        assert sample.present.tolist() == truth.present.tolist()
        assert sample.camera == truth.camera == fixture.intrinsics(camera)
        np.testing.assert_allclose(sample.joints_cam_mm, truth.joints_cam_mm, atol=2e-4)
        np.testing.assert_array_equal(sample.joints_2d_px, truth.joints_2d_px)
        np.testing.assert_array_equal(sample.depth_mm, np.rint(truth.depth_mm))
        np.testing.assert_array_equal(sample.mask, np.where(truth.mask == 4, 0, truth.mask))
        assert np.abs(sample.image.astype(int) - truth.image).mean() < 4
        np.testing.assert_allclose(sample.box_xyxy, sample.box_of(int(sample.present[1])))


def test_projection_depth_and_sides_agree(copy: Path) -> None:
    seen, skin_to_joint = set(), []
    for split in ("s0_train", "s0_val", "s0_test"):
        for sample in DexYCB(copy, split, depth=True, mask=True):
            side = int(sample.present[1])
            seen.add(side)
            off = sample.camera.project(sample.joints_cam_mm)[side] - sample.joints_2d_px[side]
            assert np.abs(off).max() < 0.01
            at = np.rint(sample.joints_2d_px[side]).astype(int)
            skin = sample.mask[at[:, 1], at[:, 0]] == side + 1
            below = (sample.joints_cam_mm[side, :, 2] - sample.depth_mm[at[:, 1], at[:, 0]])[skin]
            skin_to_joint.append(below)
            assert sample.valid[side].all()
            assert not sample.valid[1 - side].any()
    assert seen == {0, 1}
    below = np.concatenate(skin_to_joint)  # more than a few mm where another finger is in front
    assert 3 < np.median(below) < 30
    assert (below > -6).mean() > 0.97


def test_cameras_agree_through_the_extrinsics(copy: Path) -> None:
    (path,) = (copy / "calibration").glob("extrinsics_*/extrinsics.yml")
    extrinsics = yaml.safe_load(path.read_text())["extrinsics"]
    dataset = DexYCB(copy, "s0_test")
    world = []
    for i, serial in enumerate(SERIALS):
        sample = dataset.labels(i)
        assert sample.id.split("/")[2] == serial
        matrix = np.array(extrinsics[serial]).reshape(3, 4)
        joints = sample.joints_cam_mm[sample.present][0]
        world.append(joints @ matrix[:, :3].T + matrix[:, 3] * 1000)
    assert np.abs(np.stack(world) - world[0]).max() < 0.01


def test_official_numbers_count_frames_without_a_hand(copy: Path) -> None:
    dataset = DexYCB(copy, "s0_train")
    numbers = [int(dataset.index[i].extra[0]) for i in range(len(dataset))]
    assert numbers == [*range(0, 16, 2), *range(16, 32)]  # two frames a camera in the first sequence
    assert [dataset.index.text("id", i)[-6:] for i in range(2)] == ["000000", "000000"]


def test_truncated_labels(one: Path) -> None:
    path = frame(one) / "labels_000000.npz"
    path.write_bytes(path.read_bytes()[:-200])
    (frame(one, 1) / "labels_000000.npz").write_bytes(b"")
    assert reasons(one) == {"the file of labels is damaged": 1, "the file of labels is empty": 1}


def test_half_finished_download(one: Path) -> None:
    (frame(one, 0) / "color_000000.jpg").unlink()
    (frame(one, 1) / "labels_000000.npz").unlink()
    (frame(one, 2) / "color_000000.jpg").write_bytes(b"")
    shutil.rmtree(frame(one, 3))
    assert reasons(one) == {
        "the picture is missing": 1,
        "the file of labels is missing": 1,
        "the picture is empty": 1,
        "the camera's folder is missing": 1,
    }


def test_unusable_labels(one: Path) -> None:
    def put(name: str, place: Any, value: Any) -> Callable[[dict[str, np.ndarray]], object]:
        return lambda labels: labels[name].__setitem__(place, value)

    def one_point(labels: dict[str, np.ndarray]) -> None:
        for name in ("joint_3d", "joint_2d"):
            labels[name][0] = labels[name][0, 0]

    changes = (
        put("joint_3d", (0, 3, 1), np.nan),
        put("joint_3d", (0, 8, 2), -0.2),
        lambda labels: labels.update(joint_3d=labels["joint_3d"][:, :20]),
        one_point,
        lambda labels: labels.update(joint_3d=np.full((1, 21, 3), "far")),
        lambda labels: labels.pop("joint_2d"),
    )
    for camera, change in enumerate(changes):
        relabel(one, change, camera)
    assert reasons(one) == {
        "a joint is not finite or absurdly far": 1,
        "a joint lies behind the camera": 1,
        "wrong number of joints": 1,
        "the box has no area": 1,
        "the file of labels is damaged": 2,
    }


def test_wrong_intrinsics(one: Path) -> None:
    path = one / "calibration" / "intrinsics" / f"{SERIALS[4]}_640x480.yml"
    path.write_text("color: {fx: 900, fy: 900, ppx: 100, ppy: 100}\n")
    assert reasons(one) == {"3D joints don't fall on their pixels: wrong intrinsics": 1}
    path.write_text("color: {fx: -900, fy: 900, ppx: 100, ppy: 100}\n")
    assert reasons(one) == {f"calibration/intrinsics/{path.name} is damaged": 1}
    path.unlink()
    with pytest.raises(OSError, match=path.name):
        DexYCB(one, "s0_test")


def test_a_damaged_meta_file_costs_its_own_sequence_only(copy: Path, tmp_path: Path) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(copy, root)
    whole = DexYCB(root, "s0_train")
    first = whole.index[0].group
    (root / first / "meta.yml").write_text("num_frames: [\n")
    damaged = DexYCB(root, "s0_train")
    others = [row for row in map(whole.index.__getitem__, range(len(whole))) if row.group != first]
    found = [damaged.index[i] for i in range(len(damaged))]
    assert [(row.id, row.extra) for row in found] == [(row.id, row.extra) for row in others]
    assert damaged.report.left_out["the sequence's meta.yml is damaged"] >= len(whole) - len(others) > 0
    assert len(others) > 0


def test_damaged_pictures_are_named(one: Path) -> None:
    dataset = DexYCB(one, "s0_test", depth=True)
    picture, depth = (frame(one) / name for name in ("color_000000.jpg", "aligned_depth_to_color_000000.png"))
    depth.write_bytes(depth.read_bytes()[:80])
    with pytest.raises(ValueError, match=r"aligned_depth_to_color_000000\.png"):
        dataset[0]
    Image.new("L", (640, 480)).save(depth)
    with pytest.raises(ValueError, match="16-bit"):
        dataset[0]
    picture.write_bytes(picture.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"color_000000\.jpg"):
        dataset[0]
    (frame(one, 1) / "color_000000.jpg").unlink()
    with pytest.raises(OSError, match=r"color_000000\.jpg"):
        dataset[1]
    Image.new("RGB", (64, 48)).save(frame(one, 2) / "color_000000.jpg")
    with pytest.raises(ValueError, match="64 x 48"):
        dataset[2]


def test_missing_sequences_are_refused(one: Path) -> None:
    first = sorted((one / TEST_SUBJECT).iterdir())[0]
    shutil.rmtree(first)
    with pytest.raises(ValueError, match="99 sequences, expected 100"):
        DexYCB(one, "s0_test")
    assert DexYCB(one, "s0_train", partial=True).report.kept == 8  # what was fifth is fourth now
    (first.parent / first.name).mkdir()
    with pytest.raises(OSError, match=r"meta\.yml"):
        DexYCB(one, "s0_train")


def test_nothing_there(tmp_path: Path, one: Path) -> None:
    with pytest.raises(OSError, match="no such folder"):
        DexYCB(tmp_path / "nowhere", "s0_test")
    with pytest.raises(ValueError, match="no sequence"):
        DexYCB(tmp_path, "s0_test")
    with pytest.raises(ValueError, match="expected one of"):
        DexYCB(one, "train")


def test_filters(one: Path) -> None:
    def half_outside(labels: dict[str, np.ndarray]) -> None:
        labels["joint_3d"][0, :, 0] += (
            (20.0 - labels["joint_2d"][0, 9, 0]) / 620 * labels["joint_3d"][0, :, 2]
        )
        labels["joint_2d"][0, :, 0] += 20.0 - labels["joint_2d"][0, 9, 0]

    def hidden_wrist(labels: dict[str, np.ndarray]) -> None:
        labels["joint_2d"][0, 0] = -1

    relabel(one, half_outside)
    relabel(one, hidden_wrist, 1)
    assert reasons(one) == {}
    dataset = DexYCB(one, "s0_test")
    count = int(dataset.labels(0).visible.sum())
    assert 0 < count < 21
    assert dataset.labels(1).visible.sum() == 20
    assert dataset.labels(1).valid.sum() == 21
    assert reasons(one, min_visible=20) == {"fewer joints are visible than min_visible": 1}
    left_out = reasons(one, detnet_filter=True)
    labels = dataset.labels(0)
    side = int(labels.present[1])
    unusable = count < 10 or not labels.visible[side, [0, 9]].all()
    assert left_out == {"too little is visible for detnet_filter": 1 + unusable}


def test_index_is_renewed(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reasons(one) == {}
    with monkeypatch.context() as patch:
        patch.setattr(DexYCB, "rows", lambda self, report: pytest.fail("indexed again"))
        assert reasons(one) == {}
    relabel(one, lambda labels: labels["joint_3d"].fill(-1))
    assert reasons(one) == {"no hand is labelled": 1}
    picture = frame(one, 2) / "color_000000.jpg"
    content = picture.read_bytes()
    picture.unlink()
    assert reasons(one) == {"no hand is labelled": 1, "the picture is missing": 1}
    picture.write_bytes(content)
    assert reasons(one) == {"no hand is labelled": 1}


def test_export(one: Path, tmp_path: Path) -> None:
    dataset = DexYCB(one, "s0_test", depth=True)
    (frame(one, 7) / "color_000000.jpg").write_bytes(b"\xff\xd8 no picture")
    report = write_own(dataset, tmp_path / "own", "test")
    assert (report.kept, sum(report.left_out.values())) == (7, 1)
    exported = OwnData(tmp_path / "own", "test")
    assert len(exported) == 7
    for i in range(7):
        ours, theirs = exported[i], dataset[i]
        for name in ("image", "depth_mm", "joints_cam_mm", "joints_2d_px", "valid", "visible", "box_xyxy"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
        assert (ours.id, ours.camera) == (theirs.id, theirs.camera)
        copied = tmp_path / "own" / exported.index[i].picture
        assert copied.read_bytes() == (one / dataset.index[i].picture).read_bytes()
    assert write_shards(dataset, tmp_path / "shards", per_shard=4).kept == 7
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["000000.tar", "000001.tar"]


META = (
    b"serials:\n- '836212060125'\nnum_frames: 72\nextrinsics: '20200702_151821'\nycb_ids:\n- 1\n"
    b"ycb_grasp_ind: 0\nmano_sides:\n- right\nmano_calib:\n- 20200709-subject-01_right\n"
)
INTRINSICS = b"color:\n  fx: 612.5\n  fy: 612.0\n  ppx: 318.25\n  ppy: 241.75\n"
LABELS = io.BytesIO()
np.savez_compressed(LABELS, joint_3d=np.linspace(0, 1, 63).reshape(1, 21, 3), joint_2d=np.ones((1, 21, 2)))


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_meta, META),
        (read_intrinsics, INTRINSICS),
        (lambda path: read_labels(path, ("joint_3d", "joint_2d")), LABELS.getvalue()),
    ],
    ids=["meta", "intrinsics", "labels"],
)
@QUICK
@given(data=st.data())
def test_mutated_bytes(read: Callable[[Path], object], content: bytes, data: st.DataObject) -> None:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some file"
        path.write_bytes(changed[:end])
        try:
            read(path)
        except (ValueError, OSError) as error:
            assert str(path) in str(error)


def test_labels_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "labels.npz"
    np.savez(path, joint_3d=np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match=r"labels\.npz"):
        read_labels(path, ("joint_3d",))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("joint_3d.npy", b"\0" * (1 << 23))
    with pytest.raises(ValueError, match="too large"):
        read_labels(path, ("joint_3d",))
    path.unlink()
    with pytest.raises(OSError, match=r"labels\.npz"):
        read_labels(path, ("joint_3d",))
