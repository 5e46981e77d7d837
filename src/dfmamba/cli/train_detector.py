"""Train the detector of hands: dfmamba train detector --hands DIR --people DIR.

DIR of --hands is the cache that `dfmamba train` renders (it names it when it starts), DIR of --people what
`dfmamba data people` writes. Stop with Ctrl-C at any time and go on with --resume.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.train import add_run_options, print_config, run_options


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba train detector`: every field of `DetectorRun`."""
    from dfmamba.train.detector import DetectorRun

    add_run_options(parser)
    parser.add_class_arguments(DetectorRun, None)


def run(options: Namespace) -> int:
    """Train and report; returns the exit code.

    Raises:
        ValueError: unusable settings.
        OSError: rendered pictures are missing, or the folder of the run can't be written.
    """
    from dfmamba.models import MODELS
    from dfmamba.train.augment import AugmentConfig
    from dfmamba.train.detector import DetectorRun, DetectorTask, DetectorValidation, open_pool
    from dfmamba.train.engine import rehearse, train
    from dfmamba.train.meter import telling
    from dfmamba.train.parallel import Ranks

    values = options.as_dict()
    chosen = run_options(values)
    values["augment"] = AugmentConfig(**values["augment"])
    config = DetectorRun(**values)
    if chosen.print_config:
        return print_config(config)
    task = DetectorTask(config)
    ranks = Ranks.from_environment(config.device)
    source = open_pool(config, MODELS[config.model].image_size, ranks)
    if chosen.dry_run:
        print(
            *rehearse(config, source, task, DetectorValidation(replace(config, validation=2)), 2, ranks),
            sep="\n",
        )
        return 0
    with telling(config.out, chosen.board, ranks):
        validate = DetectorValidation(config) if ranks.first else None
        train(config, source, task, chosen.resume, validate, chosen.until, ranks)
    if ranks.first:
        print(f"model: {Path(config.out) / 'last'}", file=sys.stderr)
    return 0
