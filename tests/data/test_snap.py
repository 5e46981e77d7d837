"""The Snap real-world test set: real files, and broken ones."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dfmamba.data.snap import SnapRealWorld
from dfmamba.hands.camera import bone_lengths
from dfmamba.hands.crop import crop_sample, flip_sample, square_box
from dfmamba.hands.skeleton import REFERENCE_BONES_MM

QUICK = settings(deadline=None, max_examples=80)

CAMERA_KEY = "K_fx_fy_cx_cy_of_this_256x256_crop"


@pytest.fixture(scope="module")
def real(samples_dir: Path) -> SnapRealWorld:
    return SnapRealWorld(samples_dir / "snap_realworld")


def test_real_samples(real: SnapRealWorld) -> None:
    assert len(real) == 100
    for sample in real:
        assert sample.image.shape == (256, 256, 3)
        assert sample.kind == "real"
        assert sample.present.tolist() == [False, True]
        assert sample.valid.sum() == 21
        assert sample.visible.sum() > 15
        assert 200 < sample.joints_cam_mm[1, 0, 2] < 1000
        error = np.linalg.norm(
            sample.camera.project(sample.joints_cam_mm)[1] - sample.joints_2d_px[1], axis=-1
        )
        assert error.max() < 0.1


def test_real_hands_are_left_and_hand_sized(real: SnapRealWorld) -> None:
    joints = np.stack([sample.joints_cam_mm[1] for sample in real])
    ratio = np.median(bone_lengths(joints), axis=0) / REFERENCE_BONES_MM
    assert 0.85 < ratio.mean() < 1.3  # one man's hand against the mean hand
    assert (ratio / ratio.mean()).min() > 0.75
    assert (ratio / ratio.mean()).max() < 1.25
    # Left fingers bend towards (index to little knuckle) x (wrist to middle knuckle), right ones away.
    across, along = joints[:, 17] - joints[:, 5], joints[:, 9] - joints[:, 0]
    normal = np.cross(across, along)
    bent = joints[:, [8, 12, 16, 20]].mean(1) - joints[:, [5, 9, 13, 17]].mean(1)
    curl = np.einsum("ni,ni->n", normal / np.linalg.norm(normal, axis=1, keepdims=True), bent)
    assert np.mean(curl[np.abs(curl) > 25] > 0) > 0.95


def test_real_crop_and_flip(real: SnapRealWorld) -> None:
    sample = real[3]
    crop = crop_sample(sample, square_box(sample.box_xyxy, 1.3), 128, 0.5)
    np.testing.assert_allclose(crop.camera.project(crop.joints_cam_mm)[1], crop.joints_2d_px[1], atol=0.1)
    flipped = flip_sample(sample)
    assert flipped.present.tolist() == [True, False]
    assert np.array_equal(flip_sample(flipped).image, sample.image)


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "file": "a.png",
        "hand": "right",
        "joint_cam_cm": [[0.1 * j, 0.2, 40] for j in range(21)],
        "keypoints_uv": [[j, 1.5] for j in range(21)],
        CAMERA_KEY: [400, 400, 10, 10],
    } | changes


def write(folder: Path, content: Any) -> Path:
    (folder / "annotations.json").write_text(content if isinstance(content, str) else json.dumps(content))
    Image.new("RGB", (20, 20), (1, 2, 3)).save(folder / "a.png")
    return folder


def test_made_up_folder(tmp_path: Path) -> None:
    data = SnapRealWorld(write(tmp_path, {"annotations": [entry()]}))
    sample = data[0]
    assert sample.joints_cam_mm[0, 1].tolist() == [1, 2, 400]
    assert sample.visible[0].tolist() == [True] * 20 + [False]
    assert sample.id == "a.png"
    assert len(list(data)) == 1
    with pytest.raises(IndexError):
        data[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100000, "not valid JSON"),
        ([], "expected an object"),
        ({"annotations": 3}, "expected an object"),
        ({"annotations": [3]}, "annotation 0 is int"),
        ({"annotations": [entry(), {"file": "x"}]}, "annotation 1 lacks hand"),
        ({"annotations": [entry(file="../a.png")]}, "inside the folder"),
        ({"annotations": [entry(file="/a.png")]}, "inside the folder"),
        ({"annotations": [entry(file=[])]}, "inside the folder"),
        ({"annotations": [entry(hand="both")]}, "'left' or 'right'"),
        ({"annotations": [entry(hand=[])]}, "'left' or 'right'"),
        ({"annotations": [entry(joint_cam_cm=[[1, 2, 3]])]}, "joint_cam_cm: expected numbers"),
        ({"annotations": [entry(joint_cam_cm=[[1, 2, -3]] * 21)]}, "behind"),
        ({"annotations": [entry(keypoints_uv=[[1, float("nan")]] * 21)]}, "finite"),
        ({"annotations": [entry(keypoints_uv=[[1, 10**400]] * 21)]}, "keypoints_uv"),
        ({"annotations": [entry(keypoints_uv=[["1", "2"]] * 21)]}, "keypoints_uv"),
        ({"annotations": [entry(**{CAMERA_KEY: [0, 1, 1, 1]})]}, "positive"),
    ],
)
def test_broken_labels_name_the_file(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"annotations.json.*{message}"):
        SnapRealWorld(write(tmp_path, content))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"annotations\.json.*cannot be read"):
        SnapRealWorld(tmp_path)
    data = SnapRealWorld(write(tmp_path, {"annotations": [entry(), entry(file="b.png")]}))
    with pytest.raises(OSError, match=r"b\.png"):
        data[1]
    for broken in (b"", b"no picture", (tmp_path / "a.png").read_bytes()[:60]):
        (tmp_path / "b.png").write_bytes(broken)
        with pytest.raises(OSError, match=r"b\.png"):
            data[1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(st.sampled_from([*entry(), "annotations"]), JSON, st.integers(0, 30), st.integers(0, 3))
def test_mutated_labels_raise_only_value_or_os_error(key: str, value: Any, at: int, depth: int) -> None:
    changed = entry()
    content: Any = {"annotations": [changed]}
    if key == "annotations":
        content[key] = value
    else:
        holder, place = changed, key
        for _ in range(depth):
            inner = holder[place]
            if not isinstance(inner, list):
                break
            holder, place = inner, at % len(inner)
        holder[place] = value
    check(json.dumps(content))


@QUICK
@given(st.integers(0, 4000), st.binary(max_size=4), st.integers(0, 6))
def test_mutated_bytes_raise_only_value_or_os_error(at: int, new: bytes, cut: int) -> None:
    text = json.dumps({"annotations": [entry()]}).encode()
    at %= len(text)
    check(text[:at] + new + text[at + cut :])


def check(content: str | bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = write(Path(name), {})
        (folder / "annotations.json").write_bytes(content.encode() if isinstance(content, str) else content)
        with contextlib.suppress(ValueError, OSError):
            list(SnapRealWorld(folder))
