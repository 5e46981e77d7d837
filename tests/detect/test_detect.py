"""From the detector's map to boxes in the picture; suppression, files of boxes, detectors by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.detect import Detection, merge_overlapping, suppress
from dfmamba.detect.build import make_detector
from dfmamba.detect.decode import decode
from dfmamba.detect.given import GivenBoxes
from dfmamba.detect.network import NetworkDetector, confirmed
from dfmamba.hands.affine import crop_affine, picture_square
from dfmamba.io import load_image
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.predict import Predictor


def box(*corners: float) -> np.ndarray:
    return np.array(corners, dtype=np.float64)


def test_the_likelier_of_overlapping_detections_stays() -> None:
    sure, double, other = (
        Detection(box(0, 0, 10, 10), 0.9),
        Detection(box(1, 0, 11, 10), 0.6),
        Detection(box(20, 0, 30, 9)),
    )
    assert [one.score for one in suppress([double, sure, other])] == [1.0, 0.9]
    assert len(suppress([double, sure, other], most_iou=0.95)) == 3


def test_boxes_that_overlap_in_a_chain_become_one() -> None:
    merged = merge_overlapping(
        [box(0, 0, 10, 10), box(12, 0, 22, 10), box(4, 0, 16, 10), box(50, 0, 60, 10)], 0.15
    )
    assert sorted(each.tolist() for each in merged) == [[0, 0, 22, 10], [50, 0, 60, 10]]
    assert merge_overlapping([], 0.2) == []


def test_a_peak_becomes_a_box_of_the_picture() -> None:
    maps = torch.full((1, 5, 8, 8), -10.0)
    maps[0, 1:3] = 0.0
    maps[0, 3:5] = np.log(2.0)
    maps[0, 0, 3, 5] = 2.0
    maps[0, 0, 3, 4] = 1.0  # a neighbour of the peak is none
    affine = crop_affine(picture_square((640, 480)), 64)
    (found,) = decode(maps, 8, [affine])
    assert len(found) == 1
    assert found[0].score == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    # Cell (5, 3) has its centre at (43.5, 27.5) of 64 pixels, each ten of the picture; the middle is 31.5.
    centre = np.array([(43.5 - 31.5) * 10 + 319.5, (27.5 - 31.5) * 10 + 239.5])
    assert found[0].box_xyxy == pytest.approx(np.concatenate([centre - 80, centre + 80]))


def test_an_untrained_detector_runs_on_any_picture() -> None:
    torch.manual_seed(0)
    detector = NetworkDetector(HandPoseModel(MODELS["test_detector"]))
    pictures = [np.zeros((40, 90, 3), np.uint8), np.full((200, 30, 3), 255, np.uint8)]
    assert [len(found) for found in detector.detect(pictures)] == [0, 0]  # it scores 0.01 everywhere
    broken = HandPoseModel(MODELS["test_detector"])
    with torch.no_grad():
        broken.head.out.bias[0] = float("nan")  # type: ignore[union-attr, index]
    with pytest.raises(ValueError, match="not finite"):
        NetworkDetector(broken).detect(pictures)


def test_a_pose_model_is_no_detector() -> None:
    with pytest.raises(ValueError, match="no detector"):
        NetworkDetector(HandPoseModel(MODELS["test"]))


def test_boxes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(
        json.dumps({"a.jpg": [[1, 2, 30, 40], {"box_xyxy": [5, 6, 7, 8], "score": 0.5, "side": "left"}]})
    )
    boxes = make_detector(str(path))
    assert isinstance(boxes, GivenBoxes)
    first, second = boxes.of(tmp_path / "a.jpg")
    assert (first.box_xyxy.tolist(), first.score, first.side) == ([1, 2, 30, 40], 1.0, None)
    assert (second.score, second.side) == (0.5, "left")
    assert boxes.of("b.jpg") == []
    with pytest.raises(ValueError, match="file names"):
        boxes.of(np.zeros((2, 2, 3)))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("b/p.jpg", "b/p.jpg"),
        ("set/b/p.jpg", "b/p.jpg"),
        ("p.jpg", "p.jpg"),
        ("c/p.jpg", "p.jpg"),
        ("./win/q.jpg", "win\\q.jpg"),
        ("q.jpg", "win\\q.jpg"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}.jpg", "cafe\N{COMBINING ACUTE ACCENT}.jpg"),
        ("s.jpg", "/elsewhere/x/s.jpg"),
        ("x/s.jpg", "/elsewhere/x/s.jpg"),
        ("y/s.jpg", None),
        ("/here/x/s.jpg", None),
    ],
)
def test_names_in_a_file_of_boxes(asked: str, found: str | None, tmp_path: Path) -> None:
    """One box a name, whose right edge tells which; that of b/p.jpg has none."""
    names = ["p.jpg", "b/p.jpg", "win\\q.jpg", "cafe\N{COMBINING ACUTE ACCENT}.jpg", "/elsewhere/x/s.jpg"]
    path = tmp_path / "boxes.json"
    path.write_text(
        json.dumps({name: [[0, 0, 10 + i, 10]] for i, name in enumerate(names)} | {"b/p.jpg": []})
    )
    boxes = GivenBoxes(path).of(asked)
    expected = [] if found in (None, "b/p.jpg") else [10 + names.index(found)]
    assert [int(one.box_xyxy[2]) for one in boxes] == expected


def test_a_file_of_boxes_that_names_none_of_the_pictures_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"a/p.jpg": [[0, 0, 9, 9]], "b/p.jpg": []}))
    boxes = GivenBoxes(path)
    assert boxes.require(["b/p.jpg", "c.jpg"]) == ["c.jpg"]
    with pytest.raises(ValueError, match=r"it names none of 2 pictures, such as c/p\.jpg; it has 'a/p\.jpg'"):
        boxes.require(["c/p.jpg", "d.jpg"])
    with pytest.raises(ValueError, match=r"p\.jpg may be 'a/p\.jpg' or 'b/p\.jpg'"):
        boxes.of("p.jpg")


GOOD = b'{"a.jpg": [[1, 2, 30, 40], {"box_xyxy": [5, 6, 7, 8], "score": 0.5, "side": "left"}]}'


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=3), st.integers(0, 6))
def test_a_damaged_file_of_boxes_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes, cut: int
) -> None:
    path = tmp_path_factory.mktemp("boxes") / "boxes.json"
    path.write_bytes(GOOD[:at] + put + GOOD[at + cut :])
    try:
        boxes = GivenBoxes(path)
    except ValueError as error:
        assert "boxes.json" in str(error)
    else:
        assert all(isinstance(one, Detection) for each in boxes.boxes.values() for one in each)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"a": 3}',
        '{"a": [[1, 2, 3]]}',
        '{"a": [[4, 2, 3, 9]]}',
        '{"a": [{"box": [1, 2, 3, 4]}]}',
        "{",
        '{"a": [{"box_xyxy": [1, 2, 3, 4], "score": 2}]}',
        '{"a": [{"box_xyxy": [1, 2, 3, 4], "side": "up"}]}',
    ],
)
def test_unusable_boxes_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"boxes\.json"):
        GivenBoxes(path)


def test_detectors_by_name() -> None:
    assert make_detector("none") is None
    with pytest.raises(FileNotFoundError, match="no-such"):
        make_detector("no-such")


def test_a_second_look_confirms_moves_or_doubts() -> None:
    first = Detection(box(0, 0, 10, 10), 0.5)
    moved = confirmed(first, [Detection(box(1, 0, 11, 10), 0.8), Detection(box(40, 0, 50, 10), 0.99)])
    assert moved.box_xyxy.tolist() == [1, 0, 11, 10]
    assert moved.score == pytest.approx(2 / 3)  # odds of 1 and of 4
    assert confirmed(first, []).score < 0.5
    assert confirmed(first, []).box_xyxy.tolist() == [0, 0, 10, 10]


def test_the_built_in_detector_finds_the_hand_of_an_example() -> None:
    picture = load_image(Path(__file__).parents[2] / "examples" / "one_hand.jpg")
    detector = make_detector("built-in", "cpu")
    assert isinstance(detector, NetworkDetector)
    found = [one for one in detector.detect([picture])[0] if one.score >= 0.5]
    assert len(found) == 1
    assert Predictor("nano", "cpu", detector=detector).predict(picture).hands[0].score == pytest.approx(
        found[0].score
    )
    assert detector.detect([np.full((200, 300, 3), 90, np.uint8)]) == [[]]
