"""The part of `dfmamba predict` for very many pictures, --engine."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from dfmamba.cli.results import count, require_writable

OPTIONS = ("workers", "format", "part_size", "batch_size")
_PROGRAM = "dfmamba predict"
_FAULTS_SHOWN = 10


def run_bulk(options: Namespace, box: tuple[float, float, float, float] | None, bulk: dict[str, Any]) -> int:
    """`run` with `--engine`; `bulk` are those of its options that were given."""
    from dfmamba.bulk.parts import BulkConfig
    from dfmamba.bulk.run import predict_bulk
    from dfmamba.cli.main import fail
    from dfmamba.cli.predict import load_model
    from dfmamba.hands.camera import Camera

    if options.json is not None:
        raise ValueError("--json: doesn't work with --engine, whose parts hold all results")
    workers = bulk.pop("workers", None)
    config = BulkConfig(
        out=os.path.abspath(options.out),
        model=os.path.abspath(options.model) if os.path.exists(options.model) else options.model,
        device=options.device,
        threshold=options.threshold,
        refine=not options.single_pass,
        detector=os.path.abspath(options.detector) if os.path.exists(options.detector) else options.detector,
        box=box,
        camera=None if options.camera is None else Camera.parse(options.camera),
        mirrored=options.mirrored,
        **bulk,
    )
    require_writable("--out", Path(config.out))
    start = time.perf_counter()
    try:
        done = predict_bulk(options.paths, config, load_model(options.model), options.engine, workers)
    except ImportError as error:
        raise ValueError(str(error)) from error
    for fault in done.faults[:_FAULTS_SHOWN]:
        fail(_PROGRAM, fault)
    earlier = f" ({done.earlier} were there)" if done.earlier else ""
    summary = f"{count(done.pictures, 'picture')}{earlier}, {count(done.hands, 'hand')}, {done.failed} failed"
    print(f"{summary}, {time.perf_counter() - start:.1f} s; results in {options.out}", flush=True)
    if not done.failed:
        return 0
    return 1 if done.failed < done.pictures else 2
