"""Grasps: closes the fingers of a hand on a solid with an exact distance function.

No step-by-step simulation: all stages of a sweep are posed at once (forward kinematics of key points only),
and each finger takes the first stage that touches. A phalanx that touches freezes the joints before it; the
others close on. The thumb has no fixed path: a shrinking random search looks for a pose that touches
opposite to the fingers.

Capsules stand in for hands where gaps and self-penetration are measured: segments with a radius, whose ends
are anatomic key points (and, for the forearm, points on its bones), so that they follow from forward
kinematics without skinning. Everything is millimetres and vectorised numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dfmamba.hands.model import CUP, FINGERS, HIGH, LOW, NUM_ANGLES, THUMB, HandModel, HandShape, clamp
from dfmamba.synth.mesh import Solid, draw_solid
from dfmamba.synth.pose import draw_wrist

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


_STAGES = 20
_CLOSED = np.array([88.0, 105.0, 70.0])
_FLEXION_COLUMNS = [0, 2, 3]
_CONTACT_MM = -0.5
"""Phalanges press this far into the solid: flesh gives."""
_THUMB_MEAN = np.array([14.0, 32.0, 20.0, 15.0, 22.0])
_THUMB_SPREAD = np.array([13.0, 11.0, 9.0, 15.0, 18.0])
_THUMB_ROUNDS = ((40, 1.0), (32, 0.4), (24, 0.15))
_THUMB_PAIRS = np.nonzero((SELF_FIRST < 3) & (SELF_SECOND >= 3))[0]


@dataclass(frozen=True)
class Grasp:
    """A hand pose and the solid that it holds, in the hand's canonical frame.

    Attributes:
        angles: (25,) degrees.
        solid: what is held.
        rotation: (3, 3) and
        centre: (3,) mm: a point p of the solid's frame lies at rotation @ p + centre.
        gaps: (5,) mm between each finger (thumb first) and the surface.
        style: "power" or "precision".
    """

    angles: np.ndarray
    solid: Solid
    rotation: np.ndarray
    centre: np.ndarray
    gaps: np.ndarray
    style: str

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (...) of points (..., 3) of the hand's frame from the solid."""
        return self.solid.distance((points - self.centre) @ self.rotation)


def _finger_gaps(grasp: Grasp, joints: np.ndarray, scale: float) -> np.ndarray:
    """Gaps (..., 5, 3) between the phalanges and the solid. The last capsule ends inside the finger's end."""
    ends = joints[..., SELF_SEGMENTS[:15], :]
    points = sample_capsules(ends, 6)[..., 1:, :]
    points[..., 2::3, 4, :] = 0.15 * ends[..., 2::3, 0, :] + 0.85 * ends[..., 2::3, 1, :]
    gaps = grasp.distance(points).min(axis=-1) - scale * SELF_RADII[:15]
    return gaps.reshape(*gaps.shape[:-1], 5, 3)


def _place(
    rng: np.random.Generator, model: HandModel, shape: HandShape, angles: np.ndarray, style: str
) -> Grasp:
    """Moves a random solid up to the palm (power) or under the fingers (precision) until it is near."""
    solid = draw_solid(rng)
    turn, shift = model.transforms(shape.bones, angles)
    joints = model.key_points(shape, turn, shift, "anatomic")
    across = np.array([rng.normal() * 0.12, rng.normal() * (0.25 if style == "power" else 0.8), 1.0])
    across /= np.linalg.norm(across)
    side = np.cross([0.0, 1.0, 0.0], across)
    side /= np.linalg.norm(side)
    rotation = np.stack([side, np.cross(across, side), across], axis=1)
    roll = rng.normal() * 0.2 if style == "power" else rng.uniform(-np.pi, np.pi)
    c, s = np.cos(roll), np.sin(roll)
    rotation = rotation @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    palm = 0.7 * joints[[5, 9, 13, 17]].mean(axis=0) + 0.3 * joints[0]
    if style == "power":
        along, stand_off = rng.uniform(2.0, 22.0), 0.5
    else:
        along, stand_off = rng.uniform(35.0, 62.0), rng.uniform(10.0, 30.0)
    centre = palm + shape.scale * np.array([0.0, along, rng.normal() * 6.0])
    ends, radii = hand_capsules(shape, joints, turn, shift)
    hand = np.r_[3:15, 15 : len(radii) - 2]
    points, radii = sample_capsules(ends[hand], 5), radii[hand, None]
    centre[0] -= 260.0
    for _ in range(25):
        gap = float((solid.distance((points - centre) @ rotation) - radii).min()) - stand_off
        centre[0] += gap
        if gap < 0.3:
            break
    return Grasp(angles, solid, rotation, centre, np.zeros(5), style)


def _close_fingers(
    rng: np.random.Generator, model: HandModel, shape: HandShape, grasp: Grasp, angles: np.ndarray
) -> np.ndarray:
    """Angles (25,) with the four fingers closed on the solid."""
    stage = np.linspace(0.0, 1.0, _STAGES)
    begin = angles[FINGERS].reshape(4, 4)[:, _FLEXION_COLUMNS]
    closed = np.repeat(_CLOSED[None] * rng.uniform(0.88, 1.0), 4, axis=0)
    reached = np.zeros((4, 3))
    frozen = np.zeros(4, dtype=int)
    touched = np.zeros(4, dtype=bool)
    for sweep in range(3):
        free = np.arange(3) >= frozen[:, None]
        # Every finger goes on from where its free joints stopped; frozen joints keep their share of the way.
        start = reached[:, 2]
        way = start + stage[:, None] * (1.0 - start)
        share = np.where(free, way[..., None], reached)
        batch = np.repeat(angles[None], _STAGES, axis=0)
        fingers = batch[:, FINGERS].reshape(_STAGES, 4, 4)
        fingers[..., _FLEXION_COLUMNS] = begin + share * (closed - begin)
        batch[:, FINGERS] = fingers.reshape(_STAGES, 16)
        batch = clamp(batch)
        gaps = _finger_gaps(grasp, model.joints(shape, batch, convention="anatomic"), shape.scale)[:, 1:]
        gaps = np.where(free, gaps - _CONTACT_MM, np.inf)
        for finger in range(4):
            if frozen[finger] > 2 or (sweep and not touched[finger]):
                continue
            nearest = gaps[:, finger].min(axis=-1)
            hits = np.nonzero(nearest < 0.0)[0]
            if len(hits) == 0:
                continue
            hit = int(hits[0])
            stop = way[hit, finger]
            if hit:
                before, after = nearest[hit - 1], nearest[hit]
                step = way[hit, finger] - way[hit - 1, finger]
                stop -= step * (-after / (before - after) if np.isfinite(before) else 1.0)
            reached[finger, free[finger]] = stop
            frozen[finger] = int(gaps[hit, finger].argmin()) + 1
            touched[finger] = True
        if (frozen > 2).all():
            break
    # Fingers that found nothing stop half-way instead of making a fist around air; so do loose
    # ends of the others.
    idle = rng.uniform(0.2, 0.5) + 0.06 * rng.normal(size=4)
    for finger in range(4):
        if not touched[finger]:
            reached[finger] = np.clip(idle[finger], 0.0, 0.7)
        elif frozen[finger] < 3:
            rest = slice(frozen[finger], 3)
            reached[finger, rest] = np.maximum(reached[finger, rest], np.clip(idle[finger] + 0.15, 0.0, 0.8))
    out = angles.copy()
    final = out[FINGERS].reshape(4, 4)
    final[:, _FLEXION_COLUMNS] = begin + reached * (closed - begin)
    out[FINGERS] = final.ravel()
    return clamp(out)


def _close_thumb(
    rng: np.random.Generator, model: HandModel, shape: HandShape, grasp: Grasp, angles: np.ndarray
) -> np.ndarray:
    """Angles (25,) with the thumb touching the solid, opposite to the finger tips where that is possible."""
    best, best_cost, spread = angles, np.inf, _THUMB_SPREAD
    mean = _THUMB_MEAN
    for count, shrink in _THUMB_ROUNDS:
        batch = np.repeat(best[None], count, axis=0)
        batch[:, THUMB] = mean + shrink * spread * rng.normal(size=(count, 5))
        batch[:, THUMB] = np.clip(batch[:, THUMB], LOW[THUMB], HIGH[THUMB])
        if np.isfinite(best_cost):
            batch[0] = best
        joints = model.joints(shape, batch, convention="anatomic")
        gaps = _finger_gaps(grasp, joints, shape.scale)[:, 0]
        first, second = SELF_FIRST[_THUMB_PAIRS], SELF_SECOND[_THUMB_PAIRS]
        ends = joints[:, SELF_SEGMENTS]
        clear = segment_distances(
            ends[:, first, 0], ends[:, first, 1], ends[:, second, 0], ends[:, second, 1]
        )
        clear -= shape.scale * (SELF_RADII[first] + SELF_RADII[second])
        thumb, tips = joints[:, 4] - grasp.centre, joints[:, [8, 12]].mean(axis=1) - grasp.centre
        facing = (thumb * tips).sum(-1) / (
            np.linalg.norm(thumb, axis=-1) * np.linalg.norm(tips, axis=-1) + 1e-6
        )
        cost = (gaps[:, 2] - _CONTACT_MM) ** 2 / 4.0
        cost += (np.minimum(gaps + 1.0, 0.0) ** 2).sum(-1) + (np.minimum(clear + 1.5, 0.0) ** 2).sum(-1)
        cost += 0.6 * (((batch[:, THUMB] - _THUMB_MEAN) / _THUMB_SPREAD) ** 2).sum(-1) + 3.0 * facing
        winner = int(cost.argmin())
        best, best_cost, mean = batch[winner], float(cost[winner]), batch[winner, THUMB]
    return best


def make_grasp(rng: np.random.Generator, model: HandModel, shape: HandShape, attempts: int = 3) -> Grasp:
    """A random grasp: the first of up to `attempts` that holds the solid, or else the best of them."""
    best: Grasp | None = None
    for _ in range(attempts):
        style = "power" if rng.random() < 0.55 else "precision"
        angles = np.zeros(NUM_ANGLES)
        fan = rng.uniform(0.2, 1.1) * np.array([8.0, 2.0, -4.0, -10.0])
        fingers = np.stack(
            [rng.uniform(-12.0, 5.0) + np.zeros(4), fan, np.full(4, 4.0), np.full(4, 3.0)], axis=1
        )
        angles[FINGERS] = fingers.ravel()
        angles[THUMB] = (2.0, 40.0, 15.0, 5.0, 8.0)
        angles[CUP] = rng.uniform(0.2, 0.9)
        grasp = _place(rng, model, shape, angles, style)
        angles = _close_fingers(rng, model, shape, grasp, angles)
        angles = _close_thumb(rng, model, shape, grasp, angles)
        angles[22:] = draw_wrist(rng)
        gaps = _finger_gaps(grasp, model.joints(shape, angles, convention="anatomic"), shape.scale).min(
            axis=-1
        )
        grasp = Grasp(angles, grasp.solid, grasp.rotation, grasp.centre, gaps, style)
        if best is None or np.sort(gaps)[1] < np.sort(best.gaps)[1]:
            best = grasp
        holding = gaps < 2.5
        if (holding[0] and holding[1:].any()) or holding[1:].sum() >= 2:
            return grasp
    assert best is not None
    return best
