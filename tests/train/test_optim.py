"""Schedules, parameter groups, layer-wise rates and the average of the weights."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from dfmamba.models import MODELS, HandPoseModel
from dfmamba.train.config import TrainConfig
from dfmamba.train.optim import (
    build_optimizer,
    depth_in_backbone,
    layer_scales,
    learning_rate,
    parameter_groups,
    set_learning_rate,
    update_average,
)


def test_learning_rate_warms_up_and_falls() -> None:
    run = TrainConfig(steps=1000, warmup=100, lr=1.0)
    rates = [learning_rate(run, step) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0)
    assert rates[1000] == pytest.approx(0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[100:]))


def test_learning_rate_falls_at_milestones() -> None:
    run = TrainConfig(steps=100, warmup=0, lr=1.0, schedule="step", milestones=(50, 80), gamma=0.2)
    rates = [learning_rate(run, step) for step in (0, 49, 50, 79, 80, 99)]
    assert rates == pytest.approx([1.0, 1.0, 0.2, 0.2, 0.04, 0.04])


def test_adam_trains_only_what_is_not_frozen() -> None:
    run = TrainConfig(optimizer="adam", weight_decay=0.0)
    model = HandPoseModel(MODELS["test"])
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    optimizer = build_optimizer(run, model)
    assert isinstance(optimizer, torch.optim.Adam)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(frozen) not in held
    assert len(held) == len(list(model.parameters())) - 1
    assert id(frozen) not in {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}


def test_norms_and_state_space_parameters_do_not_decay() -> None:
    model = HandPoseModel(MODELS["test"])
    names = {id(p): n for n, p in model.named_parameters()}
    decay, rest = parameter_groups(model, 0.1)  # two groups while all layers learn at one rate
    assert {names[id(p)] for p in decay["params"]} | {names[id(p)] for p in rest["params"]} == set(
        names.values()
    )
    assert not any("A_log" in names[id(p)] or "bias" in names[id(p)] for p in decay["params"])


def test_a_statistic_that_overflowed_is_set_back() -> None:
    model, average = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    assert model.running_var is not None
    assert average.running_var is not None
    model.running_var[:] = torch.tensor([float("inf"), 3.0])
    update_average(average, model, 0.5)
    assert model.running_var.tolist() == [1.0, 3.0]
    assert average.running_var.tolist() == [1.0, 2.0]


def test_average_follows_parameters_and_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    average = copy.deepcopy(model)
    start = copy.deepcopy(model.state_dict())
    model(torch.rand(2, 3, 4, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    update_average(average, model, 0.75)
    for name, value in average.state_dict().items():
        new = model.state_dict()[name]
        expected = 0.75 * start[name] + 0.25 * new if new.is_floating_point() else new
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("stem.0.0.weight", 0),
        ("downs.2.0.weight", 3),
        ("stages.0.0.conv.weight", 1),
        ("norm.weight", None),
        ("body.conv1.weight", 0),
        ("body.layer3.1.conv2.weight", 3),
        ("body.patch_embed.proj.weight", 0),
        ("body.pos_embed", 0),
        ("body.blocks.11.attn.qkv.weight", 12),
        ("body.layers.1.blocks.0.mlp.fc1.weight", 2),
        ("norms.1.weight", None),
    ],
)
def test_depth_of_names(name: str, depth: int | None) -> None:
    assert depth_in_backbone(name) == depth


def test_layers_near_the_input_learn_more_slowly() -> None:
    model = HandPoseModel(MODELS["test"])
    scales = layer_scales(model, 0.5)
    assert scales["backbone.stem.0.0.weight"] == pytest.approx(0.5**5)
    assert {v for n, v in scales.items() if n.startswith("backbone.stages.3.")} == {0.5}
    assert {v for n, v in scales.items() if n.startswith("head.")} == {1.0}
    for kind in ("adamw", "adam"):
        optimizer = build_optimizer(TrainConfig(optimizer=kind, layer_decay=0.5), model)
        set_learning_rate(optimizer, 0.1)
        names = {id(p): n for n, p in model.named_parameters()}
        seen = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert seen == {name: pytest.approx(0.1 * scale) for name, scale in scales.items()}
