"""Training that is killed at random moments; the whole of it is `make check-chaos`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

CHAOS = Path(__file__).with_name("chaos.py")


def run(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_few_kills_change_no_bit() -> None:
    assert "3 kills: same bits" in run(str(CHAOS), "--kills", "3", "--steps", "15")


@pytest.mark.slow
def test_torchrun_restarts_what_died(tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--max-restarts", "2")
    run(*torchrun, str(CHAOS), "--worker", str(tmp_path / "a" / "run"))
    run(*torchrun, str(CHAOS), "--worker", str(tmp_path / "b" / "run"), "--die-at", "7")
    assert (tmp_path / "b" / "died").is_file()
    a, b = (load_file(tmp_path / name / "run" / "last" / "model.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
