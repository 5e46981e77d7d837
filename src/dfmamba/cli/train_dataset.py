"""Train a published framework on a copy of a data set, as its recipe has it.

Stop with Ctrl-C at any time and go on with --resume. Several processes: torchrun --nproc-per-node N -m
dfmamba train DATASET ..., which divide every batch.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.reader_options import add_option, parse_options
from dfmamba.cli.train import add_run_options, print_config, run_options

_APART = ("dataset", "data", "options")
"""Settings of a run whose options are declared one by one."""

_WORDS = {
    "out": "folder of the run; runs/DATASET-BACKBONE by default",
    "steps": "optimiser steps, instead of epochs",
    "framework": "settings of the framework to change, or another one by its name",
    "validation": "samples in a validation; 0 for none",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba train DATASET`; those left out are the recipe's."""
    from dfmamba.train.framework import DatasetRun

    add_run_options(parser)
    parser.add_argument("dataset", type=str, help="name of the data set")
    parser.add_argument("--data", type=str, metavar="DIR", help="folder of the data set as downloaded")
    add_option(parser)
    parser.add_argument(
        "--options", type=dict[str, Any] | None, default=None, help="of the reader, all of them by name"
    )
    parser.add_argument("--epochs", type=float | None, default=None, help="passes over the split")
    texts = {**attribute_texts(DatasetRun), **_WORDS}
    hints = get_type_hints(DatasetRun)
    for name in _settings():
        kind = dict[str, Any] if get_origin(hints[name]) is Mapping else hints[name]
        parser.add_argument(f"--{name}", type=kind | None, default=None, help=texts.get(name, ""))


def _settings() -> list[str]:
    """Names of the settings that have an option of their name."""
    from dfmamba.train.framework import DatasetRun

    return [setting.name for setting in fields(DatasetRun) if setting.name not in _APART]


def attribute_texts(kind: type) -> dict[str, str]:
    """What the docstrings of a configuration and of its bases say of its attributes."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        lines = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        for name, text in re.findall(r"^    (\w+): ((?:.+\n?(?:     .*\n?)*))", lines, re.MULTILINE):
            texts[name] = " ".join(text.split())
    return texts


def run(options: Namespace) -> int:
    """Index, train and report; returns the exit code.

    Raises:
        ValueError: unusable settings or labels.
        OSError: the data set can't be read, or the folder of the run not written.
    """
    from dfmamba.data.readers.shards import ShardedDataset
    from dfmamba.data.registry import open_dataset
    from dfmamba.train.engine import rehearse, train
    from dfmamba.train.framework import DatasetTask, DatasetValidation, recipe
    from dfmamba.train.meter import telling
    from dfmamba.train.parallel import Ranks
    from dfmamba.train.samples import DatasetSource, ShardSource

    values = options.as_dict()
    chosen = run_options(values)
    found = recipe(options.dataset)
    if options.data is None:
        raise ValueError(f"{options.dataset!r} needs --data DIR, the folder of the data set as downloaded")
    changes = {name: values[name] for name in _settings() if values[name] is not None}
    framework = changes.pop("framework", {})
    another = framework.get("name", found.framework["name"]) != found.framework["name"]
    reader = {**found.options, **(options.options or {}), **parse_options(options.option)}
    ranks = Ranks.from_environment(changes.get("device", "cpu"))
    dataset = open_dataset(options.dataset, options.data, changes.get("split", found.splits[0]), **reader)
    config = found.run(
        options.data, len(dataset), options.epochs, framework, another, options=reader, **changes
    )
    task = DatasetTask(config)
    if chosen.print_config:
        return print_config(config)
    if ranks.first:
        for line in dataset.report.lines:
            print(f"{config.dataset} {config.split}: {line}", file=sys.stderr)
        print(f"recipe: {found.note}", file=sys.stderr)
    arguments = (task.framework, config.batch_size, config.seed, ranks, config.workers)
    source = DatasetSource(dataset, *arguments)
    if config.buffer:
        if not isinstance(dataset, ShardedDataset):
            raise ValueError(f"buffer is for shards, not for {config.dataset!r}; leave it 0")
        source = ShardSource(dataset, *arguments, config.buffer)
    if chosen.dry_run:
        few = min(config.validation, 2)
        short = DatasetValidation(replace(config, validation=few), task) if few and ranks.first else None
        print(*rehearse(config, source, task, short, few, ranks), sep="\n")
        return 0
    with telling(config.out, chosen.board, ranks) as board:
        validate = DatasetValidation(config, task, board) if config.validation and ranks.first else None
        train(config, source, task, chosen.resume, validate, chosen.until, ranks)
    if ranks.first:
        for line in source.report.lines[1:]:
            print(f"while training: {line}", file=sys.stderr)
        print(f"model: {Path(config.out) / 'last'}")
    return 0
