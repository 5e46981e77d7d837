"""What is still to be run, and a whole comparison of a tiny row in processes of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from studies.synthhands5 import compare, sweep
from studies.synthhands5.compare import RATES, STEPS, TUNING_SEED, TUNING_STEPS
from studies.synthhands5.results import Result, versions, write_result
from studies.synthhands5.rows import REFERENCE, find_row
from studies.synthhands5.sweep import Job, Places, read_constants, runs_that_count, trials


def finished(folder: Path, entry: str, lr: float, error: float, seed: int = TUNING_SEED) -> None:
    row, trial = find_row(entry), seed == TUNING_SEED
    write_result(
        folder,
        Result(
            setting="two", entry=entry, seed=seed, lr=lr, steps=TUNING_STEPS if trial else STEPS,
            batch_size=16, figures={"mpjpe_mm": error}, success=(), by_hidden=(), hands_by_hidden=(),
            picture_mm=(), parameters=1, macs=1, seconds=0.0, split="val" if trial else "test",
            backbone=row.backbone, backbone_args=row.args, machine="", versions=versions(),
        ),
    )  # fmt: skip


def test_changes_of_dfmamba_need_its_trials_only(tmp_path: Path) -> None:
    jobs = trials("two", ["k1", "off", "vit"], tmp_path)
    assert jobs == [
        Job("two", row, TUNING_SEED, rate, True, TUNING_STEPS) for row in (REFERENCE, "vit") for rate in RATES
    ]
    finished(tmp_path, REFERENCE, RATES[0], 5.0)
    assert [job.lr for job in trials("two", ["k1"], tmp_path)] == list(RATES[1:])


def test_runs_wait_for_the_choice_of_the_rate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no learning rate"):
        runs_that_count("two", ["vit"], [0], tmp_path)
    for rate in RATES:
        finished(tmp_path, "vit", rate, abs(rate - RATES[1]))
    jobs = runs_that_count("two", ["vit"], [0, 1], tmp_path)
    assert jobs == [Job("two", "vit", seed, RATES[1], False, STEPS) for seed in (0, 1)]
    finished(tmp_path, "vit", RATES[1], 9.0, seed=0)
    assert runs_that_count("two", ["vit"], [0, 1], tmp_path) == jobs[1:]
    assert [job.steps for job in runs_that_count("two", ["vit"], [0, 1], tmp_path, 77)] == [77, 77]
    # A run at a rate that isn't the chosen one doesn't count.
    finished(tmp_path, "vit", RATES[0], 9.0, seed=1)
    assert runs_that_count("two", ["vit"], [0, 1], tmp_path) == jobs[1:]


def test_the_constant_pose_is_measured_once(tmp_path: Path, small_benchmark: Path, few: None) -> None:
    places = Places(str(tmp_path), str(tmp_path / "runs"), str(small_benchmark))
    assert read_constants(tmp_path) == {}
    sweep.write_constant("two", places)
    found = read_constants(tmp_path)
    assert 10 < found["two"]["pa_mpjpe_mm"] < found["two"]["mpjpe_mm"] < 150
    sweep.write_constant("two", Places(str(tmp_path), "", "nowhere"))
    assert read_constants(tmp_path) == found


def test_a_sweep_tunes_first_and_then_runs(
    tmp_path: Path, small_benchmark: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Job] = []

    def pretend(jobs: list[Job], places: Places, workers: int):
        for job in jobs:
            done.append(job)
            finished(tmp_path, job.row, job.lr, -job.lr, job.seed)
            yield job

    monkeypatch.setattr(sweep, "_all", pretend)
    monkeypatch.setattr(compare, "LARGEST_RATE", 2 * max(RATES))
    places = Places(str(tmp_path), "", str(small_benchmark))
    assert list(sweep.sweep("two", ["vit"], [0, 1], places)) == done
    best = 2 * max(RATES)
    assert [(job.lr, job.trial) for job in done] == [
        *((rate, True) for rate in RATES), (best, True), (best, False), (best, False)
    ]  # fmt: skip
    done.clear()
    assert list(sweep.sweep("two", ["vit"], [0, 1], places)) == done == []


def test_an_unknown_row_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown row 'vmambo'"):
        list(sweep.sweep("two", ["vit", "vmambo"], [0], Places(str(tmp_path), "", "nowhere")))
    assert not list(tmp_path.iterdir())


def test_results_are_json(tmp_path: Path) -> None:
    finished(tmp_path, "vit", 0.5, 9.0, seed=0)
    values = json.loads((tmp_path / "two" / "vit-s0.json").read_text())
    assert (values["schema"], values["lr"]) == ("dfmamba.synthhands5/1", 0.5)
