"""Predictions with fitted hands: results, films, drawings."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from dfmamba.draw import draw_overlay, draw_prediction
from dfmamba.draw.surface import HAND_COLORS, Surface, draw_surfaces, surface_in_picture
from dfmamba.hands.camera import Camera
from dfmamba.hands.fit import HandFit
from dfmamba.hands.model import HandModel
from dfmamba.predict import Hand, Prediction
from dfmamba.predict.surface import SHAPE_FRAMES, FilmSurfaces, with_surface
from dfmamba.synth.pose import PoseBank

CAMERA = Camera(700.0, 700.0, 150.0, 150.0)
SIZE = (300, 300)


def make_hand(seed: int, side: str = "right", camera: bool = True, track: int | None = None) -> Hand:
    """A hand of the model, half a metre away, palm to the camera and fingers up, nearly."""
    pose = np.zeros((1, 25))
    pose[0, :22] = PoseBank.load().angles[seed]
    upright = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    joints = HandModel.load()(
        pose, side=side, rotation=upright, place_mm=np.array([0.0, 60.0, 500.0])
    ).joints[0]
    pixels = CAMERA.project(joints)
    if not camera:
        joints = joints - joints[0]
        pixels = 150.0 + 1.4 * joints[:, :2]
    box = [*pixels.min(axis=0), *pixels.max(axis=0)]
    scores = np.full(21, 0.9)
    return Hand(side, 0.9, box, pixels, joints, scores, "camera" if camera else "wrist", track=track)


def make_prediction(*hands: Hand, mirrored: bool = False) -> Prediction:
    camera = CAMERA if hands and hands[0].root == "camera" else None
    return Prediction(hands, SIZE, camera, "nano", mirrored=mirrored)


def test_results_carry_the_fit_and_come_back():
    prediction = with_surface(make_prediction(make_hand(3), make_hand(4, "left")))
    back = Prediction.from_json(prediction.to_json())
    assert back.to_dict() == prediction.to_dict()
    for hand, plain in zip(back.hands, prediction.hands, strict=True):
        assert hand.fit is not None
        np.testing.assert_allclose(hand.vertices_mm(), plain.vertices_mm(), atol=0.2)
        assert np.linalg.norm(hand.vertices_mm()[:, None] - hand.joints_3d_mm, axis=2).min(axis=0).max() < 30
    assert "fit" not in make_prediction(make_hand(3)).to_dict()["hands"][0]


def test_a_damaged_fit_is_told():
    data = with_surface(make_prediction(make_hand(3))).to_dict()
    good = data["hands"][0]["fit"]
    for change in ({"pose_deg": [1.0]}, {"size": 0.0}, {"rotation": None}, {"more": 1}):
        data["hands"][0]["fit"] = {**good, **change}
        with pytest.raises(ValueError, match=r"fit|pose_deg|size|rotation"):
            Prediction.from_dict(json.loads(json.dumps(data)))
    with pytest.raises(ValueError, match="no fit"):
        make_hand(3).vertices_mm()


def test_hands_without_extent_have_no_fit():
    flat = dataclasses.replace(make_hand(3), joints_3d_mm=np.zeros((21, 3)))
    assert with_surface(make_prediction(flat)).hands[0].fit is None
    assert with_surface(make_prediction()).hands == ()


@pytest.mark.parametrize("camera", [True, False])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_surface_lies_where_the_joints_are(camera, mirrored, side):
    hand = make_hand(1290, side, camera)
    if mirrored:
        pixels = hand.joints_2d_px * [-1, 1] + [SIZE[0] - 1, 0]
        camera_here = dataclasses.replace(CAMERA, cx=SIZE[0] - 1 - CAMERA.cx)
        hand = dataclasses.replace(hand, joints_2d_px=pixels)
    prediction = make_prediction(hand, mirrored=mirrored)
    if mirrored and camera:
        prediction = dataclasses.replace(prediction, camera=camera_here)
    prediction = with_surface(prediction)
    surface = surface_in_picture(prediction.hands[0], prediction)
    tips = surface.pixels[HandModel.load().tips].mean(axis=1)
    away = np.linalg.norm(tips - hand.joints_2d_px[4::4], axis=1)
    assert (away < 14).all()  # photo labels of tips lie before the end of the finger
    a, b, c = (surface.pixels[surface.faces[:, corner]] for corner in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    front = surface.normals[surface.faces].mean(axis=1)[:, 2] < -0.3
    assert (area[front] < 0).mean() > 0.97


def test_overlay_shows_the_side_and_hides_what_is_behind():
    near, far = make_hand(1290), make_hand(1290, "left")
    far = dataclasses.replace(far, joints_3d_mm=far.joints_3d_mm + np.array([0, 0, 200.0]))
    prediction = with_surface(make_prediction(near, far))
    image = Image.new("RGB", SIZE, (0, 0, 0))
    drawn = np.asarray(
        draw_surfaces(image, [surface_in_picture(h, prediction) for h in prediction.hands], 1.0)
    )
    order = np.asarray(
        draw_surfaces(image, [surface_in_picture(h, prediction) for h in prediction.hands[::-1]], 1.0)
    )
    np.testing.assert_array_equal(drawn, order)
    palm = prediction.hands[0].joints_2d_px[[0, 9]].mean(axis=0).round().astype(int)
    red, _, blue = drawn[palm[1], palm[0]].astype(float)
    assert red > blue  # the right hand's colour
    assert HAND_COLORS["right"][0] > HAND_COLORS["right"][2]
    overlay = np.asarray(draw_overlay(image, prediction))
    assert (overlay > 0).any()
    sheet = draw_prediction(image, prediction)
    assert sheet.width > 600


def test_triangles_cover_their_pixels_once():
    """A square of two triangles, against the rule that a pixel is covered if its centre is inside."""
    corners = np.array([[2.2, 3.3], [12.7, 3.3], [12.7, 9.6], [2.2, 9.6]])
    faces = np.array([[0, 3, 2], [0, 2, 1]])
    colors, normals = np.full((4, 3), 200.0), np.tile([0.0, 0.0, -1.0], (4, 1))
    surface = Surface(corners, np.full(4, 5.0), faces, normals, colors)
    big = Image.new("RGB", (2000, 1000))  # large enough to be drawn pixel by pixel
    covered = np.asarray(draw_surfaces(big, [surface], 1.0))[:14, :16, 0] > 0
    expected = np.zeros((14, 16), bool)
    expected[4:10, 3:13] = True
    np.testing.assert_array_equal(covered, expected)
    behind = dataclasses.replace(surface, depth=np.full(4, 9.0), colors=np.full((4, 3), 50.0))
    both = draw_surfaces(big, [behind, surface], 1.0)
    assert np.array_equal(np.asarray(both), np.asarray(draw_surfaces(big, [surface], 1.0)))
    turned = dataclasses.replace(surface, faces=faces[:, ::-1])
    assert not np.asarray(draw_surfaces(big, [turned], 1.0)).any()  # its back
    outside = dataclasses.replace(surface, pixels=corners + 5000)
    assert not np.asarray(draw_surfaces(big, [outside], 1.0)).any()


def test_films_keep_one_shape_and_start_from_the_last_frame():
    film, rng = FilmSurfaces(), np.random.default_rng(0)
    fits: list[HandFit] = []
    for frame in range(SHAPE_FRAMES + 8):
        hand = make_hand(7, track=0)
        hand = dataclasses.replace(hand, joints_3d_mm=hand.joints_3d_mm + rng.normal(size=(21, 3)))
        (fitted,) = film(make_prediction(hand), frame / 30).hands
        assert fitted.fit is not None
        fits.append(fitted.fit)
    assert len({tuple(fit.shape) for fit in fits[SHAPE_FRAMES:]}) == 1
    assert len({fit.size for fit in fits[SHAPE_FRAMES:]}) == 1
    assert len({fit.size for fit in fits[:SHAPE_FRAMES]}) == SHAPE_FRAMES
    jumps = np.abs(np.diff([fit.pose_deg for fit in fits], axis=0))
    alone = [
        with_surface(
            make_prediction(
                dataclasses.replace(
                    make_hand(7), joints_3d_mm=make_hand(7).joints_3d_mm + rng.normal(size=(21, 3))
                )
            )
        )
        .hands[0]
        .fit.pose_deg
        for _ in range(10)
    ]
    assert jumps[5:].mean() < 0.7 * np.abs(np.diff(alone, axis=0)).mean()
