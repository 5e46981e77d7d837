"""Train a model on hands that the package renders itself.

With the name of a data set first, `dfmamba train interhand26m --help`, train on a copy of it instead.
Pictures are rendered once into a cache (a part before the first step, the rest beside the training) and laid
over new backgrounds in every step. Stop with Ctrl-C at any time and go on with --resume.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.train_options import (
    add_run_options,
    print_config,
    run_options,
    telling,
)

REHEARSED_PICTURES = 16
"""Pictures that --dry-run renders where the cache has none."""


def variant(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The module that trains what is named first: a data set, the "detector", or "synthetic" hands."""
    if not words or words[0].startswith("-"):
        return __name__, words
    if words[0] == "synthetic":
        return __name__, words[1:]
    if words[0] == "detector":
        return "dfmamba.cli.train_detector", words[1:]
    return "dfmamba.cli.train_dataset", words


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba train`: every field of `TrainConfig`, dotted for its parts."""
    from dfmamba.train.config import TrainConfig

    add_run_options(parser)
    parser.add_class_arguments(TrainConfig, None)


def run(options: Namespace) -> int:
    """Render, train and report; returns the exit code.

    Raises:
        ValueError: unusable settings.
        OSError: the cache or the folder of the run can't be written.
    """
    from dfmamba.models import MODELS
    from dfmamba.train.config import TrainConfig
    from dfmamba.train.engine import train
    from dfmamba.train.parallel import Ranks
    from dfmamba.train.pool import Pool, cache_folder, render
    from dfmamba.train.synthetic_task import PoseTask

    values = options.as_dict()
    chosen = run_options(values)
    config = TrainConfig.from_dict(values)
    task: Any = PoseTask(config)
    if chosen.print_config:
        return print_config(config)
    ranks = Ranks.from_environment(config.device)
    if chosen.dry_run:
        return _dry_run(config, task, ranks)
    data = config.data
    first = min(data.first, data.pictures)
    if not data.rendered_share:
        first = data.pictures  # nothing is drawn from rendered hands
    elif ranks.first:
        print(f"pictures: {cache_folder(data)}", file=sys.stderr)
        render(data, 0, first)
    renderer = multiprocessing.get_context("spawn").Process(
        target=_render_rest, args=(data, first, data.pictures - first), daemon=False
    )
    if ranks.first and data.pictures > first:
        renderer.start()
    try:
        source = Pool(config, MODELS[config.model].image_size, ranks, workers=config.data.ahead)
        with telling(config.out, chosen.board, ranks) as board:
            train(config, source, task, chosen.resume, Validation(config, board), chosen.until, ranks)
    finally:
        if renderer.pid is not None:
            renderer.terminate()
            renderer.join()
    if ranks.first:
        print(f"model: {Path(config.out) / 'last'}")
    return 0


def _render_rest(data: Any, first: int, count: int) -> None:
    """Renders beside the training, at low priority and one process, so that training keeps its cores."""
    from dfmamba.train.pool import render

    os.nice(5)
    try:
        render(replace(data, workers=1), first, count)
    except KeyboardInterrupt:
        sys.exit(130)


def _dry_run(config: Any, task: Any, ranks: Any) -> int:
    """Rehearses on the pictures of the cache; where they aren't there yet, on a few rendered for it."""
    from dfmamba.models import MODELS
    from dfmamba.synth import raster
    from dfmamba.train.meter import clock
    from dfmamba.train.pool import SHARD, Pool, cache_folder, render
    from dfmamba.train.rehearsal import rehearse

    data, lines = config.data, []
    first = min(data.first, data.pictures)
    shards = (cache_folder(data) / f"shard-{place:09d}" for place in range(0, first, SHARD))
    with tempfile.TemporaryDirectory(prefix="dfmamba-") as folder:
        if data.rendered_share and not all(shard.is_dir() for shard in shards):
            few = min(REHEARSED_PICTURES, first)
            small = replace(data, pictures=few, first=few, cache=folder, backgrounds=2, workers=0)
            raster.warm_up()
            begun = time.monotonic()
            render(small, 0, few)
            each = (time.monotonic() - begun) / few / max(1, data.workers)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.npy")) / few
            lines.append(
                f"rendering: {first} pictures before the first step {clock(first * each)}, "
                f"all {data.pictures} {clock(data.pictures * each)} and {size * data.pictures / 1e9:.1f} GB"
            )
            config = replace(config, data=small)
        source = Pool(config, MODELS[config.model].image_size, ranks)
        validation = Validation(replace(config, validation=1))
        lines = [*rehearse(config, source, task, validation, 1, ranks), *lines]
    if ranks.first:
        print("\n".join(lines))
    return 0


class Validation:
    """Figures of the averaged model on unseen synthetic pictures.

    Args:
        config: the run.
        board: a logger that is shown a picture of each kind with its joints.
    """

    def __init__(self, config: Any, board: Any = None) -> None:
        self.config, self.board = config, board
        self.samples: dict[str, list[Any]] = {}

    def __call__(self, model: Any) -> dict[str, float]:
        """Per kind of scene the root-relative error; "score" is their mean."""
        from dfmamba.cli.evaluate import synthetic_samples
        from dfmamba.data.kinds import SYNTHETIC_KINDS
        from dfmamba.train.evaluate import evaluate

        figures: dict[str, float] = {}
        for kind in SYNTHETIC_KINDS:
            if kind not in self.samples:
                self.samples[kind] = list(synthetic_samples(kind, self.config.validation))
            found = evaluate(model, self.samples[kind])
            figures[f"{kind}_mpjpe_mm"] = round(found["mpjpe_mm"], 3)
            figures[f"{kind}_pa_mpjpe_mm"] = round(found["pa_mpjpe_mm"], 3)
            figures[f"{kind}_error_2d_box"] = round(found["error_2d_box"], 4)
        figures["score"] = sum(figures[f"{kind}_mpjpe_mm"] for kind in SYNTHETIC_KINDS) / len(SYNTHETIC_KINDS)
        if self.board is not None:
            self.board.picture("validation/hands", self._sheet(model))
        return figures

    def _sheet(self, model: Any) -> Any:
        import numpy as np

        from dfmamba.train.board import draw_validation
        from dfmamba.train.evaluate import look_at_samples

        shown, joints = [], []
        chosen = [samples[0] for samples in self.samples.values()]
        for sample, _, last in look_at_samples(model, chosen, "joints", True, len(chosen)):
            sides = (0, 1) if sample.present.sum() > 1 else tuple(last) * 2
            shown.append(sample)
            joints.append(np.stack([last[side].joints_25d[:, :2] for side in sides]))
        return draw_validation(shown, joints)
