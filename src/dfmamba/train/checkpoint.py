"""Training states on disk: safetensors files with a checksum, written atomically, the newest valid one read.

A state holds whole tensors, however weights are divided among processes, so a run may go on with another
`sharding` than it had.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfmamba.io.files import write_atomic
from dfmamba.io.untrusted import parse_json
from dfmamba.train.parallel import like, whole

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
