"""Recipes: the published settings, and the run that follows from them."""

from __future__ import annotations

import json
import math

import pytest

from dfmamba.data.registry import DATASETS
from dfmamba.train.framework import RECIPES, DatasetTask, recipe


def test_every_data_set_has_one() -> None:
    assert RECIPES.keys() == DATASETS.keys()
    for name, found in RECIPES.items():
        assert found.dataset == name
        assert set(found.splits) <= set(reader_splits(name))


def reader_splits(name: str) -> tuple[str, ...]:
    from dfmamba.data.registry import reader_class

    return reader_class(name).SPLITS


def test_interhand_is_trained_as_published() -> None:
    run = recipe("interhand26m").run("somewhere", samples=1_361_062)
    assert run.steps == math.ceil(42 * 1_361_062 / 48)
    assert run.milestones == (round(24 / 42 * run.steps), round(35 / 42 * run.steps))
    assert (run.optimizer, run.lr, run.gamma, run.weight_decay) == ("adam", 1e-4, 0.2, 0.0)
    assert run.out == "runs/interhand26m-dfmamba_tiny"
    assert (run.ema, run.clip) == (0.0, math.inf)


def test_a_shorter_run_keeps_the_shape_of_the_schedule() -> None:
    run = recipe("nyu").run("somewhere", samples=1000, epochs=4.5)
    assert run.steps == math.ceil(4.5 * 1000 / 4)
    assert run.milestones == (round(run.steps / 3), round(run.steps * 2 / 3))
    assert recipe("nyu").run("somewhere", samples=1000, steps=30).milestones == (10, 20)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_it_builds_its_network_on_a_small_backbone(name: str) -> None:
    task = DatasetTask(recipe(name).run("somewhere", samples=10, backbone="dfmamba_test"))
    assert task.config.framework == task.framework.to_dict()
    assert task.config.backbone == "dfmamba_test"
    assert type(task.config).from_dict(json.loads(json.dumps(task.config.to_dict()))) == task.config


def test_settings_of_the_framework_change() -> None:
    run = recipe("dexycb").run("somewhere", samples=10, framework={"image_size": 64})
    assert run.framework == {"name": "detnet", "factor": 1.75, "image_size": 64}
    other = recipe("dexycb").run("somewhere", 10, framework={"name": "a2j"}, replace_framework=True)
    assert other.framework == {"name": "a2j"}


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match="unknown training setting 'lrr'"):
        recipe("nyu").run("somewhere", samples=10, lrr=1.0)
    with pytest.raises(ValueError, match="unknown data set 'nuy'"):
        recipe("nuy")
    with pytest.raises(ValueError, match="unknown framework"):
        DatasetTask(recipe("nyu").run("somewhere", 10, framework={"name": "b2k"}))
