"""The studies beside the package start; their own tests run with `make check-all`."""

from __future__ import annotations

import pytest

from dfmamba.cli.main import run_command


@pytest.mark.parametrize(
    ("study", "words", "shown"),
    [("published", ["nyu"], "NYU"), ("synthhands5", ["list"], "spatial_mamba")],
)
def test_a_study_starts(study: str, words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(f"python -m studies.{study}", f"studies.{study}.__main__", words) == 0
    assert shown in capsys.readouterr().out
