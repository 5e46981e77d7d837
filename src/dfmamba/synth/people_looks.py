"""What people wear and look like: skin, eyes, hair and clothes as meshes cut from the body, with palettes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dfmamba.synth.appearance import (
    BLOTCHES,
    PLAIN,
    Palette,
    cloth_palette,
    object_palette,
    skin_palette,
    to_linear,
)
from dfmamba.synth.body import BROWS, FLUSH, LIPS, SCALP, BodyModel
from dfmamba.synth.mesh import CLOTH, OTHER, SKIN, Part
from dfmamba.synth.objects import body_part, sphere_mesh, vertex_normals
from dfmamba.synth.people_arms import Person

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
