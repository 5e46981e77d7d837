"""What users of the library type, and the same joints whichever way they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dfmamba
from dfmamba.cli.main import main
from dfmamba.models import HandPoseModel
from dfmamba.predict import Prediction

ROOT = Path(__file__).parents[1]
PHOTO, ONE_HAND = (ROOT / "examples" / name for name in ("two_hands.jpg", "one_hand.jpg"))

TOLERANCE = 0.3
"""Pixels and mm. Looks are aimed by the ones before, which makes rounding grow to 0.12 px and 0.14 mm."""


@pytest.fixture(scope="module")
def model() -> HandPoseModel:
    """The packaged model."""
    return dfmamba.load("nano")


@pytest.fixture(scope="module")
def expected(model: HandPoseModel) -> Prediction:
    """The hands of the picture."""
    prediction = model.predict(PHOTO)
    assert len(prediction.hands) == 2
    return prediction


def same_joints(a: Prediction, b: Prediction, px: float, mm: float) -> None:
    assert [hand.side for hand in a.hands] == [hand.side for hand in b.hands]
    for one, other in zip(a.hands, b.hands, strict=True):
        np.testing.assert_allclose(one.joints_2d_px, other.joints_2d_px, atol=px)
        np.testing.assert_allclose(one.joints_3d_mm, other.joints_3d_mm, atol=mm)


def test_a_model_and_its_predictor_agree(model: HandPoseModel, expected: Prediction) -> None:
    predictor = dfmamba.Predictor(model, device="cpu")
    same_joints(predictor.predict(str(PHOTO)), expected, 0, 0)
    same_joints(predictor.predict(Image.open(PHOTO)), expected, 0, 0)
    same_joints(predictor.predict_batch([PHOTO, PHOTO])[1], expected, TOLERANCE, TOLERANCE)


@pytest.mark.parametrize("detector", ["built-in", "none"])
def test_python_and_the_command_agree(model: HandPoseModel, tmp_path: Path, detector: str) -> None:
    """With what the command does unless told otherwise, and without a detector."""
    chosen = [] if detector == "built-in" else ["--detector", detector]
    assert main(["predict", str(PHOTO), "--out", str(tmp_path), *chosen]) == 0
    file = Prediction.load_json(tmp_path / "two_hands.json")
    found = dfmamba.Predictor(model, device="cpu", detector=detector).predict(PHOTO)
    assert len(found.hands) == 2
    same_joints(file, found, TOLERANCE, TOLERANCE)


@pytest.mark.slow
def test_onnx_agrees(expected: Prediction, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    assert main(["export", "nano", "--out", str(tmp_path / "nano.onnx")]) == 0
    onnx = dfmamba.load(tmp_path / "nano.onnx")
    same_joints(dfmamba.Predictor(onnx, device="cpu").predict(PHOTO), expected, TOLERANCE, TOLERANCE)


def test_a_folder_and_a_hub_id(model: HandPoseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path / "weights")
    again = dfmamba.from_pretrained(tmp_path / "weights")
    for name, values in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], values)
    with pytest.raises(OSError, match="no such model or folder"):
        dfmamba.from_pretrained(tmp_path / "absent")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(OSError, match=r"^nobody/nothing: neither a folder nor a model that") as caught:
        dfmamba.from_pretrained("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_results_are_typed_and_drawn(expected: Prediction) -> None:
    assert (ROOT / "src" / "dfmamba" / "py.typed").is_file()
    assert isinstance(expected, dfmamba.Prediction)
    assert isinstance(expected.hands[0], dfmamba.Hand)
    same_joints(Prediction.from_json(expected.to_json()), expected, 0.006, 0.006)
    drawn = expected.plot(PHOTO)
    assert drawn.mode == "RGB"
    assert drawn.tobytes() == expected.plot().tobytes() == expected.plot(Image.open(PHOTO)).tobytes()
    plain = Prediction((), expected.image_size, model="nano")
    assert drawn.tobytes() != plain.plot(PHOTO).tobytes()
    with pytest.raises(ValueError, match="give the picture"):
        plain.plot()
    with pytest.raises(ValueError, match="pixels"):
        expected.plot(np.zeros((10, 10, 3), np.uint8))


def test_streams_number_the_hands(model: HandPoseModel) -> None:
    predictor = dfmamba.Predictor(model, device="cpu")
    (alone,) = predictor.predict(ONE_HAND).hands
    size = float(np.ptp(alone.joints_2d_px, axis=0).max())
    seen = 0
    for prediction in predictor.stream(ONE_HAND for _ in range(3)):
        (hand,) = prediction.hands
        assert (hand.track, hand.side) == (0, alone.side)
        assert np.linalg.norm(hand.joints_2d_px - alone.joints_2d_px, axis=1).mean() < 0.1 * size
        seen += 1
    assert seen == 3


def test_public_names() -> None:
    for name in dfmamba.__all__:
        assert getattr(dfmamba, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dfmamba.nothing  # noqa: B018
