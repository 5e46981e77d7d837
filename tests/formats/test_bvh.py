"""BVH files, played by forward kinematics that read nothing but the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dfmamba.formats import Record, write_prediction
from dfmamba.formats.bvh import MOST_FRAMES
from dfmamba.formats.rig import BONE_NAMES
from dfmamba.hands.model import HandModel
from dfmamba.predict import Prediction
from dfmamba.predict.surface import with_surface


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


def test_the_rig_is_that_of_the_fitted_hand(two_hands: Prediction, tmp_path: Path) -> None:
    write_prediction(two_hands, "bvh", tmp_path)
    for hand in with_surface(two_hands).hands:
        places, _ = play((tmp_path / f"a_{hand.side}.bvh").read_text())
        assert set(BONE_NAMES) <= set(places)
        model, fit, sign = HandModel.load(), hand.fit, np.array([1.0 if hand.side == "right" else -1.0, 1, 1])
        assert fit is not None
        shape = model.shape(fit.shape, size=fit.size)
        turn, move = model.transforms(
            shape.bones, fit.pose_deg, sign[:, None] * fit.rotation * sign, sign * fit.place_mm
        )
        heads = ((turn @ shape.bones[..., None])[..., 0] + move) * sign
        found = np.stack([places[name][0] for name in BONE_NAMES]) * (1, -1, -1)
        np.testing.assert_allclose(found, heads[2:], atol=0.3)
        tips = hand.vertices_mm()[model.tips].mean(axis=1)
        ends = [places[name][0] * (1, -1, -1) for name in places if name.startswith("end of")]
        assert (np.linalg.norm(np.array(ends) - tips, axis=1) < 3).all()


def test_files_of_tracks_and_of_single_pictures(
    real_hand: Callable, prediction: Callable, tmp_path: Path
) -> None:
    film = [
        Record(prediction(real_hand(0, track=0), real_hand(1, "left", track=1)), "clip.jsonl", 0, 0.0),
        Record(prediction(real_hand(0, track=0)), "clip.jsonl", 1, 0.04),
        Record(prediction(real_hand(0, track=0), real_hand(1, "left", track=1)), "clip.jsonl", 3, 0.12),
    ]
    summary = write_prediction([*film, prediction(real_hand(5), real_hand(6))], "bvh", tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a_right-2.bvh", "a_right.bvh", "clip_left_1.bvh", "clip_right_0.bvh"]
    places, seconds = play((tmp_path / "clip_right_0.bvh").read_text())
    assert places["wrist"].shape == (4, 3)
    assert seconds == pytest.approx(0.04)
    wrist = real_hand(0).joints_3d_mm[0]
    assert (np.linalg.norm(places["wrist"] * (1, -1, -1) - wrist, axis=1) < 25).all()
    assert len(play((tmp_path / "clip_left_1.bvh").read_text())[0]["wrist"]) == 4
    held = {text: count for text, count in summary.notes.items() if "holds its pose" in text}
    assert list(held.values()) == [3]
    assert (summary.files, summary.hands) == (4, 7)


def test_bones_keep_their_length(real_hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    film = [Record(prediction(real_hand(i, track=0)), "c.jsonl", i, i / 30) for i in range(5)]
    write_prediction(film, "bvh", tmp_path / "c.bvh")
    places, _ = play((tmp_path / "c.bvh").read_text())
    for parent, child in (
        ("index_mcp", "index_pip"),
        ("thumb_cmc", "thumb_mcp"),
        ("wrist", "ring_metacarpal"),
    ):
        length = np.linalg.norm(places[child] - places[parent], axis=1)
        assert np.ptp(length) < 1e-3
        assert length.min() > 5


def test_refusals(hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no hand"):
        write_prediction(prediction(), "bvh", tmp_path)
    with pytest.raises(ValueError, match="holds one result"):
        write_prediction(prediction(hand(0), hand(1)), "bvh", tmp_path / "one.bvh")
    far = [Record(prediction(hand(0, track=0)), "c.jsonl", index, None) for index in (0, MOST_FRAMES)]
    with pytest.raises(ValueError, match="too many"):
        write_prediction(far, "bvh", tmp_path)
