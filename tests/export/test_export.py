"""Exported networks compute what PyTorch does, and unusable exports are refused."""

from __future__ import annotations

import copy
import io
import json
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dfmamba.backbones import create_backbone
from dfmamba.cli import main as cli
from dfmamba.export import (
    ExportConfig,
    OnnxModel,
    Subject,
    backbone_subject,
    export,
    find_subject,
    onnx_bytes,
    write,
)
from dfmamba.export.check import compare, verdict
from dfmamba.export.formats import OF_CONSTANTS
from dfmamba.models import HandPoseModel
from dfmamba.models.onnx_model import POSE_OUTPUTS, open_session, run_session
from dfmamba.predict import Predictor


def crops(batch: int, size: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def assert_same_pose(found, model: HandPoseModel, x: torch.Tensor) -> None:
    with torch.no_grad():
        wanted = model(x)
    for name in POSE_OUTPUTS:
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_pose_model_equals_pytorch(onnx_file: Path, model: HandPoseModel, batch: int) -> None:
    assert_same_pose(OnnxModel(onnx_file)(crops(batch)), model, crops(batch))


def test_metadata_and_names(onnx_file: Path, model: HandPoseModel) -> None:
    proto = onnx.load(onnx_file)
    onnx.checker.check_model(proto)
    assert [i.name for i in proto.graph.input] == ["image"]
    assert tuple(o.name for o in proto.graph.output) == POSE_OUTPUTS
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert (facts["model"], facts["image_size"], facts["license"]) == ("test", "64", "Apache-2.0")
    assert json.loads(facts["joint_names"])[0] == "wrist"
    assert json.loads(facts["config"]) == model.config.to_dict()
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


def test_backbone_features_with_static_weights(tmp_path: Path) -> None:
    from dfmamba.backbones.dfmamba import DSSMConfig

    torch.manual_seed(1)
    scan = DSSMConfig(d_state=2, weights="static", offset_groups=2, reverse=True)
    stages = (("none",), ("none",), ("dssm",), ("none",))
    backbone = create_backbone("dfmamba_test", features_only=True, scan=scan, stages=stages).eval()
    subject = backbone_subject("test", backbone, 45)
    assert subject.output_names == ("stride_4", "stride_8", "stride_16", "stride_32")
    session = open_session(onnx_bytes(subject))
    for batch in (1, 3):
        with torch.no_grad():
            wanted = backbone(crops(batch, 45) * 2 - 1)
        for a, b in zip(run_session(session, crops(batch, 45).numpy()), wanted, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings(f"ignore:{OF_CONSTANTS}")  # PyTorch 2.7, of a program that it has loaded
def test_torch_export_equals_pytorch(
    subject: Subject, model: HandPoseModel, picture: Path, tmp_path: Path
) -> None:
    path = tmp_path / "test.pt2"
    report = export(subject, path, ExportConfig(format="torch-export"), [str(picture)])
    assert report.errors is not None
    facts = {"model": ""}
    program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=facts)
    assert facts["model"] == "test"
    for batch in (1, 3):
        with torch.no_grad():
            found, wanted = program.module()(crops(batch)), model(crops(batch))
        for a, b in zip(found, wanted[:3], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_predictor_takes_an_onnx_model(onnx_file: Path, model: HandPoseModel) -> None:
    image = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    wanted = Predictor(model, "cpu", detector=None).predict(image, threshold=0.0)
    found = Predictor(OnnxModel(onnx_file), "cpu", detector=None).predict(image, threshold=0.0)
    assert found.model == "test"
    assert [h.side for h in found.hands] == [h.side for h in wanted.hands]
    for a, b in zip(found.hands, wanted.hands, strict=True):
        np.testing.assert_allclose(a.joints_2d_px, b.joints_2d_px, atol=1e-2)


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_predictors_of_onnx_models_are_pickled_and_copied(onnx_file: Path, tmp_path: Path, copied) -> None:
    """Also where the file is gone."""
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(onnx_file.read_bytes())
    predictor = Predictor(str(moved), "cpu", detector=None)
    moved.unlink()
    image = np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    wanted, found = (one.predict(image, threshold=0.0) for one in (predictor, copied(predictor)))
    assert len(found.hands) == len(wanted.hands) > 0
    for a, b in zip(found.hands, wanted.hands, strict=True):
        np.testing.assert_array_equal(a.joints_2d_px, b.joints_2d_px)


@pytest.fixture
def ready(onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the translation: `export` takes the file that is there."""
    monkeypatch.setattr(write, "onnx_bytes", lambda *_: onnx_file.read_bytes())


@pytest.mark.usefixtures("ready")
def test_int8_runs_and_is_near(subject: Subject, picture: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    report = export(subject, path, ExportConfig(quantize="int8"), [str(picture)])
    assert report.errors is not None
    assert report.errors.mean_joints_px is not None
    assert 0 < report.errors.mean_joints_px < 0.05 * subject.size
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}
    found = OnnxModel(path)(crops(3))
    assert found.joints_25d.shape == (3, 2, 21, 3)


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(("share", "reason"), [(0.5, "joints differ by more than"), (float("nan"), "finite")])
def test_a_wrong_network_is_refused(
    subject: Subject, picture: Path, tmp_path: Path, share: float, reason: str, monkeypatch
) -> None:
    def another(image: torch.Tensor) -> list[np.ndarray]:
        joints, *others = (values.numpy() for values in subject.network(image))
        return [joints + share, *others]

    monkeypatch.setattr(write, "_session", lambda _: another)
    path = tmp_path / "kept.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=reason), torch.no_grad():
        export(subject, path, pictures=[str(picture)])
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.onnx"]


def test_wrong_logits_are_refused(subject: Subject) -> None:
    def another(image: torch.Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            joints, scores, present = (values.numpy() for values in subject.network(image))
        return [joints, scores, present + 0.02]

    errors = compare(subject, another, crops(3), (2,))
    assert errors.logits == pytest.approx(0.02, rel=0.01)
    assert verdict(subject, errors) == "logits differ by more than 0.01"


def test_command_with_a_fixed_batch(
    folder: Path, picture: Path, model: HandPoseModel, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "deep" / "test.onnx"
    words = ["--out", out, "--batch", 2, "--operators", "basic", "--pictures", picture]
    assert cli.main(["export", str(folder), *map(str, words)]) == 0
    line = capsys.readouterr().out
    assert line.startswith(f"{out}: 0.")
    assert "checked: joints differ by at most" in line
    proto = onnx.load(out)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert not {"Scan", "DeformConv"} & {node.op_type for node in proto.graph.node}
    assert_same_pose(OnnxModel(out)(crops(3)), model, crops(3))


def test_subjects_by_name(folder: Path) -> None:
    backbone = find_subject("dfmamba_test", 33)
    assert (backbone.size, backbone.pose, backbone.metadata["strides"]) == (33, None, "[4, 8, 16, 32]")
    features = find_subject(str(folder), features=True)
    assert (features.name, features.size) == ("test-features", 64)
    assert features.output_names == ("stride_8", "stride_16", "stride_32")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nothing"], "unknown model 'nothing'; known: models"),
        (["{folder}", "--opset", "12"], "opset is 12; expected 20 to"),
        (["{folder}", "--batch", "-1"], "--batch: expected 'dynamic' or a number from 1, got '-1'"),
        (["{folder}", "--size", "96"], "size is 96, but"),
        (["dfmamba_test", "--size", "16"], "size is 16; expected at least 32"),
        (["{folder}", "--format", "torch-export", "--quantize", "int8"], "only the format 'onnx' offers"),
        (["{folder}", "--out", "{folder}"], "is a folder, name a file"),
        (["{folder}", "--out", "{folder}/config.json/x.onnx"], "cannot write there"),
        (["{folder}", "--pictures", "{folder}/none.png"], "no such file"),
    ],
)
def test_failures_are_one_line(
    words: list[str], reason: str, folder: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *(word.format(folder=folder) for word in words)]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_missing_library_names_the_extra(folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    words = ["export", str(folder), "--out", str(tmp_path / "a.onnx"), "--no-check"]
    assert cli.main(words) == 2
    assert "pip install 'dfmamba[export]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unusable_files(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    with pytest.raises(OSError, match=r"a\.onnx"):
        OnnxModel(path)
    path.write_bytes(b"not a network")
    with pytest.raises(ValueError, match="onnxruntime can't run it"):
        OnnxModel(path)


def test_a_file_of_another_kind_is_no_pose_model(onnx_file: Path, tmp_path: Path) -> None:
    proto = onnx.load(onnx_file)
    for entry in proto.metadata_props:
        if entry.key == "schema":
            entry.value = "else/1"
    path = tmp_path / "else.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="not a hand pose model of this package; its schema is 'else/1'"):
        OnnxModel(path)
