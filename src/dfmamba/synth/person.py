"""A person: the baked body, everyday postures, and arms that reach with hands at their ends.

Canonical frame of the asset (the pelvis at the origin, millimetres): x to the person's left, y down, z to
the back. It is the camera frame of someone who looks into the camera. The rest pose stands with the arms
held off the body. A left arm is solved as the right arm of the mirrored person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from dfmamba.hands.model import (
    FOREARM_BONES,
    NUM_ANGLES,
    NUM_HAND_ANGLES,
    WRIST_BONE,
    HandModel,
    HandShape,
    clamp,
    read_asset,
)
from dfmamba.synth.grasp import make_grasp
from dfmamba.synth.mesh import Part
from dfmamba.synth.pose import ASSETS, PoseBank, draw_wrist
from dfmamba.synth.staging import Actor, euler, make_actor

LIPS, BROWS, FLUSH, SCALP = range(4)
"""Columns of `BodyModel.paint`."""


@dataclass(frozen=True)
class BodyShape:
    """One person at rest, millimetres: vertices (V, 3) float32 and bone heads (B, 3) float64."""

    vertices: np.ndarray
    bones: np.ndarray


@dataclass(frozen=True)
class PosedBody:
    """A posed person: vertices (V, 3) float32, bone heads (B, 3), orientations (B, 3, 3) from rest."""

    vertices: np.ndarray
    bones: np.ndarray
    rotations: np.ndarray


class BodyModel:
    """The body mesh with its shape basis and rig, read from `assets/body.npz`.

    Attributes:
        faces: (F, 3) int32, counter-clockwise seen from outside.
        paint: (V, 4) float32 in 0..1: lips, brows, flush, scalp.
        weights: (V, B) float32 skin weights.
        coefficients: (N, K) float32 shapes sampled from the source model, drawn as they are.
        names: the bones; sided ones end in ".R" and ".L". "wrist" and "eye" only mark places.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.mean_vertices = arrays["vertices"].astype(np.float32)
        self.mean_bones = arrays["bones"].astype(np.float64)
        self._vertex_basis = (
            arrays["vertex_basis"].astype(np.float32).reshape(len(arrays["vertex_basis"]), -1)
        )
        self._bone_basis = arrays["bone_basis"].astype(np.float64)
        self.coefficients = arrays["coefficients"].astype(np.float32)
        weights = arrays["weights"].astype(np.float32)
        self.weights = np.ascontiguousarray(weights / weights.sum(axis=1, keepdims=True))
        self.faces = arrays["faces"].astype(np.int32)
        self.paint = arrays["attributes"].astype(np.float32) / 255.0
        self.parents = arrays["parents"].astype(np.int64)
        self.names = tuple(str(name) for name in arrays["bone_names"])
        self._number = {name: k for k, name in enumerate(self.names)}

    @staticmethod
    @lru_cache(maxsize=4)
    def _load(path: str) -> BodyModel:
        return BodyModel(read_asset(path, "body"))

    @classmethod
    def load(cls, path: str | Path | None = None) -> BodyModel:
        """The model of `path` (default: the packaged asset), read once; OSError if it is missing."""
        return cls._load(str(path or ASSETS / "body.npz"))

    def bone(self, name: str) -> int:
        """Number of a bone.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self._number:
            raise ValueError(f"bone {name!r}: expected one of {', '.join(self.names)}")
        return self._number[name]

    def share(self, *names: str) -> np.ndarray:
        """(V,) summed skin weight of some bones."""
        total: np.ndarray = self.weights[:, [self.bone(name) for name in names]].sum(axis=1)
        return total

    def shape(self, coefficients: np.ndarray | None = None) -> BodyShape:
        """A person at rest.

        Args:
            coefficients: (K,) weights of the shape basis, in standard deviations (default: the mean).

        Raises:
            ValueError: `coefficients` has another length than the basis.
        """
        if coefficients is None:
            return BodyShape(self.mean_vertices, self.mean_bones)
        coefficients = np.asarray(coefficients, dtype=np.float32)
        if coefficients.shape != (len(self._vertex_basis),):
            raise ValueError(
                f"shape coefficients: got shape {coefficients.shape}, expected ({len(self._vertex_basis)},)"
            )
        vertices = self.mean_vertices + (coefficients @ self._vertex_basis).reshape(-1, 3)
        bones = self.mean_bones + np.tensordot(coefficients.astype(np.float64), self._bone_basis, 1)
        return BodyShape(vertices, bones)

    def transforms(self, bones: np.ndarray, turns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Orientations (B, 3, 3) and heads (B, 3) of posed bones.

        Args:
            bones: (B, 3) heads at rest.
            turns: rotations (3, 3) of bones relative to the bone above, about the axes of the canonical
                frame at rest; bones that are left out stay as they are.

        Raises:
            ValueError: an unknown bone.
        """
        local = {self.bone(name): np.asarray(turn) for name, turn in turns.items()}
        rotations = np.empty((len(bones), 3, 3))
        heads = np.empty((len(bones), 3))
        for k, above in enumerate(self.parents):
            if above < 0:
                rotations[k], heads[k] = local.get(k, np.eye(3)), bones[k]
                continue
            rotations[k] = rotations[above] @ local[k] if k in local else rotations[above]
            heads[k] = heads[above] + rotations[above] @ (bones[k] - bones[above])
        return rotations, heads

    def skin(self, shape: BodyShape, rotations: np.ndarray, heads: np.ndarray) -> PosedBody:
        """Linear blend skinning of a shape with what `transforms` returns."""
        shifts = heads - (rotations @ shape.bones[..., None])[..., 0]
        table = np.concatenate([rotations.reshape(-1, 9), shifts], axis=1).astype(np.float32)
        blended = self.weights @ table
        turned = np.matmul(blended[:, :9].reshape(-1, 3, 3), shape.vertices[..., None])[..., 0]
        return PosedBody(turned + blended[:, 9:], heads, rotations)


def aligning(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest rotation (3, 3) that takes the direction of `start` to that of `end`."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    axis, cosine = np.cross(a, b), float(a @ b)
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    if np.linalg.norm(axis) < 1e-9:  # the same or opposite: any axis across will do
        axis = np.cross(a, np.eye(3)[int(np.abs(a).argmin())])
    axis /= np.linalg.norm(axis)
    return cosine * np.eye(3) + cross + (1.0 - cosine) * np.outer(axis, axis)


def bend_arm(
    shoulder: np.ndarray, target: np.ndarray, upper: float, lower: float, swivel: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two-bone inverse kinematics of arms that all reach for one place.

    Args:
        shoulder: (3,) and
        target: (3,) mm; a target out of reach is drawn in along its ray, one too close pushed out.
        upper: length of the upper arm and
        lower: of the forearm, mm.
        swivel: (N, 3) directions to which the elbow points, as far as the circle that it can lie on allows.

    Returns:
        elbows (N, 3) and the wrist (3,), mm. The elbow is bent by 10 to 150 degrees.
    """
    bend = np.radians((150.0, 10.0))
    near, far = np.sqrt(upper**2 + lower**2 + 2.0 * upper * lower * np.cos(bend))
    gap = target - shoulder
    distance = max(float(np.linalg.norm(gap)), 1e-6)
    along = gap / distance
    distance = float(np.clip(distance, near, far))
    wrist = shoulder + along * distance
    share = (upper**2 - lower**2 + distance**2) / (2.0 * distance)
    radius = np.sqrt(max(upper**2 - share**2, 0.0))
    side = swivel - np.outer(swivel @ along, along)
    length = np.linalg.norm(side, axis=1, keepdims=True)
    helper = np.cross(along, np.eye(3)[int(np.abs(along).argmin())])
    side = np.where(length > 1e-6, side / np.maximum(length, 1e-6), helper / np.linalg.norm(helper))
    return shoulder + along * share + radius * side, wrist


FLIP = np.array([-1.0, 1.0, 1.0])
_FORWARD, _DOWN, _INWARD = np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
_ELBOW = np.array([-0.55, 0.8, 0.25])
"""Where a right elbow points when nothing is in the way: out, down and a little back."""


@dataclass(frozen=True)
class Reach:
    """What a right arm is to do.

    Attributes:
        wrist: (3,) mm.
        palm: direction that the palm should face, or None for any.
        gestures: names (or their beginnings) of poses to draw from; empty for the whole bank.
        elbow: where the elbow points.
        hidden: the hand is out of sight (in a pocket): its skin is left out.
    """

    wrist: np.ndarray
    palm: np.ndarray | None = None
    gestures: tuple[str, ...] = ()
    elbow: np.ndarray = field(default_factory=_ELBOW.copy)
    hidden: bool = False


@dataclass(frozen=True)
class Places:
    """Points of a right-hand side that postures refer to (mm), the arm's reach and the person's scale."""

    shoulder: np.ndarray
    chest: np.ndarray
    head: np.ndarray
    hip: np.ndarray
    pelvis: np.ndarray
    reach: float
    scale: float


_RELAXED = ("relaxed", "cascade", "hook", "soft_fist")
_OPEN = ("open", "splay", "flat", "relaxed_open", "four")

POSTURES: dict[str, float] = {
    "hang": 0.09, "wave": 0.14, "show": 0.17, "gesture": 0.20, "point": 0.05, "face": 0.09, "head": 0.03,
    "ear": 0.04, "hips": 0.03, "desk": 0.09, "up": 0.04, "side": 0.03,
}  # fmt: skip
"""Postures of one arm and their weights."""
PAIRED: dict[str, float] = {"together": 0.6, "crossed": 0.25, "chin": 0.15}
"""Postures of both arms and their weights."""


def draw_reach(rng: np.random.Generator, posture: str, at: Places) -> Reach:
    """The wrist target of a right arm in a posture.

    Raises:
        ValueError: an unknown posture.
    """
    u, n = rng.uniform, rng.normal(size=3)
    reach, scale = at.reach, at.scale
    if posture == "hang":
        wrist = at.shoulder + reach * np.array([u(-0.3, 0.0), u(0.85, 0.97), u(-0.3, 0.08)])
        return Reach(wrist, _INWARD + 0.3 * n, _RELAXED, np.array([-0.5, 0.0, 1.0]))
    if posture == "wave":
        wrist = at.shoulder + reach * np.array([u(-0.55, 0.0), u(-0.55, 0.1), u(-0.6, -0.15)])
        palm = _FORWARD + 0.35 * n if rng.random() < 0.75 else None
        return Reach(wrist, palm, _OPEN if rng.random() < 0.5 else ())
    if posture == "show":
        wrist = at.shoulder + reach * np.array([u(-0.3, 0.5), u(-0.4, 0.35), u(-0.9, -0.4)])
        return Reach(wrist, _FORWARD + 0.6 * n if rng.random() < 0.4 else None)
    if posture == "gesture":
        wrist = at.shoulder + reach * np.array([u(-0.3, 0.4), u(0.1, 0.65), u(-0.65, -0.3)])
        return Reach(wrist)
    if posture == "point":
        toward = np.array([u(-1.0, 0.5), u(-0.7, 0.4), u(-1.0, -0.2)])
        return Reach(
            at.shoulder + toward / np.linalg.norm(toward) * reach * u(0.7, 1.0), None, ("point", "gun")
        )
    if posture == "face":
        wrist = at.head + scale * np.array([u(-120, 40), u(60, 170), u(-150, -90)])
        return Reach(wrist, at.head - wrist + 40.0 * n, (), np.array([-0.4, 1.0, -0.3]))
    if posture == "head":
        wrist = at.head + scale * np.array([u(-190, -120), u(-120, 20), u(-60, 80)])
        return Reach(wrist, at.head - wrist + 40.0 * n, _RELAXED + _OPEN, np.array([-1.0, -0.2, 0.0]))
    if posture == "ear":
        wrist = at.head + scale * np.array([u(-135, -100), u(50, 110), u(-70, -10)])
        return Reach(wrist, _INWARD + 0.3 * n, ("phone", "cup", "relaxed"), np.array([-0.7, 0.8, -0.2]))
    if posture == "hips":
        wrist = at.hip + scale * np.array([u(-110, -70), u(-150, -60), u(-50, 30)])
        return Reach(wrist, _INWARD + 0.5 * n, (), np.array([-1.0, 0.1, 0.4]))
    if posture == "desk":
        wrist = at.shoulder + reach * np.array([u(-0.15, 0.5), u(0.4, 0.65), u(-0.7, -0.4)])
        return Reach(wrist, _DOWN + 0.3 * n, ())
    if posture == "up":
        wrist = at.shoulder + reach * np.array([u(-0.4, 0.15), u(-0.95, -0.6), u(-0.4, 0.0)])
        return Reach(wrist, None, _OPEN if rng.random() < 0.5 else ())
    if posture == "side":
        return Reach(at.shoulder + reach * np.array([u(-0.95, -0.7), u(-0.4, 0.4), u(-0.45, 0.0)]))
    if posture == "behind":
        wrist = at.pelvis + scale * np.array([u(-60, 20), u(-130, -30), u(190, 220)])
        return Reach(wrist, None, _RELAXED, np.array([-0.8, 0.0, 0.8]))
    if posture == "pocket":
        wrist = at.hip + scale * np.array([u(-85, -60), u(-60, -20), u(-70, -30)])
        return Reach(wrist, _INWARD, ("flat",), np.array([-0.8, 0.2, 0.8]), True)
    raise ValueError(f"posture {posture!r}: expected one of {', '.join((*POSTURES, 'behind', 'pocket'))}")


def draw_pair(rng: np.random.Generator, posture: str, right: Places, left: Places) -> tuple[Reach, Reach]:
    """Targets of both arms (the left one in the mirrored person's frame) in a posture of `PAIRED`."""
    u, scale = rng.uniform, right.scale
    if posture == "crossed":
        out = []
        for at, lift in ((right, 0.0), (left, 45.0)):
            wrist = at.chest + scale * np.array([u(80, 130), u(-30, 10) + lift, u(-230, -200)])
            out.append(Reach(wrist, -_FORWARD, (*_RELAXED, "flat"), np.array([-0.7, 0.9, -0.1])))
        return out[0], out[1]
    if posture == "chin":
        wrist = right.head + scale * np.array([u(-60, -40), u(190, 220), u(-150, -110)])
        other = wrist * FLIP + scale * np.array([-90.0, 0.0, 0.0])
        return Reach(wrist, _INWARD), Reach(other, _INWARD)
    middle = right.chest + right.reach * np.array([u(-0.2, 0.2), u(-0.3, 0.5), u(-0.7, -0.42)])
    gap = scale * (u(25, 55) if rng.random() < 0.7 else u(55, 160))
    tilt = rng.normal(size=(2, 3)) * (25.0 * scale, 35.0 * scale, 30.0 * scale)
    wrists = middle + np.array([-gap, 0.0, 0.0]) + tilt[0], middle * FLIP + [-gap, 0.0, 0.0] + tilt[1]
    facing = _INWARD + 0.4 * rng.normal(size=(2, 3)) if rng.random() < 0.7 else (None, None)
    return Reach(wrists[0], facing[0]), Reach(wrists[1], facing[1])


def mirrored_places(at: Places) -> Places:
    """The places of the mirrored person (points negated in x)."""
    points = {name: getattr(at, name) * FLIP for name in ("shoulder", "chest", "head", "hip", "pelvis")}
    return replace(at, **points)


_MIRROR = np.diag(FLIP)


def _bank_pose(rng: np.random.Generator, gestures: tuple[str, ...]) -> tuple[np.ndarray, str]:
    bank = PoseBank.load()
    if not gestures:
        return bank.sample(rng)
    wanted = [k for k, name in enumerate(bank.names) if name.startswith(gestures)]
    rows = np.nonzero(np.isin(bank.labels, wanted))[0]
    row = int(rng.choice(rows))
    angles = np.concatenate([bank.angles[row], draw_wrist(rng)])
    angles[: NUM_HAND_ANGLES - 1] += 1.5 * rng.normal(size=NUM_HAND_ANGLES - 1)
    assert len(angles) == NUM_ANGLES
    return clamp(angles), bank.names[bank.labels[row]]


def fitting_hand(coefficients: np.ndarray, forearm_mm: float) -> HandShape:
    """A hand shape scaled so that its forearm (elbow to wrist) has a length, mm."""
    shape = HandModel.load().shape(coefficients)
    factor = forearm_mm / float(np.linalg.norm(shape.bones[FOREARM_BONES[0]] - shape.bones[WRIST_BONE]))
    return HandShape((shape.vertices * np.float32(factor)), shape.bones * factor, shape.scale * factor)


def _hand(
    rng: np.random.Generator,
    clutter: np.random.Generator,
    shape: HandShape,
    reach: Reach,
    person: int,
    sleeve: bool,
    holding: bool,
) -> tuple[Actor, np.ndarray]:
    """A right hand in its own frame, and the place (3,) of its elbow there."""
    model = HandModel.load()
    if holding:
        grasp = make_grasp(rng, model, shape)
        actor = make_actor(rng, clutter, shape, grasp, person, sleeve=float(sleeve))
        angles = grasp.angles
    else:
        angles, name = _bank_pose(rng, reach.gestures)
        angles[22:] *= 0.8
        actor = make_actor(rng, clutter, shape, None, person, (angles, name), float(sleeve))
    turn, shift = model.transforms(shape.bones, angles)
    bone = FOREARM_BONES[0]
    elbow = turn[bone] @ shape.bones[bone] + shift[bone]
    if reach.hidden:
        # A hand in a pocket: only the forearm, and nothing of the hand that it would push through the cloth.
        skin = actor.parts[0]
        kept = skin.faces[(model.forearm[skin.faces] > 0.5).all(axis=1)]
        actor = replace(actor, parts=(replace(skin, faces=kept), *actor.parts[1:]))
    return actor, elbow


@dataclass(frozen=True)
class Arm:
    """A solved right arm: the hand in place and global orientations of the upper arm and the forearm."""

    actor: Actor
    upper: np.ndarray
    lower: np.ndarray
    hidden: bool


def solve_arm(
    rng: np.random.Generator,
    clutter: np.random.Generator,
    at: Places,
    reach: Reach,
    rest: np.ndarray,
    parent: np.ndarray,
    hand: HandShape,
    depth_mm: float,
    person: int,
    sleeve: bool,
    holding: bool,
) -> Arm:
    """Brings a right arm to its target.

    Args:
        rng: geometry.
        clutter: the sleeve's cut and objects' looks.
        at: points of the posed trunk.
        reach: the target.
        rest: (3, 3) rest places of the upper arm's, the forearm's and the wrist's heads, mm.
        parent: (3, 3) orientation of the clavicle.
        hand: shape whose forearm is as long as the body's.
        depth_mm: half the depth of the trunk.
        person: number of the person.
        sleeve: cloth down to the wrist.
        holding: the hand closes on an object.
    """
    upper_mm = float(np.linalg.norm(rest[1] - rest[0]))
    lower_mm = float(np.linalg.norm(rest[2] - rest[1]))
    swivel = reach.elbow / np.linalg.norm(reach.elbow) + 0.55 * rng.normal(size=(14, 3))
    elbows, wrist = bend_arm(at.shoulder, reach.wrist, upper_mm, lower_mm, swivel)
    elbow = elbows[int(np.argmin(_discomfort(elbows, wrist, at, reach, depth_mm)))]
    along = (wrist - elbow) / lower_mm
    actor, own_elbow = _hand(rng, clutter, hand, reach, person, sleeve, holding)
    radial = at.shoulder - elbow
    radial = radial - (radial @ along) * along
    radial /= max(np.linalg.norm(radial), 1e-9)
    across = np.cross(along, radial)
    pronation = np.radians(np.clip(20.0 + 40.0 * rng.normal(), -80.0, 85.0))
    if reach.palm is not None:
        choices = np.radians(np.linspace(-80.0, 85.0, 23))
        # The palm's direction at each choice: against the back of the hand, which is along x radial.
        palms = -(np.cos(choices)[:, None] * across + np.sin(choices)[:, None] * radial)
        pronation = choices[int(np.argmax(palms @ reach.palm))] + 0.2 * rng.normal()
    thumb = np.cos(pronation) * radial - np.sin(pronation) * across
    target = np.stack([along, thumb, np.cross(along, thumb)], axis=1)
    own_along = -own_elbow / np.linalg.norm(own_elbow)
    own_thumb = np.array([0.0, 0.0, 1.0]) - own_along[2] * own_along
    own_thumb /= np.linalg.norm(own_thumb)
    source = np.stack([own_along, own_thumb, np.cross(own_along, own_thumb)], axis=1)
    turn = target @ source.T
    placed = actor.moved(turn, wrist)
    start = parent @ (rest[1] - rest[0])
    upper = aligning(start, elbow - at.shoulder) @ parent
    lower = aligning(upper @ (rest[2] - rest[1]), along) @ upper
    return Arm(placed, upper, lower, reach.hidden)


def _discomfort(
    elbows: np.ndarray, wrist: np.ndarray, at: Places, reach: Reach, depth_mm: float
) -> np.ndarray:
    """(N,) how deep arms with these elbows run into trunk and head, plus how unusual the elbow is."""
    share = np.linspace(0.0, 1.25, 7)[:, None]
    points = elbows[:, None] + (wrist - elbows)[:, None] * share
    from_axis = points - at.chest
    width = abs(at.shoulder[0] - at.chest[0]) * 0.85 + 30.0
    depth = depth_mm + 30.0
    inside = 1.0 - np.hypot(from_axis[..., 0] / width, from_axis[..., 2] / depth)
    level = (points[..., 1] > at.head[1] + 150.0 * at.scale) & (points[..., 1] < at.hip[1] + 80.0)
    deep = np.where(level, np.maximum(inside, 0.0), 0.0).sum(axis=1)
    skull = np.maximum(1.0 - np.linalg.norm(points - at.head, axis=-1) / (110.0 * at.scale), 0.0).sum(axis=1)
    towards = elbows - 0.5 * (at.shoulder + wrist)
    towards /= np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-6)
    usual = towards @ (reach.elbow / np.linalg.norm(reach.elbow))
    total: np.ndarray = 4.0 * deep + 4.0 * skull + 0.5 * (1.0 - usual)
    return total


@dataclass(frozen=True)
class Person:
    """A posed person in the body's canonical frame.

    Attributes:
        number: of the person in the scene.
        shape: at rest.
        body: posed.
        actors: right and left hand; the parts of a hidden hand are its forearm's.
        hidden: (right, left) hands in pockets.
        long_sleeves: the arms are clothed down to the wrists.
        posture: what the arms do.
    """

    number: int
    shape: BodyShape
    body: PosedBody
    actors: tuple[Actor, Actor]
    hidden: tuple[bool, bool]
    long_sleeves: bool
    posture: str

    def parts_of_hands(self) -> list[Part]:
        """The meshes of both hands, sleeves and held objects."""
        return [part for actor in self.actors for part in actor.parts]


def _trunk_turns(rng: np.random.Generator, sitting: bool) -> dict[str, np.ndarray]:
    n = rng.normal(size=12)
    turns = {
        "pelvis": euler(0.03 * n[0], 0.05 * n[1], 0.05 * n[2]),
        "spine": euler(0.05 * n[3], 0.06 * n[4] - 0.03, 0.08 * n[5]),
        "chest": euler(0.04 * n[6], 0.05 * n[7] - 0.02, 0.08 * n[8]),
        "neck": euler(0.05 * n[9], 0.07 * n[10], 0.12 * n[11]),
        "head": euler(*(rng.normal(size=3) * (0.08, 0.12, 0.22))),
    }
    for side, sign in (("R", 1.0), ("L", -1.0)):
        lift = -rng.uniform(1.2, 1.6) if sitting else 0.12 * rng.normal() - 0.02
        turns[f"thigh.{side}"] = euler(sign * rng.uniform(-0.05, 0.15), lift, 0.0)
        turns[f"shin.{side}"] = euler(
            0.0, -lift + 0.2 * rng.normal() if sitting else abs(0.1 * rng.normal()), 0.0
        )
    return turns


def draw_person(
    rng: np.random.Generator,
    clutter: np.random.Generator,
    number: int,
    postures: Mapping[str, float] | None = None,
) -> Person:
    """A random person in a random posture.

    Args:
        rng: geometry.
        clutter: sleeves and looks of what is held.
        number: of the person, for skin and cloth.
        postures: weights of postures of one arm (drawn for each) or of `PAIRED`; by default 24 % paired,
            else `POSTURES`.
    """
    model, hands = BodyModel.load(), HandModel.load()
    shape = model.shape(model.coefficients[rng.integers(len(model.coefficients))])
    turns = _trunk_turns(rng, bool(rng.random() < 0.3))
    if postures is None:
        postures = PAIRED if rng.random() < 0.24 else POSTURES
    names, shares = list(postures), np.array(list(postures.values()))
    drawn = [names[int(rng.choice(len(names), p=shares / shares.sum()))] for _ in range(2)]
    long_sleeves = bool(clutter.random() < 0.45)
    bones = {name: shape.bones[model.bone(name)] for name in model.names}
    forearm = float(np.linalg.norm(bones["wrist.R"] - bones["lowerarm.R"]))
    hand = fitting_hand(hands.coefficients[rng.integers(len(hands.coefficients))], forearm)
    paired = drawn[0] in PAIRED
    places = _places(model, shape, turns)
    if paired:
        reaches = draw_pair(rng, drawn[0], places[0], places[1])
    else:
        reaches = draw_reach(rng, drawn[0], places[0]), draw_reach(rng, drawn[1], places[1])
    for k, side in enumerate("RL"):
        # Shoulders rise with hands above them.
        rise = np.clip((places[k].shoulder[1] - reaches[k].wrist[1]) / places[k].reach, 0.0, 1.0)
        lift = (1.0 if side == "R" else -1.0) * (0.45 * rise - 0.08)
        turns[f"clavicle.{side}"] = euler(lift, 0.0, 0.0)
    places = _places(model, shape, turns)
    rotations, _ = model.transforms(shape.bones, turns)
    trunk = model.share("chest", "spine") > 0.6
    depth = 0.5 * float(np.ptp(shape.vertices[trunk][:, 2]))
    actors = []
    for k, side in enumerate("RL"):
        mirror = np.eye(3) if side == "R" else _MIRROR
        parent = rotations[model.bone(f"clavicle.{side}")]
        rest = np.stack([bones[f"{name}.{side}"] for name in ("upperarm", "lowerarm", "wrist")]) @ mirror
        holding = not paired and not reaches[k].hidden and drawn[k] != "behind" and rng.random() < 0.12
        arm = solve_arm(
            rng, clutter, places[k], reaches[k], rest, mirror @ parent @ mirror, hand, depth, number,
            long_sleeves, holding,
        )  # fmt: skip
        upper, lower = (mirror @ one @ mirror for one in (arm.upper, arm.lower))
        turns[f"upperarm.{side}"] = parent.T @ upper
        turns[f"lowerarm.{side}"] = upper.T @ lower
        actors.append(arm.actor if side == "R" else arm.actor.mirrored())
    body = model.skin(shape, *model.transforms(shape.bones, turns))
    posture = drawn[0] if paired else "+".join(drawn)
    hidden = (reaches[0].hidden, reaches[1].hidden)
    return Person(number, shape, body, (actors[0], actors[1]), hidden, long_sleeves, posture)


def _places(model: BodyModel, shape: BodyShape, turns: Mapping[str, np.ndarray]) -> tuple[Places, Places]:
    """Places of the right side, and of the left side in the mirrored person's frame."""
    rotations, heads = model.transforms(shape.bones, turns)
    point = {name: heads[model.bone(name)] for name in model.names}
    rest = {name: shape.bones[model.bone(name)] for name in model.names}
    both = []
    for side in "RL":
        lengths = [
            float(np.linalg.norm(rest[f"{b}.{side}"] - rest[f"{a}.{side}"]))
            for a, b in (("upperarm", "lowerarm"), ("lowerarm", "wrist"))
        ]
        reach = sum(lengths)
        scale = reach / 445.0
        eyes = 0.5 * (point["eye.R"] + point["eye.L"])
        middle = eyes + rotations[model.bone("head")] @ np.array([0.0, -5.0, 75.0]) * scale
        at = Places(
            point[f"upperarm.{side}"], point["chest"], middle, point[f"thigh.{side}"], point["pelvis"],
            reach, scale,
        )  # fmt: skip
        both.append(at if side == "R" else mirrored_places(at))
    return both[0], both[1]
