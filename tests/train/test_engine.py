"""The training loop: it learns, resumes bit for bit, saves on a signal, and explains misuse."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dfmamba.models import HandPoseModel
from dfmamba.train.config import DataConfig, TrainConfig
from dfmamba.train.engine import Network, step_seed, train
from dfmamba.train.parallel import Ranks
from dfmamba.train.pool import PoseTask
from dfmamba.train.run_folder import OLD_STATE_FILE, find_states, read_state


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
    return train(config, source, PoseTask(config), **options)


def config(folder: Path, **changes) -> TrainConfig:
    base = TrainConfig(model="test", out=str(folder), steps=12, batch_size=4, warmup=3, save_every=5, ema=0.9)
    return replace(base, **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return HandPoseModel.from_pretrained(folder).state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"steps": 6, "accumulate": 2},
        {"steps": 6, "precision": "bfloat16"},
        {"steps": 6, "precision": "float16"},
        {"steps": 6, "grad_checkpointing": True, "layer_decay": 0.7, "channels_last": False},
    ],
    ids=lambda changes: ",".join(changes) or "default",
)
def test_interrupted_run_equals_the_uninterrupted_one(tmp_path: Path, changes: dict) -> None:
    whole, parts = config(tmp_path / "a", **changes), config(tmp_path / "b", **changes)
    fit(whole, Dots())
    fit(parts, Dots(), until=whole.steps // 2)
    fit(parts, Dots(), resume=True)
    a, b = weights(tmp_path / "a" / "last"), weights(tmp_path / "b" / "last")
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_any_seed_trains(tmp_path: Path) -> None:
    fit(config(tmp_path, steps=1, seed=2**63 - 1), Dots())
    assert (
        len({step_seed(seed, rank, 3) for seed in (0, 1, 2**24, 2**24 + 1, 2**40) for rank in (0, 1)}) == 10
    )
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match=f"seed is {seed}"):
            config(tmp_path, seed=seed)


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
    assert [path.name for path in find_states(tmp_path)] == ["state-00000005.safetensors"]
    kept = load_file(tmp_path / "nan-batch-8.safetensors")
    assert kept["pictures"].isnan().all()
    assert torch.equal(kept["target/joints_25d"], Dots().batch(8)[1]["joints_25d"])
    fit(run, Dots(), resume=True)


def test_a_torn_state_costs_the_steps_since_the_one_before(tmp_path: Path, capsys) -> None:
    fit(config(tmp_path / "a"), Dots())
    run = config(tmp_path / "b")
    fit(run, Dots(), until=11)
    newest = find_states(tmp_path / "b")[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    capsys.readouterr()
    fit(run, Dots(), resume=True)
    assert sum(newest.name in line for line in capsys.readouterr().err.splitlines()) == 1
    a, b = weights(tmp_path / "a" / "last"), weights(tmp_path / "b" / "last")
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    fit(config(tmp_path / "a"), Dots())
    run = config(tmp_path / "b")
    fit(run, Dots(), until=7)
    newest, *others = find_states(tmp_path / "b")
    for path in others:
        path.unlink()
    facts, tensors = read_state(newest)
    newest.unlink()
    settings = {
        k: v for k, v in facts["config"].items() if k not in ("precision", "layer_decay", "keep_last")
    }
    old = {"step": facts["step"], "best": facts["best"], "config": settings}
    save_file(tensors, tmp_path / "b" / OLD_STATE_FILE, {"facts": json.dumps(old)})
    with pytest.raises(ValueError, match="another precision"):
        fit(replace(run, precision="bfloat16"), Dots(), resume=True)
    fit(run, Dots(), resume=True)
    a, b = weights(tmp_path / "a" / "last"), weights(tmp_path / "b" / "last")
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_half_a_model_is_not_taken_for_one(tmp_path: Path) -> None:
    fit(config(tmp_path, steps=2), Dots())
    (tmp_path / "last" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="no model here"):
        HandPoseModel.from_pretrained(tmp_path / "last")
    fit(config(tmp_path, steps=2), Dots(), resume=True)
    HandPoseModel.from_pretrained(tmp_path / "last")


def network(folder: Path, **changes) -> Network:
    run = config(folder, **changes)
    return Network(run, PoseTask(run), Ranks())


def gradients(network: Network, batch) -> tuple[dict[str, float], list[torch.Tensor]]:
    network.model.eval()  # batch norm would see the parts one by one
    losses = network.gradients(batch)
    found = [p.grad.clone() for p in network.model.parameters() if p.grad is not None]
    return {name: float(value) for name, value in losses.items()}, found


def test_two_parts_of_a_batch_equal_the_batch(tmp_path: Path) -> None:
    batch = Dots(batch=6).batch(0)
    one, whole = gradients(network(tmp_path), batch)
    for parts in (2, 4):
        other, summed = gradients(network(tmp_path, accumulate=parts), batch)
        assert other == pytest.approx(one, rel=1e-4)
        torch.testing.assert_close(summed, whole, rtol=1e-3, atol=1e-3)


def test_more_parts_than_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch of 4 pictures a process can't be divided into 5 parts"):
        fit(config(tmp_path, accumulate=5), Dots())


def test_recomputed_blocks_give_the_same_gradients(tmp_path: Path) -> None:
    batch = Dots().batch(0)
    _, plain = gradients(network(tmp_path), batch)
    _, recomputed = gradients(network(tmp_path, grad_checkpointing=True), batch)
    torch.testing.assert_close(recomputed, plain)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_single(tmp_path: Path, precision: str) -> None:
    batch = Dots().batch(0)
    single, half = network(tmp_path), network(tmp_path, precision=precision)
    half.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=precision == "float16")
    expected, _ = single.step(0, batch, False)
    found, _ = half.step(0, batch, False)
    assert found["total"] == pytest.approx(expected["total"], rel=0.05)
    assert found["total"] != expected["total"]
    assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.3)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())


def test_an_overflow_of_half_precision_leaves_the_step_out(tmp_path: Path) -> None:
    half = network(tmp_path, precision="float16")
    half.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = [p.detach().clone() for p in half.model.parameters()]
    figures, _ = half.step(0, Dots().batch(0), False)
    assert figures["grad_norm"] == float("inf") or figures["grad_norm"] != figures["grad_norm"]
    assert half.scaler.get_scale() == 2.0**126
    assert all(torch.equal(a, b) for a, b in zip(before, half.model.parameters(), strict=True))


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(tmp_path: Path) -> None:
    batch = Dots().batch(0)
    plain, _ = network(tmp_path).step(0, batch, False)
    compiled, _ = network(tmp_path, compile=True).step(0, batch, False)
    assert compiled == pytest.approx(plain, rel=1e-3)


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
    path = find_states(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=path.name):
        fit(run, Dots(), resume=True)


def test_start_from_other_weights(tmp_path: Path) -> None:
    run = config(tmp_path / "a", steps=2)
    fit(run, Dots())
    second = config(tmp_path / "b", steps=1, lr=1e-12, init=str(tmp_path / "a" / "last"))
    fit(second, Dots())
    a, b = weights(tmp_path / "a" / "last"), weights(tmp_path / "b" / "last")
    name = "head.decoder.votes.weight"
    torch.testing.assert_close(a[name], b[name])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "unknown training setting"),
        ({"data": {"picture": 3}}, "training data setting 'picture'"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": -1.0}, "lr > 0"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"schedule": "line"}, "schedule is 'line'"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"sharding": "zero"}, "sharding is 'zero'"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"keep_last": 0}, "keep_last is 0"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        ({"precision": "float16", "sharding": "fsdp"}, "float16 isn't supported with fsdp"),
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
