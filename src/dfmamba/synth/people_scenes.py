"""Scenes with whole people, for finding hands: pictures, masks and the hands in them.

A scene is a pure function of (seed, index, size): one to three people with faces, hair, clothes and arms in
everyday postures, seen from head and shoulders to head to foot, from close to one hand, or by the wearer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dfmamba.hands.camera import Camera
from dfmamba.synth import post, raster
from dfmamba.synth.appearance import Palette, sample_lights
from dfmamba.synth.labels import visible_joints
from dfmamba.synth.mesh import LEFT, OTHER, RIGHT, SKIN, Part
from dfmamba.synth.people_arms import Person, draw_person
from dfmamba.synth.people_looks import dress
from dfmamba.synth.people_postures import POSTURES
from dfmamba.synth.people_views import SHOTS, aim
from dfmamba.synth.staging import Actor

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
