"""Capsule stand-ins for hands: distances between segments, self-penetration and the gap between two hands.

A capsule is a segment with a radius. Its ends are anatomic key points (and, for the forearm, points on its
bones), so that capsules follow from forward kinematics without skinning. Everything is millimetres and
vectorised numpy.
"""

from __future__ import annotations

import numpy as np

from dfmamba.synth.hand import HandShape

_PHALANX_RADII = ((11.5, 9.5, 7.8), (9.2, 8.0, 6.8), (9.2, 8.0, 6.8), (9.2, 8.0, 6.8), (8.0, 6.8, 5.8))
_PALM_RADIUS = 11.0

_PHALANGES = [(1 + 4 * f + k, 2 + 4 * f + k) for f in range(5) for k in range(3)]
_PALM = [(0, 1 + 4 * f) for f in range(1, 5)]

SELF_SEGMENTS = np.array(_PHALANGES + _PALM)
"""(19, 2) key point numbers: 15 phalanges (thumb first, base to tip), then wrist to the four MCP joints."""
SELF_RADII = np.array([r for finger in _PHALANX_RADII for r in finger] + [_PALM_RADIUS] * 4)
"""(19,) radii for a hand of scale 1."""


def _self_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of the 19 capsules that must not overlap: none that share a joint or a web of skin."""
    i, j = np.triu_indices(len(SELF_SEGMENTS), 1)
    finger_i, finger_j = np.where(i < 15, i // 3, -1), np.where(j < 15, j // 3, -1)
    keep = (finger_i != finger_j) | ((finger_i >= 0) & (j - i == 2))
    keep &= ~((i >= 15) & (j >= 15))
    keep &= ~((j >= 15) & (i % 3 == 0) & (i >= 3)) & ~((j >= 15) & (i < 2))
    keep &= ~((i % 3 == 0) & (j % 3 == 0) & (i < 15) & (j < 15) & (np.abs(finger_i - finger_j) == 1))
    return i[keep], j[keep]


SELF_FIRST, SELF_SECOND = _self_pairs()


def segment_distances(p1: np.ndarray, q1: np.ndarray, p2: np.ndarray, q2: np.ndarray) -> np.ndarray:
    """Shortest distances (...) between segments p1-q1 and p2-q2, (..., 3) each; points are allowed."""
    d1, d2, r = q1 - p1, q2 - p2, p1 - p2
    a, e = (d1 * d1).sum(-1), (d2 * d2).sum(-1)
    b, c, f = (d1 * d2).sum(-1), (d1 * r).sum(-1), (d2 * r).sum(-1)
    tiny = 1e-9
    a_safe, e_safe = np.maximum(a, tiny), np.maximum(e, tiny)
    det = a * e - b * b
    s = np.where(
        det > 1e-9 * a_safe * e_safe, np.clip((b * f - c * e) / np.maximum(det, tiny), 0.0, 1.0), 0.0
    )
    t = (b * s + f) / e_safe
    s = np.where(t < 0.0, -c / a_safe, np.where(t > 1.0, (b - c) / a_safe, s))
    t, s = np.clip(t, 0.0, 1.0), np.clip(s, 0.0, 1.0)
    gap = r + d1 * s[..., None] - d2 * t[..., None]
    return np.sqrt((gap * gap).sum(-1))


def self_clearance(joints: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Gaps (..., pairs) between the capsules of one hand, negative where they overlap.

    Args:
        joints: (..., 21, 3) anatomic key points, mm.
        scale: size of the hand (`HandShape.scale`).
    """
    ends = joints[..., SELF_SEGMENTS, :]
    start, stop = ends[..., 0, :], ends[..., 1, :]
    first, second = SELF_FIRST, SELF_SECOND
    distance = segment_distances(
        start[..., first, :], stop[..., first, :], start[..., second, :], stop[..., second, :]
    )
    return distance - scale * (SELF_RADII[first] + SELF_RADII[second])


# Flesh that the 19 capsules miss, as (bone, start, stop, radius) in the canonical rest frame of a hand of
# scale 1.
_FLESH = (
    (2, (-6.0, 8.0, -6.0), (-4.0, 8.0, 8.0), 19.0),
    (2, (-8.0, 26.0, 18.0), (-12.0, 58.0, 14.0), 15.0),
    (2, (3.0, 20.0, 20.0), (0.0, 34.0, 22.0), 14.0),
    (6, (-3.0, 66.0, 26.0), (-2.0, 86.0, 25.0), 12.0),
    (18, (-3.0, 12.0, -23.0), (-1.0, 72.0, -40.0), 13.5),
)
_FLESHY_PALM_RADIUS = 14.5
_FOREARM = (
    (1, (-6.0, -8.0, 0.0), (-14.0, -110.0, 20.0), 27.0),
    (0, (-14.0, -110.0, 20.0), (-36.0, -225.0, 46.0), 38.0),
)


def hand_capsules(
    shape: HandShape, joints: np.ndarray, rotations: np.ndarray, shifts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Capsules of a whole hand with its forearm, for the gap to other things.

    Args:
        shape: the hand at rest.
        joints: (21, 3) anatomic key points of the posed hand.
        rotations: (22, 3, 3) and
        shifts: (22, 3) bone transforms of the same pose (`HandModel.transforms`).

    Returns:
        ends (C, 2, 3) and radii (C,); the last two capsules are the forearm.
    """
    extra = _FLESH + _FOREARM
    bone = [row[0] for row in extra]
    rest = shape.scale * np.array([(row[1], row[2]) for row in extra])
    moved = np.einsum("cij,cpj->cpi", rotations[bone], rest) + shifts[bone][:, None, :]
    radii = (
        np.concatenate([SELF_RADII[:15], [_FLESHY_PALM_RADIUS] * 4, [row[3] for row in extra]]) * shape.scale
    )
    return np.concatenate([joints[SELF_SEGMENTS], moved]), radii


def pair_gap(ends_a: np.ndarray, radii_a: np.ndarray, ends_b: np.ndarray, radii_b: np.ndarray) -> float:
    """Smallest gap between two sets of capsules (C, 2, 3) with radii (C,); negative where they overlap."""
    # Bounding spheres leave few pairs to measure exactly: no pair whose lower bound exceeds some upper bound
    # can win.
    middle_a, middle_b = ends_a.mean(axis=1), ends_b.mean(axis=1)
    half_a, half_b = (0.5 * np.linalg.norm(e[:, 1] - e[:, 0], axis=1) for e in (ends_a, ends_b))
    upper = np.linalg.norm(middle_a[:, None] - middle_b, axis=-1) - radii_a[:, None] - radii_b
    i, j = np.nonzero(upper - half_a[:, None] - half_b <= upper.min())
    a, b = ends_a[i], ends_b[j]
    return float((segment_distances(a[:, 0], a[:, 1], b[:, 0], b[:, 1]) - radii_a[i] - radii_b[j]).min())


def sample_capsules(ends: np.ndarray, count: int) -> np.ndarray:
    """Points (..., C, count, 3) evenly along capsules (..., C, 2, 3), ends included."""
    share = np.linspace(0.0, 1.0, count)[:, None]
    return ends[..., :, None, 0, :] * (1.0 - share) + ends[..., :, None, 1, :] * share


def capsule_gaps(points: np.ndarray, ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Gaps (P,) from points (P, 3) to the nearest of the capsules, negative inside."""
    points = np.asarray(points, dtype=np.float64)[:, None]
    distance = segment_distances(points, points, ends[None, :, 0], ends[None, :, 1])
    return (distance - radii).min(axis=1)
