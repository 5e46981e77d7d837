"""The training loop: it learns, resumes bit for bit, saves on a signal, and explains misuse."""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dfmamba.models import HandPoseModel
from dfmamba.train.checkpoint import STATE_FILE
from dfmamba.train.config import DataConfig, TrainConfig
from dfmamba.train.engine import build_optimizer, learning_rate, parameter_groups, train, update_average
from dfmamba.train.synthetic_task import SyntheticTask


class Dots:
    """A toy task: right hands whose joints all lie on a bright dot."""

    def __init__(
        self, batch: int = 4, size: int = 64, poison: int | None = None, stop: int | None = None
    ) -> None:
        self.count, self.size, self.poison, self.stop = batch, size, poison, stop

    def batch(self, step: int):
        if step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        generator = torch.Generator().manual_seed(step)
        place = torch.rand(self.count, 2, generator=generator) * 40 + 12
        y, x = torch.meshgrid(torch.arange(self.size), torch.arange(self.size), indexing="ij")
        dot = torch.exp(-((x - place[:, 0, None, None]) ** 2 + (y - place[:, 1, None, None]) ** 2) / 30)
        pictures = dot[:, None].expand(-1, 3, -1, -1).contiguous()
        if step == self.poison:
            pictures = pictures * float("nan")
        joints = torch.zeros(self.count, 2, 21, 3)
        joints[:, 0, :, :2] = place[:, None]
        valid = torch.zeros(self.count, 2, 21, dtype=torch.bool)
        valid[:, 0] = True
        return pictures, {
            "joints_25d": joints,
            "valid": valid,
            "present": valid.any(-1),
            "box_size_px": torch.full((self.count, 2), 20.0),
        }


def fit(config: TrainConfig, source: Dots, **options):
    return train(config, source, SyntheticTask(config), **options)


def config(folder: Path, **changes) -> TrainConfig:
    base = TrainConfig(model="test", out=str(folder), steps=12, batch_size=4, warmup=3, save_every=5, ema=0.9)
    return replace(base, **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return HandPoseModel.from_pretrained(folder).state_dict()


def test_interrupted_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = config(tmp_path / "a"), config(tmp_path / "b")
    fit(whole, Dots())
    fit(parts, Dots(), until=7)
    fit(parts, Dots(), resume=True)
    a, b = weights(tmp_path / "a" / "last"), weights(tmp_path / "b" / "last")
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_loss_falls(tmp_path: Path) -> None:
    run = config(tmp_path, steps=150, warmup=10, lr=3e-3)
    fit(run, Dots(batch=8))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    joint = [line["joint"] for line in lines if "joint" in line]
    assert joint[-1] < 0.5 * joint[0]


def test_a_signal_saves_and_ends(tmp_path: Path, capsys) -> None:
    run = config(tmp_path)
    fit(run, Dots(stop=6))
    assert not (tmp_path / "last").exists()
    assert "stopped at step 7" in capsys.readouterr().err
    fit(run, Dots(), resume=True)
    assert (tmp_path / "last").is_dir()


def test_loss_that_is_not_finite_stops_and_keeps_the_state(tmp_path: Path) -> None:
    run = config(tmp_path)
    with pytest.raises(FloatingPointError, match="step 8"):
        fit(run, Dots(poison=8))
    assert (tmp_path / STATE_FILE).is_file()
    fit(run, Dots(), resume=True)


def test_validation_keeps_the_best(tmp_path: Path) -> None:
    scores = iter([3.0, 1.0, 2.0])
    run = config(tmp_path, validate_every=4)
    fit(run, Dots(), validate=lambda model: {"score": next(scores)})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["validation"]["score"] for line in lines if "validation" in line] == [3.0, 1.0, 2.0]
    assert (tmp_path / "best" / "model.safetensors").is_file()


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    run = config(tmp_path, steps=2)
    fit(run, Dots())
    with pytest.raises(ValueError, match="holds a run already"):
        fit(run, Dots())
    with pytest.raises(ValueError, match="another lr"):
        fit(replace(run, lr=1.0), Dots(), resume=True)


@pytest.mark.parametrize("cut", [0, 7, 100, -9])
def test_a_torn_state_is_named(tmp_path: Path, cut: int) -> None:
    run = config(tmp_path, steps=2)
    fit(run, Dots())
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=STATE_FILE):
        fit(run, Dots(), resume=True)


def test_start_from_other_weights(tmp_path: Path) -> None:
    run = config(tmp_path / "a", steps=2)
    fit(run, Dots())
    second = config(tmp_path / "b", steps=1, lr=1e-12, init=str(tmp_path / "a" / "last"))
    fit(second, Dots())
    a, b = weights(tmp_path / "a" / "last"), weights(tmp_path / "b" / "last")
    name = "head.decoder.votes.weight"
    torch.testing.assert_close(a[name], b[name])


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


def test_adam_trains_only_what_is_not_frozen(tmp_path: Path) -> None:
    run = config(tmp_path, optimizer="adam", weight_decay=0.0)
    model = SyntheticTask(run).build()
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    optimizer = build_optimizer(run, model)
    assert isinstance(optimizer, torch.optim.Adam)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(frozen) not in held
    assert len(held) == len(list(model.parameters())) - 1
    assert id(frozen) not in {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}


def test_norms_and_state_space_parameters_do_not_decay() -> None:
    from dfmamba.models import MODELS

    model = HandPoseModel(MODELS["test"])
    names = {id(p): n for n, p in model.named_parameters()}
    decay, rest = parameter_groups(model, 0.1)
    assert {names[id(p)] for p in decay["params"]} | {names[id(p)] for p in rest["params"]} == set(
        names.values()
    )
    assert not any("A_log" in names[id(p)] or "bias" in names[id(p)] for p in decay["params"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "unknown training setting"),
        ({"data": {"picture": 3}}, "data.'picture'"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": -1.0}, "lr > 0"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"schedule": "line"}, "schedule is 'line'"),
    ],
)
def test_bad_settings_are_named(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict(values)


def test_config_survives_json() -> None:
    run = TrainConfig(data=DataConfig(pictures=5))
    assert TrainConfig.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown model 'giant'"):
        fit(config(tmp_path, model="giant"), Dots())


def test_a_statistic_that_overflowed_is_set_back() -> None:
    model, average = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    assert model.running_var is not None
    assert average.running_var is not None
    model.running_var[:] = torch.tensor([float("inf"), 3.0])
    update_average(average, model, 0.5)
    assert model.running_var.tolist() == [1.0, 3.0]
    assert average.running_var.tolist() == [1.0, 2.0]
