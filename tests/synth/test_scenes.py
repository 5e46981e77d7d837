"""PoolBatches scenes: determinism, labels, contacts, the camera."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from dfmamba.hands.model import HandModel
from dfmamba.synth.grasp import make_grasp, pair_gap, segment_distances
from dfmamba.synth.mesh import (
    CLOTH,
    LEFT,
    OBJECT,
    OTHER,
    RIGHT,
    SKIN,
    SceneGeometry,
    Solid,
    box_mesh,
    draw_solid,
    sphere_mesh,
    turned_mesh,
)
from dfmamba.synth.scenes import SCENES, bring_together, compose
from dfmamba.synth.staging import draw_shape, draw_view, make_actor

MODEL = HandModel.load()
COUNT = 24


@cache
def scenes(kind: str) -> tuple[SceneGeometry, ...]:
    return tuple(compose(5, index, kind, 128) for index in range(COUNT))


@pytest.mark.parametrize("kind", SCENES)
def test_scenes_are_pure_functions_of_seed_and_index(kind):
    again = compose(5, 3, kind, 128)
    first = scenes(kind)[3]
    assert again.camera == first.camera
    assert len(again.parts) == len(first.parts)
    for a, b in zip(again.parts, first.parts, strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)
        np.testing.assert_array_equal(a.faces, b.faces)
    np.testing.assert_array_equal(again.joints_cam_mm, first.joints_cam_mm)
    assert not np.array_equal(scenes(kind)[2].joints_cam_mm, first.joints_cam_mm)
    assert not np.array_equal(compose(6, 3, kind, 128).joints_cam_mm, first.joints_cam_mm)


@pytest.mark.parametrize("kind", SCENES)
def test_size_scales_only_the_camera(kind):
    small, large = scenes(kind)[1], compose(5, 1, kind, 256)
    np.testing.assert_array_equal(small.joints_cam_mm, large.joints_cam_mm)
    present = small.present
    uv_small = small.camera.project(small.joints_cam_mm[present].astype(np.float64))
    uv_large = large.camera.project(large.joints_cam_mm[present].astype(np.float64))
    np.testing.assert_allclose((uv_small + 0.5) * 2 - 0.5, uv_large, atol=1e-6)


@pytest.mark.parametrize("kind", SCENES)
def test_scenes_are_well_formed(kind):
    outside = []
    for scene in scenes(kind):
        assert scene.kind == kind
        assert scene.present.any()
        assert scene.present.all() or kind != "two"
        for slot, instance in enumerate((RIGHT, LEFT)):
            hands = [part for part in scene.parts if part.instance == instance]
            assert len(hands) == int(scene.present[slot])
            if not hands:
                assert not scene.joints_cam_mm[slot].any()
        for part in scene.parts:
            assert part.vertices.dtype == np.float32
            assert part.faces.dtype == np.int32
            assert part.vertices.shape == part.rest.shape
            assert part.attributes.shape == (len(part.vertices), 4)
            assert 0 <= part.faces.min() <= part.faces.max() < len(part.vertices)
            assert np.isfinite(part.vertices).all()
            if part.material == CLOTH:
                assert part.instance == OTHER
                assert part.person < 0
            if part.material == SKIN:
                assert part.person >= 0
            if part.instance in (RIGHT, LEFT):
                assert part.vertices[:, 2].min() > 60.0
        joints = scene.joints_cam_mm[scene.present].astype(np.float64)
        uv = scene.camera.project(joints)
        outside.append((np.abs(uv - 63.5) > 64).any(axis=-1).mean())
        extent = (uv.reshape(-1, 2).max(axis=0) - uv.reshape(-1, 2).min(axis=0)).max() / scene.size
        assert extent < 0.93
        if kind in ("single", "two"):
            assert extent > 0.3
    assert np.mean(outside) < 0.05


@pytest.mark.parametrize("kind", SCENES)
def test_joints_lie_at_their_own_mesh(kind):
    for scene in scenes(kind)[:10]:
        for slot in np.nonzero(scene.present)[0]:
            mesh = next(part for part in scene.parts if part.instance == (RIGHT, LEFT)[slot])
            near = np.linalg.norm(mesh.vertices[:, None] - scene.joints_cam_mm[slot], axis=-1).min(axis=0)
            assert near.max() < 30.0


def handedness(joints: np.ndarray) -> float:
    """Sign of the palm's normal (by wrist, index, little finger) against where the fingers bend to."""
    across = np.cross(joints[5] - joints[0], joints[17] - joints[0])
    bend = (joints[[6, 10, 14, 18]] + joints[[8, 12, 16, 20]] - 2 * joints[[5, 9, 13, 17]]).mean(axis=0)
    return float(across @ bend)


def test_left_hands_are_mirrored_right_hands():
    votes = []
    for kind in SCENES:
        for scene in scenes(kind):
            for slot in np.nonzero(scene.present)[0]:
                votes.append(handedness(scene.joints_cam_mm[slot]) * (1 if slot == 0 else -1) > 0)
    share = np.mean(votes)
    assert share > 0.85 or share < 0.15
    actor = make_actor(np.random.default_rng(0), np.random.default_rng(0))
    twin = actor.mirrored()
    assert twin.side == LEFT
    assert {part.instance for part in twin.parts} <= {LEFT, OTHER, OBJECT}
    np.testing.assert_array_equal(twin.parts[0].vertices[:, 0], -actor.parts[0].vertices[:, 0])
    np.testing.assert_array_equal(twin.mirrored().parts[0].faces, actor.parts[0].faces)


def test_single_hands_are_right_or_left():
    right = np.mean([scene.present[0] for scene in scenes("single")])
    assert 0.25 < right < 0.75


def test_two_hands_keep_the_wanted_gap():
    wanted = {
        "touch": (-1.1, 0.5),
        "near": (4.9, 41),
        "apart": (59, 201),
        "cross": (-0.6, 91),
        "clasp": (-1.6, 1.0),
    }
    seen, between = set(), []
    for scene in scenes("two"):
        gap, mode = scene.notes["gap_mm"], scene.notes["mode"]
        if np.isfinite(gap):
            seen.add(mode)
            low, high = wanted[mode]
            assert low <= gap <= high
        if mode in ("touch", "clasp") and np.isfinite(gap):
            first, second = (p.vertices[::2] for p in scene.parts if p.instance in (RIGHT, LEFT))
            pieces = np.array_split(first, 8)
            between.append(min(np.linalg.norm(a[:, None] - second, axis=-1).min() for a in pieces))
    # Capsules stand in for the mesh and every second vertex for its surface: millimetres, not tenths.
    assert np.median(between) < 10.0
    assert np.max(between) < 30.0
    assert len(seen) == 5


def test_bring_together_stops_at_the_gap_and_notices_misses():
    rng = np.random.default_rng(2)
    first, second = (make_actor(rng, rng) for _ in range(2))
    first, second = (a.moved(shift=-a.palm_centre) for a in (first.mirrored(), second))
    shift, gap = bring_together(first, second, np.array([1.0, 0, 0]), 10.0)
    measured = pair_gap(first.ends, first.radii, second.ends + shift, second.radii)
    assert measured == pytest.approx(gap)
    assert 9.9 <= measured <= 10.4
    far = second.moved(shift=np.array([0.0, 900.0, 0.0]))
    assert bring_together(first, far, np.array([1.0, 0, 0]), 0.0) is None


def test_grasps_touch_and_hardly_enter():
    touching, depth = [], []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        shape = draw_shape(rng, MODEL)
        grasp = make_grasp(rng, MODEL, shape)
        touching.append((grasp.gaps < 2.5).sum())
        vertices = MODEL.pose(shape, grasp.angles).vertices
        depth.append(-grasp.distance(vertices[MODEL.forearm < 0.5]).min())
    assert np.mean(np.array(touching) >= 2) > 0.9
    assert np.median(depth) < 5.0
    assert np.percentile(depth, 90) < 10.0


def test_object_scenes_show_objects_and_distractors_stand_behind():
    held = [scene.notes["held"] for scene in scenes("object")]
    assert 0.6 < np.mean(held) <= 1.0
    for scene in scenes("object"):
        assert sum(part.instance == OBJECT for part in scene.parts) == 1
    behind = [scene for kind in ("single", "object") for scene in scenes(kind) if "distractor" in scene.notes]
    assert behind
    for scene in behind:
        body = scene.parts[-1]
        assert body.instance == OTHER
        assert body.vertices[:, 2].min() > scene.joints_cam_mm[scene.present][..., 2].max()


def test_views_are_rotations_with_the_named_character():
    rng = np.random.default_rng(0)
    for view in ("any", "front", "up", "ego"):
        for _ in range(20):
            rotation, name = draw_view(rng, view)
            assert name == view
            np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
            assert np.linalg.det(rotation) > 0
    fingers = np.mean([draw_view(rng, "front")[0] @ [0, 1, 0] for _ in range(50)], axis=0)
    assert fingers[1] < -0.6
    away = np.mean([draw_view(rng, "ego")[0] @ [0, 1, 0] for _ in range(50)], axis=0)
    assert away[2] > 0.4


@pytest.mark.parametrize("seed", range(12))
def test_solids_have_meshes_on_their_distance_zero(seed):
    solid = draw_solid(np.random.default_rng(seed))
    vertices, faces = solid.mesh()
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    assert np.abs(solid.distance(vertices.astype(np.float64))).max() < 1e-3 * max(solid.half_size)
    assert (np.cross(a, b) * c).sum() > 0
    points = np.random.default_rng(seed).normal(size=(40, 3)) * solid.half_size * 2
    step = 1e-4 * np.eye(3)
    slope = [(solid.distance(points + e) - solid.distance(points - e)) / 2e-4 for e in step]
    np.testing.assert_allclose(np.linalg.norm(slope, axis=0), 1.0, atol=0.02)


def test_meshes_of_solids_are_closed():
    for vertices, faces in (
        sphere_mesh(2),
        box_mesh((10, 20, 30)),
        box_mesh((10, 20, 30), 4.0),
        turned_mesh(((0, -10), (5, -10), (8, 10), (0, 10))),
    ):
        triangles = vertices[faces].astype(np.float64)
        area = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        np.testing.assert_allclose(area.sum(axis=0), 0.0, atol=1e-2 * np.abs(area).sum())
        assert np.linalg.norm(area, axis=1).min() > 0
    assert segment_distances(*np.zeros((4, 3))) == 0
    assert Solid("sphere", (5.0, 5.0, 5.0)).distance(np.array([0.0, 0, 7])) == 2


def test_compose_names_bad_arguments():
    with pytest.raises(ValueError, match="single, two, object, ego"):
        compose(0, 0, "crowd", 128)
    with pytest.raises(ValueError, match="size"):
        compose(0, 0, "single", 2)
    with pytest.raises(ValueError, match="index"):
        compose(0, -1, "single", 64)
