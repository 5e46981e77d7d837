"""Joint names, bones and the conversion between joint orders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.hands.camera import bone_lengths
from dfmamba.hands.skeleton import (
    BONE_NAMES,
    BONES,
    FINGER_COLORS_RGB,
    FINGERS,
    JOINT_NAMES,
    JOINT_ORDERS,
    NYU_SUBSET,
    PARENTS,
    REFERENCE_BONES_MM,
    TIPS,
    convert_joints,
    joint_order,
)

QUICK = settings(deadline=None, max_examples=40)

ONE_HAND = [n for n, o in JOINT_ORDERS.items() if not o.hands and o.size == 21]
TWO_HANDS = [n for n, o in JOINT_ORDERS.items() if o.hands]


def test_joints_and_bones_are_consistent() -> None:
    assert len(JOINT_NAMES) == len(set(JOINT_NAMES)) == len(PARENTS) == 21
    assert JOINT_NAMES[:5] == ("wrist", "thumb_cmc", "thumb_mcp", "thumb_ip", "thumb_tip")
    assert JOINT_NAMES[9] == "middle_mcp"
    assert JOINT_NAMES[20] == "little_tip"
    assert len(BONES) == len(BONE_NAMES) == len(REFERENCE_BONES_MM) == 20
    assert [child for _, child in BONES] == list(range(1, 21))
    assert all(PARENTS[child] == parent for parent, child in BONES)
    assert TIPS == (4, 8, 12, 16, 20)
    assert set(FINGER_COLORS_RGB) == set(FINGERS) | {"wrist"}
    for name, joints in FINGERS.items():
        assert all(JOINT_NAMES[joint].startswith(name) for joint in joints)


def test_known_index_lists() -> None:
    index = np.arange(21)[:, None]
    interhand = [20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16]
    rhd = [0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17]
    mano = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
    assert convert_joints(index, "interhand_hand", "openpose")[:, 0].tolist() == interhand
    assert convert_joints(index, "rhd_hand", "openpose")[:, 0].tolist() == rhd
    assert convert_joints(index, "dexycb", "openpose")[:, 0].tolist() == list(range(21))
    assert convert_joints(index, "mano", "openpose")[:, 0].tolist() == mano


def test_two_hand_orders() -> None:
    index = np.arange(42)[:, None]
    right_left = convert_joints(index, "interhand", "openpose")
    assert right_left.shape == (2, 21, 1)
    assert right_left[:, 0, 0].tolist() == [20, 41]
    right_left = convert_joints(index, "rhd", "openpose")
    assert right_left[:, 0, 0].tolist() == [21, 0]
    both = convert_joints(index, "rhd", "interhand")
    assert both.shape == (42, 1)
    assert both[[20, 41, 0, 21], 0].tolist() == [21, 0, 22, 1]


@QUICK
@given(st.sampled_from(ONE_HAND), st.sampled_from(ONE_HAND), st.integers(0, 2), st.booleans())
def test_one_hand_round_trip(first: str, second: str, axis: int, tensor: bool) -> None:
    shape = [2, 3, 4]
    shape[axis] = 21
    array = np.arange(np.prod(shape)).reshape(shape)
    given_ = torch.from_numpy(array) if tensor else array
    there = convert_joints(given_, first, second, axis=axis)
    assert isinstance(there, torch.Tensor) == tensor
    back = convert_joints(there, second, first, axis=axis - 3)
    assert np.array_equal(np.asarray(back), array)


@QUICK
@given(st.sampled_from(TWO_HANDS), st.sampled_from(TWO_HANDS), st.sampled_from(ONE_HAND))
def test_two_hand_round_trip(first: str, second: str, one: str) -> None:
    array = np.arange(5 * 42 * 3).reshape(5, 42, 3)
    split = convert_joints(array, first, one)
    assert split.shape == (5, 2, 21, 3)
    through = convert_joints(convert_joints(split, one, second), second, first)
    assert np.array_equal(through, array)
    mask = array[..., 0] % 2 == 0
    assert np.array_equal(
        convert_joints(convert_joints(mask, first, one, axis=-1), one, first, axis=-1), mask
    )


def test_missing_joints_are_said() -> None:
    assert len(joint_order("nyu").labels) == 36
    assert len(joint_order("nyu14").labels) == 14
    assert joint_order("nyu14").labels == tuple(joint_order("nyu").labels[i] for i in NYU_SUBSET)
    assert joint_order("nyu14").unmatched == ("TH_KNU2_B", "PALM_1", "PALM_2", "PALM_3")
    array = np.arange(1, 37.0)[:, None]
    with pytest.raises(ValueError, match=r"nyu has no wrist.*return_valid"):
        convert_joints(array, "nyu", "openpose")
    out, valid = convert_joints(array, "nyu", "openpose", return_valid=True)
    assert valid.sum() == 10
    assert (out[~valid] == 0).all()
    assert (out[valid] > 0).all()
    assert out[20, 0] == 1
    assert out[4, 0] == 25
    assert (
        convert_joints(array[list(NYU_SUBSET)], "nyu14", "openpose", return_valid=True)[0].tolist()
        == out.tolist()
    )
    out, valid = convert_joints(np.ones((2, 16, 3)), "mano16", "interhand", return_valid=True)
    assert out.shape == (42, 3)
    assert valid.shape == (42,)
    assert valid.sum() == 32
    assert np.array_equal(out[:, 0] > 0, valid)
    assert not valid[[0, 4, 8, 12, 16]].any()


@pytest.mark.parametrize(
    ("shape", "source", "target", "axis", "message"),
    [
        ((21, 3), "coco", "openpose", -2, "'coco' is not known; expected one of openpose"),
        ((21, 3), "openpose", "halpe", -2, "'halpe' is not known"),
        ((20, 3), "openpose", "mano", -2, "20 joints; openpose has 21"),
        ((21, 3), "interhand", "openpose", -2, "21 joints; interhand has 42"),
        ((21, 3), "openpose", "interhand", -2, "holds two hands"),
        ((3, 21, 3), "openpose", "rhd", -2, "holds two hands"),
        ((21, 3), "openpose", "mano", 2, "axis 2 does not exist"),
    ],
)
def test_clear_errors(shape: tuple[int, ...], source: str, target: str, axis: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_joints(np.zeros(shape), source, target, axis=axis)


def test_real_labels_have_the_stated_order(samples_dir) -> None:
    """Bone lengths of real labels are a hand's only in the right order."""
    rhd = json.loads((samples_dir / "rhd" / "rhd.json").read_text())
    joints = np.array([annotation["joint_cam"] for annotation in rhd["annotations"]], dtype=float)
    hand = json.loads((samples_dir / "interhand2.6m" / "interhand2.6m_joint_3d.json").read_text())
    frames = [frame for capture in hand.values() for frame in capture.values()]
    worlds = np.array([frame["world_coord"] for frame in frames], dtype=float)
    valid = np.array([frame["joint_valid"] for frame in frames], dtype=bool).reshape(-1, 42)
    hands = convert_joints(worlds, "interhand", "openpose").reshape(-1, 21, 3)
    full = convert_joints(valid, "interhand", "openpose", axis=-1).reshape(-1, 21).all(-1)
    assert full.sum() >= 2
    for joints_mm in (convert_joints(joints, "rhd_hand", "openpose"), hands[full]):
        ratio = bone_lengths(joints_mm) / REFERENCE_BONES_MM
        assert ratio.min() > 0.5
        assert ratio.max() < 1.8
