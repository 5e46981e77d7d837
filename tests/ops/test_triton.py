"""The Triton kernels, in a process of their own: the interpreter is chosen when triton is first imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

CASES = Path(__file__).with_name("triton_interpreted.py")


def run_cases(interpret: bool) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0"}
    # Triton warns of a future default of its compiler; either value suits these kernels.
    environment.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(
        command,
        env=environment,
        cwd=CASES.parents[2],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_in_the_interpreter() -> None:
    version = importlib.metadata.version("triton")
    if tuple(int(part) for part in version.split(".")[:2]) < (3, 7):
        pytest.skip(f"the interpreter of Triton {version} cannot run loops with newer NumPy versions")
    run_cases(interpret=True)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 700), st.sampled_from([1, 2, 3]), st.integers(1, 32))
def test_tiles_cover_a_sequence_and_give_every_thread_its_own_element(
    length: int, width: int, groups: int, largest_share: int
) -> None:
    from dfmamba.ops.triton_common import ScanOperands, ScanPlan, configurations, fitting

    u, matrix = torch.empty(1, 1, 1).expand(2, groups * width, length), torch.empty(1, groups, 1, 1)
    operands = ScanOperands(u, u, torch.empty(groups * width, 1), matrix, matrix, None, None, None)
    plan = ScanPlan.of(operands, False)
    assert (plan.chunks - 1) * plan.steps < length <= plan.chunks * plan.steps
    assert plan.blocks * plan.block >= plan.channels
    assert plan.width * plan.groups == plan.channels
    choices = configurations((8, 1), (8, 4), (32, 4), (32, 8), interpreted=4, block="BLOCK_D")
    kept = fitting("BLOCK_D", "STEPS", largest_share=largest_share)(
        choices, {"width": width}, STEPS=plan.steps
    )
    assert kept
    for config in kept if kept != choices[:1] else ():
        assert (
            32 * config.num_warps
            <= config.kwargs["BLOCK_D"] * plan.steps
            <= largest_share * 32 * config.num_warps
        )
        assert config.kwargs["BLOCK_D"] < max(2 * width, 16)


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not torch.cuda.is_available(),
    reason="needs Triton and a GPU",
)
def test_on_a_gpu() -> None:
    run_cases(interpret=False)
