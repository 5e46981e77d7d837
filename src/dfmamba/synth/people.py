"""Scenes with whole people, for finding hands: pictures, masks and the hands in them.

A scene is a pure function of (seed, index, size): one to three people with faces, hair, clothes and arms in
everyday postures, seen from head and shoulders to head to foot, from close to one hand, or by the wearer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dfmamba.hands.camera import Camera
from dfmamba.hands.model import vertex_normals
from dfmamba.synth import post, raster
from dfmamba.synth.appearance import (
    BLOTCHES,
    PLAIN,
    Palette,
    cloth_palette,
    object_palette,
    sample_lights,
    skin_palette,
    to_linear,
)
from dfmamba.synth.mesh import CLOTH, LEFT, OTHER, RIGHT, SKIN, Part, body_part, sphere_mesh
from dfmamba.synth.person import BROWS, FLUSH, LIPS, POSTURES, SCALP, BodyModel, Person, draw_person
from dfmamba.synth.post import visible_joints
from dfmamba.synth.staging import Actor, euler

_HAIR_SRGB = np.array(
    [[18, 15, 14], [34, 25, 21], [58, 40, 30], [92, 64, 44], [142, 104, 66], [186, 152, 104], [120, 58, 32],
     [128, 124, 120], [205, 202, 198]],
    dtype=np.float64,
)  # fmt: skip
_HAIR_SHARES = (0.24, 0.22, 0.18, 0.12, 0.07, 0.05, 0.03, 0.06, 0.03)

Painted = tuple[Part, Palette]
_FAR = 60.0
"""Of a garment's field where there is none of it, mm."""


@dataclass(frozen=True)
class _Regions:
    """Of the mean body: along the upper arm 0..1 and on to the wrist 2; height mm; masks of head and foot."""

    sleeve: np.ndarray
    height: np.ndarray
    front: np.ndarray
    aside: np.ndarray
    arm: np.ndarray
    head: np.ndarray
    foot: np.ndarray
    neckline: float
    knee: float
    ankle: float


@lru_cache(maxsize=1)
def _regions() -> _Regions:
    model = BodyModel.load()
    vertices, bones = model.mean_vertices, {n: model.mean_bones[model.bone(n)] for n in model.names}
    sleeve = np.full(len(vertices), -1.0)
    for side, sign in (("R", -1.0), ("L", 1.0)):
        own = vertices[:, 0] * sign > 0
        start, middle, end = (bones[f"{name}.{side}"] for name in ("upperarm", "lowerarm", "wrist"))
        first = (vertices - start) @ (middle - start) / ((middle - start) @ (middle - start))
        second = (vertices - middle) @ (end - middle) / ((end - middle) @ (end - middle))
        lower = model.share(f"lowerarm.{side}") > 0.5
        arm = own & (model.share(f"upperarm.{side}", f"lowerarm.{side}") > 0.4)
        sleeve = np.where(arm, np.where(lower, 1.0 + np.maximum(second, 0.0), first), sleeve)
    return _Regions(
        sleeve, vertices[:, 1], vertices[:, 2], np.abs(vertices[:, 0]), sleeve > -1.0,
        model.share("head") > 0.3,
        model.share("foot.R", "foot.L") > 0.5, float(bones["neck"][1]), float(bones["shin.R"][1]),
        float(bones["foot.R"][1]),
    )  # fmt: skip


def _shell(
    person: Person, normals: np.ndarray, field: np.ndarray, lift: np.ndarray | float, owner: int
) -> Part | None:
    """Cloth where a field (V,) is below 0, `lift` mm above the skin; its edges run along the field's zero."""
    faces = BodyModel.load().faces
    height = np.broadcast_to(lift, field.shape)
    points = np.concatenate(
        [person.body.vertices + normals * height[:, None], person.shape.vertices], axis=1, dtype=np.float32
    )
    inside = field[faces] < 0.0
    corners = inside.sum(axis=1)
    pieces, extra, count = [faces[corners == 3]], [points], len(points)
    for kept in (1, 2):
        rows = np.nonzero(corners == kept)[0]
        odd = np.argmax(inside[rows] == (kept == 1), axis=1)
        a, b, c = (faces[rows, (odd + k) % 3] for k in range(3))
        cuts = []
        for other in (b, c):
            share = (field[a] / (field[a] - field[other]))[:, None].astype(np.float32)
            extra.append(points[a] + share * (points[other] - points[a]))
            cuts.append(count + np.arange(len(rows)))
            count += len(rows)
        if kept == 1:
            pieces.append(np.stack([a, *cuts], axis=1))
        else:
            pieces += [np.stack([cuts[0], b, c], axis=1), np.stack([cuts[0], c, cuts[1]], axis=1)]
    faces, points = np.concatenate(pieces), np.concatenate(extra)
    if not len(faces):
        return None
    used = np.unique(faces)
    renumber = np.zeros(len(points), dtype=np.int32)
    renumber[used] = np.arange(len(used))
    blank = np.zeros((len(used), 4), np.float32)
    return Part(points[used, :3], renumber[faces], points[used, 3:], blank, OTHER, CLOTH, owner)


def _bare_faces(covered: np.ndarray) -> np.ndarray:
    """Faces of the body without those that lie under cloth, away from its edges."""
    faces = BodyModel.load().faces
    edge = np.zeros(len(covered), dtype=bool)
    edge[faces[~covered[faces].all(axis=1)]] = True
    return faces[~(covered & ~edge)[faces].all(axis=1)]


def _plain(rng: np.random.Generator, srgb: np.ndarray, gloss: float, grain: float) -> Palette:
    base = to_linear(srgb)
    colours = np.stack([base, base * rng.uniform(0.5, 0.9), np.array([0.0, 1.0, 0.0]), np.zeros(3)])
    kind = BLOTCHES if rng.random() < 0.6 else PLAIN
    settings = np.array([kind, 0.06, grain, gloss, 12.0, 0.1, 0.0, 0.0])
    return Palette(colours.astype(np.float32), settings.astype(np.float32))


def dress(rng: np.random.Generator, person: Person, headless: bool = False) -> list[Painted]:
    """All meshes of a person with their palettes.

    Args:
        rng: looks.
        person: who.
        headless: leave out head, eyes and hair (the camera is there).
    """
    model, at = BodyModel.load(), _regions()
    owner, count = -1 - person.number, len(model.mean_vertices)
    normals = vertex_normals(person.body.vertices, model.faces)
    skin, shirt_look, trouser_look, shoe_look = (
        skin_palette(rng), cloth_palette(rng), cloth_palette(rng), cloth_palette(rng)
    )  # fmt: skip
    hair_colour = _HAIR_SRGB[int(rng.choice(len(_HAIR_SRGB), p=_HAIR_SHARES))] * rng.uniform(0.8, 1.2)
    if rng.random() < 0.04:
        hair_colour = rng.uniform(20, 220, 3)
    wave = rng.uniform(0.02, 0.06, 3)
    folds = np.sin(model.mean_vertices @ wave + rng.uniform(0.0, 6.3)) * np.sin(
        model.mean_vertices @ np.roll(wave, 1) * 1.7
    )
    neck_drop = rng.uniform(-25.0, 50.0)
    neckline = at.neckline + np.where(
        at.front < -20.0, neck_drop + rng.uniform(0.0, 60.0), min(neck_drop, 15.0)
    )
    hem = rng.uniform(40.0, 160.0) if rng.random() < 0.9 else rng.uniform(250.0, 500.0)
    cut = 9.0 if person.long_sleeves else (rng.uniform(0.25, 0.85) if rng.random() < 0.8 else -0.05)
    bare_neck = np.minimum(neckline - at.height, rng.uniform(75.0, 115.0) - at.aside)
    trunk = np.where(at.head, _FAR, np.maximum(bare_neck, at.height - hem))
    shirt = np.where(at.arm, 280.0 * (at.sleeve - cut), trunk)
    loose = rng.uniform(4.0, 16.0)
    shirt_lift = loose + 0.35 * loose * folds
    leg = at.ankle - 20.0 if rng.random() < 0.75 else at.knee + rng.uniform(-220.0, 60.0)
    trousers = np.where(at.arm | at.foot, _FAR, np.maximum(-70.0 - at.height, at.height - leg))
    shoes = np.where(at.foot, at.ankle - 40.0 - at.height, _FAR)
    shod = rng.random() < 0.85
    dressed: list[Painted] = []
    worn: list[tuple[np.ndarray, np.ndarray | float, Palette]] = [
        (shirt, shirt_lift, shirt_look),
        (trousers, rng.uniform(2.0, 6.0) + 1.5 * folds, trouser_look),
    ]
    if shod:
        worn.append((shoes, rng.uniform(5.0, 12.0), shoe_look))
    for field, lift, look in worn:
        part = _shell(person, normals, field, lift, owner)
        if part is not None:
            dressed.append((part, look))
    covered = (shirt < 0.0) | (trousers < 0.0) | ((shoes < 0.0) & shod)
    faces = _bare_faces(covered)
    if headless:
        faces = faces[~at.head[faces].any(axis=1)]
    else:
        dressed += _hair(rng, person, normals, hair_colour, owner)
        dressed += _eyes(person)
    paint = np.zeros((count, 4), np.float32)
    makeup = rng.random() < 0.2
    paint[:, 0], paint[:, 1] = model.paint[:, LIPS], model.paint[:, BROWS] * rng.uniform(0.35, 0.7)
    paint[:, 2] = model.paint[:, FLUSH] * rng.uniform(0.2, 1.0)
    lips = np.clip(
        skin.colours[0] * (np.array([1.0, 0.5, 0.5]) if not makeup else np.array([1.1, 0.2, 0.25])), 0, 1
    )
    brow = to_linear(0.8 * hair_colour)
    face_look = replace(
        skin,
        colours=np.stack([skin.colours[0], lips, brow, skin.colours[3]]).astype(np.float32),
        settings=np.concatenate([skin.settings[:6], [0.0, 0.0]]).astype(np.float32),
    )
    used = np.unique(faces)
    renumber = np.zeros(count, dtype=np.int32)
    renumber[used] = np.arange(len(used))
    body = Part(
        person.body.vertices[used], renumber[faces], person.shape.vertices[used], paint[used], OTHER, SKIN,
        person.number,
    )  # fmt: skip
    dressed.append((body, face_look))
    for part in person.parts_of_hands():
        look = (
            skin if part.material == SKIN else shirt_look if part.material == CLOTH else object_palette(rng)
        )
        dressed.append((part, look))
    return dressed


def _hair(
    rng: np.random.Generator, person: Person, normals: np.ndarray, srgb: np.ndarray, owner: int
) -> list[Painted]:
    """A cap of hair over the scalp; one head in three has long hair behind, one in twelve none, some hats."""
    model = BodyModel.load()
    style = rng.random()
    if style < 0.08:
        return []
    scalp = model.paint[:, SCALP]
    long = style > 0.66
    look = _plain(rng, srgb, rng.uniform(0.0, 0.5), rng.uniform(0.1, 0.4))
    if 0.08 < style < 0.14:
        look = cloth_palette(rng)
    thick = rng.uniform(10.0, 24.0) if long or rng.random() < 0.4 else rng.uniform(3.0, 12.0)
    lump = np.sin(model.mean_vertices @ rng.normal(size=3) * 0.05 + rng.uniform(0.0, 6.3))
    lift = thick * (1.0 + 0.25 * lump) * np.clip(1.5 * scalp, 0.15, 1.0)
    cap = _shell(person, normals, 0.3 - scalp, lift, owner)
    out = [(cap, look)] if cap is not None else []
    if long:
        head = model.bone("head")
        place = {name: person.shape.bones[model.bone(name)] for name in ("eye.R", "eye.L")}
        scale = float(np.linalg.norm(place["eye.L"] - place["eye.R"])) / 62.0
        length = rng.uniform(90.0, 190.0)
        half = (rng.uniform(68.0, 88.0), length, rng.uniform(35.0, 50.0))
        vertices, faces = body_part(rng, half)
        # Hair falls behind the ears and around the neck, open to the front.
        vertices[:, 2] += (np.abs(vertices[:, 0]) / half[0]) ** 2 * -35.0
        centre = 0.5 * (place["eye.R"] + place["eye.L"]) + np.array([0.0, length - 75.0, 118.0]) * scale
        placed = (vertices * scale + centre - person.shape.bones[head]) @ person.body.rotations[head].T
        placed = (placed + person.body.bones[head]).astype(np.float32)
        blank = np.zeros((len(vertices), 4), np.float32)
        out.append((Part(placed, faces, vertices, blank, OTHER, CLOTH, owner), look))
    return out


def _eyes(person: Person) -> list[Painted]:
    """Two eyeballs, dark in front."""
    model = BodyModel.load()
    ball, faces = sphere_mesh(2)
    dark = np.clip((-ball[:, 2] - 0.80) / 0.08, 0.0, 1.0)
    vertices, painted, numbers = [], [], []
    head = person.body.rotations[model.bone("head")]
    places = [person.body.bones[model.bone(f"eye.{side}")] for side in "RL"]
    radius = 12.3 * float(np.linalg.norm(places[0] - places[1])) / 58.0
    for k, place in enumerate(places):
        vertices.append((radius * ball) @ head.T.astype(np.float32) + place.astype(np.float32))
        painted.append(np.stack([0 * dark, dark, 0 * dark, 0 * dark], axis=1))
        numbers.append(faces + k * len(ball))
    colours = np.array([[0.55, 0.52, 0.5], [0.5, 0.5, 0.5], [0.02, 0.012, 0.01], [0.0, 0.0, 0.0]], np.float32)
    look = Palette(colours, np.array([0, 0, 0.02, 0.8, 30.0, 0.2, 0.0, 0.0], np.float32))
    rest = np.concatenate([radius * ball, radius * ball])
    part = Part(
        np.concatenate(vertices).astype(np.float32), np.concatenate(numbers), rest.astype(np.float32),
        np.concatenate(painted).astype(np.float32), OTHER, SKIN, person.number,
    )  # fmt: skip
    return [(part, look)]


SHOTS: dict[str, float] = {
    "face": 0.08, "bust": 0.27, "half": 0.25, "full": 0.10, "hand": 0.14, "ego": 0.08, "none": 0.08,
}  # fmt: skip
"""What the picture is aimed at and how often; "none" is a scene without a visible hand."""

_LARGEST, _SMALLEST = 0.6, 0.035
"""Bounds of a hand's box relative to the picture's side."""


def aim(
    view: np.random.Generator, people: list[Person], shot: str, size: int
) -> tuple[list[np.ndarray], list[np.ndarray], Camera]:
    """Turns people to the camera and frames what a shot is to show.

    Args:
        view: the camera's stream.
        people: the first is who the picture is of, or who wears the camera.
        shot: one of `SHOTS`.
        size: side of the picture in pixels.

    Returns:
        orientation (3, 3) and shift (3,) of every person into the camera frame, and the camera.
    """
    main = people[0]
    if shot == "ego":
        return _aim_ego(view, people, size)
    back = shot not in ("hand", "none") and view.random() < 0.08
    turns: list[np.ndarray] = []
    shifts: list[np.ndarray] = []
    tilt = euler(0.06 * view.normal(), 0.1 + 0.15 * view.normal(), 0.0)
    target = _region(view, main, shot)
    extent = float(np.ptp(target[:, :2], axis=0).max())
    for k in range(len(people)):
        yaw = np.clip(view.normal() * 0.5, -1.4, 1.4) + (
            np.pi if back or (k and view.random() < 0.1) else 0.0
        )
        turns.append(tilt @ euler(0.0, 0.0, yaw))
        side = view.choice([-1.0, 1.0]) if k < 2 else -np.sign(shifts[1][0] or 1.0)
        away = np.array(
            [side * view.uniform(380.0, 750.0), 60.0 * view.normal(), view.uniform(-100.0, 900.0)]
        )
        shifts.append(tilt @ away if k else np.zeros(3))
    points = target @ turns[0].T
    reach = max(float(np.ptp(points[:, :2], axis=0).max()), 0.5 * extent, 120.0)
    spread = np.tan(np.radians(view.uniform(24.0, 75.0)) / 2.0)
    nearest = min(
        float((one @ turn.T + shift)[:, 2].min())
        for person, turn, shift in zip(people, turns, shifts, strict=True)
        for one in (person.body.vertices[::5], *(actor.joints for actor in person.actors))
    )
    middle = 0.5 * (points.min(axis=0) + points.max(axis=0))
    distance = max(reach / (2.0 * spread), middle[2] - nearest + 260.0)
    shift = np.array([0.0, 0.0, distance]) - middle
    shifts = [one + shift for one in shifts]
    flat = points + shift
    flat = flat[:, :2] / flat[:, 2:]
    low, high = flat.min(axis=0), flat.max(axis=0)
    low_fill, high_fill = {"hand": (0.3, 0.6), "none": (0.7, 1.1)}.get(shot, (0.55, 1.02))
    fill = view.uniform(low_fill, high_fill)
    focal = size * fill / float((high - low).max())
    if shot != "none":
        focal = _bounded(focal, main, turns[0], shift, size)
    slack = view.uniform(-0.5, 0.5, 2) * size * (abs(1.0 - fill) * 0.8 + 0.06)
    centre = 0.5 * (size - 1) - 0.5 * (low + high) * focal + slack
    return turns, shifts, Camera(focal, focal, float(centre[0]), float(centre[1]))


def _bounded(focal: float, person: Person, turn: np.ndarray, shift: np.ndarray, size: int) -> float:
    """The focal length, changed so that a person's largest hand is neither too large nor too small."""
    sides = []
    for actor in person.actors:
        joints = actor.joints @ turn.T + shift
        sides.append(float(np.ptp(joints[:, :2] / np.maximum(joints[:, 2:], 50.0), axis=0).max()))
    return float(np.clip(focal, _SMALLEST * size / max(sides), _LARGEST * size / max(sides)))


def _aim_ego(
    view: np.random.Generator, people: list[Person], size: int
) -> tuple[list[np.ndarray], list[np.ndarray], Camera]:
    """The wearer's camera looks from between the eyes at the hands; others stand before it."""
    model, main = BodyModel.load(), people[0]
    eyes = 0.5 * (main.body.bones[model.bone("eye.R")] + main.body.bones[model.bone("eye.L")])
    place = eyes + np.array([0.0, -15.0, -50.0]) + 15.0 * view.normal(size=3)
    hands = np.mean([actor.joints.mean(axis=0) for actor in main.actors], axis=0)
    gaze = hands - place
    gaze = gaze / np.linalg.norm(gaze) + view.normal(size=3) * 0.14 + np.array([0.0, -0.08, -0.1])
    gaze /= np.linalg.norm(gaze)
    right = np.cross(np.array([0.0, 1.0, 0.0]), gaze)
    right /= np.linalg.norm(right)
    turn = euler(0.06 * view.normal(), 0.0, 0.0) @ np.stack([right, np.cross(gaze, right), gaze])
    turns, shifts = [turn], [-turn @ place]
    for _ in people[1:]:
        # Another person faces the wearer.
        yaw = euler(0.0, 0.0, np.pi + 0.3 * view.normal())
        turns.append(turn @ yaw)
        away = np.array([250.0 * view.normal(), 50.0 * view.normal(), -view.uniform(900.0, 1800.0)])
        shifts.append(turn @ away + shifts[0])
    spread = np.tan(np.radians(view.uniform(62.0, 105.0)) / 2.0)
    focal = _bounded(0.5 * size / spread, main, turns[0], shifts[0], size)
    middle = 0.5 * (size - 1)
    return turns, shifts, Camera(focal, focal, middle, middle)


def _region(view: np.random.Generator, person: Person, shot: str) -> np.ndarray:
    """Points (P, 3) of the body frame that the picture is to show."""
    model, body = BodyModel.load(), person.body
    head = body.vertices[_head()]
    names = {
        "face": (), "bust": ("upperarm.R", "upperarm.L", "chest"),
        "half": ("upperarm.R", "upperarm.L", "pelvis"), "full": ("foot.R", "foot.L"),
        "none": ("upperarm.R", "upperarm.L", "chest"),
    }.get(shot, ())  # fmt: skip
    joints = [actor.joints for actor in person.actors]
    if shot == "hand":
        # Mostly the one in front, which the body does not hide.
        ahead = int(joints[1][:, 2].mean() < joints[0][:, 2].mean())
        return joints[ahead if view.random() < 0.8 else 1 - ahead]
    if shot == "none" and view.random() < 0.3:
        names = ("pelvis", "upperarm.R", "upperarm.L")
    points = [head, *(body.bones[[model.bone(name)]] for name in names)]
    if shot in ("bust", "half", "full", "face"):
        bound = _joined(points)
        for one in joints:
            # Hands that hang below a portrait's edge stay outside of it.
            near = one[:, 1].min() < bound[:, 1].max() + 80.0
            if view.random() < (0.88 if near else 0.5 if shot != "face" else 0.0):
                points.append(one)
    return _joined(points)


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """All points (P, 3) of some lists, float64."""
    return np.concatenate(pieces).astype(np.float64)


def _head() -> np.ndarray:
    return np.nonzero(BodyModel.load().share("head") > 0.6)[0][::7]


MAX_HANDS = 6
"""Three people's."""
_GEOMETRY, _CAMERA, _LOOKS, _LIGHT, _POST, _TEXTURE = range(200, 206)

_EGO_POSTURES = {"gesture": 0.35, "show": 0.15, "desk": 0.4, "point": 0.1}


@dataclass(frozen=True)
class PeoplePicture:
    """A rendered scene; N hands (right before left, person by person), in the picture or not.

    Attributes:
        rgb: (S, S, 3) uint8 sRGB, the people alone: black where alpha is 0, straight colour elsewhere (lay
            them over a background with `dfmamba.synth.post.recompose`).
        alpha: (S, S) uint8, the share of the pixel that people cover.
        joints_px: (N, 21, 2) float32 pixels (centres at integers), OpenPose order.
        side: (N,) uint8, 1 right, 2 left (anatomical).
        visible: (N,) float32, share of the hand's joints that lie in the picture with nothing but the hand
            itself in front of them.
        shot: one of `SHOTS`.
        postures: what each person's arms do.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    joints_px: np.ndarray
    side: np.ndarray
    visible: np.ndarray
    shot: str
    postures: tuple[str, ...]

    @property
    def rgba(self) -> np.ndarray:
        """(S, S, 4) uint8, as `recompose` takes it."""
        return np.dstack((self.rgb, self.alpha))


def render_people(seed: int, index: int, size: int, supersample: int = 2) -> PeoplePicture:
    """The picture of an index.

    Args:
        seed: of the data set, >= 0.
        index: of the picture, >= 0.
        size: side of the square picture in pixels.
        supersample: rendered sub-pixels per pixel side.

    Raises:
        ValueError: negative numbers or a size below 32.
        ImportError: Warp is not installed.
    """
    if seed < 0 or index < 0 or size < 32:
        raise ValueError(f"scene ({seed=}, {index=}, {size=}): seed and index must be >= 0 and size >= 32")
    geometry, view, looks, light, effects = (
        np.random.default_rng([seed, index, k]) for k in (_GEOMETRY, _CAMERA, _LOOKS, _LIGHT, _POST)
    )
    shot = list(SHOTS)[int(view.choice(len(SHOTS), p=list(SHOTS.values())))]
    people = _cast(geometry, looks, shot)
    turns, shifts, camera = aim(view, people, shot, size)
    parts: list[Part] = []
    palettes: list[Palette] = []
    owners: list[int] = []
    actors: list[Actor] = []
    for k, (person, turn, shift) in enumerate(zip(people, turns, shifts, strict=True)):
        for part, look in dress(looks, person, headless=shot == "ego" and k == 0):
            placed = (part.vertices @ turn.T + shift).astype(np.float32)
            seen = _cropped(replace(part, vertices=placed), camera, size)
            if seen is not None:
                parts.append(seen)
                palettes.append(look)
                owners.append(k)
        actors += [actor.moved(turn, shift) for actor in person.actors]
    kept = ~np.array([one for person in people for one in person.hidden])
    joints = np.array([actor.joints for actor in actors])
    rendering = raster.render(
        parts, camera, size, sample_lights(light), palettes,
        int(np.random.default_rng([seed, index, _TEXTURE]).integers(2**31 - 1)), supersample,
    )  # fmt: skip
    pixels = _project(joints, camera)
    seen_joints = _visibility(parts, owners, rendering, joints, pixels, kept)
    skin = np.append([part.material == SKIN for part in parts], False)[_part_of(parts, rendering)]
    # Exposed for all skin: a camera does not know which of it is hands.
    foreground = post.expose(replace(rendering, instance=skin.astype(np.uint8)), effects)
    return PeoplePicture(
        rgb=foreground[..., :3],
        alpha=foreground[..., 3],
        joints_px=pixels[kept].astype(np.float32),
        side=np.array([RIGHT, LEFT] * len(people), np.uint8)[kept],
        visible=seen_joints.mean(axis=1, dtype=np.float32)[kept],
        shot=shot,
        postures=tuple(person.posture for person in people),
    )


def _cast(geometry: np.random.Generator, looks: np.random.Generator, shot: str) -> list[Person]:
    count = 1 + int(geometry.choice(3, p=[0.74, 0.19, 0.07]))
    if shot == "hand":
        count = min(count, 2)
    first = None
    if shot == "ego":
        count, first = (1 if geometry.random() < 0.8 else 2), _EGO_POSTURES
        if geometry.random() < 0.3:
            first = {"together": 1.0}
    elif shot == "none":
        kind = geometry.random()
        count = 1 if kind < 0.85 else 2
        first = {"behind": 1.0} if kind < 0.3 else {"pocket": 1.0} if kind < 0.5 else {"hang": 1.0}
    elif shot == "full" and geometry.random() < 0.4:
        first = {"hang": 0.5, "hips": 0.2, "gesture": 0.2, "pocket": 0.1}
    people = [draw_person(geometry, looks, 0, first)]
    for number in range(1, count):
        rule = first if shot == "none" else POSTURES if geometry.random() < 0.7 else None
        people.append(draw_person(geometry, looks, number, rule))
    return people


def _project(joints: np.ndarray, camera: Camera) -> np.ndarray:
    """Pixels (N, 21, 2); what lies behind the camera goes far outside on its own side."""
    safe = joints.copy()
    safe[..., 2] = np.maximum(safe[..., 2], raster.NEAR_MM)
    return np.asarray(camera.project(safe))


def _cropped(part: Part, camera: Camera, size: int) -> Part | None:
    """The part without the faces that lie far outside of the picture; None where nothing is left."""
    vertices = part.vertices
    depth = np.maximum(vertices[:, 2], 1.0)
    u = camera.fx * vertices[:, 0] / depth + camera.cx
    v = camera.fy * vertices[:, 1] / depth + camera.cy
    margin = 0.5 * size
    near = (u > -margin) & (u < size + margin) & (v > -margin) & (v < size + margin)
    near &= vertices[:, 2] > raster.NEAR_MM
    if near.all():
        return part
    faces = part.faces[near[part.faces].any(axis=1)]
    if not len(faces):
        return None
    used = np.unique(faces)
    renumber = np.zeros(len(vertices), dtype=np.int32)
    renumber[used] = np.arange(len(used))
    return replace(
        part, vertices=vertices[used], faces=renumber[faces], rest=part.rest[used],
        attributes=part.attributes[used],
    )  # fmt: skip


def _part_of(parts: list[Part], rendering: raster.Rendering) -> np.ndarray:
    """(S, S) number of the part seen at each pixel, -1 for none."""
    ends = np.cumsum([len(part.faces) for part in parts])
    return np.where(rendering.face >= 0, np.searchsorted(ends, rendering.face, side="right"), -1)


def _visibility(
    parts: list[Part],
    owners: list[int],
    rendering: raster.Rendering,
    joints: np.ndarray,
    pixels: np.ndarray,
    present: np.ndarray,
) -> np.ndarray:
    """(N, 21) whether the hand itself, on whichever side, is what its joint's pixel shows."""
    # One label a face: the hand that it belongs to, counted from 1; forearms and all else are things.
    labels = [np.zeros(1, dtype=np.int64)]
    things = len(joints) + 1
    for part, owner in zip(parts, owners, strict=True):
        label = np.full(len(part.faces), things)
        if part.instance in (RIGHT, LEFT):
            hand = part.rest[part.faces, 1].mean(axis=1) > 0.0
            label[hand] = 2 * owner + part.instance
        labels.append(label)
    shown = np.concatenate(labels)[rendering.face + 1]
    surface = np.full(shown.shape, np.inf, np.float32)
    out = np.zeros(joints.shape[:2], dtype=bool)
    for pair in range(0, len(joints), 2):
        own = np.where((shown > pair) & (shown <= pair + 2), shown - pair, np.minimum(shown, 1) * OTHER)
        out[pair : pair + 2] = visible_joints(
            pixels[pair : pair + 2], joints[pair : pair + 2], present[pair : pair + 2], surface, own
        )
    return out
