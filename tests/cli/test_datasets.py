"""From a folder in a data set's official layout to figures, by the documented commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfmamba.cli.main import main
from dfmamba.data.registry import DATASETS
from dfmamba.fixtures import write_fixture

SMALL_HEAD = '{"image_size": 64, "num_layers": 1, "dim": 64, "heads": 4, "ffn": 64, "dropout": 0.0}'
DEPTH_HEAD = '{"num_layers": 1, "dim": 64, "heads": 4, "ffn": 64, "dropout": 0.0}'
SETTINGS: dict[str, list[str]] = {
    "interhand26m": ["--framework.head", SMALL_HEAD],
    "rhp": ["--framework.head", SMALL_HEAD],
    "nyu": ["--framework.head", DEPTH_HEAD],
    "dexycb": ["--framework.image_size", "64", "--framework.width", "32"],
    "assemblyhands": ["--framework.image_size", "64", "--framework.width", "32"],
    "freihand": ["--framework.image_size", "64", "--framework.width", "32"],
    "own": ["--framework.head", SMALL_HEAD],
    "shards": ["--framework.head", SMALL_HEAD],
}
HEADLINE = {"nyu": "mean_error_mm"}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of fixtures; each is written when first asked for."""
    return tmp_path_factory.mktemp("copies")


def copy_of(name: str, copies: Path) -> Path:
    if not (copies / name).exists():
        write_fixture(name, copies / name, count=16, seed=4)
    return copies / name


def train(name: str, data: Path, out: Path, *options: str) -> int:
    words = ["train", name, "--data", str(data), "--out", str(out), "--backbone", "dfmamba_test"]
    return main([*words, "--batch_size", "8", "--validation", "0", *SETTINGS[name], *options])


def figures(name: str, data: Path, model: Path, out: Path, *options: str) -> dict:
    words = ["eval", name, "--data", str(data), "--model", str(model), "--json", str(out)]
    assert main([*words, *options]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", ["interhand26m", "nyu", "dexycb"])
def test_a_fixture_trains_and_scores(name: str, copies: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    data = copy_of(name, copies)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert train(name, data, tmp_path / "run", "--steps", "2") == 0
    found = figures(name, data, tmp_path / "run" / "last", tmp_path / "figures.json", "--limit", "4")
    assert found["fixture"] is True
    assert (found["dataset"], found["samples"]) == (name, 4)
    assert found["split"] == DATASETS[name].test
    assert found["available"] == 8
    assert found["figures"][HEADLINE.get(name, "mpjpe_mm")] > 0
    printed = capsys.readouterr().out
    assert "given to the method" in printed
    assert "a synthetic fixture" in printed


def test_predictions_of_nyu_score_as_the_model_does(copies: Path, tmp_path: Path, monkeypatch) -> None:
    from dfmamba.data.registry import open_dataset
    from dfmamba.io.joint_files import write_joint_file
    from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS

    data = copy_of("nyu", copies)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert train("nyu", data, tmp_path / "run", "--steps", "2") == 0
    written = tmp_path / "predictions.txt"
    model = tmp_path / "run" / "last"
    found = figures("nyu", data, model, tmp_path / "a.json", "--write", str(written))
    samples = open_dataset("nyu", data, "test")
    truth = [samples.labels(i).joints_cam_mm[0] for i in range(len(samples))]
    write_joint_file(tmp_path / "truth.txt", [DEPTH_BENCHMARKS["nyu"].from_mm(t) for t in truth])
    words = ["--predictions", str(written), "--groundtruth", str(tmp_path / "truth.txt")]
    assert main(["eval", "nyu", *words, "--json", str(tmp_path / "b.json")]) == 0
    again = json.loads((tmp_path / "b.json").read_text())
    assert again["mean_error_mm"] == pytest.approx(found["figures"]["mean_error_mm"], abs=0.01)


def test_the_packaged_model_is_measured_on_a_data_set(copies: Path, tmp_path: Path, monkeypatch) -> None:
    data = copy_of("own", copies)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = figures("own", data, Path("nano"), tmp_path / "figures.json", "--limit", "3")
    assert found["results"]["own"]["samples"] == 3


def test_shards_are_read_one_after_the_other(copies: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    data = copy_of("shards", copies)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert train("shards", data, tmp_path / "run", "--steps", "2", "--buffer", "4") == 0
    found = figures("shards", data, tmp_path / "run" / "last", tmp_path / "figures.json")
    assert found["samples"] == 8
    capsys.readouterr()
    assert train("own", copy_of("own", copies), tmp_path / "other", "--steps", "2", "--buffer", "4") == 2
    assert "buffer is for shards" in capsys.readouterr().err


def test_what_is_missing_is_named(copies: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = copy_of("nyu", copies)
    cases = [
        (["train", "nyu"], "'nyu' needs --data DIR"),
        (["train", "nuy", "--data", str(data)], "unknown data set 'nuy'"),
        (["train", "nyu", "--data", str(tmp_path / "none")], "no such folder"),
        (["train", "nyu", "--data", str(data), "--backbone", "resnet5"], "resnet5"),
        (["train", "nyu", "--data", str(data), "--framework.width", "3"], "unknown setting 'width'"),
        (["train", "nyu", "--data", str(data), "--option", "cam=1"], "unknown option 'cam'"),
        (["eval", "nyu", "--data", str(data)], "gives OpenPose's 21 joints"),
        (["eval", "nyu"], "needs --data DIR"),
        (["eval", "own", "--data", str(data), "--split", "all"], "split is 'all'"),
    ]
    for words, message in cases:
        assert main(words) == 2, words
        assert message in capsys.readouterr().err, words


REGRESSION = ["--framework.width", "64", "--framework.rotation_deg", "10", "--backbone", "dfmamba_nano"]
"""DetNet reads locations where its heat maps are highest, so nothing falls before these are found."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DATASETS if n not in ("own", "shards")])
def test_200_steps_lower_the_error(name: str, copies: Path, tmp_path: Path, monkeypatch) -> None:
    data = copy_of(name, copies)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    further = REGRESSION if name in ("dexycb", "assemblyhands", "freihand") else []
    errors = []
    for steps in ("1", "200"):
        run = tmp_path / steps
        assert train(name, data, run, "--steps", steps, "--lr", "2e-3", *further) == 0
        found = figures(name, data, run / "last", tmp_path / f"{steps}.json", "--split", DATASETS[name].train)
        errors.append(found["figures"][HEADLINE.get(name, "mpjpe_mm")])
    assert errors[1] < 0.85 * errors[0]
