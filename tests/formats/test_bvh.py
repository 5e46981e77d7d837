"""BVH files, played by forward kinematics that read nothing but the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dfmamba.formats import Record, write_prediction
from dfmamba.formats.bvh import MOST_FRAMES, bvh_lines
from dfmamba.hands.camera import bone_lengths
from dfmamba.hands.skeleton import BONES, JOINT_NAMES


def play(text: str) -> tuple[dict[str, np.ndarray], float]:
    """The places (T, 3) of all joints, by name, and the time between frames."""
    hierarchy, motion = text.split("MOTION\n")
    joints: list[tuple[str, int, list[float], list[str]]] = []  # name, parent, offset, channels
    open_joints: list[int] = []
    for line in hierarchy.splitlines()[1:]:
        words = line.split()
        if words[0] in ("ROOT", "JOINT", "End"):
            parent = open_joints[-1] if open_joints else -1
            name = words[1] if words[0] != "End" else f"end of {joints[parent][0]}"
            joints.append((name, parent, [], []))
        elif words[0] == "{":
            open_joints.append(len(joints) - 1)
        elif words[0] == "}":
            open_joints.pop()
        elif words[0] == "OFFSET":
            joints[-1][2].extend(map(float, words[1:]))
        else:
            assert words[0] == "CHANNELS"
            assert int(words[1]) == len(words) - 2
            joints[-1][3].extend(words[2:])
    lines = motion.splitlines()
    frames, seconds = int(lines[0].removeprefix("Frames:")), float(lines[1].removeprefix("Frame Time:"))
    values = np.array([[float(word) for word in line.split()] for line in lines[2:]])
    assert values.shape == (frames, sum(len(channels) for *_, channels in joints))
    at, turns, places = 0, [], []
    for _, parent, offset, channels in joints:
        own = dict(zip(channels, values[:, at : at + len(channels)].T, strict=True))
        at += len(channels)
        place = np.tile(offset, (frames, 1))
        if "Xposition" in own:
            place = place + np.stack([own[f"{axis}position"] for axis in "XYZ"], axis=1)
        rotations = [name for name in channels if name.endswith("rotation")]
        turn = Rotation.identity(frames)
        if rotations:
            axes = "".join(name[0] for name in rotations)
            turn = Rotation.from_euler(axes, np.stack([own[name] for name in rotations], 1), degrees=True)
        if parent >= 0:
            place = places[parent] + turns[parent].apply(place)
            turn = turns[parent] * turn
        places.append(place)
        turns.append(turn)
    return {name: place for (name, *_), place in zip(joints, places, strict=True)}, seconds


def joints_of(text: str) -> np.ndarray:
    """(T, 21, 3) in our order and our frame."""
    places, _ = play(text)
    names = [name if name in places else f"end of {JOINT_NAMES[i - 1]}" for i, name in enumerate(JOINT_NAMES)]
    return np.stack([places[name] for name in names], axis=1) * (1, -1, -1)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds=st.lists(st.integers(0, 200), min_size=1, max_size=4))
def test_bones_of_constant_length_come_back(hand: Callable, seeds: list[int]) -> None:
    joints = np.stack([hand(seed, place_mm=(seed, -seed, 500)).joints_3d_mm for seed in seeds])
    np.testing.assert_allclose(joints_of("".join(bvh_lines(joints))), joints, atol=0.01)


def test_bones_of_changing_length_come_back_within_the_change(hand: Callable) -> None:
    joints = np.stack([hand(seed).joints_3d_mm * (1 + 0.02 * seed) for seed in range(5)])
    back = joints_of("".join(bvh_lines(joints)))
    mean = bone_lengths(joints).mean(axis=0)
    np.testing.assert_allclose(bone_lengths(back), np.tile(mean, (5, 1)), atol=1e-3)
    bones, found = ([each[:, c] - each[:, p] for p, c in BONES] for each in (joints, back))
    for bone, other in zip(bones, found, strict=True):  # directions are exact
        np.testing.assert_allclose(np.cross(bone, other), 0, atol=0.05)
        assert ((bone * other).sum(axis=1) > 0).all()
    change = np.abs(bone_lengths(joints) - mean).sum(axis=1)
    assert (np.linalg.norm(back - joints, axis=2).max(axis=1) <= change + 0.01).all()


def test_special_directions() -> None:
    """A hand in one point, a bone that folds back on itself, and fingers along the axes."""
    flat = np.zeros((21, 3))
    np.testing.assert_allclose(joints_of("".join(bvh_lines(flat[None]))), flat[None], atol=1e-6)
    for axis in np.vstack([np.eye(3), -np.eye(3)]):
        straight = np.zeros((21, 3))
        for parent, child in BONES:
            straight[child] = straight[parent] + 20 * axis
        folded = straight.copy()
        folded[[3, 7, 11, 15, 19]] = straight[[1, 5, 9, 13, 17]]
        np.testing.assert_allclose(joints_of("".join(bvh_lines(straight[None]))), straight[None], atol=0.01)
        np.testing.assert_allclose(joints_of("".join(bvh_lines(folded[None]))), folded[None], atol=0.01)


def test_files_of_tracks_and_of_single_pictures(hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    film = [
        Record(prediction(hand(0, track=0), hand(1, "left", track=1)), "clip.jsonl", 0, 0.0),
        Record(prediction(hand(2, track=0)), "clip.jsonl", 1, 0.04),
        Record(prediction(hand(3, track=0), hand(4, "left", track=1)), "clip.jsonl", 3, 0.12),
    ]
    summary = write_prediction([*film, prediction(hand(5), hand(6))], "bvh", tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a_right-2.bvh", "a_right.bvh", "clip_left_1.bvh", "clip_right_0.bvh"]
    right = (tmp_path / "clip_right_0.bvh").read_text()
    back = joints_of(right)
    for frame, seed in enumerate((0, 2, 2, 3)):
        np.testing.assert_allclose(back[frame], hand(seed).joints_3d_mm, atol=0.01)
    assert play(right)[1] == pytest.approx(0.04)
    assert len(joints_of((tmp_path / "clip_left_1.bvh").read_text())) == 4
    held = {text: count for text, count in summary.notes.items() if "holds its pose" in text}
    assert list(held.values()) == [3]
    assert (summary.files, summary.hands) == (4, 7)


def test_refusals(hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no hand"):
        write_prediction(prediction(), "bvh", tmp_path)
    with pytest.raises(ValueError, match="holds one result"):
        write_prediction(prediction(hand(0), hand(1)), "bvh", tmp_path / "one.bvh")
    far = [Record(prediction(hand(0, track=0)), "c.jsonl", index, None) for index in (0, MOST_FRAMES)]
    with pytest.raises(ValueError, match="too many"):
        write_prediction(far, "bvh", tmp_path)
