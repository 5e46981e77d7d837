"""The part of `dfmamba eval` that measures a trained framework on a copy of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

SCHEMA = "dfmamba.eval/1"


def run(options: Namespace) -> int:
    """Evaluates and prints; returns the exit code.

    Raises:
        ValueError: unknown data set, unusable labels, or a model without a framework.
        OSError: something can't be read or written.
    """
    from dfmamba import __version__
    from dfmamba.data.registry import dataset_info, open_dataset
    from dfmamba.frameworks import framework_from_dict
    from dfmamba.io.files import write_atomic
    from dfmamba.models import load
    from dfmamba.predict.result import format_json
    from dfmamba.train.evaluate_dataset import evaluate_dataset

    info = dataset_info(options.dataset)
    if options.data is None:
        raise ValueError(f"{options.dataset!r} needs --data DIR, the folder of the data set as downloaded")
    model = load(options.model, options.device)
    if model.config.framework is None:
        raise ValueError(
            f"model {options.model!r} was not trained in a framework that data sets are measured in; "
            f"train one with: dfmamba train {options.dataset} --data {options.data}"
        )
    framework = framework_from_dict(model.config.framework)
    split = options.split or info.test
    dataset = open_dataset(options.dataset, options.data, split, **options.options)
    figures, report, predicted = evaluate_dataset(model, framework, dataset, options.batch, options.limit)
    return 0
