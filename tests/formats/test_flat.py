"""OpenPose, MediaPipe, FreiHAND, InterHand2.6M and CSV: structure, units and order, and the way back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from dfmamba.formats import Record, write_prediction
from dfmamba.formats.mediapipe import to_mediapipe, to_mediapipe_image, to_mediapipe_world
from dfmamba.formats.openpose import to_openpose
from dfmamba.hands.camera import to_25d
from dfmamba.hands.skeleton import JOINT_NAMES, convert_joints
from dfmamba.predict import Prediction

seeds = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def openpose_hands(content: dict) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Side, (21, 3) x, y, c and (0 or 21, 4) x, y, z, c of the hands that a file holds."""
    hands = []
    for person in content["people"]:
        for side in ("right", "left"):
            flat = np.reshape(person[f"hand_{side}_keypoints_2d"], (-1, 3))
            assert flat.shape == (21, 3)
            if flat.any():
                hands.append((side, flat, np.reshape(person[f"hand_{side}_keypoints_3d"], (-1, 4))))
    return hands


def similarity(truth: np.ndarray, points: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What moves, scales, and turns or mirrors `points` onto `truth`, as FreiHAND's eval.py aligns joints."""
    t, p = truth.mean(0), points.mean(0)
    s, r = np.linalg.norm(truth - t) + 1e-8, np.linalg.norm(points - p) + 1e-8
    turn, scale = orthogonal_procrustes((truth - t) / s, (points - p) / r)
    return lambda mesh: (mesh - mesh.mean(0)) @ turn.T * scale * s / r + t - p + mesh.mean(0)


def test_the_steps_of_freihands_evaluation_run_on_the_file(
    hand: Callable, prediction: Callable, tmp_path: Path
) -> None:
    """Layout, alignment of joints, which moves the vertices along, and distances to the true mesh."""
    found = [prediction(hand(0, "right", (0, 0, 500))), prediction(), prediction(hand(2))]
    truth = [one.hands[0].joints_3d_mm / 1000 if one.hands else np.eye(21, 3) for one in found]
    path = tmp_path / "pred.json"
    write_prediction(iter(found), "freihand", path)
    pred = json.loads(path.read_text())
    assert len(pred) == 2
    assert len(pred[0]) == len(pred[1]) == len(truth)
    for true, joints, vertices in zip(truth, *map(lambda part: map(np.array, part), pred), strict=True):
        assert joints.shape == (21, 3)
        assert vertices.ndim == 2
        assert vertices.shape[1] == 3
        align = similarity(true, joints)
        moved = align(vertices)
        assert np.isfinite(moved).all()
        distances = np.linalg.norm(np.tile(true, (38, 1))[:778, None] - moved, axis=-1).min(1)
        assert 0 <= (distances < 0.005).mean() <= 1
        if joints.any():
            np.testing.assert_allclose(align(joints), true, atol=2e-6)
            np.testing.assert_allclose(moved, true, atol=2e-6)


@seeds
@given(seed=st.integers(0, 50), sides=st.lists(st.sampled_from(["right", "left"]), max_size=4))
def test_openpose_and_back(hand: Callable, prediction: Callable, seed: int, sides: list[str]) -> None:
    hands = [hand(seed + i, side, (50 * i, 0, 500)) for i, side in enumerate(sides)]
    back = openpose_hands(json.loads(json.dumps(to_openpose(prediction(*hands)))))
    assert sorted(side for side, _, _ in back) == sorted(sides)
    for one in hands:
        fits = [
            np.allclose(flat[:, :2], one.joints_2d_px, atol=1e-4)
            and np.allclose(flat[:, 2], one.joint_scores, atol=1e-4)
            and np.allclose(space[:, :3], one.joints_3d_mm, atol=1e-4)
            for side, flat, space in back
            if side == one.side
        ]
        assert fits.count(True) == 1


def test_openpose_people(hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    pair = to_openpose(prediction(hand(0, "right", track=4), hand(1, "left", track=5)))
    assert len(pair["people"]) == 1
    assert pair["people"][0]["person_id"] == [-1]
    assert pair["people"][0]["hand_left_keypoints_3d"] == []
    crowd = prediction(hand(0), hand(1), hand(2, "left", track=7))
    content = to_openpose(crowd)
    assert [person["person_id"] for person in content["people"]] == [[-1], [-1], [7]]
    assert content["people"][2]["hand_right_keypoints_2d"] == [0.0] * 63
    films = [Record(crowd, "x/clip.jsonl", index, 0.0) for index in (0, 12)]
    summary = write_prediction([crowd, crowd, *films], "openpose", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "a-2_keypoints.json",
        "a_keypoints.json",
        "clip_000000000000_keypoints.json",
        "clip_000000000012_keypoints.json",
    ]
    assert (summary.pictures, summary.hands, summary.files) == (4, 12, 4)
    assert json.loads((tmp_path / "out" / names[0]).read_text()) == content
    assert list(summary.notes.values()) == [12]  # hands without 3D


def test_mediapipe_structure(two_hands: Prediction, tmp_path: Path) -> None:
    summary = write_prediction([Record(two_hands, "c.jsonl", 3, 0.12)], "mediapipe", tmp_path / "m.jsonl")
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    result = json.loads(line)
    assert (result["image"], result["index"], result["timestamp_ms"]) == ("photos/a.jpg", 3, 120)
    assert [one["category_name"] for (one,) in result["handedness"]] == ["Right", "Left"]
    swapped = to_mediapipe(two_hands, mirrored_names=True)
    assert [one["category_name"] for (one,) in swapped["handedness"]] == ["Left", "Right"]
    assert swapped["hand_world_landmarks"] == result["hand_world_landmarks"]
    for number, hand in enumerate(two_hands.hands):
        world = np.array([[p["x"], p["y"], p["z"]] for p in result["hand_world_landmarks"][number]])
        image = np.array([[p["x"], p["y"], p["z"]] for p in result["hand_landmarks"][number]])
        np.testing.assert_allclose(world.mean(axis=0), 0, atol=1e-7)
        np.testing.assert_allclose(
            world - world[0], (hand.joints_3d_mm - hand.joints_3d_mm[0]) / 1000, atol=2e-7
        )
        np.testing.assert_allclose(image[:, :2] * (640, 480) - 0.5, hand.joints_2d_px, atol=1e-3)
    assert summary.hands == 2


def test_mediapipe_depth_is_in_picture_widths(hand: Callable, prediction: Callable) -> None:
    near = prediction(hand(3, place_mm=(0, 0, 400)))
    (one,) = near.hands
    d = to_25d(one.joints_3d_mm, near.camera)[:, 2]
    np.testing.assert_allclose(to_mediapipe_image(one, near)[:, 2] * 640, d, atol=1e-9)
    loose = prediction(hand(3))
    (one,) = loose.hands
    expected = 1.5 * one.joints_3d_mm[:, 2]  # the fixture draws 1.5 pixels a millimetre
    np.testing.assert_allclose(to_mediapipe_image(one, loose)[:, 2] * 640, expected, atol=1e-9)


def test_mediapipe_world_landmarks_are_metres(hand: Callable) -> None:
    one = hand(5, place_mm=(10, 20, 600))
    world = to_mediapipe_world(one)
    assert world.shape == (21, 3)
    np.testing.assert_allclose(np.linalg.norm(world[9] - world[0]), 0.077, atol=1e-6)


def test_a_hand_without_extent_has_no_depth(hand: Callable, prediction: Callable) -> None:
    point = prediction(hand(0, joints_3d_mm=np.zeros((21, 3))))
    assert not to_mediapipe_image(point.hands[0], point)[:, 2].any()


def test_freihand(hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    best, other = hand(0, "left", (0, 0, 500)), hand(1, "right", (0, 0, 500))
    pictures = [prediction(best, other), prediction(), prediction(hand(2))]
    summary = write_prediction(iter(pictures), "freihand", tmp_path / "pred.json")
    joints, vertices = json.loads((tmp_path / "pred.json").read_text())
    assert vertices == joints
    np.testing.assert_allclose(joints[0], best.joints_3d_mm / 1000, atol=1e-6)
    assert not np.any(joints[1])
    np.testing.assert_allclose(joints[2], pictures[2].hands[0].joints_3d_mm / 1000, atol=1e-6)
    told = sorted((text.split(":")[0].split(",")[0], count) for text, count in summary.notes.items())
    assert told == [
        ("hands left out", 1),
        ("hands relative to their wrist", 1),
        ("hands without a fitted surface", 2),
        ("left hands", 1),
        ("pictures without a hand", 1),
    ]
    assert (summary.hands, summary.pictures) == (2, 3)


@seeds
@given(seed=st.integers(0, 50), sides=st.sets(st.sampled_from(["right", "left"]), min_size=1))
def test_interhand_and_back(
    hand: Callable, prediction: Callable, tmp_path: Path, seed: int, sides: set[str]
) -> None:
    hands = {side: hand(seed + i, side, (0, 50 * i, 500)) for i, side in enumerate(sorted(sides))}
    write_prediction(prediction(*hands.values()), "interhand", tmp_path / "ih.json")
    frame = json.loads((tmp_path / "ih.json").read_text())["0"]["0"]
    assert np.shape(frame["world_coord"]) == (42, 3)
    assert np.shape(frame["joint_valid"]) == (42, 1)
    assert frame["hand_type"] == ("interacting" if len(sides) == 2 else next(iter(sides)))
    joints = convert_joints(frame["world_coord"], "interhand", "openpose")
    valid = convert_joints(frame["joint_valid"], "interhand", "openpose")
    for number, side in enumerate(("right", "left")):
        assert valid[number].all() == (side in sides) == valid[number].any()
        expected = hands[side].joints_3d_mm if side in hands else np.zeros((21, 3))
        np.testing.assert_allclose(joints[number], expected, atol=1e-4)


def test_interhand_order_and_omissions(hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    best, third = hand(0), hand(1)
    film = [
        Record(prediction(best, third), "clip.jsonl", 4, None),
        Record(prediction(), "clip.jsonl", 5, None),
        Record(prediction(best), "clip.jsonl", 9, None),
    ]
    summary = write_prediction([*film, prediction(third)], "interhand", tmp_path / "ih.json")
    frames = json.loads((tmp_path / "ih.json").read_text())["0"]
    assert list(frames) == ["4", "9", "10"]
    first = np.array(frames["4"]["world_coord"])
    np.testing.assert_allclose(first[20], best.joints_3d_mm[0], atol=1e-4)  # the wrist is the last
    np.testing.assert_allclose(first[0], best.joints_3d_mm[4], atol=1e-4)  # the thumb's tip the first
    counts = sorted(summary.notes.items())
    assert [count for text, count in counts if "left out" in text] == [1, 1]
    assert summary.hands == 3


@seeds
@given(seed=st.integers(0, 50), tracks=st.lists(st.none() | st.integers(0, 9), max_size=3))
def test_csv_and_back(
    hand: Callable, prediction: Callable, tmp_path: Path, seed: int, tracks: list[int | None]
) -> None:
    hands = [hand(seed + i, track=track) for i, track in enumerate(tracks)]
    awkward = prediction(*hands, image='with "quotes", commas\nand = lines \ud800.jpg')
    summary = write_prediction([prediction(), awkward], "csv", tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21 * len(hands)
    assert summary.notes["pictures without a hand have no row"] == (1 if hands else 2)
    for number, one in enumerate(hands):
        own = [row for row in rows if row["hand"] == str(number)]
        assert [row["joint_name"] for row in own] == list(JOINT_NAMES)
        assert {row["picture"] for row in own} == {"1"}
        assert {row["track"] for row in own} == {"" if one.track is None else str(one.track)}
        assert own[0]["image"].startswith('with "quotes", commas\nand = lines ')
        space = [[float(row[name]) for name in ("x_mm", "y_mm", "z_mm")] for row in own]
        pixels = [[float(row[name]) for name in ("u_px", "v_px")] for row in own]
        np.testing.assert_allclose(space, one.joints_3d_mm, atol=1e-4)
        np.testing.assert_allclose(pixels, one.joints_2d_px, atol=1e-4)


@pytest.mark.parametrize("format", ["mediapipe", "freihand", "interhand", "csv"])
def test_pictures_are_written_while_they_come(
    prediction: Callable, hand: Callable, tmp_path: Path, format: str
) -> None:
    """No file has its name before all is written, and nothing is left of one that fails."""

    def pictures():
        yield prediction(hand(0))
        assert [path.name.startswith(".") for path in tmp_path.iterdir()] == [True]
        raise ValueError("the third picture is damaged")

    with pytest.raises(ValueError, match="third picture"):
        write_prediction(pictures(), format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_written(prediction: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no prediction to write"):
        write_prediction([], "csv", tmp_path / "t.csv")
    with pytest.raises(ValueError, match="expected one of openpose, "):
        write_prediction(prediction(), "usd", tmp_path / "t.usd")
    with pytest.raises(IsADirectoryError):
        write_prediction(prediction(), "csv", tmp_path)
