"""What the folder of a run holds: the machine and code it ran on, and states to resume from.

States are safetensors files with a checksum, written atomically; the newest valid one is read. A state holds
whole tensors, however weights are divided among processes, so a run may go on with another `sharding` than it
had.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfmamba.io.files import write_atomic
from dfmamba.io.untrusted import parse_json, read_json
from dfmamba.train.parallel import like, whole

ENVIRONMENT_FILE, LOG_FILE, CURVES_FILE = "environment.json", "log.jsonl", "curves.png"
SCHEMA = "dfmamba.environment/1"


def write_environment(out: Path, device: str, world: int, step: int) -> None:
    """Adds this start of the run to the folder's `environment.json`, whose "starts" has one entry for each.

    Args:
        out: folder of the run.
        device: torch device.
        world: number of processes.
        step: at which the run starts or goes on.

    Raises:
        OSError: the file can't be written.
    """
    path = out / ENVIRONMENT_FILE
    starts = [*read_starts(path), {"step": step, **describe_start(device, world)}]
    write_atomic(path, (json.dumps({"schema": SCHEMA, "starts": starts}, indent=2) + "\n").encode())


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts in a file of `write_environment`; none where it is missing or damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return []
    starts = found.get("starts") if isinstance(found, dict) else None
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def describe_start(device: str, world: int) -> dict[str, Any]:
    """Time (UTC), command line, versions, processor, threads, device, number of processes, state of git.

    There is neither the machine's name nor the user's home folder in it.
    """
    from dfmamba.machine import describe_machine

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(sys.orig_argv, Path.home()),
        "processes": world,
        **describe_machine(device),
        "git": git_state(Path(__file__).parent),
    }


def command_line(words: Sequence[str], home: Path) -> list[str]:
    """The words of a command with the program's folder left out and the home folder written as "~"."""
    program = [Path(word).name for word in words[:1]]
    inside, marked = str(home) + os.sep, "~" + os.sep
    return [*program, *(word.replace(inside, marked) if len(inside) > 1 else word for word in words[1:])]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that a folder of sources is tracked in, and whether its files are unchanged.

    Returns:
        "commit" and "clean"; None outside of a checkout, such as where the package is installed, or without
        git.
    """
    try:
        # An installed copy may lie within somebody else's checkout, but isn't tracked there.
        _git(folder, "ls-files", "--error-unmatch", ".")
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "clean": not changed}


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


OLD_STATE_FILE = "state.safetensors"
"""Name of the only state of runs of version 0.1."""

_NAME = re.compile(r"state-(\d+)\.safetensors")


def state_file(step: int) -> str:
    """Name of the state after `step` steps."""
    return f"state-{step:08d}.safetensors"


def find_states(folder: Path) -> list[Path]:
    """The states in a folder, newest first, damaged ones among them."""
    found = [(int(match[1]), p) for p in folder.glob("state-*") if (match := _NAME.fullmatch(p.name))]
    paths = [path for _, path in sorted(found, reverse=True)]
    old = folder / OLD_STATE_FILE
    return [*paths, old] if old.is_file() else paths


def save_state(
    folder: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
    keep: int = 2,
    write: bool = True,
) -> None:
    """Writes model, averaged model, optimiser moments and plain facts; removes all but the newest states.

    Args:
        folder: of the run.
        model: with its optimiser; divided weights are gathered, for which all processes must call.
        average: likewise.
        optimizer: of the model.
        facts: what JSON can hold, among it "step".
        keep: how many states to keep.
        write: whether this process writes.

    Raises:
        OSError: the disk is full or the folder can't be written; the previous states stay as they were.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}

    def add(name: str, tensor: Tensor) -> None:
        tensor = whole(tensor.detach())
        if write:
            tensors[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)

    for prefix, module in (("model", model), ("average", average)):
        for name, tensor in module.state_dict().items():
            add(f"{prefix}/{name}", tensor)
    for name, parameter in model.named_parameters():
        for key, moment in optimizer.state.get(parameter, {}).items():
            add(f"optimizer/{name}/{key}", moment)
    if not write:
        return
    text = json.dumps(facts)
    path = folder / state_file(facts["step"])
    try:
        write_atomic(path, save(tensors, {"facts": text, "crc32": str(_checksum(tensors, text))}))
    except OSError as error:
        kept = next((p.name for p in find_states(folder) if p != path), "none")
        raise OSError(
            f"{path}: training state can't be written ({error.strerror or error}); last state on disk: "
            f"{kept}; make room and go on with --resume"
        ) from error
    states = find_states(folder)
    # A state of a later step is one that was damaged: this run began before it.
    here = states.index(path)
    for other in [*states[:here], *states[here + keep :]]:
        other.unlink(missing_ok=True)


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts and tensors of one state.

    Raises:
        OSError: the file can't be opened.
        ValueError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            facts = parse_json(metadata["facts"], "facts")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if "crc32" in metadata and metadata["crc32"] != str(_checksum(tensors, metadata["facts"])):
            raise ValueError("its checksum is wrong")
        missing = sorted({"step", "best", "config"} - set(facts))
        if missing:
            raise ValueError(f"{missing[0]!r} is missing")
        match = _NAME.fullmatch(path.name)
        if match and int(match[1]) != facts["step"]:
            raise ValueError(f"it is of step {facts['step']}")
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: training state can't be read, the file is damaged ({error})") from error
    return facts, tensors


def load_state(
    folder: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    tell: bool = True,
) -> dict[str, Any]:
    """Restores the newest valid state and returns its facts.

    Args:
        folder: of the run.
        model: to fill in.
        average: likewise.
        optimizer: of the model.
        tell: name each damaged state that was passed over, in a line on stderr.

    Raises:
        FileNotFoundError: there is no state in the folder.
        ValueError: all states are damaged, or the newest valid one belongs to another model.
    """
    states = find_states(folder)
    if not states:
        raise FileNotFoundError(f"{folder}: nothing to resume, no {state_file(0).replace('0' * 8, 'STEP')}")
    for path in states:
        try:
            facts, tensors = read_state(path)
            break
        except ValueError as error:
            if path == states[-1]:
                raise
            if tell:
                print(f"{' '.join(str(error).split())}; trying the one before", file=sys.stderr, flush=True)
    for prefix, module in (("model", model), ("average", average)):
        start, own = f"{prefix}/", module.state_dict()
        found = {n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)}
        wrong = [n for n in own if n not in found or found[n].shape != own[n].shape]
        wrong += [n for n in found if n not in own]
        if wrong:
            raise ValueError(
                f"{path}: training state of another model: {wrong[0]} is missing, unknown or of another shape"
            )
        module.load_state_dict({name: like(tensor, own[name]) for name, tensor in found.items()})
    for name, parameter in model.named_parameters():
        start = f"optimizer/{name}/"
        moments = {n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)}
        if moments:
            optimizer.state[parameter] = {
                key: t if key == "step" else like(t, parameter) for key, t in moments.items()
            }
    return facts


def _checksum(tensors: dict[str, Tensor], facts: str) -> int:
    total = zlib.crc32(facts.encode())
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        if tensors[name].numel():
            data: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
            total = zlib.crc32(data, total)
    return total
