"""Measure a model: on synthetic pictures of unseen seeds, or on a copy of a labelled data set.

With --predictions and 'nyu' or 'icvl', score a file in these benchmarks' text format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.reader_options import add_option
from dfmamba.data.kinds import SYNTHETIC_KINDS, VALIDATION_SEED

SCHEMA = "dfmamba.eval/1"
OWN = ("synthetic", "snap")
SCORED = ("nyu", "icvl")
"""Benchmarks of which files of predictions are scored."""

SHOWN = (
    "mpjpe_mm",
    "mpjpe_visible_mm",
    "mpjpe_occluded_mm",
    "mpjpe_scaled_mm",
    "reference_mpjpe_mm",
    "pa_mpjpe_mm",
    "auc_0_50",
    "auc_20_50",
    "error_2d_box",
    "pck_2d_10",
    "side_accuracy",
    "handedness_accuracy",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba eval`."""
    parser.add_argument(
        "dataset",
        type=str,
        help="'synthetic', one of its kinds (" + ", ".join(SYNTHETIC_KINDS) + "), 'snap', a data set that "
        "`dfmamba data` lists, or 'icvl' with --predictions",
    )
    parser.add_argument("--data", type=str, metavar="DIR", help="folder of the data set")
    parser.add_argument("--split", type=str, help="of the data set; by default the one to report on")
    add_option(parser)
    parser.add_argument("--limit", type=int, help="samples of the data set, evenly spaced; all by default")
    parser.add_argument("--batch", type=int, default=32, help="crops per forward pass")
    parser.add_argument("--write", type=str, metavar="FILE", help="'nyu': also write the predictions as text")
    parser.add_argument("--predictions", type=str, metavar="FILE", help="to score, for 'nyu' and 'icvl'")
    parser.add_argument("--groundtruth", type=str, metavar="FILE", help="labels, for 'nyu' and 'icvl'")
    parser.add_argument("--model", type=str, default="nano", help="a packaged model, a folder, or a hub id")
    parser.add_argument("--count", type=int, default=200, help="synthetic pictures of each kind")
    parser.add_argument("--seed", type=int, default=VALIDATION_SEED, help="seed of the synthetic pictures")
    parser.add_argument(
        "--box", type=str, default="joints", choices=["joints", "picture"], help="what the crop is cut from"
    )
    parser.add_argument(
        "--refine",
        type=bool,
        default=True,
        help="look at each hand again, upright; false measures a single pass",
    )
    parser.add_argument("--device", type=str, default="cpu")
    parser.add_argument("--json", type=str, metavar="FILE", help="also write the figures into this JSON file")


def run(options: Namespace) -> int:
    """Evaluate and print; returns the exit code.

    Raises:
        ValueError: unknown data set, or a folder that isn't one.
        OSError: something can't be read or written.
    """
    if options.dataset in SCORED and (options.predictions is not None or options.dataset == "icvl"):
        from dfmamba.cli import scoring

        return scoring.run(options)
    from dfmamba.hands.upright import CLOSE_FACTOR
    from dfmamba.models import load
    from dfmamba.train.evaluate import FIGURES, evaluate

    sets: dict[str, Any]
    if options.dataset in (*OWN, *SYNTHETIC_KINDS):
        sets = _sets(options)
        model = load(options.model, options.device)
    else:
        from dfmamba.cli import evaluate_dataset

        data = evaluate_dataset.open_split(options)
        model = load(options.model, options.device)
        if model.config.framework is not None:
            return evaluate_dataset.run(options, model, data)
        if data.ORDER != "openpose":
            raise ValueError(
                f"model {options.model!r} gives OpenPose's 21 joints, {options.dataset!r} has others: "
                f"dfmamba train {options.dataset} --data {options.data}"
            )
        sets = {options.dataset: data.evenly(options.limit)}
    results: dict[str, dict[str, float]] = {}
    for name, samples in sets.items():
        results[name] = evaluate(model, samples, options.box, refine=options.refine)
    names = [n for n in SHOWN if any(n in figures for figures in results.values())]
    width = max(map(len, names))
    print(" " * width + "".join(f"{name:>12}" for name in results))
    for name in names:
        cells = (f"{figures[name]:12.3f}" if name in figures else " " * 12 for figures in results.values())
        print(f"{name:<{width}}" + "".join(cells))
    counts = ", ".join(f"{name} {int(figures['samples'])}" for name, figures in results.items())
    crop = (
        f"square of {CLOSE_FACTOR} times the labelled joints' box"
        if options.box == "joints"
        else "whole picture"
    )
    if options.refine:
        crop += ", then upright looks"
    print(f"\nsamples: {counts}; crop: {crop}; model: {options.model}")
    for name in names:
        print(f"  {name}: {FIGURES[name]}")
    if options.json is not None:
        from dfmamba.io.files import write_atomic
        from dfmamba.text import format_json

        facts = {
            "schema": SCHEMA,
            "model": model.config.name,
            "weights": str(options.model),
            "box": options.box,
            "refine": options.refine,
            "protocol": {name: FIGURES[name] for name in names},
            "results": results,
        }
        write_atomic(Path(options.json), format_json(facts).encode())
    return 0


def _sets(options: Namespace) -> dict[str, Any]:
    from dfmamba.train.evaluate import synthetic_samples

    if options.dataset == "synthetic":
        return {kind: synthetic_samples(kind, options.count, options.seed) for kind in SYNTHETIC_KINDS}
    if options.dataset in SYNTHETIC_KINDS:
        return {options.dataset: synthetic_samples(options.dataset, options.count, options.seed)}
    if options.data is None:
        raise ValueError("'snap' needs --data DIR, the folder with annotations.json")
    from dfmamba.data.snap import SnapRealWorld

    data = SnapRealWorld(options.data)
    return {"snap": (data[i] for i in range(len(data)))}
