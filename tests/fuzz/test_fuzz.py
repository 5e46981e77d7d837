"""Some damaged files of every format; `tests/fuzz/run.py` reads 20,000, in processes of their own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz.mutate import mutate
from fuzz.run import fault_of, inputs
from fuzz.targets import TARGETS, Seed

EXTRAS = {"app_bodies": "fastapi", "predictions": "pyarrow", "film_names": "av", "train_settings": "warp"}
SLOW = {"train_settings", "app_bodies", "models"}


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seeds = list(TARGETS[name](tmp_path))
    for seed in seeds:
        if seed.whole:
            seed.read(seed.content)
    faults = {
        number: fault_of(seed, content)
        for number, seed, content in inputs(name, seeds, 1, 0, 8 if name in SLOW else 40)
    }
    assert {number: fault for number, fault in faults.items() if fault is not None} == {}


def test_the_same_seed_gives_the_same_inputs() -> None:
    whole = Seed(b'{"a": [1, 2.5, {"b": "c"}], "d": null}', "json", len)
    one, other, third = ([c for *_, c in inputs("x", [whole], seed, 0, 50)] for seed in (1, 1, 2))
    assert one == other
    assert one != third
    assert len({*one}) > 30
    assert mutate(b"", "bytes", random.Random(0))


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ValueError("fine"), None),
        (OSError("fine"), None),
        (KeyError("x"), "KeyError"),
        (ValueError("x" * 2000), "a message of 2000 characters"),
        (ValueError("a\x1b[31m"), "a message that steers a terminal"),
    ],
)
def test_what_counts_as_a_finding(error: Exception, fault: str | None) -> None:
    def read(_: bytes) -> None:
        raise error

    found = fault_of(Seed(b"", "bytes", read), b"")
    assert found is None if fault is None else str(found).startswith(fault)
