"""What runs the parts: worker processes of this machine, or actors of a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any

import torch

from dfmamba.bulk.parts import BulkConfig, Part, PartReport
from dfmamba.bulk.worker import PartWorker
from dfmamba.extras import need
from dfmamba.machine import choose_device

TRIES = 3
"""How often in a row worker processes may die before a part is finished."""

POLL_S = 0.5


def devices_of(device: str) -> list[str]:
    """The devices that workers take in turns: all GPUs for "auto" and "cuda", where there are any.

    Raises:
        ValueError: no such device here.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [str(chosen)]


def default_workers(devices: Sequence[str]) -> int:
    """One worker for each GPU, or for each core that this process may use."""
    if devices[0] != "cpu":
        return len(devices)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_local(
    config: BulkConfig,
    parts: Sequence[Part],
    workers: int | None = None,
    on_progress: Callable[[int], None] = lambda pictures: None,
) -> Iterator[PartReport]:
    """Predicts parts in worker processes and reports each when it is stored.

    A part whose process was killed is predicted again. When the caller stops early, workers finish their
    batch and leave; unfinished parts leave nothing.

    Args:
        config: what is predicted.
        parts: those to do.
        workers: processes; None: `default_workers`.
        on_progress: gets the number of pictures done, twice a second.

    Raises:
        ValueError: no such device here.
        OSError: worker processes die again and again, or a part can't be written.
    """
    devices = devices_of(config.device)
    workers = min(workers or default_workers(devices), len(parts))
    left = {part.number: part for part in parts}
    deaths = done = 0
    while left:
        try:
            for report in _round(config, list(left.values()), workers, devices, done, on_progress):
                del left[report.number]
                done += report.pictures
                deaths = 0
                yield report
        except BrokenProcessPool:
            deaths += 1
            if deaths == TRIES:
                raise OSError(
                    f"worker processes were killed {TRIES} times in a row, for want of memory perhaps: "
                    "try fewer --workers or a smaller --batch_size"
                ) from None


def _round(
    config: BulkConfig,
    parts: Sequence[Part],
    workers: int,
    devices: Sequence[str],
    done: int,
    on_progress: Callable[[int], None],
) -> Iterator[PartReport]:
    context = multiprocessing.get_context("spawn")
    counter, place, stop = context.Value("q", done), context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(workers, context, _start, (config, devices, counter, place, stop))
    try:
        with _Uninterrupted():
            pending = {pool.submit(_do, part) for part in parts}
        while pending:
            finished, pending = wait(pending, POLL_S, FIRST_COMPLETED)
            on_progress(counter.value)
            for future in finished:
                yield future.result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


class _Uninterrupted:
    """Processes that start within it are deaf to Ctrl-C, which reaches all of a terminal's processes."""

    def __enter__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)


class _Stopped(Exception):
    """The caller wants no more."""


_state: dict[str, Any] = {}


def _start(config: BulkConfig, devices: Sequence[str], counter: Any, place: Any, stop: Any) -> None:
    with place.get_lock():
        device = devices[place.value % len(devices)]
        place.value += 1
    _state.update(config=config, device=device, counter=counter, stop=stop)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _do(part: Part) -> PartReport:
    # Not in `_start`, whose exceptions reach nobody.
    if "worker" not in _state:
        _state["worker"] = PartWorker(_state["config"], _state["device"], _advance)
    return _state["worker"](part)


def _advance(pictures: int) -> None:
    if _state["stop"].is_set():
        raise _Stopped
    with _state["counter"].get_lock():
        _state["counter"].value += pictures


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
