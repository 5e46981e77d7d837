"""Head configuration: defaults, round trip, refusals."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from dfmamba.heads import HeadConfig


def test_depths_follow_the_crop_and_the_unit() -> None:
    assert HeadConfig().depths == (-64.5, -0.5, 63.5)
    assert HeadConfig(image_size=128).depths == (-32.25, -0.25, 31.75)
    assert HeadConfig(depth_unit="mm").depths == pytest.approx((-100.78125, -0.78125, 99.21875))
    assert HeadConfig(depth_unit="mm").depth_extent == 400.0
    assert HeadConfig(num_layers=0).depths == (0.0,)
    assert HeadConfig(anchor_depths=(-75.0, 0.0, 75.0)).depths == (-75.0, 0.0, 75.0)


def test_round_trip_through_json() -> None:
    config = HeadConfig(
        image_size=176,
        anchor_depths=(-75.0, 0.0, 75.0),
        feature_levels=(1, 2),
        num_joints=14,
        learned_anchors=True,
        offset_bias=-2.0,
        box_heads=True,
    )
    assert HeadConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        HeadConfig().dim = 128  # type: ignore[misc]


def test_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown head setting 'num_layer'; known: image_size"):
        HeadConfig.from_dict({"num_layer": 3})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_layers": -1}, "num_layers is -1"),
        ({"dim": 0}, "dim is 0"),
        ({"dim": 48}, "multiple of 32"),
        ({"dim": 96, "heads": 5}, "2 \\* heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"depth_unit": "cm"}, "'px' or 'mm'"),
        ({"depth_range": 0.0}, "depth_range"),
        ({"anchor_depths": ()}, "anchor_depths is empty"),
        ({"root_joint": 21}, "root_joint"),
        ({"image_size": 8}, "leaves no anchor"),
        ({"num_layers": 0, "anchor_depths": (-1.0, 1.0)}, "one anchor per cell"),
        ({"num_layers": 0, "box_heads": True}, "belong to the transformer"),
        ({"offset_bias": float("nan")}, "offset_bias is nan"),
    ],
)
def test_bad_values_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadConfig(**values)  # type: ignore[arg-type]
