"""NYU: the reader on a fixture, on the real frame and labels, and on broken copies."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from dfmamba.data.readers.nyu import CAMERA, LABELS, MOST_APART_MM, NyuHands, read_labels
from dfmamba.data.registry import open_dataset
from dfmamba.fixtures import nyu as fixture
from dfmamba.fixtures import write_fixture
from dfmamba.hands.skeleton import NYU_SUBSET, REFERENCE_BONES_MM, joint_order
from dfmamba.io.joint_files import read_joint_file
from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS, score_depth

NAMES = joint_order("nyu").labels
TRAIN, TEST = 5, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("nyu")
    write_fixture("nyu", root, count=TRAIN, seed=3)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@dataclass
class Labels:
    """What a `joint_data.mat` holds."""

    joint_uvd: np.ndarray
    joint_xyz: np.ndarray
    joint_names: np.ndarray

    def write(self, root: Path, split: str = "test") -> Path:
        (root / split).mkdir(parents=True, exist_ok=True)
        savemat(root / split / LABELS, vars(self), do_compression=True)
        return root


def labels_of(xyz_down: np.ndarray) -> Labels:
    """Official labels of joints (3, N, 36, 3) in the camera frame, y down."""
    uvd = np.concatenate([CAMERA.project(xyz_down), xyz_down[..., 2:]], axis=-1)
    return Labels(uvd, xyz_down * (1.0, -1.0, 1.0), np.array([NAMES], dtype=object))


def plain_hand(frames: int) -> np.ndarray:
    """(3, frames, 36, 3) joints spread over 160 mm at 700 mm."""
    rng = np.random.default_rng(5)
    return rng.uniform(-80, 80, (3, frames, 36, 3)) + np.array([0.0, 0.0, 700.0])


def write_pictures(root: Path, frames: int, split: str = "test", value: int = 700) -> None:
    for i in range(frames):
        fixture.save_depth(root / split / f"depth_1_{i + 1:07d}.png", np.full((480, 640), float(value)))


def test_fixture_is_read_as_it_was_made(made: Path) -> None:
    for split, count in (("train", TRAIN), ("test", TEST)):
        raw = loadmat(made / split / LABELS)
        assert [str(name[0]) for name in raw["joint_names"][0]] == list(NAMES)
        data = open_dataset("nyu", made, split)
        assert len(data) == count
        assert data.report.left_out == {}
        for i, sample in enumerate(data):
            xyz = raw["joint_xyz"][0, i, list(NYU_SUBSET)] * (1, -1, 1)
            uvd = raw["joint_uvd"][0, i, list(NYU_SUBSET)]
            assert np.allclose(sample.joints_cam_mm[0], xyz, atol=1e-3)
            assert np.allclose(sample.joints_2d_px[0], uvd[:, :2], atol=1e-3)
            assert np.allclose(sample.centre_mm, xyz.mean(axis=0), atol=1e-3)
            assert sample.present.tolist() == [True, False]
            assert not sample.valid[1].any()
            assert sample.order == "nyu14"
            assert sample.image is None
            assert sample.depth_mm.shape == (480, 640)


def test_fixture_shows_its_joints(made: Path) -> None:
    for sample in NyuHands(made, "train", synthetic=True):
        column, row = np.rint(sample.joints_2d_px[0]).astype(int).T
        below = sample.joints_cam_mm[0, :, 2] - sample.depth_mm[row, column]
        seen = sample.depth_mm[row, column] > 0
        assert seen.mean() > 0.8
        assert below[seen].min() > -4.0  # at a silhouette the skin may lie behind the joint
        assert np.median(below[seen]) < 60.0  # fingers hide others
        tip_to_middle = np.linalg.norm(sample.joints_cam_mm[0, 4] - sample.joints_cam_mm[0, 5])
        assert 0.5 * REFERENCE_BONES_MM[10] < tip_to_middle < 1.5 * REFERENCE_BONES_MM[10:12].sum()


def test_other_cameras_and_rendered_depth(made: Path) -> None:
    raw = loadmat(made / "train" / LABELS)
    for camera in (2, 3):
        data = NyuHands(made, "train", camera=camera)
        assert len(data) == fixture.EXTRA_FRAMES
        assert data.report.left_out == {"picture missing": TRAIN - fixture.EXTRA_FRAMES}
        uvd = raw["joint_uvd"][camera - 1, 0, list(NYU_SUBSET)]
        assert np.allclose(data[0].joints_2d_px[0], uvd[:, :2], atol=1e-3)
        assert data[0].id == f"train/depth_{camera}_0000001"
    rendered, measured = NyuHands(made, "train", synthetic=True)[0], NyuHands(made, "train")[0]
    assert rendered.id == "train/synthdepth_1_0000001"
    assert np.array_equal(rendered.joints_cam_mm, measured.joints_cam_mm)
    both = (rendered.depth_mm > 0) & (measured.depth_mm > 0)
    assert np.median(np.abs(rendered.depth_mm - measured.depth_mm)[both]) < 10
    with pytest.raises(ValueError, match="camera is 4; expected 1, 2 or 3"):
        NyuHands(made, "train", camera=4)


def bend(joints: np.ndarray) -> np.ndarray:
    """(N, 14, 3) -> (N,): mm that the fingers bend to one side of the palm; right and left differ."""
    wrist = joints[:, 11:13].mean(axis=1)
    normal = np.cross(joints[:, 12] - joints[:, 11], joints[:, 13] - wrist)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    bones = (joints[:, 0:8:2] - joints[:, 1:8:2]).mean(axis=1)
    return (normal * bones).sum(axis=-1)


def test_fixture_has_the_same_hand_as_the_real_labels(made: Path, samples_dir: Path) -> None:
    real = read_joint_file(samples_dir / "nyu" / "nyu_test_groundtruth_label.txt", 14)
    real_bend = bend(DEPTH_BENCHMARKS["nyu"].to_mm(real))
    ours = np.stack(
        [sample.joints_cam_mm[0] for sample in [*NyuHands(made, "train"), *NyuHands(made, "test")]]
    )
    strong, ours_strong = real_bend[np.abs(real_bend) > 15], bend(ours)[np.abs(bend(ours)) > 15]
    assert len(ours_strong) >= 3
    side = np.sign(np.median(strong))
    assert (np.sign(strong) == side).mean() > 0.9
    assert (np.sign(ours_strong) == side).all()


def test_real_frame(samples_dir: Path, tmp_path: Path) -> None:
    """Coding of depth, choice of the 14 joints, camera: the skin lies just before each labelled joint."""
    truth = read_joint_file(samples_dir / "nyu" / "nyu_test_groundtruth_label.txt", 14)[:3]
    uvd = np.zeros((3, 3, 36, 3))
    uvd[0][:, list(NYU_SUBSET)] = truth[:3]
    xyz = DEPTH_BENCHMARKS["nyu"].to_mm(uvd) * (1.0, -1.0, 1.0)
    root = Labels(uvd, xyz, np.array([NAMES], dtype=object)).write(tmp_path / "nyu")
    for name in ("depth_1_0000001.png", "rgb_1_0000001.png"):
        shutil.copy(samples_dir / "nyu" / "test" / name, root / "test" / name)
    data = open_dataset("nyu", root, "test")
    assert data.report.lines == [
        "1 samples",
        "left out 2: picture missing (such as test/depth_1_0000002, test/depth_1_0000003)",
    ]
    sample = data[0]
    assert sample.depth_mm[sample.depth_mm > 0].min() == 731
    assert sample.depth_mm.max() == 2001
    column, row = np.rint(sample.joints_2d_px[0]).astype(int).T
    below = sample.joints_cam_mm[0, :, 2] - sample.depth_mm[row, column]
    assert below.min() > 2.5
    assert below.max() < 34
    # Exactly what the benchmark scores: the round trip through the sample loses nothing.
    again = DEPTH_BENCHMARKS["nyu"].from_mm(sample.joints_cam_mm[:1])
    assert score_depth(DEPTH_BENCHMARKS["nyu"], again, truth[:1])["mean_error_mm"] < 1e-4


def test_centres(samples_dir: Path, tmp_path: Path) -> None:
    lines = (samples_dir / "nyu" / "center_test_refined.txt").read_text().splitlines()[:2]
    truth = read_joint_file(samples_dir / "nyu" / "nyu_test_groundtruth_label.txt", 14)[:2]
    xyz = np.broadcast_to(DEPTH_BENCHMARKS["nyu"].to_mm(truth)[None, :, :1], (3, 2, 36, 3)).copy()
    xyz[:, :, list(NYU_SUBSET)] = DEPTH_BENCHMARKS["nyu"].to_mm(truth)
    root = labels_of(xyz).write(tmp_path / "nyu")
    write_pictures(root, 2)
    (tmp_path / "center_test.txt").write_text("\n".join(lines))
    data = NyuHands(root, "test", centres=tmp_path / "center_{split}.txt")
    for i, sample in enumerate(data):
        # The published centres are near the middle of the labelled joints.
        assert np.linalg.norm(sample.centre_mm - sample.joints_cam_mm[0].mean(axis=0)) < 25
        assert np.allclose(sample.centre_mm, np.array(lines[i].split(), float) * (1, -1, 1), atol=1e-3)
    (tmp_path / "center_test.txt").write_text(lines[0] + "\n1 2 -3\n")
    assert NyuHands(root, "test", centres=tmp_path / "center_test.txt").report.left_out == {
        "its centre lies behind the camera": 1
    }
    (tmp_path / "center_test.txt").write_text(lines[0])
    with pytest.raises(ValueError, match=r"center_test\.txt: 1 centres; test has 2 labelled frames"):
        NyuHands(root, "test", centres=tmp_path / "center_test.txt")
    with pytest.raises(OSError, match=r"absent\.txt: missing"):
        NyuHands(root, "test", centres=tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="expected finite x, y, z with z > 0"):
        data[0].replace(centre_mm=np.array([0.0, 0.0, -1.0]))


def test_joints_are_found_by_name(tmp_path: Path) -> None:
    hand = plain_hand(1)
    root = labels_of(hand).write(tmp_path / "nyu")
    shuffled = np.random.default_rng(2).permutation(36)
    labels = labels_of(hand[:, :, shuffled])
    labels.joint_names = labels.joint_names[:, shuffled]
    other = labels.write(tmp_path / "other")
    for a, b in zip(
        read_labels(root / "test" / LABELS, 2), read_labels(other / "test" / LABELS, 2), strict=True
    ):
        assert np.array_equal(a, b)
    labels.joint_names[0, 0] = "ELBOW"
    labels.write(other)
    with pytest.raises(ValueError, match=r"joint_data\.mat: joint_names are .*; expected F1_KNU3_A"):
        read_labels(other / "test" / LABELS, 1)


def test_bad_frames_are_left_out_and_counted(tmp_path: Path) -> None:
    hand = plain_hand(8)
    hand[0, 1, 3] = np.nan
    hand[0, 2, 6, 2] = -700
    hand[0, 3] = (10.0, 20.0, 700.0)
    labels = labels_of(hand)
    labels.joint_xyz[0, 4, :, :2] *= 1.5  # as if other intrinsics had made them
    labels.joint_xyz[0, 5] += MOST_APART_MM / 4
    root = labels.write(tmp_path / "nyu")
    write_pictures(root, 7)
    data = open_dataset("nyu", root, "test")
    assert [sample.id[-1] for sample in data] == ["1", "6", "7"]
    assert data.report.left_out == {
        "a joint is not finite or absurdly far": 1,
        "a joint lies behind the camera": 1,
        "the box has no area": 1,
        "joint_xyz and joint_uvd disagree: wrong intrinsics": 1,
        "picture missing": 1,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"joint_uvd": np.zeros((3, 2, 35, 3))}, r"joint_uvd has shape \(3, 2, 35, 3\); expected numbers"),
        ({"joint_xyz": np.zeros((2, 2, 36, 3))}, r"joint_xyz has shape \(2, 2, 36, 3\)"),
        ({"joint_xyz": np.zeros((3, 1, 36, 3))}, "joint_uvd has 2 frames, joint_xyz 1"),
        ({"joint_names": np.array([NAMES[:35]], dtype=object)}, r"joint_names are .* \(35\)"),
        ({"joint_uvd": np.array([["a"]], dtype=object)}, r"joint_uvd has shape \(\)"),
    ],
)
def test_labels_of_the_wrong_kind_are_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    labels = labels_of(plain_hand(2))
    for name, value in change.items():
        setattr(labels, name, value)
    root = labels.write(tmp_path / "nyu")
    with pytest.raises(ValueError, match=rf"joint_data\.mat: {reason}"):
        NyuHands(root, "test")


def test_half_finished_download_and_damaged_pictures(made: Path, tmp_path: Path) -> None:
    root = labels_of(plain_hand(3)).write(tmp_path / "nyu")
    write_pictures(root, 3)
    content = (root / "test" / "depth_1_0000001.png").read_bytes()
    (root / "test" / "depth_1_0000001.png").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (320, 240)).save(root / "test" / "depth_1_0000002.png")
    data = NyuHands(root, "test")
    with pytest.raises(ValueError, match=r"depth_1_0000001\.png: damaged or truncated"):
        data[0]
    with pytest.raises(ValueError, match=r"depth_1_0000002\.png: 320 x 240 pixels; expected 640 x 480"):
        data[1]
    assert data[2].depth_mm.max() == 700
    with pytest.raises(OSError, match=r"train/joint_data\.mat: missing"):
        NyuHands(root, "train")
    labels = root / "test" / LABELS
    labels.write_bytes(labels.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"joint_data\.mat: damaged or incomplete"):
        NyuHands(root, "test")
    with pytest.raises(ValueError, match="split is 'val'"):
        NyuHands(made, "val")


def test_index_is_renewed_when_the_labels_change(tmp_path: Path) -> None:
    hand = plain_hand(2)
    root = labels_of(hand).write(tmp_path / "nyu")
    write_pictures(root, 3)
    before = NyuHands(root, "test")
    assert np.array_equal(before[1].joints_cam_mm, NyuHands(root, "test")[1].joints_cam_mm)
    labels_of(plain_hand(3) + 5.0).write(root)
    after = NyuHands(root, "test")
    assert len(after) == 3
    assert after[1].joints_cam_mm[0, 0, 0] != before[1].joints_cam_mm[0, 0, 0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_labels_give_samples_or_one_error(data, tmp_path: Path) -> None:
    root = tmp_path / "mutated"
    if not root.is_dir():
        labels = labels_of(plain_hand(2))
        (root / "test").mkdir(parents=True)
        write_pictures(root, 2)
        savemat(tmp_path / "whole.mat", vars(labels))
    content = bytearray((tmp_path / "whole.mat").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (root / "test" / LABELS).write_bytes(content)
    try:
        opened = NyuHands(root, "test")
    except (ValueError, OSError) as error:
        assert str(root) in str(error)
    else:
        assert len(opened) + sum(opened.report.left_out.values()) == 2
        assert all(np.isfinite(opened.labels(i).joints_cam_mm).all() for i in range(len(opened)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 65535))
def test_depth_is_coded_as_published(tmp_path_factory, depth: int) -> None:
    path = tmp_path_factory.mktemp("depth") / "d.png"
    fixture.save_depth(path, np.full((2, 3), float(depth)))
    red, green, blue = np.asarray(Image.open(path))[0, 0].tolist()
    assert (red, 256 * green + blue) == (0, depth)
