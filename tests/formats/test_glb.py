"""GLB files, read by trimesh, and played by skinning that reads nothing but the file."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dfmamba.formats import Record, write_prediction
from dfmamba.formats.glb import to_glb
from dfmamba.formats.rig import APART_MM, BONE_NAMES, textured_faces
from dfmamba.hands.model import HandModel
from dfmamba.predict import Prediction
from dfmamba.predict.surface import with_surface

trimesh = pytest.importorskip("trimesh")
MODEL = HandModel.load()


class Played:
    """A file's hands at a time in seconds, in our axes and millimetres."""

    def __init__(self, content: bytes) -> None:
        magic, version, length = struct.unpack_from("<4sII", content)
        assert (magic, version, length) == (b"glTF", 2, len(content))
        at, chunks = 12, []
        while at < length:
            size, kind = struct.unpack_from("<I4s", content, at)
            assert size % 4 == 0
            chunks.append((kind, content[at + 8 : at + 8 + size]))
            at += 8 + size
        assert [kind for kind, _ in chunks] in ([b"JSON", b"BIN\0"], [b"JSON"])
        self.document: dict[str, Any] = json.loads(chunks[0][1])
        self.buffer = chunks[1][1] if len(chunks) > 1 else b""

    def array(self, number: int) -> np.ndarray:
        accessor = self.document["accessors"][number]
        view = self.document["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5123: "<u2", 5121: "u1"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor["type"]]
        values = np.frombuffer(self.buffer, kind, width * accessor["count"], view["byteOffset"])
        assert values.nbytes == view["byteLength"]
        return values.reshape(accessor["count"], width)

    def nodes_at(self, time_s: float) -> list[dict[str, Any]]:
        nodes = [dict(node) for node in self.document.get("nodes", [])]
        for animation in self.document.get("animations", []):
            for channel in animation["channels"]:
                sampler = animation["samplers"][channel["sampler"]]
                times, values = self.array(sampler["input"])[:, 0], self.array(sampler["output"])
                if sampler["interpolation"] == "STEP":
                    value = values[max(np.searchsorted(times, time_s, "right") - 1, 0)]
                else:
                    value = np.array([np.interp(time_s, times, column) for column in values.T])
                nodes[channel["target"]["node"]][channel["target"]["path"]] = value
        return nodes

    def worlds(self, time_s: float) -> list[np.ndarray]:
        nodes = self.nodes_at(time_s)
        worlds = [np.eye(4)] * len(nodes)

        def visit(number: int, above: np.ndarray) -> None:
            node, own = nodes[number], np.eye(4)
            quaternion = np.asarray(node.get("rotation", (0, 0, 0, 1)))
            own[:3, :3] = Rotation.from_quat(quaternion).as_matrix() * np.asarray(
                node.get("scale", (1, 1, 1))
            )
            own[:3, 3] = node.get("translation", (0, 0, 0))
            worlds[number] = above @ own
            for child in node.get("children", ()):
                visit(child, worlds[number])

        for root in self.document["scenes"][0].get("nodes", []):
            visit(root, np.eye(4))
        return worlds

    def vertices(self, hand: int, time_s: float = 0.0) -> np.ndarray:
        """(V, 3) of the hand-th skinned mesh."""
        node = [node for node in self.document["nodes"] if "skin" in node][hand]
        skin = self.document["skins"][node["skin"]]
        (primitive,) = self.document["meshes"][node["mesh"]]["primitives"]
        points, bones, weights = (
            self.array(primitive["attributes"][name]) for name in ("POSITION", "JOINTS_0", "WEIGHTS_0")
        )
        inverse = self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
        worlds = self.worlds(time_s)
        moves = np.stack([worlds[joint] @ one for joint, one in zip(skin["joints"], inverse, strict=True)])
        blended = (weights[:, :, None, None] * moves[bones]).sum(axis=1)
        skinned = (blended[:, :3, :3] @ points[..., None])[..., 0] + blended[:, :3, 3]
        return skinned * (1, -1, -1) * 1000

    def bone(self, name: str, time_s: float = 0.0) -> np.ndarray:
        (number,) = [i for i, node in enumerate(self.document["nodes"]) if node["name"] == name]
        return self.worlds(time_s)[number][:3, 3] * (1, -1, -1) * 1000


def expected_vertices(vertices: np.ndarray, side: str) -> np.ndarray:
    faces, uv_faces = textured_faces(side)
    return vertices[np.unique(np.stack([faces.ravel(), uv_faces.ravel()], 1), axis=0)[:, 0]]


def test_skinned_hands_are_the_fitted_ones(two_hands: Prediction) -> None:
    played, fitted = Played(to_glb(two_hands)), with_surface(two_hands)
    for number, hand in enumerate(fitted.hands):
        surface = expected_vertices(hand.vertices_mm(), hand.side)
        away = np.linalg.norm(played.vertices(number) - surface, axis=1)
        assert away.max() < 2.0  # a few vertices hang on more than the four bones that glTF takes
        assert np.percentile(away, 99) < 0.7
        assert np.median(away) < 0.01
        tips = hand.vertices_mm()[MODEL.tips].mean(axis=1)
        last = [bone for bone in BONE_NAMES if bone == "thumb_ip" or bone.endswith("dip")]
        ends = [played.bone(f"{hand.side} hand {bone}") for bone in last]
        assert len(ends) == 5
        assert (np.linalg.norm(tips - ends, axis=1) < 40).all()


def test_trimesh_reads_hands_that_face_outwards(two_hands: Prediction) -> None:
    scene = trimesh.load_scene(io.BytesIO(to_glb(two_hands)), file_type="glb")
    assert sorted(scene.geometry) == ["left hand", "right hand"]
    for mesh in scene.geometry.values():
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert 1e-4 < mesh.volume < 6e-4  # cubic metres


def test_the_file_keeps_the_rules_of_gltf(two_hands: Prediction) -> None:
    played = Played(to_glb(two_hands))
    content = played.document
    assert content["asset"]["version"] == "2.0"
    assert content["buffers"] == [{"byteLength": len(played.buffer)}]
    assert content["scenes"][0]["nodes"] == [0, 1, 21, 22]
    for view in content["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= len(played.buffer)
    for mesh, hand in zip(content["meshes"], two_hands.hands, strict=True):
        (primitive,) = mesh["primitives"]
        position = content["accessors"][primitive["attributes"]["POSITION"]]
        values = played.array(primitive["attributes"]["POSITION"])
        np.testing.assert_array_equal(np.float32(position["min"]), values.min(axis=0))
        np.testing.assert_array_equal(np.float32(position["max"]), values.max(axis=0))
        assert played.array(primitive["indices"]).max() == len(values) - 1
        weights = played.array(primitive["attributes"]["WEIGHTS_0"])
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-6)
        (node,) = [node for node in content["nodes"] if node["name"] == mesh["name"]]
        assert node["extras"]["side"] == hand.side
        joints = np.array(node["extras"]["joints_m"])
        np.testing.assert_allclose(joints, hand.joints_3d_mm * (1, -1, -1) / 1000, atol=1e-6)


def test_a_film_is_one_clip(real_hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    place = np.array([0.0, 0.0, 500.0])
    film = [
        Record(
            prediction(
                real_hand(5, place_mm=place + np.array([i, 0, 0]), track=0),
                *([real_hand(6, "left", place, track=1)] if 2 <= i < 5 else []),
            ),
            "clip.jsonl",
            i,
            i / 25,
        )
        for i in range(8)
    ]
    summary = write_prediction(film, "glb", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.glb"]
    assert (summary.files, summary.hands, summary.pictures) == (1, 11, 8)
    played = Played((tmp_path / "clip.glb").read_bytes())
    assert len(played.document["animations"]) == 1
    right = with_surface(film[4].prediction).hands[0]
    away = played.vertices(0, 4 / 25) - expected_vertices(right.vertices_mm(), "right")
    assert np.linalg.norm(away, axis=1).mean() < 1.0
    moved = played.bone("right hand 0 wrist", 6 / 25) - played.bone("right hand 0 wrist", 2 / 25)
    np.testing.assert_allclose(moved, [4, 0, 0], atol=0.7)
    sizes = [np.ptp(played.vertices(1, i / 25), axis=0).max() > 1 for i in range(8)]
    assert sizes == [False, False, True, True, True, False, False, False]


def test_a_track_has_the_side_of_most_of_its_hands(
    real_hand: Callable, prediction: Callable, tmp_path: Path
) -> None:
    sides = ["right", "right", "left", "right"]
    film = [
        Record(prediction(real_hand(5, side, track=3)), "clip.jsonl", i, i / 25)
        for i, side in enumerate(sides)
    ]
    write_prediction(film, "glb", tmp_path / "clip.glb")
    played = Played((tmp_path / "clip.glb").read_bytes())
    assert [mesh["name"] for mesh in played.document["meshes"]] == ["right hand 3"]


def test_hands_without_a_common_place_stand_apart(real_hand: Callable, prediction: Callable) -> None:
    right = real_hand(0, box_xyxy=(300, 0, 400, 90))
    left = real_hand(1, "left", box_xyxy=(0, 0, 90, 90))
    wrists = {}
    for mirrored in (False, True):
        played = Played(to_glb(prediction(right, left, mirrored=mirrored)))
        wrists[mirrored] = [played.bone(f"{side} hand wrist")[0] for side in ("right", "left")]
    assert wrists[False][0] - wrists[False][1] > 0.8 * APART_MM  # as in the picture
    assert wrists[True][1] - wrists[True][0] > 0.8 * APART_MM


def test_no_hands_and_hands_without_extent(hand: Callable, prediction: Callable, tmp_path: Path) -> None:
    played = Played(to_glb(prediction()))
    assert played.buffer == b""
    assert "nodes" not in played.document
    point = prediction(hand(0, joints_3d_mm=np.zeros((21, 3))))
    assert "nodes" not in Played(to_glb(point)).document
    summary = write_prediction(point, "glb", tmp_path / "one.glb")
    assert any("without extent" in text for text in summary.notes)


def test_one_file_or_a_folder(two_hands: Prediction, tmp_path: Path) -> None:
    write_prediction(two_hands, "glb", tmp_path / "hands.glb")
    assert (tmp_path / "hands.glb").read_bytes() == to_glb(two_hands)
    with pytest.raises(ValueError, match="name a folder"):
        write_prediction([two_hands, two_hands], "glb", tmp_path / "more.glb")
    write_prediction([two_hands, two_hands], "glb", tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["a-2.glb", "a.glb"]
