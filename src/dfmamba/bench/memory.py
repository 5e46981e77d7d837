"""Peak memory of one pass: by how much the resident memory of a fresh process grows, or CUDA's own count."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 600


def peak_bytes(request: Mapping[str, Any]) -> int | None:
    """Peak memory of a pass, beyond what the loaded network takes.

    A process of its own measures, since memory that earlier passes left to the allocator would hide it.

    Args:
        request: `name`, `arguments`, `size`, `batch`, `threads`, `train`, `channels_last`, `device`.

    Returns:
        Bytes, or None where it can't be measured (no such counter on this system, or the pass failed).
    """
    command = [sys.executable, "-m", "dfmamba.bench.memory", json.dumps(dict(request))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
        return int(done.stdout.strip().splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None


def measure(request: Mapping[str, Any]) -> int:
    """The same within this process, which must be fresh.

    Raises:
        OSError: the system doesn't tell.
    """
    import torch

    from dfmamba.bench.networks import Network, build

    torch.set_num_threads(int(request["threads"]))
    device = torch.device(request["device"])
    model = build(Network(request["name"], request["name"], request["arguments"])).to(device)
    x = torch.rand(request["batch"], 3, request["size"], request["size"], device=device)
    if request["channels_last"]:
        model = model.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)

    def once() -> None:
        with torch.set_grad_enabled(request["train"]):
            y = model.train(request["train"])(x)
            if request["train"]:
                y.square().mean().backward()
                model.zero_grad()

    # The first pass loads modules and makes kernels, which is no memory of the network.
    once()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = _restart_peak()
    once()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - before
    return _status("VmHWM") - before


def _restart_peak() -> int:
    """Give freed memory back to the system and forget the peak so far; returns resident bytes.

    Raises:
        OSError: the system has no such counter.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"this system does not report {key}")


if __name__ == "__main__":
    print(measure(json.loads(sys.argv[1])))
