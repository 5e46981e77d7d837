"""`dfmamba data check|export|fixture` on a toy data set, good and broken."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from dfmamba.cli import data as data_verb
from dfmamba.cli.main import VERBS, Verb, main
from dfmamba.cli.reader_options import parse_options
from dfmamba.data.index import Report, Row
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.readers.shards import ShardedDataset
from dfmamba.data.registry import DATASETS, DatasetInfo
from dfmamba.hands.camera import Camera
from dfmamba.hands.skeleton import FINGERS, PARENTS, REFERENCE_BONES_MM

CAMERA = Camera(60.0, 60.0, 31.5, 23.5)


def flat_hand() -> np.ndarray:
    """(21, 3) mm: a right hand of mean size, fingers up, wrist 400 mm ahead."""
    joints = np.zeros((21, 3))
    for number, (name, chain) in enumerate(FINGERS.items()):
        angle = np.radians(50.0 if name == "thumb" else 25 - 12 * number)
        for joint in chain:
            bone = np.array([np.sin(angle), -np.cos(angle), 0]) * REFERENCE_BONES_MM[joint - 1]
            joints[joint] = joints[PARENTS[joint]] + bone
    return joints + np.array([0, 60, 400])


class Toy(IndexedDataset):
    """`<split>.json`: [[name of a picture, factor on the joints], ...]."""

    NAME = "toy"
    SPLITS = ("train", "evaluation", "other")

    def __init__(self, root: str | Path, split: str, scale: int = 1) -> None:
        super().__init__(root, split, scale=scale)

    def sources(self) -> list[Path]:
        return [self.root / f"{self.split}.json"]

    def rows(self, report: Report) -> Iterator[Row]:
        path = self.root / f"{self.split}.json"
        try:
            entries = json.loads(path.read_text())
        except ValueError:
            raise ValueError(f"{path}: not valid JSON") from None
        for name, factor in entries:
            joints = np.stack([flat_hand(), np.zeros((21, 3))]) * factor * self.options["scale"]
            yield Row(name, name, joints, np.array([[True] * 21, [False] * 21]), CAMERA, (64, 48))


def write_toy(root: Path, count: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for split, number in (("train", count), ("evaluation", 2)):
        names = [f"{split}{i}.png" for i in range(number)]
        for name in names:
            Image.fromarray(noise).save(root / name)
        (root / f"{split}.json").write_text(json.dumps([[name, 1] for name in names]))


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registered toy data set and a copy of it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(VERBS, "data", Verb("dfmamba.cli.data", "data sets"))
    info = DatasetInfo("Toy set", "toy", "Toy", "train", "evaluation", {"train": 4, "evaluation": 9}, "toys")
    monkeypatch.setitem(DATASETS, "toy", info)
    for room, name, value in (("data.readers", "Toy", Toy), ("fixtures", "write", write_toy)):
        module = ModuleType("toy")
        setattr(module, name, value)
        monkeypatch.setitem(sys.modules, f"dfmamba.{room}.toy", module)
    folder = tmp_path / "toy"
    folder.mkdir()
    write_toy(folder, 4, 0)
    return folder


def test_a_good_copy(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    assert main(["data", "check", "toy", str(toy), "--json", str(report), "--sheet", str(sheet)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert f"Toy set train in {toy}" in shown.out
    assert "4 of 4 toys: complete" in shown.out
    assert "2 of 9 toys: a part of the data set" in shown.out
    assert shown.out.count("  usable\n") == 2
    facts = json.loads(report.read_text())
    assert facts["schema"] == "dfmamba.data_check/1"
    assert facts["dataset"] == "toy"
    assert {name: split["level"] for name, split in facts["splits"].items()} == {
        "train": "ok",
        "evaluation": "note",
    }
    checks = {finding["check"]: finding for finding in facts["splits"]["train"]["findings"]}
    assert checks["pictures"]["figures"] == {"opened": 4, "failed": 0, "black": 0}
    for split in ("train", "evaluation"):
        with Image.open(tmp_path / f"sheet-{split}.png") as image:
            assert image.width > 400


def test_one_split_has_one_sheet(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    words = ["data", "check", "toy", str(toy), "--split", "train", "--pictures", "0", "--sheet", str(sheet)]
    assert main(words) == 0
    assert sheet.is_file()
    shown = capsys.readouterr().out
    assert "opened" not in shown
    assert "evaluation" not in shown


def test_options_reach_the_reader(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "check", "toy", str(toy), "--split", "train", "--option"]
    assert main([*words, "scale=1"]) == 0
    assert "no published number" in capsys.readouterr().out
    assert main([*words, "scale=3"]) == 1
    assert "no hand has this size" in capsys.readouterr().out
    assert main([*words, "size=3"]) == 2
    assert "unknown option 'size' of toy; known: scale" in capsys.readouterr().out


def test_faults_that_spoil_figures(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "train1.png").write_bytes((toy / "train1.png").read_bytes()[:70])
    assert main(["data", "check", "toy", str(toy), "--pictures", "all"]) == 1
    shown = capsys.readouterr()
    assert "train1.png: damaged" in shown.out
    assert "1 unreadable" in shown.out
    assert "Traceback" not in shown.out + shown.err


def test_a_split_that_cannot_be_used(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "evaluation.json").write_text("[[")
    assert main(["data", "check", "toy", str(toy)]) == 1
    shown = capsys.readouterr().out
    assert "evaluation.json: not valid JSON" in shown
    assert shown.rstrip().endswith("unusable")
    assert main(["data", "check", "toy", str(toy), "--split", "evaluation"]) == 2
    (toy / "train.json").unlink()
    assert main(["data", "check", "toy", str(toy)]) == 2
    assert "train.json: missing; expected by toy train" in capsys.readouterr().out


def test_pictures_of_a_sheet_that_cannot_be_read(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    words = ["data", "check", "toy", str(toy), "--split", "train", "--sheet", str(sheet)]
    (toy / "train0.png").unlink()
    assert main(words) == 1
    assert sheet.is_file()
    for i in (1, 2, 3):
        (toy / f"train{i}.png").unlink()
    sheet.unlink()
    assert main(words) == 2
    assert "no contact sheet: none of 4 samples has a readable picture" in capsys.readouterr().out
    assert not sheet.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "dog", "."], "unknown data set 'dog'"),
        (["check", "toy", ".", "--pictures", "few"], "--pictures: expected a number or 'all'"),
        (["check", "toy", ".", "--sheet", "x.jpg"], "--sheet: expected a name that ends in .png"),
        (["check", "toy", ".", "--option", "scale"], "--option: expected NAME=VALUE"),
        (["check", "toy"], "path"),
        (["count", "toy", "."], "count"),
        ([], "action"),
        (["export", "toy", "."], "out"),
        (["export", "toy", ".", "--out", "x", "--per-shard", "0"], "--per-shard: expected at least 1"),
        (["export", "toy", ".", "--out", "x", "--split", "other"], "it can't be exported"),
        (["export", "toy", ".", "--out", "x", "--split", "test", "evaluation"], "overwrite each other"),
        (["fixture", "toy", "x", "--count", "0"], "--count: expected at least 1"),
        (["fixture", "dog", "x"], "unknown data set 'dog'"),
        (["synth", "x", "--kind", "three"], "--kind: expected mix, single, two, object, ego, depth"),
        (["synth", "x", "--photos", "none"], "backgrounds is 'none', which is no folder"),
        (["synth", "x", "--size", "3"], "got size 3"),
        (["synth", "x", "--split", "all"], "split"),
    ],
)
def test_unusable_arguments(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("x").exists()


def test_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "toy", str(tmp_path / "none")]) == 2
    assert "no such folder; expected a copy of toy" in capsys.readouterr().out


def test_fixture(tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "fixture", "toy", str(tmp_path / "new"), "--count", "3", "--seed", "5"]
    assert main(words) == 0
    assert len(Toy(tmp_path / "new", "train")) == 3
    assert main(words) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_export_to_the_own_format(tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["data", "export", "toy", str(toy), "--out", str(out)]
    assert main(words) == 0
    assert main(["data", "check", "own", str(out), "--split", "train", "test"]) == 0
    shown = capsys.readouterr().out
    assert "toy evaluation as test" in shown
    assert "own data test" in shown
    assert main(words) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_export_says_what_it_left_out(tmp_path: Path, toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "train0.png").unlink()
    (toy / "train.json").write_text(json.dumps([["train0.png", 1], ["train1.png", 1], ["train2.png", -1]]))
    words = ["data", "export", "toy", str(toy), "--split", "train", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    shown = capsys.readouterr().out
    assert "1 samples" in shown
    assert "train0.png" in shown
    assert "not read, left out 1: a joint lies behind the camera" in shown


def test_export_to_shards(tmp_path: Path, toy: Path) -> None:
    words = ["data", "export", "toy", str(toy), "--out", str(tmp_path / "out")]
    assert main([*words, "--format", "shards", "--per-shard", "3"]) == 0
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.tar"))
    assert names == ["test/000000.tar", "train/000000.tar", "train/000001.tar"]


def test_option_values_have_types() -> None:
    words = ["fps=30", "wide=True", "thin=false", "kind=all", "centres=a=b", "low=-2", "name="]
    assert parse_options(words) == {
        "fps": 30,
        "wide": True,
        "thin": False,
        "kind": "all",
        "centres": "a=b",
        "low": -2,
        "name": "",
    }
    assert parse_options(None) == {}
    for word in ("fps", "=3", "a b=3", "²=²"):
        with pytest.raises(ValueError, match="expected NAME=VALUE"):
            parse_options([word])
    with pytest.raises(ValueError, match="each name once"):
        parse_options(["a=1", "a=1"])


@pytest.mark.parametrize(
    ("dataset", "split", "own"),
    [
        ("interhand26m", "val", "val"),
        ("rhp", "training", "train"),
        ("rhp", "evaluation", "test"),
        ("dexycb", "s0_train", "train"),
        ("dexycb", "s3_val", "val"),
        ("dexycb", "s1_test", "test"),
        ("assemblyhands", "val", "val"),
    ],
)
def test_names_of_splits(dataset: str, split: str, own: str) -> None:
    assert data_verb.own_split(split, dataset) == own


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures in three shards, rendered before a test's own cache hides the renderer's kernels."""
    pytest.importorskip("warp", reason="the renderer needs the extra 'synthetic'")
    folder = tmp_path_factory.mktemp("rendered")
    words = ["--count", "5", "--per-shard", "2", "--size", "48", "--seed", "4"]
    for name, workers in (("one", "0"), ("two", "2")):
        assert main(["data", "synth", str(folder / name), *words, "--workers", workers]) == 0
    return folder


def test_synth_renders_shards(rendered: Path) -> None:
    shards = sorted((rendered / "one" / "train").glob("*.tar"))
    assert [path.name for path in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    for path in shards:
        assert path.read_bytes() == (rendered / "two" / "train" / path.name).read_bytes()
    dataset = ShardedDataset(rendered / "one", "train")
    assert dataset.report.lines == ["5 samples"]
    assert [sample.id.rpartition("-")[2] for sample in dataset] == list("01234")
    for sample in dataset:
        assert sample.image is not None
        assert sample.image.shape == (48, 48, 3)
        assert sample.depth_mm is not None
        assert sample.depth_mm.max() > 100


def test_synth_goes_on_where_it_was(
    rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy" / "train"
    shutil.copytree(rendered / "one" / "train", folder)
    (folder / ".000001.tar.0123456789ab.part").write_bytes(b"half")
    rest = ["--count", "5", "--per-shard", "2", "--size", "48", "--seed", "4", "--workers", "0"]
    monkeypatch.setattr("dfmamba.synth.generator.SyntheticHands", None)  # nothing left to render
    assert main(["data", "synth", str(tmp_path / "copy"), *rest]) == 0
    assert "5 pictures, 0 of them rendered now" in capsys.readouterr().out
    assert not list(folder.glob(".*"))
    assert main(["data", "synth", str(tmp_path / "copy"), *rest[:-2], "--kind", "two"]) == 2
    assert "use another folder or these settings" in capsys.readouterr().err
    assert main(["data", "synth", str(tmp_path / "copy"), "--workers", "-1"]) == 2
    assert "workers -1: expected" in capsys.readouterr().err


def test_synth_renders_what_is_missing(rendered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = rendered / "two" / "train"
    lost = (folder / "000001.tar").read_bytes()
    (folder / "000001.tar").unlink()
    words = ["--count", "5", "--per-shard", "2", "--size", "48", "--seed", "4", "--workers", "0"]
    assert main(["data", "synth", str(rendered / "two"), *words]) == 0
    assert "2 of them rendered now" in capsys.readouterr().out
    assert (folder / "000001.tar").read_bytes() == lost
