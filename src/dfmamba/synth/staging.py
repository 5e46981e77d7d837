"""Actors (a posed hand with what belongs to it), views, the camera, and the body behind the hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dfmamba.hands.camera import Camera
from dfmamba.hands.model import HandModel, HandShape, mirror_faces, rotation_about, vertex_normals
from dfmamba.synth.grasp import Grasp, hand_capsules
from dfmamba.synth.mesh import CLOTH, LEFT, OBJECT, OTHER, RIGHT, SKIN, SOLID, Part, body_part
from dfmamba.synth.pose import PoseBank

FACING = np.diag([1.0, -1.0, -1.0])
"""Canonical frame to a camera frame in which the fingers point up."""
_PALM_POINTS = [0, 5, 9, 13, 17, 6, 10]
_NEAREST_MM = 120.0


@dataclass(frozen=True)
class Actor:
    """One hand of a scene with its sleeve and what it holds; all in one frame, millimetres.

    Attributes:
        side: `RIGHT` or `LEFT`.
        parts: meshes, the hand first.
        joints: (21, 3) key points in the labels' convention.
        ends: (C, 2, 3) and
        radii: (C,) capsules; the last two are the forearm.
        scale: size of the hand.
        name: what the pose was drawn from.
    """

    side: int
    parts: tuple[Part, ...]
    joints: np.ndarray
    ends: np.ndarray
    radii: np.ndarray
    scale: float
    name: str

    @property
    def forearm_direction(self) -> np.ndarray:
        """Unit vector from the wrist towards the elbow."""
        along = self.ends[-1, 1] - self.ends[-2, 0]
        return along / np.linalg.norm(along)

    @property
    def palm_centre(self) -> np.ndarray:
        """(3,) middle of the hand, for placing."""
        return self.joints[_PALM_POINTS].mean(axis=0)

    def moved(self, rotation: np.ndarray | None = None, shift: np.ndarray | None = None) -> Actor:
        """The actor after x -> rotation @ x + shift."""
        turn = np.eye(3) if rotation is None else rotation
        move = np.zeros(3) if shift is None else shift
        turn32, move32 = turn.T.astype(np.float32), move.astype(np.float32)
        parts = tuple(replace(part, vertices=part.vertices @ turn32 + move32) for part in self.parts)
        return replace(self, parts=parts, joints=self.joints @ turn.T + move, ends=self.ends @ turn.T + move)

    def mirrored(self) -> Actor:
        """The other hand: x negated, faces turned."""
        flip = np.array([-1.0, 1.0, 1.0])
        other = LEFT if self.side == RIGHT else RIGHT
        parts = tuple(
            replace(
                part,
                vertices=part.vertices * flip.astype(np.float32),
                faces=mirror_faces(part.faces),
                instance=other if part.instance == self.side else part.instance,
            )
            for part in self.parts
        )
        return replace(self, side=other, parts=parts, joints=self.joints * flip, ends=self.ends * flip)


def draw_shape(rng: np.random.Generator, model: HandModel) -> HandShape:
    """A random hand: wrist to middle tip 85 % N(194, 12) mm (adults), 15 % N(168, 15) mm."""
    length = rng.normal(194.0, 12.0) if rng.random() < 0.85 else rng.normal(168.0, 15.0)
    coefficients = model.coefficients[rng.integers(len(model.coefficients))]
    return model.shape(coefficients, float(np.clip(length, 115.0, 235.0)))


def make_actor(
    rng: np.random.Generator,
    clutter: np.random.Generator,
    shape: HandShape | None = None,
    grasp: Grasp | None = None,
    person: int = 0,
    pose: tuple[np.ndarray, str] | None = None,
    sleeve: float = 0.35,
) -> Actor:
    """A right hand in its canonical frame.

    Args:
        rng: draws the person and the pose.
        clutter: draws the sleeve and the object's look.
        shape: a given person's hand (default: random).
        grasp: pose and object (default: a pose of the bank, nothing held).
        person: number of the person, for skin and cloth.
        pose: angles (25,) in degrees and their name, where there is no grasp (default: of the bank).
        sleeve: how often there is a sleeve.
    """
    model, bank = HandModel.load(), PoseBank.load()
    shape = draw_shape(rng, model) if shape is None else shape
    if grasp is None:
        angles, name = bank.sample(rng) if pose is None else pose
    else:
        angles, name = grasp.angles, f"grasp:{grasp.style}:{grasp.solid.kind}"
    posed = model.pose(shape, angles)
    anatomic = model.key_points(shape, posed.rotations, posed.shifts, "anatomic")
    ends, radii = hand_capsules(shape, anatomic, posed.rotations, posed.shifts)
    hand = Part(posed.vertices, model.faces, shape.vertices, model.attributes, RIGHT, SKIN, person)
    parts = [hand]
    if clutter.random() < sleeve:
        parts.append(_sleeve(clutter, model, shape, hand))
    if grasp is not None:
        vertices, faces = grasp.solid.mesh()
        placed = (vertices @ grasp.rotation.T + grasp.centre).astype(np.float32)
        parts.append(
            Part(placed, faces, vertices, np.zeros((len(vertices), 4), np.float32), OBJECT, SOLID, person)
        )
    return Actor(RIGHT, tuple(parts), posed.joints, ends, radii, shape.scale, name)


def _sleeve(rng: np.random.Generator, model: HandModel, shape: HandShape, hand: Part) -> Part:
    """Cloth over the forearm, 4-12 mm above the skin, from behind the wrist (or further up) to the elbow."""
    start = -shape.scale * (rng.uniform(4.0, 30.0) if rng.random() < 0.7 else rng.uniform(30.0, 150.0))
    level = shape.vertices[:, 1]
    covered = (level[model.faces] < start).all(axis=1) & (model.forearm[model.faces] > 0.02).all(axis=1)
    faces = model.faces[covered]
    used = np.unique(faces)
    renumber = np.zeros(len(level), dtype=np.int32)
    renumber[used] = np.arange(len(used))
    normals = vertex_normals(hand.vertices, model.faces)[used]
    height = level[used]
    lift = rng.uniform(4.0, 12.0) + 1.5 * np.sin(height * rng.uniform(0.1, 0.3) + rng.uniform(0.0, 6.3))
    if rng.random() < 0.5:
        # A tight cuff: the cloth comes down to the skin at its edge.
        lift = 1.0 + (lift - 1.0) * np.clip((start - height) / 14.0, 0.0, 1.0)
    vertices = (hand.vertices[used] + normals * lift[:, None]).astype(np.float32)
    attributes = np.zeros((len(used), 4), np.float32)
    return Part(vertices, renumber[faces], shape.vertices[used], attributes, OTHER, CLOTH, -1 - hand.person)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A uniform rotation matrix."""
    w, x, y, z = (q := rng.normal(size=4)) / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def euler(z: float, x: float, y: float) -> np.ndarray:
    """Rz(z) Rx(x) Ry(y), radians."""
    return rotation_about(2, np.array(z)) @ rotation_about(0, np.array(x)) @ rotation_about(1, np.array(y))


VIEWS = ("any", "front", "up", "ego")
_VIEW_SHARES = (0.35, 0.20, 0.25, 0.20)


def draw_view(rng: np.random.Generator, view: str | None = None) -> tuple[np.ndarray, str]:
    """Orientation (3, 3) from the canonical frame to the camera, and the view's name (one of `VIEWS`)."""
    if view is None:
        view = VIEWS[int(rng.choice(len(VIEWS), p=_VIEW_SHARES))]
    about_z, about_x, about_y = rng.normal(size=3)
    if view == "any":
        return random_rotation(rng), view
    if view == "front":
        side = 0.5 * np.pi if rng.random() < 0.6 else -0.5 * np.pi
        return _upright(0.45 * about_z, 0.3 * about_x, side + 0.45 * about_y), view
    if view == "up":
        return _upright(0.7 * about_z, 0.6 * about_x, rng.uniform(0.0, 2.0 * np.pi)), view
    return euler(0.5 * about_z, -rng.uniform(0.3, 1.3), 0.0) @ _upright(
        0.0, 0.0, -0.5 * np.pi + 0.8 * about_y
    ), view


def _upright(roll: float, pitch: float, yaw: float) -> np.ndarray:
    return euler(roll, 0.0, 0.0) @ FACING @ euler(0.0, pitch, yaw)


def frame(
    rng: np.random.Generator,
    actors: list[Actor],
    size: int,
    distance_mm: tuple[float, float],
    also: np.ndarray | None = None,
) -> tuple[list[Actor], Camera]:
    """Puts actors before a camera whose picture is an off-axis crop of a wide one: perspective stays honest.

    Args:
        rng: source of randomness.
        actors: in a camera-oriented frame.
        size: side of the picture in pixels.
        distance_mm: range of the depth of the hands' middle.
        also: (N, 3) more points that should be in the picture (a held object).

    Returns:
        the moved actors and the crop's camera; the joints' box fills 45-92 % of the picture, and one picture
        in eight is shifted so far that some joints may leave it.
    """
    points = np.concatenate([actor.joints for actor in actors] + ([] if also is None else [also]))
    depth = rng.uniform(*distance_mm)
    tangent = rng.uniform(-0.35, 0.35, size=2)
    nearest = min(float(actor.parts[0].vertices[:, 2].min()) for actor in actors)
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    depth = max(depth, _NEAREST_MM + middle[2] - nearest)
    shift = np.array([tangent[0] * depth, tangent[1] * depth, depth]) - middle
    points = points + shift
    flat = points[:, :2] / points[:, 2:]
    low, high = flat.min(axis=0), flat.max(axis=0)
    fill = rng.uniform(0.45, 0.92)
    focal = size * fill / float((high - low).max())
    # Seen along the fingers, the flesh is much wider than the joints: let it overflow only a little.
    flesh = HandModel.load().forearm < 0.5
    skin = np.concatenate([actor.parts[0].vertices[flesh] for actor in actors]) + shift
    outline = skin[:, :2] / skin[:, 2:]
    focal = min(focal, 1.05 * size / float(np.ptp(outline, axis=0).max()))
    slack = (rng.random(2) - 0.5) * size * (1.0 - fill) * 0.8
    leaves = rng.random() < 0.125
    push = rng.uniform(-0.22, 0.22, size=2) * size
    centre = 0.5 * (size - 1) - 0.5 * (low + high) * focal + slack + (push if leaves else 0.0)
    camera = Camera(float(focal), float(focal), float(centre[0]), float(centre[1]))
    return [actor.moved(shift=shift) for actor in actors], camera


def upper_arms(rng: np.random.Generator, actors: list[Actor], camera: Camera, size: int) -> list[Part]:
    """An upper arm for every forearm whose cut end would be seen (in the picture or near its edge)."""
    out = []
    for actor in actors:
        elbow, along = actor.ends[-1, 1], actor.forearm_direction
        bend = rng.normal(size=3) * 0.6
        if elbow[2] < 1.0:
            continue
        u = camera.fx * elbow[0] / elbow[2] + camera.cx
        v = camera.fy * elbow[1] / elbow[2] + camera.cy
        margin = camera.fx * 45.0 * actor.scale / elbow[2]
        if not (-margin < u < size + margin and -margin < v < size + margin):
            continue
        direction = along + bend
        direction[2] = max(direction[2], -0.1)
        direction /= np.linalg.norm(direction)
        radius = 46.0 * actor.scale
        vertices, faces = body_part(rng, (radius, 3.2 * radius, radius))
        turned = vertices @ _turn_y_to(direction).T
        centre = elbow + direction * (2.5 * radius)
        sleeved = next((part for part in actor.parts if part.material == CLOTH), None)
        material, person = (SKIN, actor.parts[0].person) if sleeved is None else (CLOTH, sleeved.person)
        placed = (turned + centre).astype(np.float32)
        out.append(
            Part(placed, faces, vertices, np.zeros((len(vertices), 4), np.float32), OTHER, material, person)
        )
    return out


def _turn_y_to(direction: np.ndarray) -> np.ndarray:
    """A rotation that takes the y axis to a unit direction."""
    helper = np.array([1.0, 0.0, 0.0]) if abs(direction[0]) < 0.8 else np.array([0.0, 0.0, 1.0])
    side = np.cross(direction, helper)
    side /= np.linalg.norm(side)
    return np.stack([np.cross(direction, side), direction, side], axis=1)


DISTRACTORS = ("trunk", "head", "arm")


def distractor(rng: np.random.Generator, actors: list[Actor]) -> tuple[list[Part], str]:
    """A trunk, head or arm behind the hands, in the person's own skin or clothes."""
    kind = DISTRACTORS[int(rng.choice(len(DISTRACTORS), p=[0.4, 0.35, 0.25]))]
    joints = np.concatenate([actor.joints for actor in actors])
    middle, back = joints.mean(axis=0), joints[:, 2].max() + 15.0
    person = actors[0].parts[0].person
    if kind == "trunk":
        half = (rng.uniform(150.0, 220.0), rng.uniform(240.0, 320.0), rng.uniform(90.0, 140.0))
        spread, gap, dressed = 110.0, rng.uniform(5.0, 250.0), rng.random() < 0.75
    elif kind == "head":
        half = (rng.uniform(68.0, 82.0), rng.uniform(100.0, 120.0), rng.uniform(85.0, 100.0))
        spread, gap, dressed = 60.0, rng.uniform(2.0, 150.0), False
    else:
        half = (rng.uniform(35.0, 52.0), rng.uniform(140.0, 220.0), rng.uniform(35.0, 52.0))
        spread, gap, dressed = 70.0, rng.uniform(2.0, 120.0), rng.random() < 0.3
    vertices, faces = body_part(rng, half)
    lean = euler(
        rng.uniform(-np.pi, np.pi) if kind == "arm" else 0.3 * rng.normal(), 0.25 * rng.normal(), 0.0
    )
    turned = vertices @ lean.T.astype(np.float32)
    centre = np.array([middle[0] + spread * rng.normal(), middle[1] + spread * rng.normal(), 0.0])
    centre[2] = back + gap - float(turned[:, 2].min())
    material, owner = (CLOTH, -1 - person) if dressed else (SKIN, person)
    attributes = np.zeros((len(vertices), 4), np.float32)
    placed = (turned + centre).astype(np.float32)
    return [Part(placed, faces, vertices, attributes, OTHER, material, owner)], kind
