"""Training state on disk: one safetensors file, written atomically, so that no reader sees a torn one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfmamba.io.files import write_atomic

STATE_FILE = "state.safetensors"


def save_state(
    folder: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
) -> None:
    """Writes model, averaged model, optimiser moments and plain facts (step, configuration).

    Raises:
        OSError: the disk is full or the folder can't be written; the previous state stays as it was.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for prefix, module in (("model", model), ("average", average)):
        tensors |= {f"{prefix}/{name}": t for name, t in module.state_dict().items()}
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter, moments in optimizer.state.items():
        tensors |= {f"optimizer/{names[id(parameter)]}/{key}": t for key, t in moments.items()}
    tensors = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()
    }
    write_atomic(folder / STATE_FILE, save(tensors, {"facts": json.dumps(facts)}))


def load_state(
    folder: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restores what `save_state` wrote and returns its facts.

    Raises:
        FileNotFoundError: there is no state in the folder.
        ValueError: the file is damaged or belongs to another model.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: nothing to resume, {STATE_FILE} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: training state can't be read, the file is damaged ({error})") from error
    try:
        for prefix, module in (("model", model), ("average", average)):
            start = f"{prefix}/"
            module.load_state_dict({n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)})
    except RuntimeError as error:
        raise ValueError(f"{path}: training state of another model ({str(error).splitlines()[0]})") from error
    for name, parameter in model.named_parameters():
        start = f"optimizer/{name}/"
        moments = {n[len(start) :]: t for n, t in tensors.items() if n.startswith(start)}
        if moments:
            optimizer.state[parameter] = {
                key: t if key == "step" else t.to(parameter.device) for key, t in moments.items()
            }
    return facts
