"""One row: the same bits whether interrupted or not, and the choice of its learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dfmamba.models import load as load_model
from studies.synthhands5 import compare, rows
from studies.synthhands5.compare import (
    LARGEST_RATE,
    RATES,
    SMALLEST_RATE,
    TUNING_SEED,
    TUNING_STEPS,
    best_rate,
    chosen_rate,
    next_rates,
    run_row,
)
from studies.synthhands5.pictures import load_pictures
from studies.synthhands5.results import Result, measure, read_results, versions, write_result
from studies.synthhands5.rows import ABLATIONS, REFERENCE, Row, find_row
from studies.synthhands5.training import predict

TINY = Row("tiny", "Tiny", "dfmamba_test", {})
STEPS = 3


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Runs take one thread; other tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(
    folder: Path, data: Path, seed: int = 0, split: str = "test", until: int | None = None
) -> Result | None:
    return run_row(TINY, "two", seed, 0.01, folder / "results", folder / "runs", data, split, STEPS, until)


def last(folder: Path, seed: int = 0) -> Path:
    return folder / "runs" / "two" / f"tiny-test-lr0.01-s{seed}-{STEPS}-steps" / "last"


def facts(result: Result | None) -> dict:
    assert result is not None
    return {key: value for key, value in asdict(result).items() if key != "seconds"}


def test_interrupted_and_uninterrupted_runs_are_equal_bit_for_bit(
    tmp_path: Path, small_benchmark: Path, few: None
) -> None:
    whole = run(tmp_path / "a", small_benchmark)
    assert run(tmp_path / "b", small_benchmark, until=2) is None
    assert read_results(tmp_path / "b" / "results") == []
    torch.manual_seed(5)
    parts = run(tmp_path / "b", small_benchmark)
    assert facts(whole) == facts(parts)
    a, b = (load_file(last(tmp_path / name) / "model.safetensors") for name in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)

    assert whole is not None
    assert read_results(tmp_path / "a" / "results") == [whole]
    assert (whole.setting, whole.entry, whole.seed, whole.lr, whole.steps) == ("two", "tiny", 0, 0.01, STEPS)
    assert (whole.backbone, whole.split, len(whole.picture_mm)) == ("dfmamba_test", "test", 8)

    # What is measured is what the saved weights do.
    pictures = load_pictures("two", "test", small_benchmark)
    assert measure(predict(load_model(last(tmp_path / "a")), pictures), pictures)["figures"] == whole.figures
    # Calling again neither trains nor changes anything.
    assert facts(run(tmp_path / "a", small_benchmark)) == facts(whole)


def test_a_run_that_a_signal_stops_leaves_no_result(
    tmp_path: Path, small_benchmark: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compare.train
    monkeypatch.setattr(compare, "train", lambda *args, **options: whole(*args, **{**options, "until": 1}))
    with pytest.raises(InterruptedError, match="goes on"):
        run(tmp_path, small_benchmark)
    assert read_results(tmp_path / "results") == []
    monkeypatch.setattr(compare, "train", whole)
    assert run(tmp_path, small_benchmark) is not None


def test_another_seed_is_another_run(tmp_path: Path, small_benchmark: Path, few: None) -> None:
    found = [run(tmp_path, small_benchmark, seed, "val") for seed in (0, 1)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0].figures != found[1].figures
    assert len(found[0].picture_mm) == 5
    assert read_results(tmp_path / "results", "val") == found
    assert not list((tmp_path / "runs" / "two").iterdir())  # trials leave their figures only


def test_a_folder_with_another_row_is_refused(tmp_path: Path, small_benchmark: Path, few: None) -> None:
    run(tmp_path, small_benchmark, until=1)
    other = Row("tiny", "Tiny", "dfmamba_test", {"ffn_ratio": 1.0})
    with pytest.raises(ValueError, match="another backbone_args"):
        run_row(other, "two", 0, 0.01, tmp_path / "results", tmp_path / "runs", small_benchmark, steps=STEPS)


def test_pictures_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no finished shards"):
        run(tmp_path, tmp_path / "nothing")


def trial(
    folder: Path, entry: str, lr: float, mpjpe: float, setting: str = "two", split: str = "val"
) -> None:
    row = find_row(entry)
    write_result(
        folder,
        Result(
            setting=setting, entry=entry, seed=TUNING_SEED, lr=lr, steps=TUNING_STEPS, batch_size=1,
            figures={"mpjpe_mm": mpjpe}, success=(), by_hidden=(), hands_by_hidden=(), picture_mm=(),
            parameters=1, macs=1, seconds=0.0, split=split, backbone=row.backbone, backbone_args=row.args,
            machine="", versions=versions(),
        ),
    )  # fmt: skip


def test_the_rate_with_the_lowest_error_is_chosen(tmp_path: Path) -> None:
    errors = dict(zip(RATES, (20.0, 18.0, 25.0), strict=True))
    for count, (lr, error) in enumerate(errors.items()):
        assert best_rate(tmp_path, "two", "vim") is None, f"after {count} of {len(RATES)}"
        trial(tmp_path, "vim", lr, error)
    assert best_rate(tmp_path, "two", "vim") == RATES[1]
    for lr, error in errors.items():
        trial(tmp_path, "vim", lr, 30.0 + abs(lr - RATES[1]), setting="ego")
        trial(tmp_path, "mamba", lr, min(error, 20.0))
    assert best_rate(tmp_path, "two", "vim") == RATES[1]
    assert best_rate(tmp_path, "ego", "vim") == RATES[1]


def test_the_grid_goes_on_while_its_last_rate_is_the_best() -> None:
    tried = {rate: -rate for rate in RATES}
    assert next_rates({}) == list(RATES)
    assert next_rates(tried) == [2 * max(RATES)]
    assert next_rates({**tried, 2 * max(RATES): 0.0}) == []
    assert next_rates({rate: rate for rate in RATES}) == [min(RATES) / 2]
    assert next_rates({SMALLEST_RATE: -9.0, **tried}) == []
    assert next_rates({LARGEST_RATE: -9.0, **tried}) == []


def test_trials_of_a_row_that_has_changed_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lr in RATES:
        trial(tmp_path, "vim", lr, abs(lr - RATES[1]))
    assert best_rate(tmp_path, "two", "vim") == RATES[1]
    monkeypatch.setitem(rows.ROWS, "vim", replace(find_row("vim"), args={}))
    assert best_rate(tmp_path, "two", "vim") is None


def test_errors_on_test_pictures_choose_nothing(tmp_path: Path) -> None:
    for lr in RATES:
        trial(tmp_path, "vim", lr, 1.0, split="test")
    assert best_rate(tmp_path, "two", "vim") is None


def test_changes_of_dfmamba_take_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "PUBLISHED_RATES", {"two": {REFERENCE: 0.5, "vim": 0.25}})
    for name in (REFERENCE, *ABLATIONS):
        assert chosen_rate("two", name, tmp_path) == 0.5
    assert chosen_rate("two", "vim", tmp_path) == 0.25
    assert chosen_rate("two", "resnet", tmp_path) is None
    assert chosen_rate("ego", REFERENCE, tmp_path) is None
    for lr in RATES:
        trial(tmp_path, REFERENCE, lr, abs(lr - RATES[1]))
    assert chosen_rate("two", "k1", tmp_path) == RATES[1], "own trials go before the published ones"


def test_published_rates_are_those_of_the_published_trials() -> None:
    folder = Path(__file__).parents[1] / "report" / "results"
    for setting, rates in compare.PUBLISHED_RATES.items():
        assert {name: best_rate(folder, setting, name) for name in rates} == rates
        assert set(rates) == set(rows.FAMILIES)
