"""Train a model on hands that the package renders itself.

With the name of a data set first, `dfmamba train interhand26m --help`, train on a copy of it instead.
Pictures are rendered once into a cache (a part before the first step, the rest beside the training) and laid
over new backgrounds in every step. Stop with Ctrl-C at any time and go on with --resume.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace


def variant(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The module that trains what is named first, a data set or (the default) "synthetic" hands."""
    if not words or words[0].startswith("-"):
        return __name__, words
    if words[0] == "synthetic":
        return __name__, words[1:]
    return "dfmamba.cli.train_dataset", words


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba train`: every field of `TrainConfig`, dotted for its parts."""
    from dfmamba.train.config import TrainConfig

    parser.add_argument("--config", action="config", help="YAML or JSON file with some of these settings")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the folder of the run")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop and save before this step")
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
    from dfmamba.train.pool import Pool, cache_folder, render, render_backgrounds
    from dfmamba.train.synthetic_task import SyntheticTask

    values = options.as_dict()
    resume, until = values.pop("resume"), values.pop("until")
    values.pop("config", None)
    values.pop("__path__", None)
    config = TrainConfig.from_dict(values)
    task = SyntheticTask(config)
    ranks = Ranks.from_environment(config.device)
    data = config.data
    first = min(data.first, data.pictures)
    if ranks.first:
        print(f"pictures: {cache_folder(data)}", file=sys.stderr)
        render(data, 0, first)
        render_backgrounds(data)
    renderer = multiprocessing.get_context("spawn").Process(
        target=_render_rest, args=(data, first, data.pictures - first), daemon=False
    )
    if ranks.first and data.pictures > first:
        renderer.start()
    try:
        source = Pool(config, MODELS[config.model].image_size, ranks)
        train(config, source, task, resume, Validation(config), until, ranks)
    finally:
        if renderer.pid is not None:
            renderer.terminate()
            renderer.join()
    if ranks.first:
        print(f"model: {Path(config.out) / 'last'}")
    return 0


def _render_rest(data: Any, first: int, count: int) -> None:
    """Renders beside the training, at low priority and one process, so that training keeps its cores."""
    import os
    from dataclasses import replace

    from dfmamba.train.pool import render

    os.nice(5)
    try:
        render(replace(data, workers=1), first, count)
    except KeyboardInterrupt:
        sys.exit(130)


class Validation:
    """Figures of the averaged model on unseen synthetic pictures."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.samples: dict[str, list[Any]] = {}

    def __call__(self, model: Any) -> dict[str, float]:
        """Per kind of scene the root-relative error; "score" is their mean."""
        from dfmamba.cli.evaluate import KINDS, synthetic_samples
        from dfmamba.train.evaluate import evaluate

        figures: dict[str, float] = {}
        for kind in KINDS:
            if kind not in self.samples:
                self.samples[kind] = list(synthetic_samples(kind, self.config.validation))
            found = evaluate(model, self.samples[kind])
            figures[f"{kind}_mpjpe_mm"] = round(found["mpjpe_mm"], 3)
            figures[f"{kind}_pa_mpjpe_mm"] = round(found["pa_mpjpe_mm"], 3)
            figures[f"{kind}_error_2d_box"] = round(found["error_2d_box"], 4)
        figures["score"] = sum(figures[f"{kind}_mpjpe_mm"] for kind in KINDS) / len(KINDS)
        return figures
