"""GLB files, read by trimesh and by their own rules."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dfmamba.formats import write_prediction
from dfmamba.formats.glb import APART_MM, hand_mesh, to_glb
from dfmamba.hands.skeleton import BONES
from dfmamba.predict import Prediction

trimesh = pytest.importorskip("trimesh")


def document(content: bytes) -> tuple[dict, bytes]:
    """The JSON and the buffer of a file whose container is as it must be."""
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    at, chunks = 12, []
    while at < length:
        size, kind = struct.unpack_from("<I4s", content, at)
        assert size % 4 == 0
        chunks.append((kind, content[at + 8 : at + 8 + size]))
        at += 8 + size
    assert [kind for kind, _ in chunks] in ([b"JSON", b"BIN\0"], [b"JSON"])
    return json.loads(chunks[0][1]), chunks[1][1] if len(chunks) > 1 else b""


def test_trimesh_reads_closed_hands_in_metres(two_hands: Prediction) -> None:
    scene = trimesh.load_scene(io.BytesIO(to_glb(two_hands)), file_type="glb")
    assert sorted(scene.geometry) == ["left hand", "right hand"]
    for hand in two_hands.hands:
        name = f"{hand.side} hand"
        transform, geometry = scene.graph[name]
        mesh = scene.geometry[geometry]
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert mesh.volume > 0  # triangles face outwards
        points = trimesh.transform_points(mesh.vertices, transform)
        joints = hand.joints_3d_mm * (1, -1, -1) / 1000
        nearest = np.linalg.norm(points[:, None] - joints, axis=2).min(axis=0)
        assert (nearest < 0.012).all()
        assert (points[:, 2] < 0).all()  # before the viewer, who looks along -z


def test_the_file_keeps_the_rules_of_gltf(two_hands: Prediction) -> None:
    content, buffer = document(to_glb(two_hands))
    assert content["asset"]["version"] == "2.0"
    assert content["scenes"][0]["nodes"] == [0, 1]
    assert content["buffers"] == [{"byteLength": len(buffer)}]
    sizes = {5126: 4, 5123: 2, 5121: 1}
    for view in content["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= len(buffer)
    for accessor in content["accessors"]:
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]] * sizes[accessor["componentType"]]
        assert content["bufferViews"][accessor["bufferView"]]["byteLength"] == width * accessor["count"]
    for mesh in content["meshes"]:
        (primitive,) = mesh["primitives"]
        position = content["accessors"][primitive["attributes"]["POSITION"]]
        view = content["bufferViews"][position["bufferView"]]
        values = np.frombuffer(buffer, "<f4", 3 * position["count"], view["byteOffset"]).reshape(-1, 3)
        np.testing.assert_array_equal(np.float32(position["min"]), values.min(axis=0))
        np.testing.assert_array_equal(np.float32(position["max"]), values.max(axis=0))
        faces = content["accessors"][primitive["indices"]]
        view = content["bufferViews"][faces["bufferView"]]
        assert np.frombuffer(buffer, "<u2", faces["count"], view["byteOffset"]).max() == len(values) - 1
    for node, hand in zip(content["nodes"], two_hands.hands, strict=True):
        assert node["extras"]["side"] == hand.side
        joints = np.array(node["extras"]["joints_m"])
        np.testing.assert_allclose(joints, hand.joints_3d_mm * (1, -1, -1) / 1000, atol=1e-6)
        np.testing.assert_allclose(node["translation"], joints[0], atol=1e-6)


def test_normals_and_colours(hand: Callable) -> None:
    points, normals, colors, faces = hand_mesh(hand(0).joints_3d_mm)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-9)
    a, b, c = (points[faces[:, i]] for i in range(3))
    outward = np.cross(b - a, c - a)
    assert ((outward * normals[faces].mean(axis=1)).sum(axis=1) >= 0).all()
    assert len(np.unique(colors, axis=0)) == 5  # fingers
    assert len(points) == len(colors) == 98 * len(BONES)


def test_hands_without_a_common_place_stand_apart(hand: Callable, prediction: Callable) -> None:
    right, left = hand(0, box_xyxy=(300, 0, 400, 90)), hand(1, "left", box_xyxy=(0, 0, 90, 90))
    content, _ = document(to_glb(prediction(right, left)))
    x = [node["translation"][0] for node in content["nodes"]]
    assert x == [APART_MM / 2000, -APART_MM / 2000]  # as in the picture
    assert content["nodes"][0]["extras"]["root"] == "wrist"
    mirrored, _ = document(to_glb(prediction(right, left, mirrored=True)))
    assert [node["translation"][0] for node in mirrored["nodes"]] == x[::-1]


def test_no_hands_and_hands_without_extent(hand: Callable, prediction: Callable) -> None:
    content, buffer = document(to_glb(prediction()))
    assert buffer == b""
    assert "nodes" not in content
    point = to_glb(prediction(hand(0, joints_3d_mm=np.zeros((21, 3)))))
    (mesh,) = trimesh.load_scene(io.BytesIO(point), file_type="glb").geometry.values()
    assert np.isfinite(mesh.vertices).all()


def test_one_file_or_a_folder(two_hands: Prediction, tmp_path: Path) -> None:
    write_prediction(two_hands, "glb", tmp_path / "hands.glb")
    assert (tmp_path / "hands.glb").read_bytes() == to_glb(two_hands)
    with pytest.raises(ValueError, match="name a folder"):
        write_prediction([two_hands, two_hands], "glb", tmp_path / "more.glb")
    write_prediction([two_hands, two_hands], "glb", tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["a-2.glb", "a.glb"]
