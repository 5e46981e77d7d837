"""Many rows, side by side: a learning rate for each family, then the runs that count.

It can be repeated: what is done isn't done again, and what was interrupted goes on.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from dfmamba.io.files import write_atomic
from studies.synthhands5 import compare
from studies.synthhands5.pictures import load_pictures
from studies.synthhands5.results import Result, constant_pose, measure, read_results
from studies.synthhands5.rows import family_of, find_row, is_defined

CONSTANTS = "constants.json"


@dataclass(frozen=True)
class Places:
    """Where things lie.

    Attributes:
        results: one JSON file a run.
        runs: states, logs and weights.
        data: the pictures; None takes the default.
    """

    results: str
    runs: str
    data: str | None = None


@dataclass(frozen=True)
class Job:
    """One run of so many steps: of a trial of a learning rate if `trial`, else one that counts, at `lr`."""

    setting: str
    row: str
    seed: int
    lr: float
    trial: bool
    steps: int


def trials(setting: str, rows: Sequence[str], results: str | Path) -> list[Job]:
    """The trials of learning rates that the rows need next; after them there may be further ones."""
    return [
        Job(setting, family, compare.TUNING_SEED, rate, True, compare.TUNING_STEPS)
        for family in dict.fromkeys(family_of(row) for row in rows)
        for rate in compare.next_rates(compare.trials_of(results, setting, family))
    ]


def runs_that_count(
    setting: str, rows: Sequence[str], seeds: Sequence[int], results: str | Path, steps: int = compare.STEPS
) -> list[Job]:
    """The runs that are still missing, seed by seed; those by another definition or rate are done again.

    Raises:
        ValueError: a row whose learning rate hasn't been chosen.
    """
    done = {
        (r.setting, r.entry, r.seed, r.lr)
        for r in read_results(results)
        if r.steps == steps and is_defined(r.entry, r.backbone, r.backbone_args)
    }
    rates = {row: compare.best_rate(results, setting, family_of(row)) for row in rows}
    jobs = []
    for seed in seeds:
        for row, rate in rates.items():
            if rate is None:
                raise ValueError(f"{family_of(row)}: no learning rate was chosen for {setting!r} yet")
            if (setting, row, seed, rate) not in done:
                jobs.append(Job(setting, row, seed, rate, False, steps))
    return jobs


def sweep(
    setting: str,
    rows: Sequence[str],
    seeds: Sequence[int],
    places: Places,
    workers: int = 1,
    steps: int = compare.STEPS,
) -> Iterator[Result]:
    """Runs what is missing and yields results as they come.

    Args:
        setting: of the benchmark.
        rows: names of rows.
        seeds: of the runs that count.
        places: folders.
        workers: runs side by side, of one thread each. Results don't depend on it.
        steps: of the runs that count; learning rates are chosen as for the usual length.

    Raises:
        OSError: the pictures aren't there, or a run's process died.
        ValueError: unknown row or setting.
    """
    for row in rows:
        find_row(row)
    write_constant(setting, places)
    while jobs := trials(setting, rows, places.results):
        yield from _all(jobs, places, workers)
    yield from _all(runs_that_count(setting, rows, seeds, places.results, steps), places, workers)


def write_constant(setting: str, places: Places) -> None:
    """Adds the errors of a constant pose on a setting to `CONSTANTS` in the folder of results."""
    path = Path(places.results) / CONSTANTS
    found = read_constants(places.results)
    if setting not in found:
        train, test = (load_pictures(setting, split, places.data) for split in ("train", "test"))
        found[setting] = measure(constant_pose(train, test), test)["figures"]
        write_atomic(path, (json.dumps(found, indent=1) + "\n").encode())


def read_constants(results: str | Path) -> dict[str, dict[str, float]]:
    """Figures of a constant pose by setting; empty where there are none yet."""
    path = Path(results) / CONSTANTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _all(jobs: Sequence[Job], places: Places, workers: int) -> Iterator[Result]:
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, max_tasks_per_child=1) as pool:
        try:
            for future in as_completed([pool.submit(_work, job, places) for job in jobs]):
                yield future.result()
        except BrokenProcessPool:
            raise OSError("the process of a run died (out of memory?); the same call goes on") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _work(job: Job, places: Places) -> Result:
    result = compare.run_row(
        find_row(job.row),
        job.setting,
        job.seed,
        job.lr,
        places.results,
        places.runs,
        places.data,
        "val" if job.trial else "test",
        job.steps,
    )
    assert result is not None
    return result
