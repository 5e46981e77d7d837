"""Hands as glTF 2.0 binary: a skinned mesh on its skeleton for each hand, a film's motion as one clip.

Format: Khronos glTF 2.0 (registry.khronos.org/glTF), the GLB container of its chapter 4. Metres, x right, y
up, z towards the viewer: our camera frame with y and z turned round. A file is one picture or one film.

The hand is that of `dfmamba.hands.model`, fitted to the joints; bones are named as in `rig.BONE_NAMES`.
Texture coordinates are those of MakeHuman's (CC0) skins.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import dfmamba
from dfmamba.formats.reading import Record
from dfmamba.formats.rig import (
    BONE_NAMES,
    FRAME_SECONDS,
    UPWARD,
    Rig,
    Take,
    batch_of_one,
    fitted,
    rig_of,
    side_by_side_mm,
    takes_of,
)
from dfmamba.formats.writing import OutputFiles, Summary, rounded
from dfmamba.io.files import write_atomic
from dfmamba.predict.result import Prediction

_FLOAT, _USHORT, _UBYTE = 5126, 5123, 5121
_VERTICES, _INDICES = 34962, 34963
_INFLUENCES = 4
_SKIN = [0.82, 0.58, 0.45, 1.0]
_RELATIVE = "hands relative to their wrist, as no camera was given: they stand side by side"
_LOST = "hands whose pixels and joint scores are lost"


def to_glb(prediction: Prediction) -> bytes:
    """The hands of a picture as the bytes of a .glb file.

    A mesh node's `extras` hold side, score, track, root, angles, residual and the predicted joints (21 x 3
    metres, axes of the file). Where no camera was given each hand is relative to its wrist: then hands are
    moved apart, which says nothing about where they were. Hands without a fit are fitted; those without
    extent are left out.
    """
    prediction = fitted(prediction, Summary())
    file = _File({"image": prediction.image, "model": prediction.model})
    for hand, place in zip(prediction.hands, side_by_side_mm(prediction), strict=True):
        assert hand.fit is not None
        joints_m = hand.joints_3d_mm * UPWARD / 1000.0
        extras = {
            "side": hand.side,
            "score": round(hand.score, 4),
            "track": hand.track,
            "root": hand.root,
            "pose_deg": rounded(hand.fit.pose_deg, 2),
            "residual_mm": round(hand.fit.residual_mm, 2),
            "joints_m": rounded(joints_m, 6),
        }
        file.add_hand(
            _name(hand.side, hand.track), rig_of(batch_of_one(hand.side, hand.fit)), place * UPWARD, extras
        )
    return file.bytes()


def film_to_glb(takes: Sequence[Take], name: str) -> bytes:
    """The hands of a film as the bytes of a .glb file, with one animation.

    A hand has size 0 before its first picture and after its last, and moves on evenly in between.

    Args:
        takes: of the film's tracks.
        name: of the animation.

    Raises:
        ValueError: no hand has such joints.
    """
    file = _File({"film": name})
    times = [take.seconds() for take in takes]
    first, last = min(time[0] for time in times), max(time[-1] for time in times)
    for take, time in zip(takes, times, strict=True):
        fits, hand = take.fit(), take.hands[0]
        extras = {
            "side": take.side,
            "track": hand.track,
            "root": hand.root,
            "pictures": len(take.hands),
            "residual_mm": round(float(fits.residual_mm.mean()), 2),
        }
        rig = rig_of(fits)
        wrist = file.add_hand(_name(take.side, hand.track), rig, np.zeros(3), extras)
        file.animate(name, wrist, rig, time - first, last - first)
    return file.bytes()


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes NAME.glb for each picture and each film."""
    files = OutputFiles(path, ".glb")
    grouped = itertools.groupby(records, key=lambda record: None if record.index is None else record.source)
    for source, group in grouped:
        if source is not None:
            film = list(group)
            summary.hands += sum(len(record.prediction.hands) for record in film)
            name = film[0].name.rpartition("_")[0]
            takes = takes_of(film, summary)
            content = film_to_glb(takes, name) if takes else _File({"film": name}).bytes()
            write_atomic(files.next(name), content)
            summary.files += 1
            continue
        for record in group:
            prediction = fitted(record.prediction, summary)
            hands = prediction.hands
            write_atomic(files.next(record.name), to_glb(prediction))
            summary.files += 1
            summary.hands += len(hands)
            summary.note(_RELATIVE, sum(hand.root != "camera" for hand in hands))
            summary.note(_LOST, len(hands))


def _name(side: str, track: int | None) -> str:
    return f"{side} hand" + ("" if track is None else f" {track}")


class _File:
    """A glTF document and its buffer, to which hands are added."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.data = bytearray()
        self.document: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": f"dfmamba {dfmamba.__version__}"},
            "scene": 0,
            "scenes": [{"extras": about}],
        }

    def add_hand(self, name: str, rig: Rig, place_mm: np.ndarray, extras: dict[str, Any]) -> int:
        """Adds a hand in its first pose, moved by `place_mm`; the number of its wrist's node."""
        lists = self.document
        for key in ("nodes", "meshes", "skins", "accessors", "bufferViews"):
            lists.setdefault(key, [])
        if "materials" not in lists:
            surface = {"baseColorFactor": _SKIN, "metallicFactor": 0.0, "roughnessFactor": 0.6}
            lists["materials"] = [{"name": "skin", "pbrMetallicRoughness": surface}]
        bones = np.argsort(-rig.weights, axis=1, kind="stable")[:, :_INFLUENCES]
        weights = np.take_along_axis(rig.weights, bones, axis=1).astype(np.float32)
        weights /= weights.sum(axis=1, keepdims=True)
        bones = np.where(weights > 0, bones, 0).astype(np.uint8)
        uv = np.stack([rig.uv[:, 0], 1.0 - rig.uv[:, 1]], axis=1)
        primitive = {
            "attributes": {
                "POSITION": self._add(rig.vertices / 1000.0, "VEC3", _VERTICES, bounds=True),
                "NORMAL": self._add(rig.normals, "VEC3", _VERTICES),
                "TEXCOORD_0": self._add(uv, "VEC2", _VERTICES),
                "JOINTS_0": self._add(bones, "VEC4", _VERTICES),
                "WEIGHTS_0": self._add(weights, "VEC4", _VERTICES),
            },
            "indices": self._add(rig.faces.astype(np.uint16).reshape(-1), "SCALAR", _INDICES),
            "material": 0,
        }
        lists["meshes"].append({"name": name, "primitives": [primitive]})
        mesh_node, wrist = len(lists["nodes"]), len(lists["nodes"]) + 1
        joints = list(range(wrist, wrist + len(BONE_NAMES)))
        inverse = np.tile(np.eye(4), (len(joints), 1, 1))
        inverse[:, 3, :3] = -rig.heads / 1000.0  # columns first
        skin = {"joints": joints, "skeleton": wrist, "inverseBindMatrices": self._add(inverse, "MAT4")}
        lists["skins"].append(skin)
        nodes: list[dict[str, Any]] = [
            {
                "name": name,
                "mesh": len(lists["meshes"]) - 1,
                "skin": len(lists["skins"]) - 1,
                "extras": extras,
            }
        ]
        quaternions = _quaternions(rig.turns[0])
        for bone, bone_name in enumerate(BONE_NAMES):
            parent = rig.parents[bone]
            place = rig.places[0] + place_mm if parent < 0 else rig.heads[bone] - rig.heads[parent]
            node: dict[str, Any] = {
                "name": f"{name} {bone_name}",
                "translation": rounded(place / 1000.0, 6),
                "rotation": quaternions[bone].tolist(),
            }
            children = np.flatnonzero(rig.parents == bone)
            nodes.append(node | ({"children": (wrist + children).tolist()} if len(children) else {}))
        lists["nodes"] += nodes
        lists["scenes"][0].setdefault("nodes", []).extend([mesh_node, wrist])
        return wrist

    def animate(self, name: str, wrist: int, rig: Rig, time_s: np.ndarray, end_s: float) -> None:
        """Adds the poses of a hand, at these times, to the animation, which ends at `end_s`."""
        animation = self.document.setdefault("animations", [{"name": name, "channels": [], "samplers": []}])[
            0
        ]

        def channel(node: int, path: str, values: np.ndarray, times: int, interpolation: str) -> None:
            kind = "VEC4" if path == "rotation" else "VEC3"
            sampler = {"input": times, "output": self._add(values, kind), "interpolation": interpolation}
            animation["samplers"].append(sampler)
            target = {"node": node, "path": path}
            animation["channels"].append({"sampler": len(animation["samplers"]) - 1, "target": target})

        times = self._add(time_s, "SCALAR", bounds=True)
        quaternions = _quaternions(rig.turns)
        for frame in range(1, len(quaternions)):  # the shorter way round
            behind = (quaternions[frame] * quaternions[frame - 1]).sum(-1) < 0
            quaternions[frame, behind] *= -1
        channel(wrist, "translation", rig.places / 1000.0, times, "LINEAR")
        for bone in range(len(BONE_NAMES)):
            channel(wrist + bone, "rotation", quaternions[:, bone], times, "LINEAR")
        half = 0.5 * ((time_s[-1] - time_s[0]) / max(len(time_s) - 1, 1) or FRAME_SECONDS)
        here = [(0.0, 0.0), (time_s[0] - half, 1.0)] if time_s[0] > half else [(0.0, 1.0)]
        if time_s[-1] + half < end_s:
            here.append((time_s[-1] + half, 0.0))
        if len(here) > 1:
            moments, sizes = np.array(here).T
            shown = self._add(moments, "SCALAR", bounds=True)
            channel(wrist, "scale", np.repeat(sizes[:, None], 3, axis=1), shown, "STEP")

    def bytes(self) -> bytes:
        """The content of the file."""
        if self.data:
            self.document["buffers"] = [{"byteLength": len(self.data)}]
        text = json.dumps(self.document, allow_nan=False, separators=(",", ":")).encode()
        chunks = _chunk(b"JSON", text, b" ")
        chunks += _chunk(b"BIN\0", bytes(self.data), b"\0") if self.data else b""
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def _add(self, values: np.ndarray, kind: str, target: int | None = None, bounds: bool = False) -> int:
        """Appends an array to the buffer, floats in single precision; the number of its accessor."""
        values = values.astype("<f4") if values.dtype.kind == "f" else values
        component = {"f": _FLOAT, "u": _USHORT if values.dtype.itemsize == 2 else _UBYTE}[values.dtype.kind]
        content = np.ascontiguousarray(values).tobytes()
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content)}
        self.document["bufferViews"].append(view if target is None else view | {"target": target})
        self.data += content + b"\0" * (-len(content) % 4)
        accessor: dict[str, Any] = {
            "bufferView": len(self.document["bufferViews"]) - 1,
            "componentType": component,
            "count": len(values),
            "type": kind,
        }
        if bounds:
            low, high = values.min(axis=0), values.max(axis=0)
            accessor |= {"min": np.atleast_1d(low).tolist(), "max": np.atleast_1d(high).tolist()}
        self.document["accessors"].append(accessor)
        return len(self.document["accessors"]) - 1


def _quaternions(rotations: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4), x y z w, of rotations (..., 3, 3)."""
    from scipy.spatial.transform import Rotation

    flat = Rotation.from_matrix(rotations.reshape(-1, 3, 3)).as_quat()
    return flat.reshape(*rotations.shape[:-2], 4)


def _chunk(kind: bytes, content: bytes, padding: bytes) -> bytes:
    content += padding * (-len(content) % 4)
    return struct.pack("<I4s", len(content), kind) + content
