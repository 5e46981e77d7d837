"""The scenes hold what their settings promise."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from dfmamba.hands.camera import Camera
from dfmamba.synth.mesh import LEFT, OBJECT, OTHER, RIGHT, SceneGeometry
from studies.synthhands5.scenes import close_up, scene_makers, studio
from studies.synthhands5.settings import MARGIN, PICTURE, SETTINGS, SPLITS, seed_of

INDICES = range(12)


def compose(name: str, index: int) -> SceneGeometry:
    setting = SETTINGS[name]
    return scene_makers(name)[0](seed_of(setting, SPLITS["test"]), index, setting.kind, PICTURE)


@functools.cache
def scenes(name: str) -> tuple[SceneGeometry, ...]:
    return tuple(compose(name, index) for index in INDICES)


def instances(scene: SceneGeometry) -> set[int]:
    return {part.instance for part in scene.parts}


@pytest.mark.parametrize("name", SETTINGS)
def test_joints_are_framed_by_their_box(name: str) -> None:
    for scene in scenes(name):
        pixels = scene.camera.project(scene.joints_cam_mm[scene.present].reshape(-1, 3).astype(np.float64))
        low, high = pixels.min(0), pixels.max(0)
        np.testing.assert_allclose((low + high) / 2, (PICTURE - 1) / 2, atol=1e-3)
        assert (high - low).max() == pytest.approx(PICTURE / MARGIN, abs=1e-3)
        assert scene.joints_cam_mm[scene.present][..., 2].min() > 100
        assert scene.size == PICTURE


@pytest.mark.parametrize("name", SETTINGS)
def test_joints_belong_to_the_hand_in_their_place(name: str) -> None:
    """Right hands are instance 1 and the first row of the labels; wrist and knuckles lie in the flesh."""
    for scene in scenes(name):
        assert np.array_equal(scene.present, [RIGHT in instances(scene), LEFT in instances(scene)])
        for slot, instance in enumerate((RIGHT, LEFT)):
            joints = scene.joints_cam_mm[slot]
            if not scene.present[slot]:
                assert not joints.any()
                continue
            skin = np.concatenate([part.vertices for part in scene.parts if part.instance == instance])
            nearest = np.linalg.norm(joints[:, None] - skin[None], axis=-1).min(1)
            assert nearest.max() < 40


@pytest.mark.parametrize("name", SETTINGS)
def test_handedness_is_the_anatomical_one(name: str) -> None:
    """Of a right hand, little finger to index, times wrist to middle finger, points out of the palm."""
    turns: dict[int, list[float]] = {0: [], 1: []}
    for scene in scenes(name):
        for slot in np.flatnonzero(scene.present):
            hand = scene.joints_cam_mm[slot].astype(np.float64)
            across, along = hand[5] - hand[17], hand[9] - hand[0]
            bent = hand[[8, 12, 16, 20]].mean(0) - hand[[6, 10, 14, 18]].mean(0)
            normal = np.cross(across, along)
            turns[int(slot)].append(float(normal @ bent / np.linalg.norm(normal)))
    for slot, sign in ((0, 1.0), (1, -1.0)):
        if turns[slot]:  # fingers bend towards the palm, on the whole
            assert sign * np.mean(turns[slot]) > 3


def test_two_hands() -> None:
    assert all(scene.present.all() for scene in scenes("two"))
    assert len({scene.notes["mode"] for scene in scenes("two")}) >= 3
    assert not any(OBJECT in instances(scene) or "distractor" in scene.notes for scene in scenes("two"))
    flat = studio(np.random.default_rng(0), 32)
    assert scene_makers("two")[1] is studio
    assert flat.shape == (32, 32, 3)
    assert flat.reshape(-1, 3).std(0).max() < 5


def test_one_hand_with_a_body_behind_it() -> None:
    found = scenes("distractors")
    assert all(scene.present.sum() == 1 for scene in found)
    assert {int(scene.present.argmax()) for scene in found} == {0, 1}
    assert all("distractor" in scene.notes and OTHER in instances(scene) for scene in found)


def test_depth_shows_right_hands_from_the_front() -> None:
    assert all(np.array_equal(scene.present, [True, False]) for scene in scenes("depth"))
    assert {scene.notes["view"] for scene in scenes("depth")} == {"front", "up"}


def test_object_is_held_by_one_hand() -> None:
    found = scenes("object")
    assert all(scene.present.sum() == 1 and OBJECT in instances(scene) for scene in found)
    assert {int(scene.present.argmax()) for scene in found} == {0, 1}
    for scene in found:
        assert gap_to_object(scene) < 40


def test_ego_has_two_hands_and_an_object() -> None:
    for scene in scenes("ego"):
        assert scene.present.all()
        assert OBJECT in instances(scene)
        assert gap_to_object(scene) < 40
        wrists, fingers = scene.joints_cam_mm[:, 0], scene.joints_cam_mm[:, [9, 13]].mean(1)
        assert (fingers - wrists)[:, 2].mean() > 0 or (fingers - wrists)[:, 1].mean() < 0


def gap_to_object(scene: SceneGeometry) -> float:
    """mm from the nearest labelled joint to the nearest vertex of an object."""
    solid = np.concatenate([part.vertices for part in scene.parts if part.instance == OBJECT])
    joints = scene.joints_cam_mm[scene.present].reshape(-1, 3)
    return float(np.linalg.norm(joints[:, None] - solid[None], axis=-1).min())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_scene_depends_on_seed_and_index_alone(name: str) -> None:
    index = INDICES[-1]
    again, other = compose(name, index), scenes(name)[index - 1]
    first = scenes(name)[index]
    assert again.camera == first.camera
    assert again.notes == first.notes
    assert np.array_equal(again.joints_cam_mm, first.joints_cam_mm)
    for a, b in zip(again.parts, first.parts, strict=True):
        assert np.array_equal(a.vertices, b.vertices)
    assert not np.array_equal(other.joints_cam_mm, first.joints_cam_mm)


def test_no_scene_is_shared_between_settings_or_splits() -> None:
    setting = SETTINGS["two"]
    train = scene_makers("two")[0](seed_of(setting, SPLITS["train"]), 0, "two", PICTURE)
    shapes = [np.linalg.norm(np.diff(s.joints_cam_mm[s.present][0, 5:9], axis=0), axis=-1)
              for s in (train, *(scenes(name)[0] for name in SETTINGS))]  # fmt: skip
    for i, one in enumerate(shapes):
        assert all(np.abs(one - other).max() > 1e-3 for other in shapes[:i])


def test_close_up_keeps_the_view() -> None:
    camera = Camera(200.0, 200.0, 30.0, 90.0)
    points = np.array([[10.0, -20.0, 400.0], [60.0, 50.0, 420.0], [-30.0, 10.0, 380.0]])
    near = close_up(camera, points, 100, 1.5)
    pixels = near.project(points)
    assert np.ptp(pixels, axis=0).max() == pytest.approx(100 / 1.5)
    np.testing.assert_allclose((pixels.min(0) + pixels.max(0)) / 2, 49.5)
    assert near.fx / near.fy == camera.fx / camera.fy
    zoom = near.fx / camera.fx
    shift = pixels - zoom * camera.project(points)
    np.testing.assert_allclose(shift, shift[:1].repeat(3, 0), atol=1e-9)


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown setting 'one'; known: two, "):
        scene_makers("one")
