"""`dfmamba bench`: what it prints and writes, on tiny shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dfmamba.bench import models, ops
from dfmamba.cli import bench as verb
from dfmamba.cli import main as cli
from dfmamba.models import MODELS, HandPoseModel


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights" / "tiny_one"
    torch.manual_seed(0)
    HandPoseModel(MODELS["test"]).save(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["bench", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_ops(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, document = tmp_path / "new" / "ops.json", tmp_path / "ops.md"
    threads = torch.get_num_threads()
    code, out, err = run(
        capsys, "ops", "--quick", "--only", "scan", "--threads", 1, "--json", file, "--markdown", document
    )
    assert (code, err) == (0, "")
    assert torch.get_num_threads() == threads
    assert out.splitlines()[0] == "dfmamba bench ops --only scan --threads 1 --quick"
    assert "selective scan, forward + backward, ms" in out
    facts = json.loads(file.read_text())
    assert facts["schema"] == "dfmamba.bench/1"
    assert facts["command"] == out.splitlines()[0]
    assert facts["machine"]["threads"] == 1
    ours = [r for r in facts["results"] if r["competitor"] == "dfmamba auto"]
    assert {r["status"] for r in ours} == {"ok"}
    assert {r["part"] for r in ours} == {"shapes", "growth"}
    assert str(tmp_path) not in file.read_text() + document.read_text() + out
    assert "| shape | dfmamba auto |" in document.read_text()


def test_backbones(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "backbones.json"
    words = ("--quick", "--only", "dfmamba_test", "test_resnet", "--form", "eager", "best", "--batch", 1)
    code, out, _ = run(capsys, "backbones", *words, "--train", "--memory", "false", "--json", file)
    assert code == 0
    facts = json.loads(file.read_text())
    options = "--batch 1 --train --form eager best --memory false --quick"
    assert facts["command"] == f"dfmamba bench backbones --only dfmamba_test test_resnet {options}"
    assert {(r["backbone"], r["form"], r["mode"]) for r in facts["results"]} == {
        (name, form, mode)
        for name in ("dfmamba_test", "test_resnet")
        for form in ("eager", "best")
        for mode in ("forward", "forward + backward")
    }
    assert all(r["status"] == "ok" and r["macs"] > 0 and r["peak_bytes"] is None for r in facts["results"])
    assert "x test_resnet, its best form" in out


def test_models(capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path) -> None:
    photo, file = tmp_path / "my photo.png", tmp_path / "models.json"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photo)
    words = ("models", "--quick", "--only", weights, "--batch", 1, 3, "--json", file)
    code, out, _ = run(capsys, *words, "--picture", photo)
    assert code == 0
    facts = json.loads(file.read_text())
    assert facts["settings"]["picture"] == "my photo.png"
    assert str(tmp_path) not in file.read_text() + out
    assert [(r["what"], r["batch"]) for r in facts["results"]][:3] == [
        ("photo to joints, eager", 1),
        ("network, eager", 1),
        ("network, eager", 3),
    ]
    assert {r["model"] for r in facts["results"]} == {"tiny_one"}
    photo_row = facts["results"][0]
    assert photo_row["note"].startswith("photo, 70 x 50")
    rate = 1e3 / photo_row["ms"]["median"]
    assert photo_row["pictures_per_second"] == pytest.approx(rate, rel=1e-4)


def test_another_way_to_run_a_network_is_one_entry(
    capsys: pytest.CaptureFixture[str], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doubled(torch.nn.Module):
        def __init__(self, model: HandPoseModel) -> None:
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, x: torch.Tensor):
            output = self.model(x)
            return output._replace(joints_25d=2 * output.joints_25d)

    forms = {"eager": models.eager, "doubled": Doubled, "exported": lambda model: "no exporter here"}
    monkeypatch.setattr(models, "FORMS", forms)
    file = tmp_path / "models.json"
    code, out, _ = run(capsys, "models", "--quick", "--only", weights, "--batch", 1, "--json", file)
    assert code == 1
    status = {r["what"]: r["status"] for r in json.loads(file.read_text())["results"]}
    assert status["photo to joints, eager"] == status["network, eager"] == "ok"
    assert status["photo to joints, doubled"] == status["network, doubled"] == "wrong"
    assert status["photo to joints, exported"] == status["network, exported"] == "missing"
    assert "exported, batch 1: missing, no exporter here" in out


def test_a_wrong_operator_of_ours_gives_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(name: str, function):
        return lambda *operands: 1.1 * function(*operands)

    monkeypatch.setattr(ops, "on_backend", wrong)
    code, out, _ = run(capsys, "ops", "--quick", "--only", "scan", "--train", "false")
    assert code == 1
    assert "dfmamba auto: wrong, differs from the right answer by 0.1" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "ops"),
        (("nothing",), "nothing"),
        (("ops", "--only", "fft"), "unknown operator 'fft'"),
        (("ops", "--threads", "0"), "--threads: expected at least 1"),
        (("ops", "--rounds", "0"), "rounds"),
        (("ops", "--device", "warp9"), "warp9"),
        (("ops", "--json", "."), "is a folder"),
        (("backbones", "--form", "fast"), "unknown form 'fast'"),
        (("backbones", "--only", "no_such_network"), "neither a backbone of dfmamba nor of timm"),
        (("models", "--only", "no_such_model"), "no_such_model"),
        (("models", "--picture", "no_such_photo.jpg"), "no_such_photo.jpg"),
    ],
)
def test_unusable_arguments_give_one_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_every_kind_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in verb.KINDS:
        code, out, _ = run(capsys, kind, "--help")
        assert code == 0
        assert "--json FILE" in out
