"""Contact sheets: what is labelled is where it belongs, and nothing else is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfmamba.data.sample import HandSample
from dfmamba.draw.canvas import BACKGROUND, SIDE_COLORS, Color
from dfmamba.draw.contact import BOX_COLOR, CONTEXT, draw_contact, draw_labels, drawing_of
from dfmamba.hands.affine import box_of_points, crop_affine, square_box
from dfmamba.hands.skeleton import FINGER_COLORS_RGB, FINGERS, joint_order

GREY = 100


def sample(**changes: Any) -> HandSample:
    """A right hand spread over a grey picture, fingers up."""
    pixels, cam = np.zeros((2, 21, 2)), np.zeros((2, 21, 3))
    pixels[0, 0] = 100, 110
    for number, chain in enumerate(FINGERS.values()):
        for step, joint in enumerate(chain):
            pixels[0, joint] = 60 + 20 * number, 90 - 20 * step
    cam[0, :, 2] = 400
    valid = np.zeros((2, 21), bool)
    valid[0] = True
    values: dict[str, Any] = {
        "image": np.full((120, 200, 3), GREY, np.uint8),
        "joints_2d_px": pixels,
        "joints_cam_mm": cam,
        "valid": valid,
        "visible": valid,
        "present": [True, False],
        "camera": None,
        "box_xyxy": box_of_points(pixels, valid),
        "id": "name",
    }
    return HandSample(**(values | changes))


def near(picture: np.ndarray, place: np.ndarray, color: Color, radius: int = 2) -> bool:
    x, y = np.rint(place).astype(int)
    around = picture[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
    return bool((np.abs(around.astype(int) - color[:3]).sum(-1) < 40).any())


def places(data: HandSample, size: int) -> np.ndarray:
    """(2, J, 2) pixels of the joints in the cell."""
    affine = crop_affine(square_box(box_of_points(data.joints_2d_px, data.valid), CONTEXT), size)
    return affine.apply(data.joints_2d_px)


def test_fingers_have_their_colours() -> None:
    data = sample()
    drawn = np.asarray(draw_labels(data, 240))
    joints = places(data, 240)[0]
    for name, chain in FINGERS.items():
        for joint in chain:
            assert near(drawn, joints[joint], FINGER_COLORS_RGB[name], 3), (name, joint)
        assert near(drawn, joints[list(chain[1:3])].mean(0), FINGER_COLORS_RGB[name]), name
    assert near(drawn, joints[0], FINGER_COLORS_RGB["wrist"], 4)


def test_only_valid_joints_are_drawn() -> None:
    data = sample()
    valid = data.valid.copy()
    valid[0, list(FINGERS["ring"][2:])] = False
    drawn = np.asarray(draw_labels(data.replace(valid=valid, visible=valid), 240))
    joints = places(data, 240)[0]
    for joint in FINGERS["ring"][2:]:
        assert not near(drawn, joints[joint], FINGER_COLORS_RGB["ring"], 4)
    assert near(drawn, joints[FINGERS["ring"][1]], FINGER_COLORS_RGB["ring"], 4)


def test_joints_that_are_not_visible_are_hollow() -> None:
    data = sample()
    visible = data.visible.copy()
    visible[0, 12] = False
    drawn = np.asarray(draw_labels(data.replace(visible=visible), 240))
    joints = places(data, 240)[0]
    assert near(drawn, joints[12], (255, 255, 255), 0)
    assert not near(drawn, joints[8], (255, 255, 255), 3)


@pytest.mark.parametrize(("hand", "side"), [(0, "right"), (1, "left")])
def test_the_side_is_written_at_the_wrist(hand: int, side: str) -> None:
    data = sample()
    if hand == 1:
        data = data.replace(
            joints_2d_px=data.joints_2d_px[::-1],
            joints_cam_mm=data.joints_cam_mm[::-1],
            present=[False, True],
            valid=data.valid[::-1],
            visible=data.visible[::-1],
        )
    drawn = np.asarray(draw_labels(data, 240))
    other = SIDE_COLORS["left" if side == "right" else "right"]
    wrist = places(data, 240)[hand, 0]
    assert near(drawn, wrist, SIDE_COLORS[side], 24)
    assert not near(drawn, wrist, other, 24)


def test_the_box_is_the_labelled_one() -> None:
    box = np.array([50, 10, 160, 105], np.float32)
    data = sample(box_xyxy=box)
    drawn = np.asarray(draw_labels(data, 240))
    view = square_box(box_of_points(np.concatenate([box.reshape(2, 2), data.joints_2d_px[0]])), CONTEXT)
    corners = crop_affine(view, 240).apply(box.reshape(2, 2))
    (x, y), last = corners.mean(0), corners[1]
    for place in ((corners[0, 0], y), (last[0], y), (x + 50, last[1])):
        assert near(drawn, np.array(place), BOX_COLOR, 3), place
    inside = drawn[int(corners[0, 1]) + 5, int(corners[0, 0]) + 5]
    assert inside.tolist() == [GREY] * 3


def test_depth_is_grey_and_near_is_bright() -> None:
    depth = np.full((120, 200), 480, np.float32)
    depth[:, 100:] = 350
    depth[:5] = 0
    data = sample(image=None, depth_mm=depth, kind="depth")
    drawn = np.asarray(draw_labels(data, 240)).astype(int)
    assert (drawn[220, 3] == drawn[220, 3, 0]).all()
    assert drawn[220, 236].mean() > 128 > drawn[220, 3].mean()


def test_joints_of_nyu() -> None:
    order = joint_order("nyu14")
    drawing = drawing_of("nyu14")
    for label, joint, finger in zip(order.labels, order.joints, drawing.fingers, strict=True):
        if joint is not None:
            assert joint.startswith(finger), label
    assert drawing.fingers[8:] == ("thumb", "thumb", "thumb", "wrist", "wrist", "wrist")
    assert sorted(b for _, b in drawing.bones) == [j for j in range(14) if j != 13]
    pixels = np.zeros((2, 14, 2))
    pixels[0] = [[20 + 12 * (i // 2), 20 + 30 * (i % 2)] for i in range(14)]
    valid = np.stack([np.ones(14, bool), np.zeros(14, bool)])
    data = sample(
        order="nyu14", joints_2d_px=pixels, joints_cam_mm=np.ones((2, 14, 3)), valid=valid, visible=valid,
        box_xyxy=np.zeros(4),
    )  # fmt: skip
    drawn = np.asarray(draw_labels(data, 240))
    joints = places(data, 240)[0]
    for joint, finger in enumerate(drawing.fingers[:11]):
        assert near(drawn, joints[joint], FINGER_COLORS_RGB[finger], 4), joint


@pytest.mark.parametrize("order", ["openpose", "mano", "rhd_hand", "interhand_hand"])
def test_orders_of_21_joints_are_the_same_hand(order: str) -> None:
    joints = joint_order(order).joints
    drawing = drawing_of(order)
    names = {(joints[a], joints[b]) for a, b in drawing.bones}
    usual = drawing_of("openpose")
    openpose = joint_order("openpose").joints
    assert names == {(openpose[a], openpose[b]) for a, b in usual.bones}
    assert joints[drawing.root] == "wrist"


def test_sheet_holds_every_sample_and_is_always_the_same() -> None:
    samples = [sample(id=f"{'long/' * 20}{i}") for i in range(5)]
    sheet = draw_contact(samples, "title", columns=3, cell=120)
    pixels = np.asarray(sheet)
    assert sheet.size[0] >= 3 * 120
    assert np.array_equal(pixels, np.asarray(draw_contact(samples, "title", columns=3, cell=120)))
    cells = (pixels == GREY).all(-1)
    assert 0.5 < cells.sum() / (5 * 120 * 120) < 1
    bare = np.asarray(draw_contact([sample(id="")], columns=3, cell=120))
    named = np.asarray(draw_contact([sample(id="x")], columns=3, cell=120))
    assert (bare != named).any(-1).sum() > 5
    assert (pixels[:3] == BACKGROUND[:3]).all()


def test_hands_without_labels_show_the_picture() -> None:
    nothing = np.zeros((2, 21), bool)
    data = sample(valid=nothing, visible=nothing, present=[False, False], box_xyxy=np.zeros(4))
    assert (np.asarray(draw_labels(data, 60))[20:40] == GREY).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_contact([]), "0 samples"),
        (lambda: draw_contact([sample()], columns=0), "in 0 columns"),
        (lambda: draw_labels(sample(image=None)), "neither picture nor depth map"),
        (lambda: drawing_of("mano16"), "'mano16' can't be drawn"),
        (lambda: drawing_of("dog"), "'dog' is not known"),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
