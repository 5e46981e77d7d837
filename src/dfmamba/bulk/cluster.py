"""The engine of many machines: a pool of actors in Ray Data, each with the model loaded."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from dfmamba.bulk.parts import BulkConfig, Part, PartReport
from dfmamba.bulk.worker import PartWorker
from dfmamba.extras import need


def run_ray(config: BulkConfig, parts: Sequence[Part], workers: int | None = None) -> Iterator[PartReport]:
    """Predicts parts on a Ray cluster and reports each when it is stored.

    Joins the cluster of `RAY_ADDRESS` or of this machine, else starts one on this machine. Ray starts the
    actors that die again, and repeats their parts.

    Args:
        config: what is predicted; `out`, the model and the pictures must be there on every machine.
        parts: those to do.
        workers: actors; None: as many as the cluster has GPUs, or cores if it has none (or device is "cpu").

    Raises:
        ImportError: Ray is missing.
        ValueError: the device is not one to choose on a cluster.
        OSError: the cluster can't be reached or used, or a worker failed.
    """
    if config.device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {config.device}: Ray hands out the GPUs; expected auto, cpu or cuda")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray, data, _ = need("ray", "ray", "ray.data", "pyarrow")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ours = not ray.is_initialized()
    try:
        if ours:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        yield from _run(ray, data, config, parts, workers)
    except (ConnectionError, ray.exceptions.RayError) as error:
        cause = getattr(error, "cause", None) or error
        line = (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
        raise OSError(f"Ray: {line}") from error
    finally:
        if ours:
            ray.shutdown()


def _run(
    ray: Any, data: Any, config: BulkConfig, parts: Sequence[Part], workers: int | None
) -> Iterator[PartReport]:
    found = ray.cluster_resources()
    gpus = int(found.get("GPU", 0)) if config.device != "cpu" else 0
    if config.device == "cuda" and not gpus:
        raise ValueError("--device cuda: the cluster has no GPU")
    workers = min(workers or gpus or int(found.get("CPU", 1)), len(parts))
    context = data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    rows = [{"part": part.to_json()} for part in parts]
    try:
        # One block a part, and one part at a time for an actor: what a lost actor had is repeated, no more.
        reports = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(config, "cuda" if gpus else "cpu"),
            batch_size=1,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        for row in reports.iter_rows():
            values = json.loads(row["report"])
            yield PartReport(**{**values, "faults": tuple(values["faults"])})
    finally:
        context.enable_progress_bars = shown


class _Actor:
    """A `PartWorker` in Ray's terms."""

    def __init__(self, config: BulkConfig, device: str) -> None:
        self.worker = PartWorker(config, device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (text,) = batch["part"]
        return {"report": [json.dumps(dataclasses.asdict(self.worker(Part.from_json(text))))]}
