"""Options that all forms of training share: settings printed and read back, a rehearsal, a start."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dfmamba.cli.main import main
from dfmamba.fixtures import write_fixture
from dfmamba.models import MODELS, HandPoseModel, count_parameters
from dfmamba.train.config import TrainConfig
from dfmamba.train.pool import PoseTask

SMALL = ["--backbone", "dfmamba_test", "--batch_size", "2", "--framework.image_size", "64"]


@pytest.fixture(scope="module")
def freihand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fixture in FreiHAND's layout."""
    pytest.importorskip("warp", reason="the renderer needs the extra 'synthetic'")
    folder = tmp_path_factory.mktemp("copy") / "freihand"
    write_fixture("freihand", folder, count=8, seed=4)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def words_of(name: str, freihand: Path) -> list[str]:
    return ["train", name, "--data", str(freihand), *SMALL, "--framework.width", "16"]


def test_synthetic_settings_round_trip(tmp_path: Path, capsys) -> None:
    path = tmp_path / "settings.yaml"
    options = ["--data.kinds", '{"single": 1.0}', "--clip", ".inf", "--milestones", "[3, 4]", "--lr", "1e-5"]
    assert main(["train", "--model", "test", "--augment.close", "0.25", *options, "--print-config"]) == 0
    first = capsys.readouterr().out
    path.write_text(first)
    assert main(["train", "--config", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    values = yaml.safe_load(first)
    assert values["init_backbone"] is None
    config = TrainConfig.from_dict(values)
    assert (config.model, config.milestones, config.lr, config.clip) == ("test", (3, 4), 1e-5, float("inf"))
    assert (config.augment.close, config.data.kinds) == (0.25, {"single": 1.0})
    assert set(values) == set(TrainConfig().to_dict())


def test_a_mixture_is_given_in_a_file_and_on_the_command_line(tmp_path: Path, capsys) -> None:
    path = tmp_path / "settings.yaml"
    first = {"name": "own", "path": "hands", "share": 0.3, "options": {}}
    second = {"name": "shards", "path": "more", "share": 0.2, "split": "val", "options": {"shards": "a*.tar"}}
    path.write_text(yaml.safe_dump({"data": {"sets": [first]}, "backbone_args": {"deformable": False}}))
    words = ["train", "--config", str(path), "--data.sets+", json.dumps(second), "--print-config"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    config = TrainConfig.from_dict(yaml.safe_load(shown))
    assert [(s.name, s.share, s.split, dict(s.options)) for s in config.data.sets] == [
        ("own", 0.3, None, {}),
        ("shards", 0.2, "val", {"shards": "a*.tar"}),
    ]
    assert config.backbone_args == {"deformable": False}
    path.write_text(shown)
    assert main(["train", "--config", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == shown


def test_the_twin_without_deformable_positions_is_an_option() -> None:
    twin = PoseTask(TrainConfig(backbone_args={"deformable": False})).build()
    usual = PoseTask(TrainConfig()).build()
    assert count_parameters(twin) < count_parameters(usual)
    with pytest.raises(ValueError, match="deformed"):
        PoseTask(TrainConfig(backbone_args={"deformed": False}))


def test_settings_of_a_data_set_round_trip(freihand: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "settings.yaml"
    words = words_of("freihand", freihand)
    assert main([*words, "--epochs", "3", "--init_backbone", "some/folder", "--print-config"]) == 0
    first = capsys.readouterr().out
    values = yaml.safe_load(first)
    assert values["lr"] == 1e-3  # the recipe's
    assert values["steps"] > 0
    assert values["framework"]["image_size"] == 64
    assert values["init_backbone"] == "some/folder"
    path.write_text(first)
    assert main(["train", "freihand", "--config", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    assert main(["train", "freihand", "--config", str(path), "--lr", "0.5", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {**values, "lr": 0.5}


def test_settings_of_pretraining_round_trip(tmp_path: Path, capsys) -> None:
    path = tmp_path / "settings.yaml"
    assert main(["pretrain", "some/folder", "--mask", "0.5", "--print-config"]) == 0
    first = capsys.readouterr().out
    path.write_text(first)
    assert main(["pretrain", "some/folder", "--config", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    assert (yaml.safe_load(first)["mask"], yaml.safe_load(first)["pictures"]) == (0.5, "some/folder")


@pytest.mark.parametrize("form", ["dataset", "pretrain"])
def test_a_rehearsal_tells_and_leaves_nothing(
    form: str, freihand: Path, pictures: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "run"
    words = words_of("freihand", freihand)
    if form == "pretrain":
        words = [
            "pretrain",
            str(pictures),
            "--backbone",
            "dfmamba_test",
            "--image_size",
            "64",
            "--batch_size",
            "2",
        ]
    assert main([*words, "--out", str(out), "--steps", "1000", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert not out.exists()
    assert re.search(r"^step: \S+ s, \S+ pictures/s, of it \d+ % data", shown, re.MULTILINE)
    assert re.search(r"^memory: [1-9]\d* MB", shown, re.MULTILINE)
    assert re.search(r"^checkpoint: \S+ s, (?!0\.0 )\S+ MB", shown, re.MULTILINE)
    assert re.search(r"^whole run: about \d+:\d\d:\d\d for 1000 steps", shown, re.MULTILINE)
    assert re.search(r"^disk: about (?!0\.0 )\S+ MB", shown, re.MULTILINE)
    assert ("validation: none" in shown) == (form == "pretrain")


def test_a_pretrained_backbone_starts_a_model(
    freihand: Path, pictures: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = ["--backbone", "dfmamba_test", "--image_size", "64", "--batch_size", "2", "--steps", "2"]
    assert main(["pretrain", str(pictures), *small, "--out", str(tmp_path / "pre")]) == 0
    run = [
        *words_of("freihand", freihand),
        "--steps",
        "2",
        "--validation",
        "0",
        "--out",
        str(tmp_path / "run"),
    ]
    run += ["--init_backbone", str(tmp_path / "pre" / "last")]
    capsys.readouterr()
    assert main([*run, "--until", "1"]) == 0
    assert "backbone tensors taken, 0 kept as they were" in capsys.readouterr().err
    assert main([*run, "--resume"]) == 0
    assert "backbone tensors taken" not in capsys.readouterr().err
    folder = tmp_path / "run"
    starts = json.loads((folder / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 1]
    HandPoseModel.from_pretrained(folder / "last")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "absent"], "absent: no such file or folder"),
        (["pretrain", ".", "--mask", "2"], "mask is 2.0"),
        (["pretrain", ".", "--backbone", "giant"], "giant"),
        (["train", "--until", "-3"], "--until is -3"),
        (["train", "--dry-runs"], "dry-runs"),
    ],
)
def test_misuse_is_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_missing_backbone_file_is_named(freihand: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [*words_of("freihand", freihand), "--out", str(tmp_path / "run"), "--init_backbone", "absent"]
    assert main(words) == 2
    assert "absent: no such file; expected weights in safetensors format" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="TensorBoard is installed")
def test_the_extra_of_the_board_is_named(pictures: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", str(pictures), "--backbone", "dfmamba_test", "--board"]) == 2
    assert "pip install 'dfmamba[board]'" in capsys.readouterr().err


def test_the_board_shows_validations(freihand: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tensorboard", reason="the board needs the extra 'board'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [
        *words_of("freihand", freihand),
        "--steps",
        "2",
        "--validation",
        "2",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*words, "--board"]) == 0
    found = EventAccumulator(str(tmp_path / "run" / "board"))
    found.Reload()
    assert [event.step for event in found.Scalars("validation/score")] == [2]
    assert [event.step for event in found.Images("validation/hands")] == [2]


def test_synthetic_training_is_rehearsed(tmp_path: Path, capsys) -> None:
    pytest.importorskip("warp", reason="the renderer needs the extra 'synthetic'")
    assert MODELS["test"].image_size == 64
    data = ["--data.cache", str(tmp_path / "cache"), "--data.size", "48", "--data.pictures", "4000"]
    words = ["train", "--model", "test", "--batch_size", "2", "--out", str(tmp_path / "run"), *data]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "rendering: 4000 pictures before the first step" in shown
    assert re.search(r"^whole run: about \d+:\d\d:\d\d for 30000 steps, 30 validations", shown, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_settings_with_aliases_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten aliases of ten aliases and so on: 300 bytes that stand for gigabytes."""
    names = "abcdefgh"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in itertools.pairwise(names)]
    path = tmp_path / "config.yaml"
    path.write_text("\n".join([*lines, "seed: *h"]))
    assert main(["train", "--config", str(path), "--print-config"]) == 2
    error = capsys.readouterr().err
    assert "aliases (*name) are not read" in error
    assert len(error) < 500
