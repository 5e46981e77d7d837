"""`dfmamba train` and `dfmamba eval` from the command line, on a model and pictures of toy size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("warp", reason="the renderer needs the extra 'synthetic'")

from dfmamba.cli.main import main
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.train import pool as pool_module


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, stopped after two and resumed."""
    folder = tmp_path_factory.mktemp("train")
    settings = {
        "model": "test",
        "out": str(folder / "run"),
        "steps": 4,
        "batch_size": 2,
        "validate_every": 4,
        "validation": 1,
        "data": {
            "pictures": 4,
            "first": 4,
            "cache": str(folder / "cache"),
            "size": 48,
            "backgrounds": 2,
            "workers": 0,
        },
    }
    path = folder / "settings.json"
    path.write_text(json.dumps(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_module, "SHARD", 4)
        assert main(["train", "--config", str(path), "--until", "2"]) == 0
        assert not (folder / "run" / "last").exists()
        assert main(["train", "--config", str(path), "--resume"]) == 0
        assert main(["train", "--config", str(path)]) == 2
    return folder / "run"


def test_a_run_leaves_models_and_a_log(run_folder: Path) -> None:
    for name in ("best", "last"):
        HandPoseModel.from_pretrained(run_folder / name)
    lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    figures = next(line["validation"] for line in lines if "validation" in line)
    assert figures["score"] > 0
    assert {"single_mpjpe_mm", "two_mpjpe_mm", "depth_pa_mpjpe_mm"} <= set(figures)


def test_evaluation_prints_and_writes_its_protocol(run_folder: Path, tmp_path: Path, capsys) -> None:
    report = tmp_path / "figures.json"
    words = ["eval", "single", "--model", str(run_folder / "last"), "--count", "2", "--json", str(report)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "given: box, intrinsics, wrist depth" in shown
    facts = json.loads(report.read_text())
    assert facts["schema"] == "dfmamba.eval/1"
    assert facts["results"]["single"]["samples"] == 2
    assert facts["results"]["single"]["mpjpe_mm"] > 0
    assert set(facts["protocol"]) <= set(facts["results"]["single"])


def test_real_pictures_can_be_evaluated(run_folder: Path, samples_dir: Path, capsys) -> None:
    words = [
        "eval",
        "snap",
        "--data",
        str(samples_dir / "snap_realworld"),
        "--model",
        str(run_folder / "last"),
    ]
    assert main(words) == 0
    assert "samples: snap 100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "nyuu"], "unknown data set 'nyuu'"),
        (["eval", "snap"], "needs --data DIR"),
        (["eval", "single", "--count", "0"], "count is 0"),
        (["eval", "single", "--model", "absent"], "no such model"),
        (["train", "--model", "giant"], "unknown model 'giant'"),
        (["train", "--steps", "0"], "steps is 0"),
        (["train", "--stepz", "3"], "stepz"),
    ],
)
def test_misuse_is_one_line(words: list[str], message: str, capsys, tmp_path: Path, monkeypatch) -> None:
    HandPoseModel(MODELS["test"]).save(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    if words[0] == "eval" and "--model" not in words:
        words = [*words, "--model", str(tmp_path / "m")]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "Traceback" not in error
