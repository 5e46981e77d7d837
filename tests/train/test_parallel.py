"""Averaging gradients over processes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import nn

from dfmamba.train.parallel import Ranks


def test_alone_nothing_changes() -> None:
    module = nn.Linear(2, 1)
    module(torch.ones(1, 2)).backward()
    before = module.weight.grad.clone()
    ranks = Ranks.from_environment("cpu")
    assert ranks == Ranks(0, 1)
    assert ranks.average_gradients(module, flag=True)
    assert not ranks.average_gradients(module)
    assert torch.equal(module.weight.grad, before)


def _member(rank: int, port: int, folder: str) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    ranks = Ranks.from_environment("cpu")
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    module(x[ranks.rank : ranks.rank + 1]).square().mean().backward()
    stop = ranks.average_gradients(module, flag=ranks.rank == 1)
    save_file({"grad": module.weight.grad, "stop": torch.tensor(stop)}, f"{folder}/{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_member, args=(port, str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    module(x).square().mean().backward()
    for rank in (0, 1):
        found = load_file(tmp_path / f"{rank}.safetensors")
        torch.testing.assert_close(found["grad"], module.weight.grad)
        assert found["stop"]
