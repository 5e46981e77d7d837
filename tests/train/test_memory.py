"""Freed memory stays with the process while it trains."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from dfmamba.train.engine import freed_memory_kept

def filled():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(10_000_000).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

torch.set_num_threads(1)
at_first = resident()
with freed_memory_kept() as kept:
    inside = [filled() for _ in range(30)]
    largest = resident()
print(int(kept), min(inside[-3:]), max(inside[-3:]), filled(), largest - at_first, resident() - at_first)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")


def run(**environment: str) -> list[int]:
    """What the script prints.

    Whether it was set; the pages that the system filled for a tensor at the end of the context (least, most)
    and after it; the pages by which the process had grown in and after it.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [int(word) for word in done.stdout.split()]


PAGES = 40_000_000 // os.sysconf("SC_PAGE_SIZE")


@glibc
def test_pages_are_filled_once_and_given_back_at_the_end() -> None:
    kept, _, most, after, held, still_held = run()
    assert kept
    assert most < PAGES / 20
    assert after > PAGES * 0.9
    assert held > PAGES * 0.9
    assert still_held < held - PAGES * 0.9


@glibc
def test_an_environment_that_says_otherwise_is_respected() -> None:
    kept, least, *_ = run(MALLOC_ARENA_MAX="4")
    assert not kept
    assert least > PAGES * 0.9
