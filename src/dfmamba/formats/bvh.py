"""Biovision hierarchies (BVH): the motion of one hand a file.

Format: the description of BVH by the University of Wisconsin (research.cs.wisc.edu/graphics/Courses/
cs-838-1999/Jeff/BVH.html): a HIERARCHY of offsets, and a MOTION of channels a frame; a joint's rotation is
the product of its channels in their order, in degrees.

Millimetres; x right, y up, z towards the viewer (our frame with y and z turned round). The root is the wrist,
with its place and the palm's orientation; from it spring five joints without length, so that each finger's
base has a direction of its own. Bones have their mean length over the file. At rest the fingers are straight,
in line with the bones of the palm.

Joints say where a bone points, not how it turns around itself: rotations of fingers are the shortest turn
that brings the bone from rest to its direction (swing), and their twist is nobody's measurement.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from dfmamba.formats.reading import Record
from dfmamba.formats.writing import OutputFiles, Summary
from dfmamba.hands.camera import bone_lengths
from dfmamba.hands.skeleton import BONES, FINGERS, JOINT_NAMES
from dfmamba.io.files import open_atomic

FRAME_SECONDS = 1 / 30
"""Where the times of the pictures don't tell."""

MOST_FRAMES = 1_000_000
"""A file of more frames is refused: numbers of pictures that far apart are not those of a film."""

_AXES = np.array([1.0, -1.0, -1.0])
_RELATIVE = "hands relative to their wrist, as no camera was given: its place is 0"
_HELD = "frames in which a hand was not found: it holds its pose"
_LOST = "hands whose pixels and scores are lost"


@dataclass
class _Take:
    """A hand over time."""

    name: str
    joints: list[np.ndarray] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    times: list[float | None] = field(default_factory=list)


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes NAME.bvh for each hand: for each track of a film, for every hand of single pictures."""
    takes: dict[object, _Take] = {}
    for record in records:
        for hand in record.prediction.hands:
            tracked = record.index is not None and hand.track is not None
            film = record.name.rpartition("_")[0]
            name = f"{film}_{hand.side}_{hand.track}" if tracked else f"{record.name}_{hand.side}"
            key = (record.source, hand.track) if tracked else len(takes)
            take = takes.setdefault(key, _Take(name))
            take.joints.append(hand.joints_3d_mm)
            take.indices.append(record.index or 0)
            take.times.append(record.time_s)
            summary.hands += 1
            summary.note(_LOST)
            summary.note(_RELATIVE, int(hand.root != "camera"))
    if not takes:
        raise ValueError("there is no hand in these predictions: nothing to write")
    files = OutputFiles(path, ".bvh")
    for take in takes.values():
        joints, held = _without_gaps(take)
        summary.note(_HELD, held)
        with open_atomic(files.next(take.name)) as file:
            file.writelines(bvh_lines(joints, _frame_seconds(take)))
        summary.files += 1


def bvh_lines(joints_3d_mm: np.ndarray, frame_seconds: float = FRAME_SECONDS) -> Iterable[str]:
    """The lines of a BVH file.

    Args:
        joints_3d_mm: (T, 21, 3) of one hand, x right, y down, z forward.
        frame_seconds: time between frames.
    """
    joints = np.asarray(joints_3d_mm, dtype=np.float64) * _AXES
    lengths = bone_lengths(joints).mean(axis=0)
    palm, rest = _palm(joints)
    yield "HIERARCHY\nROOT wrist\n{\n  OFFSET 0 0 0\n"
    yield "  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation\n"
    for number, (finger, members) in enumerate(FINGERS.items()):
        names = [f"{finger}_base", *(JOINT_NAMES[joint] for joint in members)]
        offsets = [np.zeros(3), *(rest[number] * lengths[joint - 1] for joint in members)]
        yield from _chain(names, offsets)
    yield "}\nMOTION\n"
    yield f"Frames: {len(joints)}\nFrame Time: {frame_seconds:.8f}\n"
    rotations = _rotations(joints, palm, rest)
    angles = np.degrees(_euler_zxy(rotations)).reshape(len(joints), -1)
    for place, row in zip(joints[:, 0], angles, strict=True):
        yield " ".join(f"{value + 0.0:.4f}" for value in (*place, *row)) + "\n"


def _chain(names: list[str], offsets: list[np.ndarray]) -> Iterable[str]:
    for depth, (name, offset) in enumerate(zip(names, offsets, strict=True), 1):
        pad, last = "  " * depth, depth == len(names)
        yield f"{pad}{'End Site' if last else f'JOINT {name}'}\n{pad}{{\n"
        yield f"{pad}  OFFSET " + " ".join(f"{value + 0.0:.6f}" for value in offset) + "\n"
        if not last:
            yield f"{pad}  CHANNELS 3 Zrotation Xrotation Yrotation\n"
    yield "".join("  " * depth + "}\n" for depth in range(len(names), 0, -1))


def _palm(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orientation of the palm (T, 3, 3) and the directions (5, 3) of its bones at rest.

    The palm's own axes are those of its first frame; at rest its bones have their mean direction in them.
    """
    bases = [members[0] for members in FINGERS.values()]
    bones = joints[:, bases] - joints[:, :1]
    middle = bones[0]
    for _ in range(2):  # first against the first frame, then against the mean
        turns = _fit_rotation(middle, bones)
        middle = np.einsum("tji,tfj->tfi", turns, bones).mean(axis=0)
    turns = _fit_rotation(middle, bones)
    return turns, np.stack([_unit(bone) for bone in middle])


def _fit_rotation(rest: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Rotations (T, 3, 3) that bring vectors (N, 3) closest to (T, N, 3), in least squares (Kabsch)."""
    u, _, vt = np.linalg.svd(np.einsum("tni,nj->tij", seen, rest))
    sign = np.ones((len(seen), 3))
    sign[:, 2] = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    return (u * sign[:, None, :]) @ vt


def _rotations(joints: np.ndarray, palm: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Rotations (T, 21, 3, 3) relative to the parent: wrist, then each finger's four, base to tip."""
    turns = [palm]
    for number, members in enumerate(FINGERS.values()):
        total = palm
        for joint in members:
            bone = joints[:, joint] - joints[:, BONES[joint - 1][0]]
            local = np.einsum("tji,tj->ti", total, bone)
            swing = np.stack([_swing(rest[number], _unit(one)) for one in local])
            turns.append(swing)
            total = total @ swing
    return np.stack(turns, axis=1)


def _unit(vector: np.ndarray) -> np.ndarray:
    """The direction of a vector; zeros of one without length."""
    length = float(np.linalg.norm(vector))
    return vector / length if length > 1e-9 else np.zeros(3)


def _swing(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The shortest rotation (3, 3) between two directions (Rodrigues); none where there is no direction."""
    cosine = float(start @ end)
    if not start.any() or not end.any():
        return np.eye(3)
    if cosine < -1 + 1e-9:  # half a turn, around any axis across
        across = np.cross(start, np.eye(3)[int(np.abs(start).argmin())])
        across = _unit(across)
        return 2 * np.outer(across, across) - np.eye(3)
    x, y, z = np.cross(start, end)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)


def _euler_zxy(rotations: np.ndarray) -> np.ndarray:
    """Angles (..., 3) in radians with R = Rz(a) Rx(b) Ry(c)."""
    sine = np.clip(rotations[..., 2, 1], -1.0, 1.0)
    locked = np.abs(sine) > 1 - 1e-12
    a = np.arctan2(-rotations[..., 0, 1], rotations[..., 1, 1])
    c = np.arctan2(-rotations[..., 2, 0], rotations[..., 2, 2])
    # Straight up or down only a + c or a - c is known: c is taken to be 0.
    a = np.where(locked, np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0]), a)
    return np.stack([a, np.arcsin(sine), np.where(locked, 0.0, c)], axis=-1)


def _without_gaps(take: _Take) -> tuple[np.ndarray, int]:
    """Joints (T, 21, 3) of all pictures from the first to the last, and how many of them repeat another."""
    steps = np.diff(take.indices, append=take.indices[-1] + 1) if len(take.indices) > 1 else np.array([1])
    steps = np.maximum(steps, 1)
    if steps.sum() > MOST_FRAMES:
        raise ValueError(f"{take.name}: {steps.sum()} frames from its first picture to its last; too many")
    return np.repeat(np.stack(take.joints), steps, axis=0), int(steps.sum()) - len(steps)


def _frame_seconds(take: _Take) -> float:
    first, last = take.times[0], take.times[-1]
    frames = take.indices[-1] - take.indices[0]
    if first is None or last is None or frames < 1 or not math.isfinite(last - first) or last <= first:
        return FRAME_SECONDS
    return (last - first) / frames
