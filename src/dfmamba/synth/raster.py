"""Z-buffer renderer on the CPU: meshes, camera, lights, palettes in; colour, depth and labels out.

The kernels are Warp's, so Warp is imported by the first call only. One process renders with one thread;
buffers are kept per process and every returned array is a copy.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.hands.camera import Camera
from dfmamba.synth.appearance import Lights, Palette
from dfmamba.synth.mesh import Part

NEAR_MM = 20.0
MAP_SIDE = 104
DOME_SIDE = 52

_kernels: Any = None
_buffers: dict[tuple[object, ...], Any] = {}


@dataclass(frozen=True)
class Rendering:
    """What one call of `render` returns.

    Attributes:
        rgb: (S, S, 3) float32, linear, straight (not multiplied by alpha); zero where alpha is zero.
        alpha: (S, S) float32, share of the pixel that any mesh covers.
        depth_mm: (S, S) float32, z of the surface; 0 where the pixel counts as background.
        instance: (S, S) uint8, instance label of the part that covers most of the pixel; 0 for the
            background.
        face: (S, S) int32, face number over all parts in order; -1 for the background.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    depth_mm: np.ndarray
    instance: np.ndarray
    face: np.ndarray


def load_kernels() -> Any:
    """The kernel module; imports Warp on first use.

    Compiled kernels are cached in `$DFMAMBA_WARP_CACHE`, by default `~/.cache/dfmamba/warp`.

    Raises:
        ImportError: Warp is not installed.
    """
    global _kernels
    if _kernels is None:
        try:
            import warp as wp
        except ImportError as error:
            raise ImportError(
                'synthetic hands need Warp, which is not installed: pip install "dfmamba[synthetic]"'
            ) from error
        if wp.config.kernel_cache_dir is None:
            default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dfmamba" / "warp"
            wp.config.kernel_cache_dir = os.environ.get("DFMAMBA_WARP_CACHE") or str(default)
        wp.config.log_level = wp.LOG_ERROR
        with _without_driver_warning():
            wp.init()
        _kernels = importlib.import_module("dfmamba.synth.kernels")
    return _kernels


@contextlib.contextmanager
def _without_driver_warning() -> Iterator[None]:
    """Drops the line that Warp's native library writes where there is no GPU; passes everything else on."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines():
                if "NVIDIA CUDA driver" not in line:
                    print(line, file=sys.stderr)


def warm_up(device: str = "cpu") -> None:
    """Compiles the kernels if need be (some seconds); call it before starting worker processes.

    Raises:
        ImportError: Warp is not installed.
    """
    kernels = load_kernels()
    import warp as wp

    wp.load_module(kernels, device=device)


def _buffer(name: str, shape: tuple[int, ...], dtype: Any, device: str) -> Any:
    import warp as wp

    key = (name, shape, device, os.getpid())
    if key not in _buffers:
        _buffers[key] = wp.zeros(shape, dtype=dtype, device=device)
    return _buffers[key]


def _view_rotations(directions: np.ndarray) -> np.ndarray:
    """(L, 3, 3) float32 rotations whose third rows point away from the lights in `directions` (unit
    vectors)."""
    z = -np.asarray(directions, dtype=np.float32)
    steep = np.abs(z[:, 1:2]) < 0.9
    x = np.where(
        steep,
        z[:, [2, 1, 0]] * np.array([1, 0, -1], np.float32),
        z[:, [0, 2, 1]] * np.array([0, 1, -1], np.float32),
    )
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = z[:, [1, 2, 0]] * x[:, [2, 0, 1]] - z[:, [2, 0, 1]] * x[:, [1, 2, 0]]
    return np.stack([x, y, z], axis=1)


def _light_frames(rotations: np.ndarray, receivers: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """(L, 4) scale and offsets that fit the receiving vertices into each light's map."""
    spread = (rotations[:, :2].reshape(-1, 3) @ receivers.T).reshape(len(rotations), 2, -1)
    low, high = spread.min(2), spread.max(2)
    scale = (sides - 6.0) / np.maximum((high - low).max(1), 1e-3)
    frames = np.zeros((len(rotations), 4), np.float32)
    frames[:, 0] = scale
    frames[:, 1:3] = 3.0 - low * scale[:, None]
    return frames


def _receivers(vertices: np.ndarray, camera: Camera, size: int) -> np.ndarray:
    """Vertices inside the picture and a margin; all of them when none is."""
    z = np.maximum(vertices[:, 2], NEAR_MM)
    u = camera.fx * vertices[:, 0] / z + camera.cx
    v = camera.fy * vertices[:, 1] / z + camera.cy
    margin = 0.05 * size
    inside = (u > -margin) & (u < size + margin) & (v > -margin) & (v < size + margin)
    return vertices[inside] if inside.any() else vertices


def render(
    parts: Sequence[Part],
    camera: Camera,
    size: int,
    lights: Lights,
    palettes: Sequence[Palette],
    seed: int,
    supersample: int = 2,
    device: str = "cpu",
    at_once: bool | None = None,
) -> Rendering:
    """Renders the parts.

    Pixel centres are at integers; with `supersample` s the sub-pixel centres are x + (i + 0.5) / s - 0.5.

    Args:
        parts: meshes, mm, camera frame (x right, y down, z forward).
        camera: intrinsics of the picture.
        size: side of the picture in pixels.
        lights: directional lights and ambient light.
        palettes: one per part.
        seed: of the textures.
        supersample: sub-pixels per pixel side.
        device: of Warp, "cpu" or one such as "cuda:0".
        at_once: draw triangles by atomic operations, as a GPU must; None does where it is one. Of several
            triangles at exactly the same depth another one may be seen.

    Raises:
        ValueError: no parts, or not one palette per part, or a size or supersample below 1.
        ImportError: Warp is not installed.
    """
    if not parts or len(parts) != len(palettes):
        raise ValueError(
            f"got {len(parts)} parts and {len(palettes)} palettes; expected one palette per part"
        )
    if size < 1 or supersample < 1:
        raise ValueError(f"got size {size} and supersample {supersample}; expected both at least 1")
    kernels = load_kernels()
    import warp as wp

    at_once = device != "cpu" if at_once is None else at_once

    def array(values: np.ndarray, dtype: Any) -> Any:
        kind = np.int32 if dtype is int else np.float32
        return wp.array(np.ascontiguousarray(values, dtype=kind), dtype=dtype, device=device, copy=False)

    def launch(kernel: Any, dim: int | tuple[int, ...], *inputs: Any) -> None:
        wp.launch(kernel, dim=dim, inputs=inputs, device=device)

    starts = np.cumsum([0] + [len(part.vertices) for part in parts])
    face_counts = [len(part.faces) for part in parts]
    vertices_np = np.concatenate([part.vertices for part in parts]).astype(np.float32)
    vertices = array(vertices_np, wp.vec3)
    faces = array(np.concatenate([p.faces + s for p, s in zip(parts, starts, strict=False)]), int)
    rest = array(np.concatenate([part.rest for part in parts]), wp.vec3)
    attributes = array(np.concatenate([_attributes(part) for part in parts]), wp.vec4)
    face_parts = array(np.repeat(np.arange(len(parts)), face_counts), int)
    instances = array(np.array([part.instance for part in parts]), int)
    materials = array(np.array([part.material for part in parts]), int)
    count, total = len(vertices_np), sum(face_counts)

    fine = size * supersample
    points = wp.empty((1, count), dtype=wp.vec3, device=device)
    depth = _buffer("depth", (1, fine, fine), float, device)
    ids = _buffer("ids", (fine, fine), int, device)
    depth.fill_(0.0)
    ids.fill_(-1)
    intrinsics = wp.vec4(float(camera.fx), float(camera.fy), float(camera.cx), float(camera.cy))
    launch(kernels.project_vertices, count, vertices, intrinsics, float(supersample), NEAR_MM, points)
    for mode in (2, 3) if at_once else (1,):
        launch(kernels.rasterize, (1, total), points, faces, array(np.array([fine]), int), mode, depth, ids)

    receivers = _receivers(vertices_np, camera, size)
    unused = _buffer("unused", (1, 1), int, device)

    def shadow_maps(
        name: str, directions: np.ndarray, sides_np: np.ndarray, side: int
    ) -> tuple[Any, Any, Any, Any]:
        rotations_np = _view_rotations(directions)
        rotations = array(rotations_np, wp.mat33)
        frames = array(_light_frames(rotations_np, receivers, sides_np), wp.vec4)
        sides = array(sides_np, int)
        maps = _buffer(name, (len(directions), side, side), float, device)
        maps.fill_(-1.0e20)
        seen = wp.empty((len(directions), count), dtype=wp.vec3, device=device)
        launch(kernels.project_lights, (len(directions), count), vertices, rotations, frames, seen)
        mode = 2 if at_once else 0
        launch(kernels.rasterize, (len(directions), total), seen, faces, sides, mode, maps, unused)
        return rotations, frames, sides, maps

    normals = wp.zeros(count, dtype=wp.vec3, device=device)
    launch(kernels.add_face_normals, total, vertices, faces, normals)
    ambient = wp.empty(count, dtype=wp.vec3, device=device)
    mottle = wp.empty(count, dtype=float, device=device)
    dome = lights.dome_directions
    rotations, frames, sides, maps = shadow_maps("dome", dome, np.full(len(dome), DOME_SIDE), DOME_SIDE)
    launch(
        kernels.light_vertices, count, vertices, normals, rest, rotations, frames, array(dome, wp.vec3),
        array(lights.dome_colours, wp.vec3), sides, maps, wp.vec3(*map(float, lights.flat)), int(seed),
        ambient,
        mottle,
    )  # fmt: skip

    map_sides = np.clip(np.round(MAP_SIDE * (1.0 - lights.softness)), 24, MAP_SIDE).astype(np.int32)
    rotations, frames, sides, maps = shadow_maps("lights", lights.directions, map_sides, MAP_SIDE)
    rgb = wp.zeros((size, size), dtype=wp.vec3, device=device)
    alpha = wp.zeros((size, size), dtype=float, device=device)
    depth_mm = wp.zeros((size, size), dtype=float, device=device)
    instance = wp.zeros((size, size), dtype=int, device=device)
    face = wp.full((size, size), value=-1, dtype=int, device=device)
    launch(
        kernels.shade, (size, size), supersample, ids, depth, instances, points, faces, face_parts, vertices,
        normals, rest, attributes, ambient, mottle, materials,
        array(np.stack([p.colours for p in palettes]), wp.vec3),
        array(np.stack([p.settings for p in palettes]), float), rotations, frames,
        array(lights.directions, wp.vec3), array(lights.colours, wp.vec3), sides, maps, int(seed), rgb,
        alpha, depth_mm, instance, face,
    )  # fmt: skip
    return Rendering(
        rgb=rgb.numpy().copy(),
        alpha=alpha.numpy().copy(),
        depth_mm=depth_mm.numpy().copy(),
        instance=instance.numpy().astype(np.uint8),
        face=face.numpy().copy(),
    )


def _attributes(part: Part) -> np.ndarray:
    """The part's attributes; a part that is not skin and has no pattern weights is patterned everywhere."""
    if part.material != 0 and not part.attributes[:, 3].any():
        attributes = part.attributes.copy()
        attributes[:, 3] = 1.0
        return attributes
    return part.attributes
