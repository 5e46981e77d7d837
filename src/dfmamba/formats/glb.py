"""Hands as glTF 2.0 binary: capsules along the bones, coloured by finger, one node a hand.

Format: Khronos glTF 2.0 (registry.khronos.org/glTF), the GLB container of its chapter 4. Metres, x right, y
up, z towards the viewer: our camera frame with y and z turned round. A file is one picture.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

import dfmamba
from dfmamba.formats.reading import Record
from dfmamba.formats.writing import OutputFiles, Summary, rounded
from dfmamba.hands.skeleton import BONES, FINGER_COLORS_RGB, FINGER_NAMES, PARENTS
from dfmamba.io.files import write_atomic
from dfmamba.predict.result import Hand, Prediction

TO_GLTF = np.array([1.0, -1.0, -1.0])
"""Our axes times this are glTF's: half a turn around x."""

APART_MM = 220.0
"""Distance between hands whose places are not known."""

JOINT_RADII_MM = np.array([11.0, *(9.5, 9.0, 8.0, 6.5), *(8.5, 7.5, 6.5, 5.5) * 4])
"""Thickness at each joint, for show."""

_SIDES, _RINGS = 12, 4
_FLOAT, _USHORT, _UBYTE = 5126, 5123, 5121
_VERTICES, _INDICES = 34962, 34963
_RELATIVE = "hands relative to their wrist, as no camera was given: they stand side by side"
_LOST = "hands whose pixels and joint scores are lost"


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


def to_glb(prediction: Prediction) -> bytes:
    """The hands of a picture as the bytes of a .glb file.

    A node's `extras` hold side, score, track, root and the joints (21 x 3 metres, axes of the file). Where no
    camera was given each hand is relative to its wrist: then nodes are moved apart, which says nothing about
    where the hands were.
    """
    data = bytearray()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": f"dfmamba {dfmamba.__version__}"},
        "scene": 0,
        "scenes": [{"extras": {"image": prediction.image, "model": prediction.model}}],
    }
    if prediction.hands:
        lists: tuple[str, ...] = ("nodes", "meshes", "accessors", "bufferViews")
        document |= {name: [] for name in lists}
        document["scenes"][0]["nodes"] = list(range(len(prediction.hands)))
        surface = {"baseColorFactor": [1.0, 1.0, 1.0, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.6}
        document["materials"] = [{"name": "hand", "pbrMetallicRoughness": surface}]
        for hand, place in zip(prediction.hands, side_by_side_mm(prediction), strict=True):
            _add_hand(document, data, hand, place)
        document["buffers"] = [{"byteLength": len(data)}]
    text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    chunks = _chunk(b"JSON", text, b" ") + (_chunk(b"BIN\0", bytes(data), b"\0") if data else b"")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes NAME.glb for each picture."""
    files = OutputFiles(path, ".glb")
    for record in records:
        hands = record.prediction.hands
        write_atomic(files.next(record.name), to_glb(record.prediction))
        summary.files += 1
        summary.hands += len(hands)
        summary.note(_RELATIVE, sum(hand.root != "camera" for hand in hands))
        summary.note(_LOST, len(hands))


def _add_hand(document: dict[str, Any], data: bytearray, hand: Hand, place_mm: np.ndarray) -> None:
    joints_m = hand.joints_3d_mm * TO_GLTF / 1000.0
    origin = joints_m[0]
    points, normals, colors, faces = hand_mesh(hand.joints_3d_mm)
    points = (points * TO_GLTF / 1000.0 - origin).astype("<f4")
    primitive = {
        "attributes": {
            "POSITION": _add(document, data, points, _FLOAT, "VEC3", _VERTICES, bounds=True),
            "NORMAL": _add(document, data, (normals * TO_GLTF).astype("<f4"), _FLOAT, "VEC3", _VERTICES),
            "COLOR_0": _add(document, data, colors, _UBYTE, "VEC4", _VERTICES),
        },
        "indices": _add(document, data, faces.astype("<u2").reshape(-1), _USHORT, "SCALAR", _INDICES),
        "material": 0,
    }
    name = f"{hand.side} hand" + ("" if hand.track is None else f" {hand.track}")
    document["meshes"].append({"name": name, "primitives": [primitive]})
    document["nodes"].append(
        {
            "name": name,
            "mesh": len(document["meshes"]) - 1,
            "translation": rounded(origin + place_mm * TO_GLTF / 1000.0, 6),
            "extras": {
                "side": hand.side,
                "score": round(hand.score, 4),
                "track": hand.track,
                "root": hand.root,
                "joints_m": rounded(joints_m, 6),
            },
        }
    )


def hand_mesh(joints_3d_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Capsules along the bones of a hand.

    Args:
        joints_3d_mm: (21, 3).

    Returns:
        Points (V, 3) mm and outward normals (V, 3) in the frame of the joints, colours (V, 4) uint8 linear
        RGBA, and triangles (F, 3), counter-clockwise seen from outside.
    """
    ring, end, triangles = _CAPSULE
    points, normals = [], []
    for parent, child in BONES:
        along = joints_3d_mm[child] - joints_3d_mm[parent]
        axes = _axes(along)
        sphere = ring @ axes
        from_child = end[:, None] == 1
        center = np.where(from_child, joints_3d_mm[child], joints_3d_mm[parent])
        radius = np.where(from_child, JOINT_RADII_MM[child], JOINT_RADII_MM[parent])
        points.append(center + radius * sphere)
        normals.append(sphere)
    count = len(ring)
    faces = np.concatenate([triangles + count * i for i in range(len(BONES))])
    colors = np.repeat(_COLORS, count, axis=0)
    return np.concatenate(points), np.concatenate(normals), colors, faces


def _axes(along: np.ndarray) -> np.ndarray:
    """(3, 3) rows: a right-handed frame whose last axis points along a bone, any if it has no length."""
    length = float(np.linalg.norm(along))
    z = along / length if length > 1e-9 else np.array([0.0, 0.0, 1.0])
    x = np.cross(np.eye(3)[int(np.abs(z).argmin())], z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def _capsule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions (V, 3) on a sphere, the end of the bone that each belongs to (1: child), triangles."""
    half = np.linspace(0, np.pi / 2, _RINGS + 1)[1:]
    polar = np.concatenate([np.pi - half, half[::-1]])
    turn = 2 * np.pi * np.arange(_SIDES) / _SIDES
    rings = [np.stack([np.sin(p) * np.cos(turn), np.sin(p) * np.sin(turn), np.full(_SIDES, np.cos(p))], 1)
             for p in polar]  # fmt: skip
    points = np.concatenate([[[0.0, 0.0, -1.0]], *rings, [[0.0, 0.0, 1.0]]])
    end = np.concatenate([np.zeros(1 + _RINGS * _SIDES), np.ones(1 + _RINGS * _SIDES)])
    last = len(points) - 1
    triangles = []
    for i in range(_SIDES):
        j = (i + 1) % _SIDES
        triangles.append((0, 1 + j, 1 + i))
        for k in range(len(polar) - 1):
            low, high = 1 + k * _SIDES, 1 + (k + 1) * _SIDES
            triangles += [(low + i, low + j, high + j), (low + i, high + j, high + i)]
        triangles.append((last, last - _SIDES + i, last - _SIDES + j))
    return points, end, np.array(triangles)


def _colors() -> np.ndarray:
    """(20, 4) uint8 colours of the bones: glTF's vertex colours are linear, ours are sRGB."""
    finger = [FINGER_NAMES[(child - 1) // 4] for child in range(1, len(PARENTS))]
    srgb = np.array([FINGER_COLORS_RGB[name] for name in finger]) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.concatenate([np.rint(255 * linear), np.full((len(finger), 1), 255)], axis=1).astype(np.uint8)


def _add(
    document: dict[str, Any],
    data: bytearray,
    values: np.ndarray,
    component: int,
    kind: str,
    target: int,
    bounds: bool = False,
) -> int:
    """Appends an array to the buffer; the number of its accessor."""
    content = np.ascontiguousarray(values).tobytes()
    view = {"buffer": 0, "byteOffset": len(data), "byteLength": len(content), "target": target}
    data += content + b"\0" * (-len(content) % 4)
    document["bufferViews"].append(view)
    accessor: dict[str, Any] = {
        "bufferView": len(document["bufferViews"]) - 1,
        "componentType": component,
        "count": len(values),
        "type": kind,
    }
    if component == _UBYTE:
        accessor["normalized"] = True
    if bounds:
        accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
    document["accessors"].append(accessor)
    return len(document["accessors"]) - 1


def _chunk(kind: bytes, content: bytes, padding: bytes) -> bytes:
    content += padding * (-len(content) % 4)
    return struct.pack("<I4s", len(content), kind) + content


_CAPSULE = _capsule()
_COLORS = _colors()
