"""One row: its training and measurement, and its learning rate."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from dfmamba.machine import processor
from dfmamba.models import HandPoseModel, count_macs, count_parameters
from dfmamba.train.engine import train
from studies.synthhands5.pictures import load_pictures
from studies.synthhands5.results import Result, measure, read_results, versions, write_result
from studies.synthhands5.rows import Row, family_of, is_defined
from studies.synthhands5.settings import SETTINGS, known
from studies.synthhands5.training import HEAD, Batches, BenchmarkRun, BenchmarkTask, predict

RATES = (2e-3, 4e-3, 8e-3)
"""Grid of peak learning rates, the same for every family; see `next_rates`."""
SMALLEST_RATE, LARGEST_RATE = 5e-4, 3.2e-2
TUNING_STEPS = 250
TUNING_SEED = 100
STEPS = BenchmarkRun().steps
PUBLISHED_RATES: dict[str, dict[str, float]] = {
    "two": {
        "dfmamba": 0.004,
        "mamba": 0.004,
        "vim": 0.004,
        "resnet": 0.016,
        "convnext": 0.016,
        "vit": 0.008,
        "swin": 0.004,
        "vmamba": 0.008,
        "spatial_mamba": 0.004,
    },
}
"""Setting -> family -> what the trials behind the published results have chosen."""


def run_folder(
    runs: str | Path, setting: str, row: str, split: str, lr: float, seed: int, steps: int = STEPS
) -> Path:
    """Where the states, the log and, in `last`, the weights of a run lie."""
    usual = TUNING_STEPS if split == "val" else STEPS
    length = "" if steps == usual else f"-{steps}-steps"
    return Path(runs) / setting / f"{row}-{split}-lr{lr:g}-s{seed}{length}"


def run_row(
    row: Row,
    setting: str,
    seed: int,
    lr: float,
    results: str | Path,
    runs: str | Path,
    data: str | Path | None = None,
    split: str = "test",
    steps: int = STEPS,
    until: int | None = None,
) -> Result | None:
    """Trains one row and measures it; a run that was interrupted goes on.

    Args:
        row: what to train.
        setting: of the benchmark.
        seed: of initialisation, order and augmentation.
        lr: peak learning rate.
        results: folder of the results.
        runs: folder of states, logs and weights.
        data: folder of the pictures; see `load_pictures`.
        split: to measure on.
        steps: of the optimiser.
        until: stop before this step, for tests.

    Returns:
        The result; None if the run was stopped before its end.

    Raises:
        OSError: the pictures aren't there.
        InterruptedError: a signal has stopped the run; its state is saved.
        ValueError: unknown setting, or the run's folder holds another run.
    """
    known(setting, SETTINGS, "setting")
    folder = run_folder(runs, setting, row.name, split, lr, seed, steps)
    config = BenchmarkRun(
        out=str(folder), steps=steps, lr=lr, seed=seed, validate_every=steps, setting=setting,
        entry=row.name, backbone=row.backbone, backbone_args=row.args,
    )  # fmt: skip
    began = time.monotonic()
    plain = SETTINGS[setting].kind == "depth"
    source = Batches(load_pictures(setting, "train", data), config.batch_size, seed, plain=plain)
    model = train(config, source, BenchmarkTask(config), resume=True, until=until)
    if until is not None and until < steps:
        return None
    if not (folder / "last").is_dir():
        raise InterruptedError(f"{folder}: stopped before its end; the same call goes on")
    seconds = time.monotonic() - began
    result = result_of(model, config, split, seconds, data)
    write_result(results, result)
    if split == "val":
        shutil.rmtree(folder)
    return result


def result_of(
    model: HandPoseModel, config: BenchmarkRun, split: str, seconds: float, data: str | Path | None
) -> Result:
    """Measures a trained model."""
    pictures = load_pictures(config.setting, split, data)
    shape = (1, 3, HEAD.image_size, HEAD.image_size)
    return Result(
        setting=config.setting, entry=config.entry, seed=config.seed, lr=config.lr, steps=config.steps,
        batch_size=config.batch_size, **measure(predict(model.eval(), pictures), pictures),
        parameters=count_parameters(model), macs=count_macs(model, shape, scans=True),
        seconds=round(seconds, 1), split=split, backbone=config.backbone,
        backbone_args=config.to_dict()["backbone_args"], machine=processor(), versions=versions(),
    )  # fmt: skip


def trials_of(results: str | Path, setting: str, family: str) -> dict[float, float]:
    """Validation errors (MPJPE, mm) of a family's trials, as it is defined today, by learning rate."""
    return {
        r.lr: r.figures["mpjpe_mm"]
        for r in read_results(results, "val")
        if (r.setting, r.entry, r.steps, r.seed) == (setting, family, TUNING_STEPS, TUNING_SEED)
        and is_defined(r.entry, r.backbone, r.backbone_args)
    }


def lowest(tried: Mapping[float, float]) -> float:
    """The learning rate with the lowest error; the smallest of several. At least one was tried."""
    return min(tried, key=lambda rate: (tried[rate], rate))


def next_rates(tried: Mapping[float, float]) -> list[float]:
    """Learning rates still to be tried: the grid, then beyond its end while the best one is the last.

    Args:
        tried: error by learning rate.
    """
    missing = [rate for rate in RATES if rate not in tried]
    if missing:
        return missing
    best = lowest(tried)
    if best == max(tried) and 2 * best <= LARGEST_RATE:
        return [2 * best]
    return [best / 2] if best == min(tried) and best / 2 >= SMALLEST_RATE else []


def best_rate(results: str | Path, setting: str, family: str) -> float | None:
    """The learning rate with the lowest error on the validation pictures; None before all were tried."""
    tried = trials_of(results, setting, family)
    return None if next_rates(tried) else lowest(tried)


def chosen_rate(setting: str, row: str, results: str | Path) -> float | None:
    """The learning rate of a row: by the trials in a folder of results, else the published one, else None.

    A change of DF-Mamba takes DF-Mamba's.
    """
    family = family_of(row)
    return best_rate(results, setting, family) or PUBLISHED_RATES.get(setting, {}).get(family)
