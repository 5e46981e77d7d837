"""Names of version 0.1 whose modules moved."""

from __future__ import annotations

import importlib

import pytest

from dfmamba import synth


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("cache", "synth.shards", "ShardedHands"),
        ("people_shards", "synth.shards", "PeopleShards"),
        ("background", "synth.background", "sample_background"),
        ("generator", "synth.generator", "SyntheticHands"),
        ("hand", "hands.model", "HandModel"),
    ],
)
def test_old_modules_are_the_new_ones(old: str, new: str, name: str) -> None:
    module = importlib.import_module(f"dfmamba.data.synthetic.{old}")
    assert module is importlib.import_module(f"dfmamba.{new}")
    assert hasattr(module, name)


def test_old_names() -> None:
    synthetic = importlib.import_module("dfmamba.data.synthetic")
    assert synthetic.SyntheticConfig is synth.SyntheticConfig
    assert synthetic.render_shards is synth.render_shards
    with pytest.raises(AttributeError):
        _ = synthetic.nothing
    with pytest.raises(ImportError):
        importlib.import_module("dfmamba.data.synthetic.nothing")


def test_detections() -> None:
    old = importlib.import_module("dfmamba.detect.detection")
    assert old is importlib.import_module("dfmamba.hands.detection")
