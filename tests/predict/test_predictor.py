"""The way of a picture through cropping, network and back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dfmamba.hands.camera import Camera, from_25d
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.predict import Prediction, Predictor
from dfmamba.predict.looking import SeenHand, without_doubles
from dfmamba.predict.track import TrackConfig

WRIST, TIP = (60.0, 90.0), (120.0, 50.0)
CAMERA = Camera(200, 200, 90, 50)


def picture(wrist=WRIST, tip=TIP, size=(200, 120), blob: int = 9) -> np.ndarray:
    """A grey picture with a red blob at the wrist, a green one at the tip, a blue one for a right thumb."""
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    (x0, y0), (x1, y1) = wrist, tip
    thumb = ((x0 + x1) / 2 + 0.35 * (y1 - y0), (y0 + y1) / 2 - 0.35 * (x1 - x0))
    for (u, v), color in ((wrist, (255, 0, 0)), (tip, (0, 255, 0)), (thumb, (0, 0, 255))):
        u, v = int(u), int(v)
        image[v - blob : v + blob + 1, u - blob : u + blob + 1] = color
    return image


def ends(prediction: Prediction, hand: int = 0) -> np.ndarray:
    return prediction.hands[hand].joints_2d_px[[0, 20]]


def test_whole_picture(stick) -> None:
    prediction = Predictor(stick, "cpu", detector=None).predict(picture(), refine=False)
    assert prediction.image_size == (200, 120)
    assert prediction.model == "stick"
    assert (prediction.image, prediction.camera, prediction.mirrored) == (None, None, False)
    (hand,) = prediction.hands
    assert hand.side == "right"
    assert hand.score == pytest.approx(torch.tensor(4.0).sigmoid().item())
    assert np.abs(ends(prediction) - [WRIST, TIP]).max() < 2.0
    assert hand.root == "wrist"
    assert np.allclose(hand.joints_3d_mm[0], 0)
    assert stick.inputs[0].shape == (1, 3, 64, 64)
    assert 0 <= stick.inputs[0].min() <= stick.inputs[0].max() <= 1


def test_the_second_look_is_sharper(stick) -> None:
    small = picture((403, 451), (644, 305), (900, 700), blob=12)
    first = Predictor(stick, "cpu", detector=None).predict(small, refine=False)
    second = Predictor(stick, "cpu", detector=None).predict(small)
    error = [np.abs(ends(prediction) - [(403, 451), (644, 305)]).max() for prediction in (first, second)]
    assert error[1] < 1.5
    assert error[1] < 0.6 * error[0]
    assert [len(x) for x in stick.inputs] == [1, 1, 1, 1]


def test_a_doubtful_hand_is_looked_at_as_either_side(stick_class) -> None:
    doubtful = stick_class(doubt=3.0)
    (hand,) = Predictor(doubtful, "cpu", detector=None).predict(picture()).hands
    assert hand.side == "right"
    assert [len(x) for x in doubtful.inputs] == [1, 1, 2]
    as_right, as_left = doubtful.inputs[-1]
    torch.testing.assert_close(as_left, as_right.flip(-1))


def test_a_hand_that_fills_the_picture_is_not_looked_at_closer(stick) -> None:
    large = picture((20, 100), (104, 20), size=(120, 120), blob=5)
    (hand,) = Predictor(stick, "cpu", detector=None).predict(large).hands
    assert np.abs(hand.joints_2d_px[[0, 20]] - [(20, 100), (104, 20)]).max() < 1.5
    assert [len(x) for x in stick.inputs] == [1, 1]


@pytest.mark.parametrize("refine", [False, True])
def test_a_box_needs_no_closer_look(stick, refine: bool) -> None:
    prediction = Predictor(stick, "cpu", detector=None).predict(
        picture(), box=(40, 30, 140, 110), refine=refine
    )
    assert [len(x) for x in stick.inputs] == ([1, 1] if refine else [1])
    assert np.abs(ends(prediction) - [WRIST, TIP]).max() < 1.0


@pytest.mark.parametrize("angle", range(0, 360, 45))
@pytest.mark.parametrize("flipped", [False, True])
def test_looks_at_turned_hands(stick, angle: int, flipped: bool) -> None:
    """However a hand is turned, the upright looks find it where it is, and its side."""
    reach = 40 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    wrist, tip = np.array([100.0, 100.0]) - reach, np.array([100.0, 100.0]) + reach
    image = picture(tuple(wrist), tuple(tip), (201, 201))
    if flipped:
        image = np.ascontiguousarray(image[:, ::-1])
        wrist[0], tip[0] = 200 - wrist[0], 200 - tip[0]
    (hand,) = Predictor(stick, "cpu", detector=None).predict(image).hands
    assert hand.side == ("left" if flipped else "right")
    assert np.abs(hand.joints_2d_px[[0, 20]] - [wrist, tip]).max() < 1.5
    depth = hand.joints_3d_mm[20, 2] / np.linalg.norm(hand.joints_3d_mm[20, :2])
    assert depth == pytest.approx(0.5, abs=0.02)


def test_a_box_may_reach_out_but_not_lie_outside(stick) -> None:
    predictor = Predictor(stick, "cpu", detector=None)
    assert len(predictor.predict(picture(), box=(-30, 0, 150, 150)).hands) == 1
    with pytest.raises(ValueError, match="outside the picture of 200 x 120"):
        predictor.predict(picture(), box=(200, 0, 250, 50))
    with pytest.raises(ValueError, match="empty"):
        predictor.predict(picture(), box=(50, 50, 50, 80))


@pytest.mark.parametrize("box", [None, (40, 30, 140, 110)])
@pytest.mark.parametrize("camera", [None, CAMERA])
def test_mirrored(stick, box, camera) -> None:
    """A mirror image of a left hand looks like a right hand; pixels stay those of the picture as given."""
    predictor = Predictor(stick, "cpu", detector=None)
    mirrored = predictor.predict(picture(), box, camera, mirrored=True)
    assert mirrored.mirrored
    assert mirrored.hands[0].side == "left"
    assert np.abs(ends(mirrored) - [WRIST, TIP]).max() < 2.0
    assert mirrored.camera == camera

    unmirrored = np.ascontiguousarray(picture()[:, ::-1])
    real_box = None if box is None else (199 - box[2], box[1], 199 - box[0], box[3])
    real_camera = None if camera is None else Camera(camera.fx, camera.fy, 199 - camera.cx, camera.cy)
    real = predictor.predict(unmirrored, real_box, real_camera)
    assert real.hands[0].side == "left"
    assert np.allclose(mirrored.hands[0].joints_3d_mm, real.hands[0].joints_3d_mm)
    box_there = mirrored.hands[0].box_xyxy
    assert np.allclose(
        real.hands[0].box_xyxy, [199 - box_there[2], box_there[1], 199 - box_there[0], box_there[3]]
    )


def test_with_a_camera_the_joints_project_on_the_pixels(stick) -> None:
    prediction = Predictor(stick, "cpu", detector=None).predict(picture(), camera=CAMERA)
    (hand,) = prediction.hands
    assert (hand.root, hand.scale, prediction.camera) == ("camera", "reference hand", CAMERA)
    assert (hand.joints_3d_mm[:, 2] > 0).all()
    assert np.allclose(CAMERA.project(hand.joints_3d_mm), hand.joints_2d_px, atol=1e-6)


@pytest.mark.parametrize(
    "form",
    [lambda c: (c.fx, c.fy, c.cx, c.cy), lambda c: c.matrix, lambda c: torch.tensor(c.matrix),
     lambda c: c.matrix.tolist()],
)  # fmt: skip
def test_every_form_of_intrinsics(stick, form) -> None:
    expected = Predictor(stick, "cpu", detector=None).predict(picture(), camera=CAMERA)
    found = Predictor(stick, "cpu", detector=None).predict(picture(), camera=form(CAMERA))
    assert found.camera == CAMERA
    np.testing.assert_array_equal(found.hands[0].joints_3d_mm, expected.hands[0].joints_3d_mm)
    pixels = np.random.default_rng(0).normal(size=(21, 3))
    np.testing.assert_array_equal(from_25d(pixels, form(CAMERA), 500.0), from_25d(pixels, CAMERA, 500.0))
    assert TrackConfig(camera=form(CAMERA)).camera == CAMERA


@pytest.mark.parametrize("camera", [np.eye(4), [600.0, 600.0], 600.0, "K", np.zeros((3, 3)), [[1, 2], [3]]])
def test_what_is_no_camera(stick, camera) -> None:
    with pytest.raises(ValueError, match=r"camera.*(3 x 3 matrix|expected)"):
        Predictor(stick, "cpu", detector=None).predict(picture(), camera=camera)


def test_same_picture_in_every_form(stick, tmp_path: Path) -> None:
    predictor = Predictor(stick, "cpu", detector=None)
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    forms = [path, str(path), Image.open(path), picture(), picture() / 255.0]
    results = [predictor.predict(form) for form in forms]
    assert len({result.to_json().replace(f'"{path}"', "null") for result in results}) == 1
    assert results[0].image == results[1].image == str(path)
    assert results[0].seconds > 0


def test_batch_equals_singles(stick) -> None:
    images = [picture(), picture(size=(140, 180)), np.full((30, 50, 3), 90, np.uint8)]
    predictor = Predictor(stick, "cpu", detector=None, batch_size=2)
    batch = predictor.predict_batch(images)
    assert [len(result.hands) for result in batch] == [1, 1, 0]
    for image, result in zip(images, batch, strict=True):
        assert predictor.predict(image).to_json() == result.to_json()
    assert predictor.predict_batch([]) == []


def test_threshold(stick) -> None:
    predictor = Predictor(stick, "cpu", detector=None)
    assert len(predictor.predict(picture(), threshold=0.99).hands) == 0
    assert len(predictor.predict(picture(), threshold=0.0).hands) == 1
    with pytest.raises(ValueError, match="threshold"):
        predictor.predict(picture(), threshold=2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_tiny_pictures(stick, shape: tuple[int, int]) -> None:
    assert Predictor(stick, "cpu", detector=None).predict(np.zeros((*shape, 3), np.uint8)).hands == ()


def test_output_that_is_not_finite_is_an_error(stick_class) -> None:
    class Broken(stick_class):
        def forward(self, x):
            output = super().forward(x)
            return output._replace(joints_25d=output.joints_25d * float("nan"))

    with pytest.raises(ValueError, match="not finite"):
        Predictor(Broken(), "cpu", detector=None).predict(picture())


@pytest.mark.parametrize("device", ["quantum", "cuda:99", "meta", ""])
def test_devices_that_are_not_there(stick, device: str) -> None:
    with pytest.raises(ValueError, match="device"):
        Predictor(stick, device)


def test_depth_models_are_refused(stick) -> None:
    stick.config = SimpleNamespace(image_size=64, in_chans=1)
    with pytest.raises(ValueError, match="in_chans is 1"):
        Predictor(stick, "cpu", detector=None)


def test_unusable_settings(stick) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(stick, "cpu", detector=None, batch_size=0)
    with pytest.raises(OSError, match="nothere"):
        Predictor("nothere", "cpu")


def test_the_real_test_model() -> None:
    from dfmamba.models import MODELS, HandPoseModel

    torch.manual_seed(0)
    model = HandPoseModel(MODELS["test"]).eval()
    prediction = Predictor(model, "cpu").predict(picture(), camera=CAMERA, threshold=0.0)
    assert Prediction.from_json(prediction.to_json()).to_json() == prediction.to_json()
    assert model.predict(picture(), camera=CAMERA, threshold=0.0).to_json() == prediction.to_json()


@pytest.mark.parametrize(("shift", "kept"), [(0.0, [1]), (1.0, [1]), (60.0, [0, 1])])
def test_one_hand_is_not_reported_twice(shift: float, kept: list[int]) -> None:
    joints = np.random.default_rng(0).uniform(0, 50, (21, 3))
    scores = np.ones(21)
    look = {0: SeenHand(joints + shift, scores, 0.6), 1: SeenHand(joints, scores, 0.7)}
    assert sorted(side for side, _ in without_doubles(list(look.items()))) == kept
    assert [side for side, _ in without_doubles([(0, look[0])])] == [0]


def test_batches_come_from_anything_that_gives_pictures(tmp_path: Path) -> None:
    predictor = Predictor(HandPoseModel(MODELS["test"]), "cpu")
    picture = np.zeros((40, 50, 3), np.uint8)
    assert len(predictor.predict_batch(iter([picture, picture]))) == 2
    assert len(predictor.predict_batch(np.stack([picture] * 3))) == 3
    assert predictor.predict_batch(iter([])) == []
    assert len(predictor.predict_at(iter([picture]), [[]])) == 1
    for one in (picture, Image.fromarray(picture), "a.jpg", tmp_path):
        with pytest.raises(ValueError, match="expected several pictures, got one"):
            predictor.predict_batch(one)


def test_boxes_of_other_pictures_are_an_error(tmp_path: Path) -> None:
    """Silently there would be no hands."""
    (tmp_path / "boxes.json").write_text('{"other.jpg": [[1, 2, 30, 40]]}')
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    predictor = Predictor(HandPoseModel(MODELS["test"]), "cpu", detector=str(tmp_path / "boxes.json"))
    with pytest.raises(ValueError, match="names none of 1 pictures"):
        predictor.predict(tmp_path / "a.png")
