"""The hand model: shape space, 25 angles, forward kinematics, linear blend skinning and the 21 key points.

`HandModel` is what the renderer poses its hands with and what `dfmamba.hands.fit` fits to joints;
`dfmamba.hands.torch_model.TorchHandModel` is the same, differentiable. The mesh comes from CC0 assets
(`assets/ASSETS.md`); no other body model is needed, and the licence is the package's.

Canonical frame of the asset (a right hand, wrist bone at the origin, millimetres): x dorsal (+) / palmar
(-), y distal (+), z radial, the thumb's side (+). A left hand is the mirror image, made at the very end
(`mirror_faces`, negated x).

In each bone's own frame (columns of `HandModel.frames`) Y runs along the bone, X across it to the radial
side and Z to the palm, so +X rotation is flexion and -Z rotation leads a finger towards the thumb.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

Convention = Literal["anatomic", "photo", "rig"]

ASSETS = Path(__file__).parent / "assets"

NUM_ANGLES = 25
NUM_HAND_ANGLES = 22
"""The first 22 angles move the hand; the last three move the forearm only."""
THUMB = slice(0, 5)
"""Thumb angles: CMC flexion, CMC palmar abduction, CMC twist (opposition), MCP flexion, IP flexion."""
FINGERS = slice(5, 21)
"""Index, middle, ring, little, each: MCP flexion, MCP abduction (+ radial), PIP flexion, DIP flexion."""
CUP = 21
"""Cupping of the palm, 0..1 (scales the flexion of the ring and little metacarpals)."""
WRIST = slice(22, 25)
"""Wrist flexion (+ palmar), deviation (+ radial), twist; these move the forearm, not the hand."""

DEGREES_OF_FREEDOM = (
    *("thumb_cmc_flexion", "thumb_cmc_abduction", "thumb_cmc_twist", "thumb_mcp_flexion", "thumb_ip_flexion"),
    *(
        f"{finger}_{name}"
        for finger in ("index", "middle", "ring", "little")
        for name in ("mcp_flexion", "mcp_abduction", "pip_flexion", "dip_flexion")
    ),
    *("palm_cupping", "wrist_flexion", "wrist_deviation", "forearm_twist"),
)
"""Names of the 25 angles. All are degrees but `palm_cupping`, a share from 0 to 1."""

_FINGER_LOW = ((-25, -15, -5, -8), (-25, -10, -5, -8), (-25, -12, -5, -8), (-25, -20, -5, -8))
_FINGER_HIGH = ((90, 15, 110, 80), (90, 10, 110, 80), (90, 12, 110, 80), (90, 15, 110, 80))
LOW = np.array(
    [-20, -15, -20, -10, -20, *(v for finger in _FINGER_LOW for v in finger), 0, -70, -35, -70], float
)
"""(25,) lower limits, from textbook anatomy (active range)."""
HIGH = np.array([45, 45, 40, 60, 80, *(v for finger in _FINGER_HIGH for v in finger), 1, 80, 20, 70], float)
"""(25,) upper limits."""
CONVERGENCE_DEG = np.array([-4.0, 0.0, 4.0, 9.0])
"""Abduction that full flexion adds: bent fingers point at the scaphoid."""

CUT_MM = -10.0
"""Where a hand without its forearm ends, along the canonical y of the mean hand."""

FOREARM_BONES = (0, 1)
WRIST_BONE = 2
THUMB_BONES = (3, 4, 5)
METACARPALS = (6, 10, 14, 18)
FINGER_BONES = ((7, 8, 9), (11, 12, 13), (15, 16, 17), (19, 20, 21))
CHAINS = (THUMB_BONES, *FINGER_BONES)

CUPPING_DEG = (0.0, 0.0, 8.0, 15.0)
_LEVELS = ((3, 6, 10, 14, 18), (4, 7, 11, 15, 19), (5, 8, 12, 16, 20), (9, 13, 17, 21))
REFERENCE_PALM_MM = 110.0
"""Wrist to middle MCP of the hand that the key point offsets below were measured on."""

_SECTION_DEPTH_MM = ((1.0, 3.0, 4.5), (5.5, 5.0, 4.0), (5.5, 5.0, 4.0), (5.5, 5.0, 4.0), (5.0, 4.0, 2.5))
"""From the bone head towards the palm to the middle of the finger, per finger (thumb first) and joint."""

_PHOTO_OFFSET_MM = (
    (-2.5, 15.0, -3.0),
    *((12.0, 13.0, 2.0), (-1.0, 8.0, -2.5), (-1.5, -1.5, 0.0), (-1.5, -8.0, 1.0)),
    *((0.0, -6.5, 3.5), (0.5, 1.5, 0.5), (1.0, 0.0, -0.5), (0.5, -7.0, 2.5)),
    *((2.0, -3.0, 5.5), (2.5, 0.5, 0.5), (1.5, -2.0, 1.0), (0.5, -7.5, 2.5)),
    *((1.0, -2.5, 5.5), (1.5, 1.0, 0.5), (1.0, 0.5, 1.0), (1.5, -8.0, 3.0)),
    *((0.5, -3.5, 4.0), (0.0, 0.0, 0.5), (-0.5, 0.5, 1.0), (0.0, -6.0, 0.5)),
)
"""From the anatomic key point to where photo data sets put it: radial, distal, palmar in the bone's frame."""


_PROXIMAL_MM = {1: 5.0, 5: 6.0, 9: 6.0, 13: 6.0, 17: 4.0}
"""How far the base joint of each finger (key point -> mm) lies towards the wrist of where the rig and the
photo offsets put it, along the bone above. It gives the proximal phalanges the anatomical length relative to
the middle ones (1.6 to 1.8; mean phalanges of Buryanov and Kotiuk 2010); the rig alone has 1.4 to 1.6."""


def clamp(angles: np.ndarray) -> np.ndarray:
    """Angles (..., 22 or 25) within the limits; bent fingers spread less, and the DIP follows the PIP."""
    count = angles.shape[-1]
    out = np.clip(angles, LOW[:count], HIGH[:count])
    fingers = out[..., FINGERS].reshape(*out.shape[:-1], 4, 4)
    bent = np.clip(fingers[..., 0] / 90.0, 0.0, 1.0)
    room = np.clip(1.0 - bent, 0.15, 1.0)
    shift = CONVERGENCE_DEG * bent
    low, high = (limit[FINGERS].reshape(4, 4)[:, 1] for limit in (LOW, HIGH))
    fingers[..., 1] = np.clip(fingers[..., 1], low * room + shift, high * room + shift)
    fingers[..., 3] = np.minimum(fingers[..., 3], 0.85 * np.maximum(fingers[..., 2], 0.0) + 12.0)
    out[..., FINGERS] = fingers.reshape(*out.shape[:-1], 16)
    return out


def rotation_about(axis: int, radians: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) about coordinate axis 0, 1 or 2 by `radians` (...)."""
    radians = np.asarray(radians, dtype=np.float64)
    c, s = np.cos(radians), np.sin(radians)
    out = np.zeros((*radians.shape, 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[..., axis, axis] = 1.0
    out[..., i, i] = c
    out[..., j, j] = c
    out[..., i, j] = -s
    out[..., j, i] = s
    return out


def mirror_faces(faces: np.ndarray) -> np.ndarray:
    """The faces (F, 3) of the mirrored mesh: the winding is reversed so that outside stays outside."""
    return np.ascontiguousarray(faces[:, ::-1])


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3) float32, weighted by area."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    index = faces.T.ravel()
    total = np.stack([np.bincount(index, np.tile(face[:, k], 3), len(vertices)) for k in range(3)], axis=1)
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class HandShape:
    """One person's hand at rest, millimetres, canonical frame.

    Attributes:
        vertices: (V, 3) float32.
        bones: (22, 3) float64 bone heads.
        scale: size relative to the hand the key point offsets were measured on.
    """

    vertices: np.ndarray
    bones: np.ndarray
    scale: float


@dataclass(frozen=True)
class PosedHand:
    """A posed right hand: vertices (V, 3), joints (21, 3), bone transforms x -> rotations @ x + shifts."""

    vertices: np.ndarray
    joints: np.ndarray
    rotations: np.ndarray
    shifts: np.ndarray


def side_signs(side: str | Sequence[str], count: int) -> np.ndarray:
    """(count,) 1 for right hands and -1 for left ones.

    Raises:
        ValueError: a side is not "right" or "left", or there are not as many.
    """
    sides = [side] * count if isinstance(side, str) else list(side)
    if len(sides) != count or any(one not in ("right", "left") for one in sides):
        raise ValueError(f"side: expected 'right' or 'left' for all or each of {count} hands, got {side!r}")
    return np.array([1.0 if one == "right" else -1.0 for one in sides])


def finite(name: str, values: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """Values as float64 of this shape (None: any length).

    Raises:
        ValueError: they have another shape, or are not all finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array.shape) != len(shape) or any(
        want not in (None, have) for have, want in zip(array.shape, shape, strict=True)
    ):
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name}: got shape {array.shape}, expected ({expected})")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: values must be finite")
    return array


def _cap(faces: np.ndarray) -> np.ndarray:
    """Triangles that close the one hole of a mesh, a fan over its rim."""
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    inside = {tuple(edge) for edge in edges.tolist()}
    follows = {start: end for end, start in inside if (start, end) not in inside}
    rim = [next(iter(follows))]
    while follows[rim[-1]] != rim[0]:
        rim.append(follows[rim[-1]])
    return np.array([(rim[0], a, b) for a, b in itertools.pairwise(rim[1:])], dtype=faces.dtype)


def read_asset(path: str, kind: str) -> dict[str, np.ndarray]:
    """The arrays of a baked mesh, "hand" or "body".

    Raises:
        OSError: there is none; the message says how to get it.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise OSError(
            f"{kind} asset {path} not found; reinstall dfmamba, or bake it with tools/bake_{kind}.py"
        ) from error


@dataclass(frozen=True)
class PosedHands:
    """What a call of `HandModel` gives, B hands of V vertices, all in millimetres.

    Attributes:
        vertices: (B, V, 3) float32.
        joints: (B, 21, 3) float64, OpenPose order, where photo data sets put the labels.
        anatomic_joints: (B, 21, 3) the same in the middle of the fingers, with the fingers' ends.
    """

    vertices: np.ndarray
    joints: np.ndarray
    anatomic_joints: np.ndarray


class HandModel:
    """The hand and forearm mesh with its shape basis and rig, read from `assets/hand.npz`.

    A call poses hands of either side:

        hands = HandModel.load()(pose_deg, shape, "left")

    Attributes:
        mean_vertices: (V, 3) float32 mm, the mean hand at rest.
        weights: (V, 22) float32 share of each bone in each vertex's motion.
        bone_names, parents: of the 22 bones.
        uv: (U, 2) float32 texture coordinates, v upwards, as in MakeHuman's (CC0) skin textures.
        uv_faces: (F, 3) int32, rows of `uv` for the corners of `faces`.
        faces: (F, 3) int32, counter-clockwise seen from outside, of the right hand.
        attributes: (V, 4) float32: palm, nail, redness, 0 (the pattern weight of cloth).
        forearm: (V,) float32 share of the forearm bones in each vertex's skin weights.
        coefficients: (N, K) float32 shapes sampled from the source model; rows are drawn as they are, which
            keeps the correlations that independent normal draws would lose.
        frames: (22, 3, 3) rest orientation of the bones.
        section_offset: (21, 3) mm, from a bone's head to the middle of the finger there, canonical rest
            frame, scale 1.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.mean_vertices = arrays["vertices"].astype(np.float32)
        self.mean_bones = arrays["bones"].astype(np.float64)
        self.vertex_basis = arrays["vertex_basis"].astype(np.float32).reshape(len(arrays["vertex_basis"]), -1)
        self.bone_basis = arrays["bone_basis"].astype(np.float64)
        self.coefficients = arrays["coefficients"].astype(np.float32)
        self.frames = arrays["frames"].astype(np.float64)
        self.parents = arrays["parents"].astype(np.int64)
        self.bone_names = tuple(str(name) for name in arrays["bone_names"])
        self.faces = arrays["faces"].astype(np.int32)
        self.uv = arrays["uv"].astype(np.float32) / np.float32(65535.0)
        self.uv_faces = arrays["uv_faces"].astype(np.int32)
        self.tips = arrays["tips"].astype(np.int64)
        weights = arrays["weights"].astype(np.float32)
        self.weights = np.ascontiguousarray(weights / weights.sum(axis=1, keepdims=True))
        self.forearm = self.weights[:, list(FOREARM_BONES)].sum(axis=1)
        painted = arrays["attributes"].astype(np.float32) / 255.0
        self.attributes = np.concatenate([painted, np.zeros((len(painted), 1), np.float32)], axis=1)
        self._frames_t = np.swapaxes(self.frames, -1, -2)
        self.rest_flexion_deg = self._measure_rest_flexion()
        self._prepare_key_points()

    @staticmethod
    @lru_cache(maxsize=4)
    def _load(path: str) -> HandModel:
        return HandModel(read_asset(path, "hand"))

    @classmethod
    def load(cls, path: str | Path | None = None) -> HandModel:
        """The model of `path` (default: the packaged asset), read once; OSError if it is missing."""
        return cls._load(str(path or ASSETS / "hand.npz"))

    def _measure_rest_flexion(self) -> np.ndarray:
        """(22,) flexion in degrees that the rest mesh has at each finger joint (0 for other bones)."""
        rest = np.zeros(len(self.parents))
        for finger, chain in enumerate(CHAINS):
            for level, bone in enumerate(chain):
                if finger == 0 and level == 0:
                    continue
                along_parent = self._frames_t[bone] @ self.frames[self.parents[bone]][:, 1]
                angle = np.degrees(np.arctan2(-along_parent[2], along_parent[1]))
                # The rig's metacarpals are tilted against the palm, so only part of the angle is flexion.
                rest[bone] = angle * (0.65 if finger and level == 0 else 1.0)
        return rest

    def _prepare_key_points(self) -> None:
        self.point_bone = np.full(21, WRIST_BONE)
        self.point_above = np.full(21, WRIST_BONE)
        depth = np.zeros((21, 3))
        for finger, chain in enumerate(CHAINS):
            for level, bone in enumerate(chain):
                point = 1 + 4 * finger + level
                self.point_bone[point] = bone
                self.point_above[point] = self.parents[bone]
                depth[point] = _SECTION_DEPTH_MM[finger][level] * self.frames[bone][:, 2]
            self.point_bone[4 + 4 * finger] = self.point_above[4 + 4 * finger] = chain[2]
        self.section_offset = depth
        self.photo_offset = np.einsum("pij,pj->pi", self.frames[self.point_bone], np.array(_PHOTO_OFFSET_MM))
        self.base_offset = np.zeros((21, 3))
        for point, shift in _PROXIMAL_MM.items():
            self.base_offset[point] = -shift * self.frames[self.point_above[point]][:, 1]

    @property
    def num_shapes(self) -> int:
        """Length K of the shape basis."""
        return len(self.vertex_basis)

    def __call__(
        self,
        pose_deg: np.ndarray,
        shape: np.ndarray | None = None,
        side: str | Sequence[str] = "right",
        *,
        size: np.ndarray | float = 1.0,
        rotation: np.ndarray | None = None,
        place_mm: np.ndarray | None = None,
    ) -> PosedHands:
        """Hands of these angles.

        Args:
            pose_deg: (B, 25) angles, see `DEGREES_OF_FREEDOM`; within `LOW` and `HIGH` for a possible hand.
            shape: (B, n) or (n,) weights of the first n components of shape, n <= K, in standard deviations
                (default: the mean hand).
            side: "right" or "left", of all or of each.
            size: of all or of each, relative to what `shape` says.
            rotation: (B, 3, 3) or (3, 3) from the canonical frame to the hands' (default: none).
            place_mm: (B, 3) or (3,) where the wrist bone is (default: the origin).

        Raises:
            ValueError: shapes of arrays disagree, a value is not finite or a side is unknown.
        """
        pose_deg = finite("pose_deg", pose_deg, (None, NUM_ANGLES))
        count = len(pose_deg)
        shape = np.zeros(0) if shape is None else np.asarray(shape, dtype=np.float64)
        shapes = finite("shape", np.broadcast_to(shape, (count, shape.shape[-1])), (count, None))
        sizes = finite("size", np.broadcast_to(size, (count,)), (count,))
        rotation = np.eye(3) if rotation is None else rotation
        turns = finite("rotation", np.broadcast_to(rotation, (count, 3, 3)), (count, 3, 3))
        places = np.zeros(3) if place_mm is None else place_mm
        places = finite("place_mm", np.broadcast_to(places, (count, 3)), (count, 3))
        mirrors = side_signs(side, count)[:, None] * np.array([1.0, 0.0, 0.0]) + np.array([0.0, 1.0, 1.0])
        vertices = np.empty((count, len(self.mean_vertices), 3), np.float32)
        joints, anatomic = np.empty((2, count, 21, 3))
        for i, mirror in enumerate(mirrors):
            hand = self.shape(shapes[i], size=float(sizes[i]))
            # A left hand is the mirror image of a right one that stands mirrored.
            turn, move = self.transforms(
                hand.bones, pose_deg[i], mirror[:, None] * turns[i] * mirror, mirror * places[i]
            )
            vertices[i] = self.skin(hand, turn, move) * mirror.astype(np.float32)
            joints[i] = self.key_points(hand, turn, move) * mirror
            anatomic[i] = self.key_points(hand, turn, move, "anatomic") * mirror
        return PosedHands(vertices, joints, anatomic)

    def faces_of(self, side: str, forearm: bool = True) -> np.ndarray:
        """Triangles (F, 3) of a side's mesh, counter-clockwise seen from outside.

        Args:
            side: "right" or "left".
            forearm: False cuts the forearm off behind the wrist, where the mesh is then closed.
        """
        faces = self.faces
        if not forearm:
            faces = faces[(self.mean_vertices[faces][..., 1] > CUT_MM).all(axis=1)]
            faces = np.concatenate([faces, _cap(faces)])
        return faces if side_signs(side, 1)[0] > 0 else mirror_faces(faces)

    def shape(
        self, coefficients: np.ndarray | None = None, length_mm: float | None = None, size: float = 1.0
    ) -> HandShape:
        """A hand at rest.

        Args:
            coefficients: (n,) weights of the first n components, in standard deviations (default: the mean
                hand).
            length_mm: wrist to tip of the middle finger; the whole hand is scaled to it (default: as it
                comes).
            size: scales the hand where there is no `length_mm`.

        Raises:
            ValueError: there are more coefficients than components.
        """
        count = self.num_shapes
        vertices, bones = self.mean_vertices, self.mean_bones
        if coefficients is not None:
            given = np.asarray(coefficients, dtype=np.float32)
            if given.ndim != 1 or len(given) > count:
                raise ValueError(f"shape coefficients: got shape {given.shape}, expected at most ({count},)")
            coefficients = np.zeros(count, np.float32)
            coefficients[: len(given)] = given
            vertices = vertices + (coefficients @ self.vertex_basis).reshape(-1, 3)
            bones = bones + np.tensordot(coefficients.astype(np.float64), self.bone_basis, 1)
        if length_mm is not None:
            factor = length_mm / float(
                np.linalg.norm(vertices[self.tips[2]].mean(axis=0) - bones[WRIST_BONE])
            )
            vertices, bones = vertices * np.float32(factor), bones * factor
        elif size != 1.0:
            vertices, bones = vertices * np.float32(size), bones * size
        palm = float(np.linalg.norm(bones[FINGER_BONES[1][0]] - bones[WRIST_BONE]))
        return HandShape(vertices, bones, palm / REFERENCE_PALM_MM)

    def local_rotations(self, angles: np.ndarray) -> np.ndarray:
        """Rotations (..., 22, 3, 3) from the rest pose, in each bone's own frame, of angles (..., 25)."""
        angles = np.asarray(angles, dtype=np.float64)
        if angles.shape[-1] != NUM_ANGLES:
            raise ValueError(f"angles: got shape {angles.shape}, expected (..., {NUM_ANGLES})")
        flexion = np.zeros((*angles.shape[:-1], len(self.parents)))
        sideways = np.zeros_like(flexion)
        fingers = angles[..., FINGERS]
        for finger, chain in enumerate(FINGER_BONES):
            flexion[..., chain[0]] = fingers[..., 4 * finger]
            sideways[..., chain[0]] = -fingers[..., 4 * finger + 1]
            flexion[..., chain[1]] = fingers[..., 4 * finger + 2]
            flexion[..., chain[2]] = fingers[..., 4 * finger + 3]
            flexion[..., METACARPALS[finger]] = CUPPING_DEG[finger] * angles[..., CUP]
        flexion[..., THUMB_BONES] = angles[..., [0, 3, 4]]
        flexion -= self.rest_flexion_deg
        out = rotation_about(2, np.radians(sideways)) @ rotation_about(0, np.radians(flexion))
        opposition = np.radians(angles[..., 1:3])
        out[..., THUMB_BONES[0], :, :] @= rotation_about(2, -opposition[..., 0]) @ rotation_about(
            1, opposition[..., 1]
        )
        twist = np.radians(angles[..., 24])
        # Pronation turns the far end of the forearm; the end at the wrist goes with the hand.
        out[..., 0, :, :] = rotation_about(1, twist)
        out[..., 1, :, :] = rotation_about(1, 0.35 * twist)
        return out

    def transforms(
        self,
        bones: np.ndarray,
        angles: np.ndarray,
        rotation: np.ndarray | None = None,
        shift: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bone transforms of posed hands: rest position x goes to rotations @ x + shifts.

        Args:
            bones: (22, 3) bone heads at rest.
            angles: (..., 25) degrees.
            rotation: (3, 3) or (..., 3, 3) orientation of the hand (identity).
            shift: (3,) or (..., 3) place of the wrist bone (origin).

        Returns:
            rotations (..., 22, 3, 3) and shifts (..., 22, 3), float64.
        """
        delta = self.frames @ self.local_rotations(angles) @ self._frames_t
        batch = delta.shape[:-3]
        turn = np.empty_like(delta)
        move = np.empty((*batch, len(self.parents), 3))
        root = np.eye(3) if rotation is None else rotation
        turn[..., WRIST_BONE, :, :] = root
        move[..., WRIST_BONE, :] = (0.0 if shift is None else shift) - root @ bones[WRIST_BONE]
        for level in _LEVELS:
            children = list(level)
            above = self.parents[children]
            heads = bones[children]
            turn_above = turn[..., above, :, :]
            turn[..., children, :, :] = here = turn_above @ delta[..., children, :, :]
            move[..., children, :] = move[..., above, :] + ((turn_above - here) @ heads[..., None])[..., 0]
        wrist = np.radians(np.asarray(angles, dtype=np.float64)[..., WRIST])
        tilt = root @ rotation_about(2, -wrist[..., 0]) @ rotation_about(0, -wrist[..., 1])
        place = move[..., WRIST_BONE, :] + root @ bones[WRIST_BONE]
        for bone in FOREARM_BONES:
            turn[..., bone, :, :] = here = tilt @ delta[..., bone, :, :]
            move[..., bone, :] = place - here @ bones[WRIST_BONE]
        return turn, move

    def key_points(
        self, shape: HandShape, rotations: np.ndarray, shifts: np.ndarray, convention: Convention = "photo"
    ) -> np.ndarray:
        """The 21 key points (..., 21, 3), OpenPose order, of posed bones.

        `convention`: "photo" is where photo data sets put the labels (default), "anatomic" the middle of the
        finger's section and the finger end, "rig" the bone heads of the source model (with the same finger
        ends).
        """
        if convention not in ("photo", "anatomic", "rig"):
            raise ValueError(f"key point convention {convention!r}: expected 'photo', 'anatomic' or 'rig'")
        rest = shape.bones[self.point_bone]
        rest[4::4] = shape.vertices[self.tips].mean(axis=1)
        own, place = rotations[..., self.point_bone, :, :], shifts[..., self.point_bone, :]
        if convention == "rig":
            return (own @ rest[..., None])[..., 0] + place
        # Like the skin around it, a key point follows the bones on both sides of its joint in equal shares.
        rest += shape.scale * self.section_offset
        both = own + rotations[..., self.point_above, :, :]
        points = 0.5 * ((both @ rest[..., None])[..., 0] + place + shifts[..., self.point_above, :])
        if convention == "photo":
            above = rotations[..., self.point_above, :, :]
            points = points + (own @ (shape.scale * self.photo_offset)[..., None])[..., 0]
            points = points + (above @ (shape.scale * self.base_offset)[..., None])[..., 0]
        return points

    def joints(
        self,
        shape: HandShape,
        angles: np.ndarray,
        rotation: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        convention: Convention = "photo",
    ) -> np.ndarray:
        """Key points (..., 21, 3) of angles (..., 25) without skinning; arguments as in `transforms`."""
        return self.key_points(shape, *self.transforms(shape.bones, angles, rotation, shift), convention)

    def pose(
        self,
        shape: HandShape,
        angles: np.ndarray,
        rotation: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        convention: Convention = "photo",
    ) -> PosedHand:
        """One right hand with skinned vertices, from angles (25,); other arguments as in `transforms`."""
        turn, move = self.transforms(shape.bones, angles, rotation, shift)
        vertices = self.skin(shape, turn, move)
        return PosedHand(vertices, self.key_points(shape, turn, move, convention), turn, move)

    def skin(self, shape: HandShape, rotations: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """Vertices (V, 3) float32 by linear blend skinning with bone transforms (22, 3, 3) and (22, 3)."""
        table = np.concatenate([rotations.reshape(-1, 9), shifts], axis=1).astype(np.float32)
        blended = self.weights @ table
        turned = np.matmul(blended[:, :9].reshape(-1, 3, 3), shape.vertices[..., None])[..., 0]
        return turned + blended[:, 9:]
