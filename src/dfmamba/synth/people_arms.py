"""People in everyday postures: arms that reach their targets and the hands at their ends.

Everything is in the body's canonical frame (x to the person's left, y down, z back, millimetres). A left arm
is solved as the right arm of the mirrored person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dfmamba.synth.body import BodyModel, BodyShape, PosedBody, aligning, bend_arm
from dfmamba.synth.grasp import make_grasp
from dfmamba.synth.hand import FOREARM_BONES, NUM_ANGLES, WRIST_BONE, HandModel, HandShape
from dfmamba.synth.mesh import Part
from dfmamba.synth.people_postures import (
    FLIP,
    PAIRED,
    POSTURES,
    Places,
    Reach,
    draw_pair,
    draw_reach,
    mirrored_places,
)
from dfmamba.synth.pose import NUM_BANK_ANGLES, PoseBank, clamp, draw_wrist
from dfmamba.synth.staging import Actor, euler, make_actor

_MIRROR = np.diag(FLIP)


def _bank_pose(rng: np.random.Generator, gestures: tuple[str, ...]) -> tuple[np.ndarray, str]:
    bank = PoseBank.load()
    if not gestures:
        return bank.sample(rng)
    wanted = [k for k, name in enumerate(bank.names) if name.startswith(gestures)]
    rows = np.nonzero(np.isin(bank.labels, wanted))[0]
    row = int(rng.choice(rows))
    angles = np.concatenate([bank.angles[row], draw_wrist(rng)])
    angles[: NUM_BANK_ANGLES - 1] += 1.5 * rng.normal(size=NUM_BANK_ANGLES - 1)
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
