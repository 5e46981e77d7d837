"""What the rows cost at inference: latency and size, in one process, in turns."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from dfmamba.bench.contest import Plan, race
from dfmamba.machine import describe_machine
from dfmamba.models import HandPoseModel, count_macs, count_parameters
from studies.synthhands5.rows import Row
from studies.synthhands5.training import HEAD, model_config

SCHEMA = "dfmamba.synthhands5_costs/1"


def measure_costs(rows: Iterable[Row], plan: Plan | None = None) -> dict[str, Any]:
    """Latency of each row's whole model on one crop, as built, in evaluation mode, channels last.

    Args:
        rows: to be timed.
        plan: how much is measured.

    Returns:
        "rows": per name latency (median and quartiles, ms), parameters, multiply-adds; "machine"; "threads".
    """
    x = torch.rand(1, 3, HEAD.image_size, HEAD.image_size).contiguous(memory_format=torch.channels_last)
    facts: dict[str, dict[str, Any]] = {}
    calls = {}
    for row in rows:
        torch.manual_seed(0)
        model = HandPoseModel(model_config(row.name, row.backbone, row.args)).eval()
        facts[row.name] = {
            "parameters": count_parameters(model),
            "macs": count_macs(model, tuple(x.shape), scans=True),
        }
        calls[row.name] = partial(model.to(memory_format=torch.channels_last), x)
    with torch.inference_mode():
        timings = race(calls, plan or Plan())
    for name, timing in timings.items():
        first, third = timing.quartiles
        facts[name] |= {
            "latency_ms": round(1e3 * timing.median, 3),
            "quartiles_ms": [round(1e3 * first, 3), round(1e3 * third, 3)],
        }
    return {
        "schema": SCHEMA,
        "rows": facts,
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
        "command": "python -m studies.synthhands5 costs",
    }
