"""Capsule distances against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.hands.model import NUM_ANGLES, HandModel
from dfmamba.synth.grasp import (
    SELF_FIRST,
    SELF_SECOND,
    SELF_SEGMENTS,
    capsule_gaps,
    hand_capsules,
    pair_gap,
    sample_capsules,
    segment_distances,
    self_clearance,
)
from dfmamba.synth.pose import GESTURES

MODEL = HandModel.load()


def capsules(angles: np.ndarray):
    shape = MODEL.shape()
    turn, move = MODEL.transforms(shape.bones, angles)
    joints = MODEL.key_points(shape, turn, move, "anatomic")
    return (*hand_capsules(shape, joints, turn, move), MODEL.skin(shape, turn, move))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100_000))
def test_segment_distance_matches_dense_sampling(seed):
    rng = np.random.default_rng(seed)
    ends = rng.normal(size=(4, 3)) * 10
    share = np.linspace(0, 1, 201)[:, None]
    first = ends[0] * (1 - share) + ends[1] * share
    second = ends[2] * (1 - share) + ends[3] * share
    dense = np.linalg.norm(first[:, None] - second, axis=-1).min()
    exact = float(segment_distances(*ends))
    assert exact <= dense + 1e-9
    assert dense - exact < 0.3


def test_segment_distance_of_points_and_parallels():
    a, b = np.zeros(3), np.array([0.0, 0, 5])
    assert segment_distances(a, a, b, b) == 5
    x, z = np.eye(3)[0], np.eye(3)[2]
    assert abs(segment_distances(a, b, a + 3 * x, b + 3 * x) - 3) < 1e-9
    assert abs(segment_distances(a, a, b - x, b + x) - 5) < 1e-9
    assert abs(segment_distances(a, b, a + 9 * z, b + 9 * z) - 4) < 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100_000))
def test_pruned_pair_gap_is_exact(seed):
    rng = np.random.default_rng(seed)
    ends, radii, _ = capsules(np.zeros(NUM_ANGLES))
    other = ends + rng.normal(size=3) * 150
    full = segment_distances(ends[:, None, 0], ends[:, None, 1], other[None, :, 0], other[None, :, 1])
    assert abs(pair_gap(ends, radii, other, radii) - (full - radii[:, None] - radii).min()) < 1e-9


def test_self_clearance_sees_a_fist_through_the_palm():
    shape = MODEL.shape()
    angles = np.zeros((2, NUM_ANGLES))
    angles[0, :22] = GESTURES["open"].angles
    angles[1, [5, 7, 8]] = (90.0, 130.0, 90.0)
    open_hand, through = self_clearance(MODEL.joints(shape, angles, convention="anatomic"), shape.scale)
    assert open_hand.min() > -2.0
    assert through.min() < -8.0


def test_self_pairs_skip_neighbours():
    pairs = set(zip(SELF_FIRST.tolist(), SELF_SECOND.tolist(), strict=True))
    for i, j in pairs:
        assert not set(SELF_SEGMENTS[i]) & set(SELF_SEGMENTS[j])
    assert (3, 5) in pairs
    assert (3, 4) not in pairs


def test_capsules_fit_the_mesh():
    ends, radii, vertices = capsules(np.zeros(NUM_ANGLES))
    gaps = capsule_gaps(vertices, ends, radii)[MODEL.forearm < 0.5]
    assert abs(np.median(gaps)) < 1.5
    assert np.percentile(gaps, 95) < 7.0
    assert gaps.min() > -9.0


def test_sample_capsules_keeps_the_ends():
    ends, _, _ = capsules(np.zeros(NUM_ANGLES))
    points = sample_capsules(ends, 4)
    np.testing.assert_allclose(points[:, [0, -1]], ends)
