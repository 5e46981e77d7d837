"""This machine: the device that something runs on, and what a table of measurements says of it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PEERS = ("torchvision", "timm", "mambapy")
"""Distributions that competitors come from."""


def check_device(device: str) -> torch.device:
    """The torch device of that name.

    Raises:
        ValueError: the name is unknown, or this machine has no such device.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} can't be used here: {first}") from error
    return found


def choose_device(device: str | torch.device) -> torch.device:
    """Turn a device name into a torch device that works here; "auto" is the GPU where there is one.

    Raises:
        ValueError: if the name is unknown or this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = check_device(str(device))
    if chosen.type == "meta":
        raise ValueError("device 'meta' holds no values, so nothing can be predicted on it; try cpu")
    return chosen


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, threads, device and versions; no name or place of the machine."""
    import dfmamba

    versions = {"dfmamba": dfmamba.__version__, "python": platform.python_version()}
    versions["torch"] = torch.__version__
    for name in PEERS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    cuda = device.startswith("cuda")
    return {
        "cpu": processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if cuda else processor(),
        "versions": versions,
    }


def processor() -> str:
    """Name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.processor() or platform.machine()
