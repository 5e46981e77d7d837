"""Train a published framework on a copy of a data set, as its recipe has it.

Stop with Ctrl-C at any time and go on with --resume. Several processes: torchrun --nproc-per-node N -m
dfmamba train DATASET ..., which divide every batch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.reader_options import add_option, parse_options

_SETTINGS: dict[str, tuple[Any, str]] = {
    "out": (str, "folder of the run; runs/DATASET-BACKBONE by default"),
    "backbone": (str, "dfmamba_tiny, dfmamba_nano, resnet50, convnext_tiny, vit_small or swin_tiny"),
    "backbone_args": (dict[str, Any], "changes to the backbone's configuration"),
    "backbone_weights": (str, "safetensors file with a baseline's weights under timm's names"),
    "framework": (dict[str, Any], "settings of the framework to change, or another one by its name"),
    "split": (str, "split to train on"),
    "test_split": (str, "split to validate on"),
    "steps": (int, "optimiser steps, instead of epochs"),
    "batch_size": (int, "samples a step"),
    "optimizer": (str, "adam or adamw"),
    "lr": (float, "learning rate"),
    "schedule": (str, "step or cosine"),
    "warmup": (int, "steps of linear warm-up"),
    "weight_decay": (float, "weight decay"),
    "ema": (float, "decay of the averaged weights; 0 keeps the last ones"),
    "clip": (float, "largest norm of the gradient"),
    "seed": (int, "seed of initialisation, order and augmentation"),
    "validate_every": (int, "steps between validations"),
    "validation": (int, "samples in a validation; 0 for none"),
    "save_every": (int, "steps between checkpoints"),
    "init": (str, "folder of a model whose weights to start from"),
    "device": (str, "torch device"),
    "threads": (int, "torch threads; 0 leaves torch's own choice"),
    "workers": (int, "processes that prepare batches"),
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba train DATASET`; those left out are the recipe's."""
    parser.add_argument("--config", action="config", help="YAML or JSON file with some of these settings")
    parser.add_argument("dataset", type=str, help="name of the data set")
    parser.add_argument("--data", type=str, metavar="DIR", help="folder of the data set as downloaded")
    add_option(parser)
    parser.add_argument("--epochs", type=float | None, default=None, help="passes over the split")
    for name, (kind, text) in _SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind | None, default=None, help=text)
    parser.add_argument("--resume", action="store_true", help="go on from the state in the folder of the run")
    parser.add_argument("--until", type=int | None, metavar="STEP", help="stop and save before this step")


def run(options: Namespace) -> int:
    """Index, train and report; returns the exit code.

    Raises:
        ValueError: unusable settings or labels.
        OSError: the data set can't be read, or the folder of the run not written.
    """
    from dfmamba.data.registry import open_dataset
    from dfmamba.train.dataset_source import DatasetSource
    from dfmamba.train.dataset_task import DatasetTask
    from dfmamba.train.engine import train
    from dfmamba.train.parallel import Ranks
    from dfmamba.train.recipes import recipe

    chosen = recipe(options.dataset)
    if options.data is None:
        raise ValueError(f"{options.dataset!r} needs --data DIR, the folder of the data set as downloaded")
    changes = {name: options[name] for name in _SETTINGS if options[name] is not None}
    framework = changes.pop("framework", {})
    another = framework.get("name", chosen.framework["name"]) != chosen.framework["name"]
    reader = {**chosen.options, **parse_options(options.option)}
    ranks = Ranks.from_environment(changes.get("device", "cpu"))
    dataset = open_dataset(options.dataset, options.data, changes.get("split", chosen.splits[0]), **reader)
    config = chosen.run(
        options.data, len(dataset), options.epochs, framework, another, options=reader, **changes
    )
    task = DatasetTask(config)
    if ranks.first:
        for line in dataset.report.lines:
            print(f"{config.dataset} {config.split}: {line}", file=sys.stderr)
        print(f"recipe: {chosen.note}", file=sys.stderr)
    source = DatasetSource(dataset, task.framework, config.batch_size, config.seed, ranks, config.workers)
    validate = Validation(config, task) if config.validation and ranks.first else None
    train(config, source, task, options.resume, validate, options.until, ranks)
    if ranks.first:
        for line in source.report.lines[1:]:
            print(f"while training: {line}", file=sys.stderr)
        print(f"model: {Path(config.out) / 'last'}")
    return 0


class Validation:
    """Figures of the model on evenly spaced samples of the split to test on; "score" is the main one."""

    def __init__(self, config: Any, task: Any) -> None:
        self.config, self.task = config, task
        self.dataset = config.open(config.test_split)

    def __call__(self, model: Any) -> dict[str, float]:
        """Scalars by name."""
        from dfmamba.train.evaluate_dataset import evaluate_dataset

        found, report, _ = evaluate_dataset(
            model, self.task.framework, self.dataset, limit=self.config.validation
        )
        figures = {k: round(v, 4) for k, v in found.items() if isinstance(v, float)}
        score = next(figures[k] for k in ("mpjpe_mm", "mean_error_mm") if k in figures)
        return {**figures, "samples": float(report.kept), "score": score}
