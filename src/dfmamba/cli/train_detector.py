"""Train the detector of hands: dfmamba train detector --hands DIR --people DIR.

DIR of --hands is the cache that `dfmamba train` renders (it names it when it starts), DIR of --people what
`dfmamba data people` writes. Stop with Ctrl-C at any time and go on with --resume.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.train_options import add_run_options, print_config, run_options, telling

VALIDATION_SEED = 90_000


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
    from dfmamba.train.detector import DetectorRun, DetectorTask, open_pool
    from dfmamba.train.engine import rehearse, train
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
        print(*rehearse(config, source, task, Validation(replace(config, validation=2)), 2, ranks), sep="\n")
        return 0
    with telling(config.out, chosen.board, ranks):
        validate = Validation(config) if ranks.first else None
        train(config, source, task, chosen.resume, validate, chosen.until, ranks)
    if ranks.first:
        print(f"model: {Path(config.out) / 'last'}", file=sys.stderr)
    return 0


class Validation:
    """Figures of the averaged detector on composed scenes that training doesn't draw.

    They are made of the same rendered pictures, in other compositions; for figures on unseen ones compare on
    a folder of people with another seed.

    Args:
        config: the run; `validation` is the number of scenes.
    """

    def __init__(self, config: Any) -> None:
        self.config = replace(config, batch_size=config.validation, seed=VALIDATION_SEED, ahead=0)
        self.scenes: tuple[list[Any], list[Any], list[Any]] | None = None

    def __call__(self, model: Any) -> dict[str, float]:
        """Recall, false detections and average precision; "score" is what the latter lacks to 1."""
        from dfmamba.detect.network import NetworkDetector
        from dfmamba.metrics.detection import score_detections

        if self.scenes is None:
            self.scenes = self._compose(model.config.image_size)
        pictures, hands, ignored = self.scenes
        figures = score_detections(NetworkDetector(model).detect(pictures), hands, ignored)
        return {
            "recall": round(figures.recall, 4),
            "false_per_picture": round(figures.false_per_picture, 4),
            "average_precision": round(figures.average_precision, 4),
            "iou": round(figures.iou, 4),
            "score": 1 - figures.average_precision,
        }

    def _compose(self, size: int) -> tuple[list[Any], list[Any], list[Any]]:
        import numpy as np

        from dfmamba.heads.detector import HAND, IGNORED
        from dfmamba.train.detector import open_pool

        x, target = open_pool(replace(self.config, crop=0), size).compose(0)
        pictures = [np.ascontiguousarray((one.permute(1, 2, 0) * 255).round().byte().numpy()) for one in x]
        boxes = list(zip(target["boxes"].double().numpy(), target["kinds"].numpy(), strict=True))
        hands, ignored = ([box[kinds == kind] for box, kinds in boxes] for kind in (HAND, IGNORED))
        return pictures, hands, ignored
