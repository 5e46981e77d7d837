"""Training by several processes: averaged gradients, divided weights, and what they must equal."""

from __future__ import annotations

import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from process_group import run_processes
from safetensors.torch import load_file, save_file
from torch import nn

from dfmamba.heads import pose_loss
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.train.config import TrainConfig
from dfmamba.train.engine import Network, train
from dfmamba.train.parallel import Ranks
from dfmamba.train.pool import loss_settings


class LayerNormTask:
    """The test model without batch norm, so that samples don't depend on the others of a batch."""

    def __init__(self, config: TrainConfig) -> None:
        self.settings = loss_settings(config)

    def build(self) -> HandPoseModel:
        model = HandPoseModel(replace(MODELS["test"], backbone_args={"norm": "layer"}))
        for parent in list(model.head.modules()):
            for name, part in list(parent.named_children()):
                if isinstance(part, nn.BatchNorm2d):
                    setattr(parent, name, nn.GroupNorm(1, part.num_features))
        return model

    def loss(self, output, target):
        return pose_loss(output, target, self.settings)


class BatchNormTask(LayerNormTask):
    """The test model as it is, with batch norm."""

    def build(self) -> HandPoseModel:
        return HandPoseModel(MODELS["test"])


class Share:
    """A process's share of batches with two labelled hands in each picture."""

    def __init__(self, ranks: Ranks, size: int = 4, signal_at: int | None = None) -> None:
        self.ranks, self.size, self.signal_at = ranks, size, signal_at

    def batch(self, step: int):
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        generator = torch.Generator().manual_seed(step)
        n, share = self.size, self.ranks.share_of(self.size)
        mine = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        pictures = torch.rand(n, 3, 64, 64, generator=generator)
        joints = torch.rand(n, 2, 21, 3, generator=generator) * 40 + 12
        valid = torch.ones(n, 2, 21, dtype=torch.bool)
        target = {"joints_25d": joints, "valid": valid, "present": valid.any(-1)}
        target["box_size_px"] = torch.full((n, 2), 40.0)
        return pictures[mine], {name: t[mine] for name, t in target.items()}


def settings(folder: str | Path, **changes) -> TrainConfig:
    base = TrainConfig(
        model="test", out=str(folder), steps=6, batch_size=4, warmup=3, save_every=3, ema=0.9, threads=1,
        clip=5.0, lr=1e-3,
    )  # fmt: skip
    return replace(base, **changes)


def losses_of(
    config: TrainConfig, ranks: Ranks, steps: int, task: type[LayerNormTask] = LayerNormTask
) -> tuple[torch.Tensor, Network]:
    """(steps,) mean loss over the processes, and what was trained."""
    network = Network(config, task(config), ranks)
    source, losses = Share(ranks), []
    for step in range(steps):
        figures, _ = network.step(step, source.batch(step), False)
        losses.append(figures["total"])
    found = torch.tensor(losses, dtype=torch.float64)
    if ranks.world > 1:
        torch.distributed.all_reduce(found)
    return found / ranks.world, network


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Root of the summed squares of what differs between two states."""
    return sum(float((one[n].double() - other[n].double()).square().sum()) for n in one) ** 0.5


def start_state(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that all runs begin with."""
    return Network(settings(folder), LayerNormTask(settings(folder)), Ranks()).model.state_dict()


def test_alone_nothing_changes() -> None:
    module = nn.Linear(2, 1)
    module(torch.ones(1, 2)).backward()
    assert module.weight.grad is not None
    before = module.weight.grad.clone()
    ranks = Ranks.from_environment("cpu")
    assert ranks == Ranks(0, 1)
    assert ranks.average_gradients(module, flag=True)
    assert not ranks.average_gradients(module)
    assert torch.equal(module.weight.grad, before)
    assert ranks.agree(3)
    assert ranks.divide(module) is module


def test_a_batch_that_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="batch_size 5 can't be divided among 2"):
        Ranks(0, 2).share_of(5)


def _compare_gradients(rank: int, folder: str) -> None:
    from torch.nn.parallel import DistributedDataParallel

    warnings.filterwarnings("ignore", message="Grad strides do not match")
    ranks = Ranks.from_environment("cpu")
    config = settings(folder)
    task = LayerNormTask(config)
    torch.manual_seed(0)
    ours = task.build()
    theirs = DistributedDataParallel(task.build())
    theirs.module.load_state_dict(ours.state_dict())
    pictures, target = Share(ranks).batch(0)
    found = {}
    for name, model in (("ours", ours), ("theirs", theirs)):
        task.loss(model(pictures), target)["total"].backward()
        if name == "ours":
            stop = ranks.average_gradients(ours, flag=rank == 1)
        for key, parameter in getattr(model, "module", model).named_parameters():
            found[f"{name}/{key}"] = parameter.grad.contiguous()
    found["stop"] = torch.tensor(stop)
    found["agree"] = torch.tensor([ranks.agree(7), ranks.agree(rank)])
    save_file(found, f"{folder}/{rank}.safetensors")


def test_gradients_equal_those_of_distributed_data_parallel_and_of_one_process(tmp_path: Path) -> None:
    run_processes(_compare_gradients, str(tmp_path))
    task = LayerNormTask(settings(tmp_path))
    torch.manual_seed(0)
    whole = task.build()
    pictures, target = Share(Ranks()).batch(0)
    task.loss(whole(pictures), target)["total"].backward()
    for rank in (0, 1):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found["stop"]
        assert found["agree"].tolist() == [True, False]
        for name, parameter in whole.named_parameters():
            torch.testing.assert_close(found[f"ours/{name}"], found[f"theirs/{name}"])
            torch.testing.assert_close(found[f"ours/{name}"], parameter.grad, rtol=2e-4, atol=2e-4)


def _train_with_batch_norm(rank: int, folder: str) -> None:
    ranks = Ranks.from_environment("cpu")
    found = {}
    for name, together in (("together", True), ("apart", False)):
        config = settings(folder, sync_batch_norm=together)
        losses, network = losses_of(config, ranks, 6, BatchNormTask)
        found[f"losses/{name}"] = losses
        state = network.averaged().state_dict()
        found |= {f"{name}/{key}": t.clone().contiguous() for key, t in state.items()}
    if rank == 1:
        save_file(found, f"{folder}/found.safetensors")


def test_batch_norm_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    run_processes(_train_with_batch_norm, str(tmp_path))
    found = load_file(tmp_path / "found.safetensors")
    alone, network = losses_of(settings(tmp_path), Ranks(), 6, BatchNormTask)
    torch.testing.assert_close(found["losses/together"], alone, rtol=1e-4, atol=0)
    assert float((found["losses/apart"] / alone - 1).abs().max()) > 1e-3
    alone_ran = {n: t for n, t in network.averaged().named_buffers() if "running" in n}
    together, apart = ({n: found[f"{how}/{n}"] for n in alone_ran} for how in ("together", "apart"))
    assert distance(together, alone_ran) < 0.05 * distance(apart, alone_ran)


def _train_fifty(rank: int, folder: str) -> None:
    ranks = Ranks.from_environment("cpu")
    found = {}
    found["losses/batch norm"], _ = losses_of(settings(folder, steps=50), ranks, 50, BatchNormTask)
    for sharding in ("ddp", "fsdp"):
        losses, network = losses_of(settings(folder, sharding=sharding, steps=50), ranks, 50)
        found[f"losses/{sharding}"] = losses
        state = network.averaged().state_dict()
        found |= {f"{sharding}/{name}": t.clone().contiguous() for name, t in state.items()}
    if rank == 0:
        save_file(found, f"{folder}/found.safetensors")


@pytest.mark.slow
def test_fifty_steps_by_one_process_two_and_with_divided_weights_agree(tmp_path: Path) -> None:
    run_processes(_train_fifty, str(tmp_path))
    found = load_file(tmp_path / "found.safetensors")
    alone, network = losses_of(settings(tmp_path, steps=50), Ranks(), 50)
    torch.testing.assert_close(found["losses/ddp"], alone, rtol=1e-3, atol=0)
    torch.testing.assert_close(found["losses/fsdp"], found["losses/ddp"], rtol=1e-3, atol=0)
    with_batch_norm, _ = losses_of(settings(tmp_path, steps=50), Ranks(), 50, BatchNormTask)
    torch.testing.assert_close(found["losses/batch norm"], with_batch_norm, rtol=1e-2, atol=0)
    names = list(network.averaged().state_dict())
    one, other = ({n: found[f"{sharding}/{n}"] for n in names} for sharding in ("ddp", "fsdp"))
    assert distance(one, other) < 0.1 * distance(one, start_state(tmp_path))


def _resume(rank: int, folder: str) -> None:
    ranks = Ranks.from_environment("cpu")
    for sharding in ("ddp", "fsdp"):
        for name, stages in (("whole", [None]), ("parts", [4, None])):
            config = settings(f"{folder}/{sharding}-{name}", sharding=sharding)
            for until in stages:
                train(config, Share(ranks), LayerNormTask(config), True, until=until, ranks=ranks)
    # A signal to one process stops both; the other reports a failure, for its torchrun to begin again.
    config = settings(f"{folder}/signalled")
    source = Share(ranks, signal_at=2 if rank == 1 else None)
    if rank == 1:
        train(config, source, LayerNormTask(config), ranks=ranks)
    else:
        with pytest.raises(InterruptedError, match="saved at step 3"):
            train(config, source, LayerNormTask(config), ranks=ranks)
    torch.distributed.barrier()
    train(config, Share(ranks), LayerNormTask(config), True, ranks=ranks)
    # A divided run goes on undivided, and the other way round.
    config = settings(f"{folder}/mixed", sharding="fsdp")
    train(config, Share(ranks), LayerNormTask(config), until=3, ranks=ranks)
    config = replace(config, sharding="ddp")
    train(config, Share(ranks), LayerNormTask(config), True, ranks=ranks)


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(tmp_path: Path) -> None:
    run_processes(_resume, str(tmp_path))

    def weights(name: str) -> dict[str, torch.Tensor]:
        return load_file(tmp_path / name / "last" / "model.safetensors")

    for sharding in ("ddp", "fsdp"):
        whole, parts = weights(f"{sharding}-whole"), weights(f"{sharding}-parts")
        assert [n for n in whole if not torch.equal(whole[n], parts[n])] == []
    whole, signalled = weights("ddp-whole"), weights("signalled")
    assert [n for n in whole if not torch.equal(whole[n], signalled[n])] == []
    whole, mixed = weights("ddp-whole"), weights("mixed")
    assert distance(whole, mixed) < 0.1 * distance(whole, start_state(tmp_path))
