"""What a run tells: the log, the line of progress, the warning about data, and those who listen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dfmamba.train import meter as meter_module
from dfmamba.train.config import RunConfig
from dfmamba.train.meter import Meter, clock, listening, peak_memory_mb, scalars_of
from dfmamba.train.parallel import Ranks


class Clock:
    """A clock that only goes on when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(meter_module, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def go(meter: Meter, hands: Clock, first: int, last: int, wait: float, compute: float) -> None:
    for step in range(first, last + 1):
        hands.now += wait
        meter.fetched()
        hands.now += compute
        meter.stepped(step, {"total": 2.0, "joint": 1.0, "grad_norm": 5.0}, 0.01)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_log_has_rate_waiting_time_and_memory(tmp_path: Path, hands: Clock) -> None:
    go(Meter(RunConfig(steps=500, batch_size=8), tmp_path, 0, Ranks()), hands, 1, 100, 0.1, 0.3)
    first, second = lines(tmp_path)
    assert (first["step"], second["step"]) == (50, 100)
    assert second["pictures_per_s"] == pytest.approx(20.0)
    assert second["data_wait"] == pytest.approx(0.25)
    assert (first["seconds"], second["seconds"]) == pytest.approx((20.0, 40.0))
    assert second["memory_mb"] > 10
    assert (second["total"], second["lr"]) == (2.0, 0.01)


def test_progress_in_a_file_is_a_line_now_and_then(tmp_path: Path, hands: Clock, capsys) -> None:
    go(Meter(RunConfig(steps=100, batch_size=8), tmp_path, 0, Ranks()), hands, 1, 100, 0.1, 0.9)
    shown = capsys.readouterr().err.splitlines()
    progress = [line for line in shown if line.startswith("step")]
    assert [line.split()[1] for line in progress] == ["1/100", "32/100", "63/100", "94/100", "100/100"]
    assert progress[1] == "step 32/100  loss 2.000  lr 0.01  8 pictures/s  data 10 %  0:01:08 left"


def test_a_terminal_has_one_line_drawn_anew(tmp_path: Path, hands: Clock, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    go(Meter(RunConfig(steps=5, batch_size=8), tmp_path, 0, Ranks()), hands, 1, 5, 0.1, 0.9)
    shown = capsys.readouterr().err
    assert shown.count("\r") == 5
    assert shown.count("\n") == 1
    assert shown.endswith("\n")


@pytest.mark.parametrize(("wait", "told"), [(0.1, 0), (0.34, 1)])
def test_waiting_for_data_is_told_once(tmp_path: Path, hands: Clock, capsys, wait: float, told: int) -> None:
    go(Meter(RunConfig(steps=900, batch_size=8), tmp_path, 0, Ranks()), hands, 1, 300, wait, 1 - wait)
    shown = capsys.readouterr().err
    assert shown.count("waiting for data") == told
    if told:
        assert "waiting for data 34 % of the time: more --workers, or pre-rendered shards" in shown


def test_starting_workers_is_no_waiting(tmp_path: Path, hands: Clock, capsys) -> None:
    meter = Meter(RunConfig(steps=900, batch_size=8), tmp_path, 0, Ranks())
    go(meter, hands, 1, 1, 500.0, 1.0)
    go(meter, hands, 2, 300, 0.01, 0.99)
    assert "waiting for data" not in capsys.readouterr().err


def test_validation_takes_no_time_of_the_rate(tmp_path: Path, hands: Clock) -> None:
    meter = Meter(RunConfig(steps=500, batch_size=8), tmp_path, 0, Ranks())
    go(meter, hands, 1, 50, 0.0, 1.0)
    hands.now += 1000
    meter.write({"step": 50, "validation": {"score": 3.0}})
    meter.pause()
    go(meter, hands, 51, 100, 0.0, 1.0)
    assert lines(tmp_path)[-1]["pictures_per_s"] == pytest.approx(8.0)
    assert lines(tmp_path)[-1]["seconds"] == pytest.approx(1100.0)
    assert (tmp_path / "curves.png").is_file()


class Heard:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def scalars(self, step: int, figures) -> None:
        self.told.append((step, dict(figures)))

    def picture(self, name: str, image: np.ndarray) -> None:
        raise AssertionError("nobody shows pictures here")


def test_loggers_hear_what_the_log_says(tmp_path: Path) -> None:
    heard = Heard()
    meter = Meter(RunConfig(steps=500), tmp_path, 0, Ranks())
    with listening(heard):
        meter.write({"step": 7, "total": 1.5, "validation": {"score": 3.0}})
    meter.write({"step": 8, "total": 1.0})
    assert heard.told == [(7, {"total": 1.5, "validation/score": 3.0})]


def test_only_the_first_process_tells(tmp_path: Path, hands: Clock, capsys) -> None:
    go(Meter(RunConfig(steps=100), tmp_path, 0, Ranks(1, 2)), hands, 1, 100, 0.5, 0.5)
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, capsys) -> None:
    meter = Meter(RunConfig(steps=500), tmp_path, 0, Ranks())
    (tmp_path / "curves.png").mkdir()
    meter.write({"step": 7, "validation": {"score": 3.0}})
    assert "curves.png: is a folder" in capsys.readouterr().err


def test_helpers() -> None:
    assert clock(3725.9) == "1:02:05"
    assert peak_memory_mb("cpu") > 10
    assert scalars_of({"step": 1, "a": 2, "b": "text", "validation": {"c": 3}}) == {
        "a": 2.0,
        "validation/c": 3.0,
    }
