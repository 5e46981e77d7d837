"""The surfaces of hands as Wavefront OBJ and as PLY, a file a picture.

Formats: OBJ with texture coordinates and a group for each hand (Wavefront's description of 1993), PLY 1.0 in
binary (Greg Turk). Metres, x right, y up, z towards the viewer, as in `dfmamba.formats.glb`; the surface is
that of the hand model fitted to the joints, closed behind the wrist.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from dfmamba.formats.reading import Record
from dfmamba.formats.rig import UPWARD, fitted, side_by_side_mm, textured_faces
from dfmamba.formats.writing import OutputFiles, Summary
from dfmamba.hands.model import HandModel
from dfmamba.io.files import write_atomic
from dfmamba.predict.result import Prediction

_RELATIVE = "hands relative to their wrist, as no camera was given: they stand side by side"
_EMPTY = "pictures without a hand have no file"
_LOST = "hands of which only the surface is written"


def write_obj(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes NAME.obj for each picture with hands."""
    _write(records, path, summary, ".obj")


def write_ply(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes NAME.ply for each picture with hands; vertices have colours by side."""
    _write(records, path, summary, ".ply")


def _write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary, suffix: str) -> None:
    files = OutputFiles(path, suffix)
    for record in records:
        prediction = fitted(record.prediction, summary)
        summary.note(_EMPTY, int(not prediction.hands))
        if not prediction.hands:
            continue
        content = to_obj(prediction) if suffix == ".obj" else to_ply(prediction)
        write_atomic(files.next(record.name), content)
        summary.files += 1
        summary.hands += len(prediction.hands)
        summary.note(_RELATIVE, sum(hand.root != "camera" for hand in prediction.hands))
        summary.note(_LOST, len(prediction.hands))


def to_obj(prediction: Prediction) -> bytes:
    """The hands of a picture, each with a fit, as an OBJ file."""
    model = HandModel.load()
    lines = ["# hands in metres, x right, y up, z towards the viewer"]
    lines += [f"vt {u:.5f} {v:.5f}" for u, v in model.uv]
    start = 1
    for number, (side, vertices) in enumerate(_surfaces(prediction)):
        lines.append(f"g {side}_hand_{number}")
        lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
        faces, uv_faces = textured_faces(side)
        corners = np.stack([faces + start, uv_faces + 1], axis=-1)
        lines += ["f " + " ".join(f"{vertex}/{uv}" for vertex, uv in face) for face in corners.tolist()]
        start += len(vertices)
    return ("\n".join(lines) + "\n").encode()


def to_ply(prediction: Prediction) -> bytes:
    """The hands of a picture, each with a fit, as a PLY file."""
    from dfmamba.draw.surface import HAND_COLORS

    vertices, faces, start = [], [], 0
    for side, points in _surfaces(prediction):
        rows = np.zeros(len(points), dtype=[("place", "<f4", 3), ("color", "u1", 3)])
        rows["place"], rows["color"] = points, HAND_COLORS[side]
        triangles, _ = textured_faces(side)
        rings = np.zeros(len(triangles), dtype=[("count", "u1"), ("vertices", "<i4", 3)])
        rings["count"], rings["vertices"] = 3, triangles + start
        vertices.append(rows.tobytes())
        faces.append(rings.tobytes())
        start += len(points)
    count = sum(len(part) for part in faces) // 13
    head = (
        "ply\nformat binary_little_endian 1.0\ncomment hands in metres, x right, y up, z towards the viewer\n"
        f"element vertex {start}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {count}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    return b"".join([head.encode(), *vertices, *faces])


def _surfaces(prediction: Prediction) -> Iterator[tuple[str, np.ndarray]]:
    """Side and vertices (V, 3) of each hand in metres, axes of the file."""
    for hand, place in zip(prediction.hands, side_by_side_mm(prediction), strict=True):
        yield hand.side, (hand.vertices_mm() + place) * UPWARD / 1000.0
