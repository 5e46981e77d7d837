"""The part of `dfmamba eval` that measures a trained framework on a copy of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

if TYPE_CHECKING:
    from dfmamba.data.indexed import IndexedDataset
    from dfmamba.models import HandPoseModel

SCHEMA = "dfmamba.eval/1"


def open_split(options: Namespace) -> IndexedDataset:
    """The samples that the options name.

    Raises:
        ValueError: unknown data set or split, or unusable labels.
        OSError: files are missing.
    """
    from dfmamba.data.registry import dataset_info, open_dataset

    info = dataset_info(options.dataset)
    if options.data is None:
        raise ValueError(f"{options.dataset!r} needs --data DIR, the folder of the data set as downloaded")
    return open_dataset(options.dataset, options.data, options.split or info.test, **_reader(options))


def _reader(options: Namespace) -> dict[str, Any]:
    from dfmamba.cli.reader_options import parse_options
    from dfmamba.train.framework import recipe

    return {**recipe(options.dataset).options, **parse_options(options.option)}


def run(options: Namespace, model: HandPoseModel, dataset: IndexedDataset) -> int:
    """Evaluates and prints; returns the exit code.

    Args:
        options: of `dfmamba eval`.
        model: trained in a framework.
        dataset: samples.

    Raises:
        ValueError: no sample is usable.
        OSError: something can't be written.
    """
    from dfmamba import __version__
    from dfmamba.data.registry import dataset_info, is_fixture
    from dfmamba.frameworks import framework_from_dict
    from dfmamba.io.files import write_atomic
    from dfmamba.metrics.protocols import DATASET_PROTOCOLS
    from dfmamba.text import format_json
    from dfmamba.train.framework import evaluate_dataset

    info, split, reader = dataset_info(options.dataset), dataset.split, _reader(options)
    assert model.config.framework is not None
    framework = framework_from_dict(model.config.framework)
    figures, report, predicted = evaluate_dataset(model, framework, dataset, options.batch, options.limit)
    fixture = is_fixture(options.data)

    part = "" if report.kept == len(dataset) else f" of {len(dataset)}"
    print(f"{info.title} {split}: {report.kept} samples{part}; model {options.model}")
    print(f"given to the method: {framework.GIVEN}")
    if fixture:
        print("a synthetic fixture: these figures say nothing of the method")
    given: dict[str, str] = {}
    for protocol in DATASET_PROTOCOLS.get(options.dataset, DATASET_PROTOCOLS["own"]).protocols:
        lines = [(figure, figure.value(figures)) for figure in protocol.figures]
        if all(value is None for _, value in lines):
            continue
        print(f"\n{protocol.name}: {protocol.text}")
        for figure, value in lines:
            if value is None:
                continue
            unit = "" if figure.unit == "share" else f" {figure.unit}"
            print(f"  {figure.title:<12} {figure.text(value)}{unit}   [also uses: {figure.uses}]")
            given[figure.key] = f"{framework.GIVEN}; the figure uses: {figure.uses}"
        different = protocol.mismatch(split, framework.NAME, reader)
        if different:
            print(f"  not the published protocol ({different})")
    for line in (*dataset.report.lines[1:], *report.lines[1:]):
        print(line)
    if options.write is not None:
        _write(options.write, predicted, options.dataset)
    if options.json is not None:
        facts: Mapping[str, Any] = {
            "schema": SCHEMA,
            "dfmamba": __version__,
            "dataset": options.dataset,
            "split": split,
            "options": reader,
            "fixture": fixture,
            "model": model.config.name,
            "weights": str(options.model),
            "backbone": model.config.backbone,
            "framework": framework.to_dict(),
            "given": given,
            "figures": figures,
            "samples": report.kept,
            "available": len(dataset),
            "left_out": {**dataset.report.left_out, **report.left_out},
        }
        write_atomic(Path(options.json), format_json(facts).encode())
    return 0


def _write(path: str, predicted: Any, dataset: str) -> None:
    """Writes predictions (J, 3) u, v, d as the depth benchmarks exchange them."""
    import numpy as np

    from dfmamba.io.joint_files import write_joint_file

    if not predicted:
        raise ValueError(f"--write is for data sets with a text format of predictions, not for {dataset!r}")
    write_joint_file(path, np.stack(predicted))
