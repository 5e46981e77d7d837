"""Predictions and their JSON form."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import JOINT_NAMES
from dfmamba.predict import Hand, Prediction


def make_hand(side: str = "right", **changes: Any) -> Hand:
    ramp = np.arange(21.0)
    values: dict[str, Any] = {
        "side": side,
        "score": 0.98768,
        "box_xyxy": [1, 2, 30.126, 40],
        "joints_2d_px": np.stack([ramp, ramp / 3], axis=1),
        "joints_3d_mm": np.stack([-ramp * 0.0001, ramp, ramp * 2], axis=1),
        "joint_scores": ramp / 21,
    }
    return Hand(**{**values, **changes})


def make_prediction(**changes: Any) -> Prediction:
    values: dict[str, Any] = {
        "hands": (make_hand(), make_hand("left", root="camera")),
        "image_size": (64, 48),
        "camera": Camera(100, 101, 31.5, 23.5),
        "model": "nano",
        "image": "a/b.jpg",
        "seconds": 0.25,
    }
    return Prediction(**{**values, **changes})


def test_structure_of_the_json() -> None:
    data = json.loads(make_prediction().to_json())
    assert list(data) == [
        "schema",
        "model",
        "image",
        "size",
        "camera",
        "mirrored",
        "scale",
        "joint_names",
        "hands",
    ]
    assert data["schema"] == "dfmamba.prediction/1"
    assert data["size"] == [64, 48]
    assert data["camera"] == {"fx": 100.0, "fy": 101.0, "cx": 31.5, "cy": 23.5}
    assert data["mirrored"] is False
    assert data["scale"] == "reference hand"
    assert data["joint_names"] == list(JOINT_NAMES)
    hand = data["hands"][1]
    assert set(hand) == {
        "side",
        "score",
        "box_xyxy",
        "joints_2d_px",
        "joints_3d_mm",
        "root",
        "scale",
        "track",
        "joint_scores",
    }
    assert (hand["side"], hand["root"], hand["score"]) == ("left", "camera", 0.9877)
    assert hand["box_xyxy"] == [1.0, 2.0, 30.13, 40.0]
    assert hand["joints_2d_px"][1] == [1.0, 0.33]
    assert np.shape(hand["joints_3d_mm"]) == (21, 3)
    assert "-0.0" not in make_prediction().to_json().split("joints_3d_mm")[1].split("root")[0]


def test_json_keeps_a_joint_on_a_line() -> None:
    assert "      [1.0, 0.33]," in [line[2:] for line in make_prediction().to_json().splitlines()]


def test_round_trip(tmp_path: Path) -> None:
    prediction = make_prediction(mirrored=True)
    path = tmp_path / "new" / "p.json"
    prediction.save_json(path)
    again = Prediction.load_json(path)
    assert again.to_json() == prediction.to_json() == path.read_text()
    assert again.camera == prediction.camera
    assert again.hands[0].side == "right"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"side": "both"}, "side"),
        ({"root": "hip"}, "root"),
        ({"scale": "metric"}, "scale"),
        ({"score": 1.5}, "score"),
        ({"score": float("nan")}, "score"),
        ({"score": None}, "score"),
        ({"score": True}, "score"),
        ({"box_xyxy": [3, 0, 1, 9]}, "box_xyxy"),
        ({"joints_2d_px": np.zeros((20, 2))}, r"joints_2d_px: expected shape \(21, 2\)"),
        ({"joints_3d_mm": np.full((21, 3), np.inf)}, "finite"),
        ({"joint_scores": [[1], [1, 2]]}, "joint_scores"),
        ({"joint_scores": np.full(21, -1)}, "0 to 1"),
    ],
)
def test_a_hand_checks_its_values(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_hand(**changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "dfmamba.prediction/9"),
        ("hands", {}),
        ("hands", [1]),
        ("hands", [{}]),
        ("size", [0, 4]),
        ("size", [4.5, 4]),
        ("size", None),
        ("camera", {"fx": 1}),
        ("camera", {"fx": -1, "fy": 1, "cx": 0, "cy": 0}),
        ("camera", {"fx": "1", "fy": 1, "cx": 0, "cy": 0}),
        ("mirrored", 0),
        ("model", None),
        ("image", 3),
        ("scale", "metric"),
        ("joint_names", ["wrist"]),
        ("extra", 1),
    ],
)
def test_from_dict_refuses(key: str, value: Any) -> None:
    data = {**make_prediction().to_dict(), key: value}
    with pytest.raises(ValueError, match=r"."):
        Prediction.from_dict(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(list(make_prediction().to_dict())), value=json_values, in_hand=st.booleans())
def test_fuzzed_files_raise_only_value_errors(key: str, value: Any, in_hand: bool) -> None:
    data = make_prediction().to_dict()
    if in_hand:
        hand = data["hands"][0]
        hand[list(hand)[len(key) % len(hand)]] = value
    else:
        data[key] = value
    with contextlib.suppress(ValueError):
        Prediction.from_json(json.dumps(data))


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=30) | st.just("[" * 100_000))
def test_text_that_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match="prediction"):
        Prediction.from_json(text)


def test_load_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(ValueError, match=r"p\.json: prediction: expected the schema"):
        Prediction.load_json(tmp_path / "p.json")


def test_arrays_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        make_hand().joints_2d_px[0, 0] = 1
