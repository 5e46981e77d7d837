"""Hands keep their number and side, and the detector rests."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from dfmamba.detect.given import GivenBoxes
from dfmamba.predict.track import Frame
from dfmamba.video import SmoothConfig, TrackConfig, track_film


def still(x: float = 80.0, y: float = 80.0):
    return lambda index: (x, y)


def numbers(tracked) -> list[list[int]]:
    return [[hand.track for hand in one.prediction.hands] for one in tracked]


def follow(stage, frames, **settings) -> list:
    return list(track_film(stage, frames, TrackConfig(**settings)))


def test_the_detector_runs_now_and_then(stage, actor, numbered) -> None:
    film = stage(actor(lambda index: (50 + index, 80)))
    tracked = follow(film, numbered(31))
    assert film.detected == [0, 10, 20, 30]
    assert numbers(tracked) == [[0]] * 31
    assert [one.frame.index for one in tracked] == list(range(31))
    film.detected.clear()
    follow(film, numbered(10), detect_every=3)
    assert film.detected == [0, 3, 6, 9]


@pytest.mark.parametrize("sides", [("right", "left"), ("right", "right")])
@pytest.mark.parametrize("detect_every", [5, 100])
def test_hands_that_cross_keep_their_numbers(stage, actor, numbered, sides, detect_every: int) -> None:
    one = actor(lambda index: (30 + 3.0 * index, 70), sides[0], 26)
    # Two of one side in one place would count as one hand that is seen twice.
    y = 78 if sides[0] != sides[1] else 95
    other = actor(lambda index: (130 - 3.0 * index, y), sides[1], 30)
    tracked = follow(stage(one, other), numbered(34), detect_every=detect_every)
    for step in tracked:
        heights = {hand.track: float(np.ptp(hand.joints_2d_px[:, 1])) for hand in step.prediction.hands}
        if step.frame.index == 0:
            numbered_as = sorted(heights, key=lambda track: heights[track])
        assert sorted(heights, key=lambda track: heights[track]) == numbered_as
        assert {hand.track: hand.side for hand in step.prediction.hands} == dict(
            zip(numbered_as, sides, strict=True)
        )


def test_a_wrong_side_is_asked_for_again(stage, actor, numbered) -> None:
    wrong = frozenset({3, 10, 15, 20})
    film = stage(actor(still(), "left", taken_for_other=wrong))
    tracked = follow(film, numbered(25))
    assert [one.prediction.hands[0].side for one in tracked] == ["left"] * 25
    assert numbers(tracked) == [[0]] * 25
    again = [index for index, sides in film.asked if sides == ["left"]]
    assert {3, 10, 20} <= set(again)
    assert 15 in again  # settled: asked at once
    assert film.asked.count((15, [None])) == 0


def test_the_majority_decides(stage, actor, numbered) -> None:
    film = stage(actor(still(), "right", taken_for_other=frozenset({0, 1})))
    sides = [one.prediction.hands[0].side for one in follow(film, numbered(12))]
    assert sides == ["left"] * 3 + ["right"] * 9 or sides == ["left"] * 4 + ["right"] * 8


def test_a_hand_missed_once_keeps_its_number(stage, actor, numbered) -> None:
    film = stage(actor(lambda index: (50 + index, 80), hidden=frozenset({7})))
    tracked = follow(film, numbered(15))
    assert numbers(tracked) == [[0]] * 7 + [[]] + [[0]] * 7
    assert film.detected == [0, 8]


def test_a_hand_the_detector_misses_twice_is_gone(stage, actor, numbered) -> None:
    film = stage(actor(still(), hidden=frozenset(range(12, 20))))
    tracked = follow(film, numbered(41))
    assert numbers(tracked)[:20] == [[0]] * 12 + [[]] * 8
    assert film.detected[:4] == [0, 10, 13, 14]  # lost at 12; then again after ten frames
    assert numbers(tracked)[24:] == [[1]] * 17
    unlucky = stage(actor(still(), overlooked=frozenset({10})))
    assert numbers(follow(unlucky, numbered(31))) == [[0]] * 31
    forgotten = stage(actor(still(), overlooked=frozenset({10, 20})))
    assert numbers(follow(forgotten, numbered(29))) == [[0]] * 20 + [[]] * 2 + [[1]] * 7


def test_joints_that_collapse_are_not_shown(stage, actor, numbered) -> None:
    film = stage(actor(still(), vague=frozenset({0, 5, 6})))
    tracked = follow(film, numbered(20), detect_every=2)
    assert numbers(tracked) == [[]] * 2 + [[0]] * 3 + [[]] * 2 + [[0]] * 13


def test_a_hand_that_leaves_the_picture(stage, actor, numbered) -> None:
    tracked = follow(stage(actor(lambda index: (100 + 6.0 * index, 80))), numbered(30))
    shown = [bool(hands) for hands in numbers(tracked)]
    assert shown == sorted(shown, reverse=True)
    assert 8 < sum(shown) < 16
    for one in tracked:
        for hand in one.prediction.hands:
            assert (hand.joints_2d_px[:, 0] < 160).any()


def test_several_hands_come_and_go(stage, actor, numbered) -> None:
    crowd = [
        actor(still(25 + 50 * i, 45 + 60 * j), ("right", "left")[j], 20) for i in range(3) for j in (0, 1)
    ]
    crowd[2].hidden = frozenset(range(10))
    tracked = follow(stage(*crowd), numbered(21))
    assert [len(hands) for hands in numbers(tracked)] == [5] * 10 + [6] * 11
    assert sorted(numbers(tracked)[20]) == list(range(6))
    assert [hand.side for hand in tracked[20].prediction.hands] == ["right"] * 3 + ["left"] * 3


def test_mirrored(stage, actor, numbered) -> None:
    film = stage(actor(lambda index: (40 + index, 80)), mirrored=True)
    tracked = follow(film, numbered(21), mirrored=True)
    assert film.detected == [0, 10, 20]
    assert numbers(tracked) == [[0]] * 21


def test_without_a_detector_the_model_looks_at_the_frame(stage, actor, numbered) -> None:
    film = stage(actor(still()))
    film.detector = None
    assert numbers(follow(film, numbered(12))) == [[0]] * 12
    assert film.detected == [0, 10]


def test_boxes_from_a_file_are_those_of_frames(stage, actor, numbered, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"0.png": [[55, 50, 105, 82]]}')
    film = stage(actor(still()))
    film.detector = GivenBoxes(boxes)
    with pytest.raises(ValueError, match=r"boxes\.json: they go by file names.*folder of frames"):
        follow(film, numbered(1))
    frames = [Frame(one.index, one.time_s, one.picture, f"d/{one.index}.png") for one in numbered(5)]
    assert numbers(follow(film, frames)) == [[0]] * 5


def test_frames_that_are_missing_are_bridged(stage, actor, numbered) -> None:
    film = stage(actor(lambda index: (40 + 2.0 * index, 80)))
    assert numbers(follow(film, numbered(40, step=2))) == [[0]] * 20


def test_smoothing_is_of_what_is_shown_only(stage, actor, numbered) -> None:
    wobble = actor(lambda index: (80 + 4.0 * (-1) ** index, 80))
    plain = follow(stage(wobble), numbered(20))
    smooth = follow(stage(wobble), numbered(20), smooth=SmoothConfig())
    assert numbers(plain) == numbers(smooth)

    def wobbling(tracked) -> float:
        return float(np.std([one.prediction.hands[0].joints_2d_px[0, 0] for one in tracked[5:]]))

    assert wobbling(smooth) < 0.6 * wobbling(plain)


def test_only_the_frame_at_hand_is_in_memory(stage, actor) -> None:
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    def film():
        for index in range(200):
            image = np.zeros((120, 160, 3), np.uint8)
            image[0] = index
            frame = Frame(index, index / 10, image)
            alive.add(frame)
            yield frame
            del frame

    for tracked in track_film(stage(actor(still())), film()):
        gc.collect(0)
        most = max(most, len(alive))
        assert tracked.prediction.hands
        del tracked
    assert 1 <= most <= 2


@pytest.mark.parametrize("settings", [{"detect_every": 0}, {"threshold": 1.5}])
def test_unusable_settings(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        TrackConfig(**settings)
    with pytest.raises(TypeError):
        TrackConfig(every=3)  # type: ignore[call-arg]
