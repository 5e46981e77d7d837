"""Scenes: one hand, two hands, hand with object, egocentric, a hand that signs.

Pure functions of (seed, index, kind, size).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dfmamba.hands.camera import Camera
from dfmamba.hands.model import HandModel, rotation_about
from dfmamba.synth.grasp import Grasp, make_grasp, pair_gap, sample_capsules
from dfmamba.synth.mesh import OBJECT, RIGHT, SOLID, Part, SceneGeometry, draw_solid
from dfmamba.synth.pose import SIGNS, PoseBank
from dfmamba.synth.staging import (
    FACING,
    Actor,
    distractor,
    draw_shape,
    draw_view,
    euler,
    frame,
    make_actor,
    random_rotation,
    upper_arms,
)

GEOMETRY, CAMERA, CLUTTER = 0, 1, 2
"""Streams of randomness: changing one leaves the others alone. From 8 on they are the renderer's."""

PAIR_MODES = ("touch", "near", "apart", "cross", "clasp")
_PAIR_SHARES = (0.34, 0.17, 0.13, 0.21, 0.15)
_DISTRACTOR_SHARE = {"single": 0.25, "object": 0.25, "two": 0.15, "ego": 0.12, "sign": 0.25}

Staged = tuple[list[Actor], Camera, list[Part], dict[str, object]]
Stage = Callable[[np.random.Generator, np.random.Generator, np.random.Generator, int], Staged]
"""Makes a scene from the streams of geometry, camera and clutter, and the side of the picture."""


def compose(seed: int, index: int, kind: str, size: int) -> SceneGeometry:
    """The geometry of one picture.

    Args:
        seed: of the data set, >= 0.
        index: of the picture, >= 0.
        kind: one of `SCENES`.
        size: side of the square picture in pixels; it scales the intrinsics and nothing else.

    Raises:
        ValueError: unknown kind, negative numbers or a size below 8.
    """
    if kind not in SCENES:
        raise ValueError(f"scene kind {kind!r}: expected one of {', '.join(SCENES)}")
    if seed < 0 or index < 0 or size < 8:
        raise ValueError(f"scene ({seed=}, {index=}, {size=}): seed and index must be >= 0 and size >= 8")
    return staged(SCENES[kind], _DISTRACTOR_SHARE[kind], seed, index, kind, size)


def staged(
    stage: Stage, distractor_share: float, seed: int, index: int, kind: str, size: int
) -> SceneGeometry:
    """The geometry that a stage makes, with arms that reach out of the picture and bodies behind.

    Args:
        stage: puts the hands before the camera.
        distractor_share: how often there is a body behind the hands.
        seed: of the data set.
        index: of the picture.
        kind: name of the scene.
        size: side of the square picture in pixels.
    """
    geometry, view, clutter = (np.random.default_rng([seed, index, k]) for k in (GEOMETRY, CAMERA, CLUTTER))
    actors, camera, extra, notes = stage(geometry, view, clutter, size)
    extra = extra + upper_arms(clutter, actors, camera, size)
    if clutter.random() < distractor_share:
        behind, notes["distractor"] = distractor(clutter, actors)
        extra = extra + behind
    joints = np.zeros((2, 21, 3), np.float32)
    present = np.zeros(2, dtype=bool)
    for actor in actors:
        slot = 0 if actor.side == RIGHT else 1
        joints[slot], present[slot] = actor.joints, True
        notes["right" if slot == 0 else "left"] = actor.name
    parts = tuple(part for actor in actors for part in actor.parts) + tuple(extra)
    return SceneGeometry(parts, joints, present, camera, size, kind, notes)


def _hides_itself(actor: Actor, rotation: np.ndarray) -> bool:
    """Whether the forearm would point at the camera, or the fingers straight away from it."""
    fingers = actor.joints[9] - actor.joints[0]
    into_view = rotation[2]
    forearm = -into_view @ actor.forearm_direction
    return bool(forearm > 0.55 or into_view @ fingers > 0.65 * np.linalg.norm(fingers))


def viewed(
    rng: np.random.Generator, actor: Actor, left: bool, view: str | None = None
) -> tuple[Actor, dict[str, object]]:
    """The actor (a right hand) seen from a random side, mirrored if it is to be a left hand."""
    for _ in range(20):
        rotation, name = draw_view(rng, view)
        if not _hides_itself(actor, rotation):
            break
    seen = actor.moved(rotation)
    return (seen.mirrored() if left else seen), {"view": name}


def single_hand(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    left = bool(geometry.random() < 0.5)
    actor, notes = viewed(view, make_actor(geometry, clutter), left)
    near, far = (250.0, 600.0) if notes["view"] == "ego" else (250.0, 1000.0)
    actors, camera = frame(view, [actor], size, (near, far))
    return actors, camera, [], notes


def signing_hand(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    left = bool(geometry.random() < 0.5)
    pose = PoseBank.load(SIGNS).sample(geometry)
    actor, notes = viewed(view, make_actor(geometry, clutter, pose=pose), left)
    actors, camera = frame(view, [actor], size, (250.0, 1000.0))
    return actors, camera, [], notes


def hand_with_object(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    left = bool(geometry.random() < 0.5)
    if geometry.random() < 0.15:
        actor, notes = viewed(view, make_actor(geometry, clutter), left)
        actors, camera = frame(view, [actor], size, (300.0, 1000.0))
        return actors, camera, [_occluder(geometry, actors[0])], {**notes, "held": False}
    actor, grasp = hand_holding(geometry, clutter)
    actor, notes = viewed(view, actor, left)
    held = actor.parts[-1].vertices
    actors, camera = frame(view, [actor], size, (250.0, 1000.0), held if view.random() < 0.5 else None)
    return (
        actors,
        camera,
        [],
        {**notes, "held": True, "style": grasp.style, "contacts": int((grasp.gaps < 2.5).sum())},
    )


def hand_holding(
    geometry: np.random.Generator, clutter: np.random.Generator, person: int = 0
) -> tuple[Actor, Grasp]:
    """A right hand that holds a random solid (the actor's last part)."""
    model = HandModel.load()
    shape = draw_shape(geometry, model)
    grasp = make_grasp(geometry, model, shape)
    return make_actor(geometry, clutter, shape, grasp, person), grasp


def _occluder(rng: np.random.Generator, actor: Actor) -> Part:
    """A solid that nobody holds, between the camera and a part of the hand."""
    solid = draw_solid(rng)
    vertices, faces = solid.mesh()
    target = actor.joints[rng.integers(21)]
    ray = target / np.linalg.norm(target)
    turned = vertices @ random_rotation(rng).T.astype(np.float32)
    # In front of every joint, on the ray to one of them: what it hides, it hides honestly.
    reach = float((turned @ ray).max())
    nearest = float((actor.joints @ ray).min())
    along = max(nearest - reach - rng.uniform(15.0, 70.0), 60.0)
    sideways = rng.normal(size=3) * 18.0
    placed = (turned + ray * along + sideways).astype(np.float32)
    return Part(placed, faces, vertices, np.zeros((len(vertices), 4), np.float32), OBJECT, SOLID)


def _gap(first: Actor, second: Actor, shift: np.ndarray, held: Grasp | None) -> float:
    """Smallest gap between `first` (with what it holds) and `second` moved by `shift`."""
    ends = second.ends + shift
    gap = pair_gap(first.ends, first.radii, ends, second.radii)
    if held is not None:
        points = sample_capsules(ends, 6)
        gap = min(gap, float((held.distance(points) - second.radii[:, None]).min()))
    return gap


def bring_together(
    first: Actor, second: Actor, direction: np.ndarray, gap_mm: float, held: Grasp | None = None
) -> tuple[np.ndarray, float] | None:
    """Moves `second` in from far along a direction until the smallest gap is `gap_mm`.

    A hand cannot come closer by more than it moves, so every step may be as long as the gap that is left:
    the search meets the first contact and never jumps through a finger.

    Args:
        first: stays.
        second: moves; both have their palms' centres at the origin.
        direction: (3,) unit vector from `first` to `second`.
        gap_mm: wanted gap, mm.
        held: object in the hand of `first`.

    Returns:
        the shift (3,) of `second` and the gap reached, or None where it passed by without coming that close.
    """
    along = 620.0
    for _ in range(60):
        gap = _gap(first, second, direction * along, held)
        if gap - gap_mm < 0.4:
            return direction * along, gap
        along -= gap - gap_mm
        if along < -40.0:
            return None
    return direction * along, gap


def _draw_gap(rng: np.random.Generator, mode: str) -> float:
    low, high = {
        "touch": (-1.0, 0.0),
        "near": (5.0, 40.0),
        "apart": (60.0, 200.0),
        "cross": (-0.5, 90.0),
    }.get(mode, (-1.5, 0.5))
    return float(rng.uniform(low, high))


def _pair_orientation(rng: np.random.Generator, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orientations of the picture's left and right actor (the left one is mirrored) and the direction."""
    lean = rng.normal(0.5, 0.35, size=2) * (-1.0 if rng.random() < 0.12 else 1.0)
    pitch = 0.5 * rng.normal(size=2)
    if mode == "clasp":
        # Palms face each other across x; one is turned about that axis, from praying to crosswise.
        twist = rng.uniform(-0.6, 0.6, size=2) + np.array([0.0, rng.choice([0.0, 0.7, -0.7, 1.4])])
        tilt = 0.25 * rng.normal(size=(2, 2))
        left, right = (FACING @ euler(tilt[k, 0], twist[k], tilt[k, 1]) for k in range(2))
        direction = np.array([1.0, 0.12 * rng.normal(), 0.12 * rng.normal()])
    else:
        yaw = rng.uniform(0.0, 2.0 * np.pi, size=2)
        if rng.random() < 0.3:
            yaw[1] = yaw[0] + 0.3 * rng.normal()
        left = rotation_about(2, np.array(lean[0])) @ FACING @ euler(0.0, pitch[0], yaw[0])
        right = rotation_about(2, np.array(-lean[1])) @ FACING @ euler(0.0, pitch[1], yaw[1])
        spread = rng.normal(size=3)
        if mode == "cross":
            direction = np.array([0.4 * spread[0], 0.4 * spread[1], 1.0 if rng.random() < 0.5 else -1.0])
        else:
            direction = np.array([1.0, 0.0, 0.0]) + 0.45 * spread
    return left, right, direction / np.linalg.norm(direction)


def pair(
    geometry: np.random.Generator, clutter: np.random.Generator, modes: tuple[str, ...], holding: bool = False
) -> tuple[list[Actor], dict[str, object]]:
    """Two hands in a common upright frame, the gap between them as the mode wants it."""
    model = HandModel.load()
    shares = np.array([_PAIR_SHARES[PAIR_MODES.index(mode)] for mode in modes])
    mode = modes[int(geometry.choice(len(modes), p=shares / shares.sum()))]
    one_person = bool(geometry.random() < 0.9)
    shape = draw_shape(geometry, model)
    other_shape = shape if one_person else draw_shape(geometry, model)
    grasp = make_grasp(geometry, model, shape) if holding else None
    first = make_actor(geometry, clutter, shape, grasp)
    second = make_actor(geometry, clutter, other_shape, None, 0 if one_person else 1)
    # The actor on the picture's left is the mirrored one; a mirrored picture half of the time makes the
    # sides fair.
    first = first.mirrored()
    flip = bool(geometry.random() < 0.5)
    shift = None
    for _ in range(8):
        turn_first, turn_second, direction = _pair_orientation(geometry, mode)
        wanted = _draw_gap(geometry, mode)
        a, b = first.moved(turn_first), second.moved(turn_second)
        a, b = a.moved(shift=-a.palm_centre), b.moved(shift=-b.palm_centre)
        held = (
            None if grasp is None else _mirrored_grasp(grasp, turn_first, -(turn_first @ first.palm_centre))
        )
        found = bring_together(a, b, direction, wanted, held)
        if found is not None:
            shift, gap = found
            break
    if shift is None:
        shift, gap, mode = direction * 420.0, float("nan"), "apart"
    actors = [a, b.moved(shift=shift)]
    if flip:
        actors = [actor.mirrored() for actor in actors]
    return actors, {"mode": mode, "gap_mm": gap, "one_person": one_person}


def _mirrored_grasp(grasp: Grasp, rotation: np.ndarray, shift: np.ndarray) -> Grasp:
    """The grasp of a mirrored hand after x -> rotation @ x + shift (solids are symmetric)."""
    reflection = np.diag([-1.0, 1.0, 1.0])
    turn = rotation @ reflection
    return Grasp(
        grasp.angles, grasp.solid, turn @ grasp.rotation, turn @ grasp.centre + shift, grasp.gaps, grasp.style
    )


def turned_pair(
    view: np.random.Generator, actors: list[Actor], draw: Callable[[np.random.Generator], np.ndarray]
) -> list[Actor]:
    for _ in range(12):
        rotation = draw(view)
        if not any(_hides_itself(actor, rotation) for actor in actors):
            break
    return [actor.moved(rotation) for actor in actors]


def _two(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    actors, notes = pair(geometry, clutter, PAIR_MODES)
    # Crossing hands were put one before the other, which a large turn would undo.
    spread = np.array([0.4, 0.3, 0.35]) if notes["mode"] == "cross" else np.array([0.6, 0.6, 0.8])
    actors = turned_pair(view, actors, lambda rng: euler(*(spread * rng.normal(size=3))))
    actors, camera = frame(view, actors, size, (350.0, 1000.0))
    return actors, camera, [], {**notes, "view": "two"}


def ego_turn(rng: np.random.Generator) -> np.ndarray:
    """From the upright frame to a head-mounted camera: forearms come in from below, fingers point away."""
    return euler(0.3 * rng.normal(), -rng.uniform(0.25, 1.2), 0.4 * rng.normal())


def _ego(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    choice = geometry.random()
    if choice < 0.6:
        left = bool(geometry.random() < 0.5)
        actor = make_actor(geometry, clutter) if choice < 0.25 else hand_holding(geometry, clutter)[0]
        actor, notes = viewed(view, actor, left, "ego")
        actors, camera = frame(view, [actor], size, (250.0, 600.0))
        return actors, camera, [], {**notes, "held": choice >= 0.25}
    holding = choice >= 0.8
    actors, notes = pair(geometry, clutter, ("touch", "near", "apart"), holding)
    actors = turned_pair(view, actors, ego_turn)
    actors, camera = frame(view, actors, size, (300.0, 650.0))
    return actors, camera, [], {**notes, "view": "ego", "held": holding}


SCENES: dict[str, Stage] = {
    "single": single_hand,
    "two": _two,
    "object": hand_with_object,
    "ego": _ego,
    "sign": signing_hand,
}
"""What makes the scenes of each kind."""
