"""Processes that form a group, for tests."""

from __future__ import annotations

import os
import socket
import warnings

import torch
import torch.multiprocessing as mp


def run_processes(member, *arguments, count: int = 2) -> None:
    """Runs `member(rank, *arguments)` in processes that form a group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_join, args=(count, port, member, arguments), nprocs=count)


def _join(rank: int, count: int, port: int, member, arguments: tuple) -> None:
    warnings.simplefilter("error")
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    member(rank, *arguments)
    torch.distributed.destroy_process_group()
