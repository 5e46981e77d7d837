"""Hands of predictions as a rig in motion: what files of skinned or animated hands are written from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from dfmamba.formats.reading import Record
from dfmamba.formats.writing import Summary
from dfmamba.hands.fit import FittedHands, HandFit, fit_track
from dfmamba.hands.model import FOREARM_BONES, WRIST_BONE, HandModel, mirror_faces, vertex_normals
from dfmamba.hands.skeleton import FINGER_NAMES
from dfmamba.predict.result import Hand, Prediction
from dfmamba.predict.surface import LEAST_SCORE, fit_of

FRAME_SECONDS = 1 / 30
"""Where the times of the pictures don't tell."""

APART_MM = 220.0
"""Distance between hands whose places are not known."""

UPWARD = np.array([1.0, -1.0, -1.0])
"""Our axes times this are those of glTF and BVH: x right, y up, z towards the viewer."""

LEAST_EXTENT_MM = 1e-3
NO_FIT = "hands without extent, which no hand model fits, are left out"

BONES = tuple(range(WRIST_BONE, 22))
"""Bones of the model that a rig has; the forearm's skin goes with the wrist."""
BONE_NAMES = (
    "wrist",
    *("thumb_cmc", "thumb_mcp", "thumb_ip"),
    *(f"{finger}_{part}" for finger in FINGER_NAMES[1:] for part in ("metacarpal", "mcp", "pip", "dip")),
)


@dataclass(frozen=True, eq=False)
class Rig:
    """A hand of one shape in T poses; axes of glTF and BVH, millimetres.

    Attributes:
        parents: (20,) of the bones `BONE_NAMES`; -1 for the wrist.
        heads: (20, 3) at rest, the wrist's at the origin.
        tips: (5, 3) ends of the fingers at rest, thumb first.
        turns: (T, 20, 3, 3) rotations from rest, relative to the parent's; the wrist's to the world.
        places: (T, 3) of the wrist.
        vertices: (V, 3) at rest; those on a seam of the texture are there twice.
        normals: (V, 3).
        uv: (V, 2) texture coordinates, v upwards.
        faces: (F, 3).
        weights: (V, 20) of the bones.
    """

    parents: np.ndarray
    heads: np.ndarray
    tips: np.ndarray
    turns: np.ndarray
    places: np.ndarray
    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    weights: np.ndarray


def rig_of(fits: FittedHands) -> Rig:
    """The rig of one hand that was fitted in T pictures, all with one shape and size."""
    model = HandModel.load()
    sign = np.array([1.0 if fits.sides[0] == "right" else -1.0, 1.0, 1.0])
    axes = sign * UPWARD
    shape = model.shape(fits.shape[0], size=float(fits.size[0]))
    wrist = shape.bones[WRIST_BONE]
    local = model.frames @ model.local_rotations(fits.pose_deg) @ np.swapaxes(model.frames, -1, -2)
    turns = axes[:, None] * local[:, list(BONES)] * axes
    turns[:, 0] = UPWARD[:, None] * fits.rotation * sign * axes  # to the world, which is not mirrored
    index, uv, faces = _corners(fits.sides[0])
    vertices = (shape.vertices - wrist) * axes
    weights = model.weights[:, list(BONES)].astype(np.float64)
    weights[:, 0] += model.weights[:, list(FOREARM_BONES)].sum(axis=1)
    surface, _ = textured_faces(fits.sides[0])
    return Rig(
        parents=np.array([-1, *(model.parents[list(BONES[1:])] - WRIST_BONE)]),
        heads=(shape.bones[list(BONES)] - wrist) * axes,
        tips=(shape.vertices[model.tips].mean(axis=1) - wrist) * axes,
        turns=turns,
        places=fits.place_mm * UPWARD,
        vertices=vertices[index],
        normals=vertex_normals(vertices, surface)[index].astype(np.float64),
        uv=uv,
        faces=faces,
        weights=weights[index],
    )


@lru_cache(maxsize=2)
def textured_faces(side: str) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (F, 3) of a hand without its forearm, and the rows of the model's `uv` for their corners."""
    model = HandModel.load()
    faces = model.faces_of("right", forearm=False)
    rows = {tuple(face): row for row, face in enumerate(model.faces.tolist())}
    known = np.array([rows.get(tuple(face), -1) for face in faces.tolist()])
    some = np.zeros(len(model.mean_vertices), dtype=np.int64)
    some[model.faces.ravel()] = model.uv_faces.ravel()
    uv_faces = np.where(known[:, None] >= 0, model.uv_faces[known], some[faces])
    return (faces, uv_faces) if side == "right" else (mirror_faces(faces), mirror_faces(uv_faces))


@lru_cache(maxsize=2)
def _corners(side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertex numbers (V,), texture coordinates (V, 2) and triangles (F, 3) with a vertex of its own for each
    pair of vertex and texture coordinate."""
    faces, uv_faces = textured_faces(side)
    pairs, where = np.unique(np.stack([faces.ravel(), uv_faces.ravel()], axis=1), axis=0, return_inverse=True)
    return pairs[:, 0], HandModel.load().uv[pairs[:, 1]], where.reshape(-1, 3)


@dataclass
class Take:
    """A hand over time, or of a single picture.

    Attributes:
        source: name of the film or the picture.
        tracked: whether it is a track of a film.
        hands: as predicted, one a picture.
        indices: of the pictures in their film.
        times: seconds; None where unknown.
    """

    source: str
    tracked: bool
    hands: list[Hand] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    times: list[float | None] = field(default_factory=list)

    @property
    def side(self) -> str:
        """That of most of the hands, by their scores: a track is one hand, whatever single pictures say."""
        right = sum(hand.score * (1 if hand.side == "right" else -1) for hand in self.hands)
        return "right" if right >= 0 else "left"

    @property
    def name(self) -> str:
        """For files: the film's or the picture's, the side, and the track."""
        return f"{self.source}_{self.side}" + (f"_{self.hands[0].track}" if self.tracked else "")

    def seconds(self) -> np.ndarray:
        """(T,) times of the pictures, by their numbers where they are not known or do not rise."""
        known = [time for time in self.times if time is not None]
        if len(known) == len(self.times) and (np.diff(known) > 0).all() and np.isfinite(known).all():
            return np.array(known, dtype=np.float64)
        indices = np.array(self.indices)
        if (np.diff(indices) <= 0).any():
            indices = np.arange(len(indices))
        return indices * FRAME_SECONDS

    def fit(self) -> FittedHands:
        """The hand in all pictures, of one shape and with smooth poses (`fit_track`).

        Raises:
            ValueError: no hand has such joints.
        """
        return fit_track(
            np.stack([hand.joints_3d_mm for hand in self.hands]),
            self.side,
            np.maximum([hand.joint_scores for hand in self.hands], LEAST_SCORE),
            self.seconds(),
        )


def takes_of(records: Iterable[Record], summary: Summary) -> list[Take]:
    """Hands over time: a take for each track of a film, and for each hand of single pictures.

    Hands without extent are counted and left out.
    """
    takes: dict[object, Take] = {}
    for record in records:
        for hand in record.prediction.hands:
            if np.ptp(hand.joints_3d_mm, axis=0).max() < LEAST_EXTENT_MM:
                summary.note(NO_FIT)
                continue
            tracked = record.index is not None and hand.track is not None
            key = (record.source, hand.track) if tracked else len(takes)
            film = record.name.rpartition("_")[0]
            take = takes.setdefault(key, Take(film if tracked else record.name, tracked))
            take.hands.append(hand)
            take.indices.append(record.index or 0)
            take.times.append(record.time_s)
    return list(takes.values())


def batch_of_one(side: str, fit: HandFit) -> FittedHands:
    """A single fit as `rig_of` takes it."""
    posed = fit.posed(side)
    return FittedHands(
        sides=(side,),
        pose_deg=fit.pose_deg[None],
        shape=fit.shape[None],
        size=np.array([fit.size]),
        rotation=fit.rotation[None],
        place_mm=fit.place_mm[None],
        joints=posed.joints,
        residual_mm=np.array([fit.residual_mm]),
        converged=np.array([True]),
        iterations=np.array([0]),
    )


def fitted(prediction: Prediction, summary: Summary) -> Prediction:
    """The prediction with its hands that have a fit, or get one; others are counted and left out."""
    hands = [(hand, hand.fit if hand.fit is not None else fit_of(hand)) for hand in prediction.hands]
    kept = tuple(dataclasses.replace(hand, fit=fit) for hand, fit in hands if fit is not None)
    summary.note(NO_FIT, len(hands) - len(kept))
    return dataclasses.replace(prediction, hands=kept)


def side_by_side_mm(prediction: Prediction) -> np.ndarray:
    """Where to show hands: (N, 3) mm to add to their joints.

    Zeros for hands in the camera frame. Hands that are relative to their wrist stand in a row, those further
    left in the picture first.
    """
    places = np.zeros((len(prediction.hands), 3))
    loose = [i for i, hand in enumerate(prediction.hands) if hand.root != "camera"]
    loose.sort(key=lambda i: float(prediction.hands[i].box_xyxy[[0, 2]].sum()), reverse=prediction.mirrored)
    for place, i in enumerate(loose):
        places[i, 0] = APART_MM * (place - (len(loose) - 1) / 2)
    return places
