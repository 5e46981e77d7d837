"""Pre-train a backbone on unlabelled pictures: it learns to fill in covered patches.

Its weights start a model's: dfmamba train --init_backbone runs/pretrain/last. Stop with Ctrl-C at any
time and go on with --resume.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.train import add_run_options, print_config, run_options

_FIXED = ("init", "init_backbone", "validate_every", "validation")
"""Settings of a run that mean nothing here: nothing is validated, and no whole model exists to start from."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba pretrain`: every field of `PretrainRun`."""
    from dfmamba.train.pretrain import PretrainRun

    add_run_options(parser)
    parser.add_argument("pictures", type=str, help='folder of pictures, or a pattern such as "DIR/**/*.jpg"')
    parser.add_class_arguments(PretrainRun, None, skip={"pictures", *_FIXED})


def run(options: Namespace) -> int:
    """Pre-train and report; returns the exit code.

    Raises:
        ValueError: unusable settings, or no pictures.
        OSError: the pictures can't be read, or the folder of the run not written.
    """
    from dfmamba.train.engine import rehearse, train
    from dfmamba.train.meter import telling
    from dfmamba.train.parallel import Ranks
    from dfmamba.train.pretrain import MaskedTask, PretrainRun, picture_source

    values = options.as_dict()
    chosen = run_options(values)
    config = PretrainRun(**values)
    if chosen.print_config:
        return print_config(config, _FIXED)
    ranks = Ranks.from_environment(config.device)
    source, task = picture_source(config, ranks), cast(Any, MaskedTask(config))
    if chosen.dry_run:
        print(*rehearse(config, source, task, None, 0, ranks), sep="\n")
        return 0
    with telling(config.out, chosen.board, ranks):
        train(config, source, task, chosen.resume, None, chosen.until, ranks)
    if ranks.first:
        print(f"backbone: {Path(config.out) / 'last'}")
    return 0
