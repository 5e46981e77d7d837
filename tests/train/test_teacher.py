"""Labels from a teacher: views are carried back, what agrees is kept, the rest is counted and named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dfmamba.cli.main import main
from dfmamba.data.registry import open_dataset
from dfmamba.hands.skeleton import HAND_NAMES
from dfmamba.train.teacher import VIEWS, TaughtHand, View, ask, label_photographs, with_depth

TEMPLATE = np.random.default_rng(3).uniform([-0.6, -1.2, -0.4], [0.6, 0.2, 0.4], (21, 3))
TEMPLATE[0] = 0
WRIST, TOP, THUMB, LIAR = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)


class Dots:
    """Finds hands of dots: wrist, a point above it, one on the thumb's side, a mark that makes it lie."""

    name = "dots"

    def __init__(self) -> None:
        self.asked = 0

    def find(self, image: np.ndarray) -> list[TaughtHand]:
        self.asked += 1
        spots = {colour: self._spot(image, colour) for colour in (WRIST, TOP, THUMB, LIAR)}
        wrist, top, thumb, liar = (spots[colour] for colour in (WRIST, TOP, THUMB, LIAR))
        if wrist is None or top is None or thumb is None:
            return []
        up = top - wrist
        across = np.array([-up[1], up[0]])
        right = float(across @ (thumb - wrist)) < 0  # palm towards the camera: thumb on the image's left
        length = float(np.hypot(*up))
        x = across / length if right else -across / length
        axes = np.stack([x, -up / length])
        pixels = wrist + TEMPLATE[:, :2] @ axes * length
        joints = np.concatenate([pixels, TEMPLATE[:, 2:] * length], axis=1)
        if liar is not None:
            right = True
        return [TaughtHand(0 if right else 1, joints)]

    @staticmethod
    def _spot(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray | None:
        near = np.abs(image.astype(int) - colour).max(-1) < 60
        return np.argwhere(near).mean(0)[::-1] if near.sum() > 4 else None


def photograph(thumb_left: bool = True, lies: bool = False) -> np.ndarray:
    image = Image.new("RGB", (200, 160), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    side = 70 if thumb_left else 130
    for (x, y), colour in (((100, 110), WRIST), ((100, 60), TOP), ((side, 90), THUMB)):
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
    if lies:
        draw.ellipse((20, 20, 30, 30), fill=LIAR)
    return np.asarray(image)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_the_whole_photograph(view: View) -> None:
    affine, (width, height) = view.affine(200, 160)
    corners = affine.apply(np.array([[0.0, 0.0], [199, 0], [0, 159], [199, 159]]))
    if not view.turn_deg:
        assert ((corners >= 0) & (corners <= np.array([width, height]) - 1)).all()
    assert affine.mirrored == view.mirrored
    middle = affine.apply(np.array([99.5, 79.5]))
    np.testing.assert_allclose(middle, [(width - 1) / 2, (height - 1) / 2])


@pytest.mark.parametrize("thumb_left", [True, False])
def test_views_are_carried_back(thumb_left: bool) -> None:
    teacher, image = Dots(), photograph(thumb_left)
    (direct,) = teacher.find(image)
    (hand,) = ask(teacher, image)
    assert teacher.asked == 1 + len(VIEWS)
    assert (hand.fault, hand.side, hand.side) == ("", direct.side, 0 if thumb_left else 1)
    np.testing.assert_allclose(hand.joints_25d, direct.joints_25d, atol=2.0)
    assert hand.disagreement < 0.02


def test_a_side_that_changes_with_the_mirror_is_refused() -> None:
    (hand,) = ask(Dots(), photograph(lies=True))
    assert hand.fault == "views disagree on the side"


def test_few_views_are_not_enough() -> None:
    class Blinking(Dots):
        def find(self, image: np.ndarray) -> list[TaughtHand]:
            return super().find(image) if self.asked % 2 else self._nothing()

        def _nothing(self) -> list[TaughtHand]:
            self.asked += 1
            return []

    (hand,) = ask(Blinking(), photograph())
    assert hand.fault == "a hand seen in fewer than 4 of 5 views"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name, image in {
        "right.png": photograph(),
        "below/left.png": photograph(False),
        "liar.png": photograph(lies=True),
        "empty.png": np.full((60, 80, 3), 90, np.uint8),
    }.items():
        Image.fromarray(image).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    return folder


def test_labels_are_read_as_own_data(photos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "labels.json"
    report = label_photographs(Dots(), photos, out)
    assert report.kept == 2
    named = {reason.partition(":")[0]: names for reason, names in report.examples.items()}
    assert named == {
        "no hand found": ["empty.png"],
        "views disagree on the side": ["liar.png"],
        "not read": ["broken.jpg"],
    }
    dataset = open_dataset("own", photos, "train", labels=out)
    assert len(dataset) == 2
    for sample in dataset:
        side = HAND_NAMES.index("right" if "right" in sample.id else "left")
        assert sample.present.tolist() == [side == 0, side == 1]
        joints, known = sample.joints_25d
        (hand,) = Dots().find(sample.image)
        np.testing.assert_allclose(joints[side], hand.joints_25d, atol=2.0)
        assert known[side].all()
    with pytest.raises(ValueError, match="the teacher's disagreement is above 1e-06"):
        open_dataset("own", photos, "train", labels=out, disagreement=1e-6)


def test_a_hand_without_labels_beside_one_with_labels_is_marked(photos: Path, tmp_path: Path) -> None:
    class Two(Dots):
        """Sees a left hand beside every hand, at a place of its own each time."""

        def find(self, image: np.ndarray) -> list[TaughtHand]:
            found = super().find(image)
            shift = np.array([5.0 + 12 * (self.asked % 3), 3.0, 0.0])
            return found + [TaughtHand(1 - hand.side, hand.joints_25d * [-1, 1, 1] + shift + [200, 0, 0])
                            for hand in found if len(image) and self.asked % 2]  # fmt: skip

    out = tmp_path / "labels.json"
    label_photographs(Two(), photos, out)
    content = json.loads(out.read_text())
    (entry,) = [sample for sample in content["samples"] if sample["picture"] == "right.png"]
    assert [any(hand.get("valid", [True])) for hand in entry["hands"]] == [True, False]
    assert [hand["side"] for hand in entry["hands"]] == ["right", "left"]


def test_nothing_to_keep_is_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no hand to keep; left out 1: no hand found \(such as a.png\)"):
        label_photographs(Dots(), tmp_path, tmp_path / "labels.json")


def test_depth_is_in_pixels() -> None:
    joints = np.random.default_rng(0).normal(size=(21, 3)) * 30
    found = with_depth(joints[:, :2] * 2.5 + [40, 60], joints)
    np.testing.assert_allclose(found[:, 2], 2.5 * (joints[:, 2] - joints[0, 2]), rtol=1e-9)


def test_the_packaged_model_teaches(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    examples = Path(__file__).resolve().parents[2] / "examples"
    words = ["data", "label", str(examples), "--teacher", "nano", "--out", str(tmp_path / "labels.json")]
    assert main([*words, "--most", "0.2", "--sheet", str(tmp_path / "sheet.png")]) == 0
    shown = capsys.readouterr().out
    assert "hands by dfmamba nano" in shown
    assert "dfmamba train --data.sets+" in shown
    dataset = open_dataset("own", examples, "train", labels=tmp_path / "labels.json")
    assert len(dataset) >= 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width >= 680


def test_the_extra_of_mediapipe_is_named(photos: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mediapipe", None)
    words = ["data", "label", str(photos), "--teacher", "mediapipe", "--out", str(tmp_path / "a.json")]
    assert main(words) == 2
    assert "pip install 'dfmamba[teacher]'" in capsys.readouterr().err
