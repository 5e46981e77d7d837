"""The rasteriser against rays that are intersected one by one in numpy."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("warp")

from dfmamba.hands.camera import Camera
from dfmamba.synth import raster
from dfmamba.synth.appearance import sample_lights, sample_palettes
from dfmamba.synth.mesh import LEFT, OBJECT, RIGHT, SKIN, SOLID, Part


def ball(centre: tuple[float, float, float], radius: float, instance: int, material: int, n: int = 8) -> Part:
    """A sphere of quads split in two, counter-clockwise seen from outside."""
    theta, phi = np.meshgrid(
        np.linspace(0.02, np.pi - 0.02, n), np.linspace(0, 2 * np.pi, 2 * n), indexing="ij"
    )
    unit = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], -1).reshape(
        -1, 3
    )
    i, j = np.meshgrid(np.arange(n - 1), np.arange(2 * n - 1), indexing="ij")
    a = (i * 2 * n + j).ravel()
    faces = np.concatenate(
        [np.stack([a, a + 2 * n, a + 1], 1), np.stack([a + 1, a + 2 * n, a + 2 * n + 1], 1)]
    )
    vertices = (unit * radius + np.array(centre)).astype(np.float32)
    attributes = np.zeros((len(vertices), 4), np.float32)
    return Part(
        vertices, faces.astype(np.int32), (unit * radius).astype(np.float32), attributes, instance, material
    )


CAMERA = Camera(63.0, 66.5, 14.3, 12.6)
PARTS = (
    ball((0, 0, 400), 60, RIGHT, SKIN),
    ball((55, 10, 370), 40, LEFT, SKIN),
    ball((-40, 45, 450), 50, OBJECT, SOLID),
)


def trace(
    parts: tuple[Part, ...], camera: Camera, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth and instance of the nearest triangle on the rays through (u, v) pixels (Moeller-Trumbore)."""
    ray = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1).reshape(
        -1, 1, 3
    )
    depth, label = np.full(len(ray), np.inf), np.zeros(len(ray), int)
    for part in parts:
        a, b, c = (part.vertices[part.faces[:, k]].astype(float) for k in range(3))
        e1, e2 = b - a, c - a
        h = np.cross(ray, e2[None])
        det = (e1 * h).sum(-1)
        w1 = (-a * h).sum(-1) / det
        q = np.cross(-a, e1)
        w2 = (ray * q).sum(-1) / det
        t = (e2 * q).sum(-1) / det
        hit = (w1 >= 0) & (w2 >= 0) & (w1 + w2 <= 1) & (t > 0)
        z = np.where(hit, t, np.inf).min(1)
        label = np.where(z < depth, part.instance, label)
        depth = np.minimum(z, depth)
    return depth.reshape(u.shape), label.reshape(u.shape)


def draw(
    size: int, supersample: int, parts: tuple[Part, ...] = PARTS, camera: Camera = CAMERA
) -> raster.Rendering:
    lights = sample_lights(np.random.default_rng(1))
    return raster.render(parts, camera, size, lights, sample_palettes(parts, (0, 0)), 3, supersample)


def test_depth_and_instance_match_traced_rays() -> None:
    made = draw(28, 1)
    v, u = np.mgrid[0:28, 0:28].astype(float)
    depth, label = trace(PARTS, CAMERA, u, v)
    same = made.instance == label
    assert same.mean() > 0.99
    both = same & (label > 0)
    np.testing.assert_allclose(made.depth_mm[both], depth[both], rtol=1e-4)
    assert set(np.unique(made.instance)) == {0, RIGHT, LEFT, OBJECT}
    assert (made.depth_mm[made.instance == 0] == 0).all()


def test_supersampling_puts_samples_around_the_pixel_centre() -> None:
    made = draw(28, 2)
    v, u = np.mgrid[0:28, 0:28].astype(float)
    hits = [
        np.isfinite(trace(PARTS, CAMERA, u + du, v + dv)[0]) for du in (-0.25, 0.25) for dv in (-0.25, 0.25)
    ]
    np.testing.assert_allclose(made.alpha, np.mean(hits, axis=0), atol=0.26)
    assert (made.alpha == np.mean(hits, axis=0)).mean() > 0.99
    assert np.abs(made.alpha.sum() - np.mean(hits, axis=0).sum()) < 2


def test_colour_face_and_repeatability() -> None:
    first, second = draw(48, 2), draw(48, 2)
    for name in ("rgb", "alpha", "depth_mm", "instance", "face"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert np.isfinite(first.rgb).all()
    assert first.rgb.min() >= 0
    assert (first.rgb[first.alpha == 1].max(-1) > 0).all()
    assert (first.rgb[first.alpha == 0] == 0).all()
    assert ((first.face >= 0) == (first.instance > 0)).all()
    assert first.face.max() < sum(len(part.faces) for part in PARTS)


def test_triangles_drawn_at_once_look_as_one_after_the_other() -> None:
    """What a GPU does, here by the processor: nearest depths first, then whose they are."""
    lights = sample_lights(np.random.default_rng(1))
    palettes = sample_palettes(PARTS, (0, 0))
    one, other = (
        raster.render(PARTS, CAMERA, 48, lights, palettes, 3, 2, at_once=at_once) for at_once in (False, True)
    )
    assert (one.face >= 0).any()
    np.testing.assert_array_equal(one.depth_mm, other.depth_mm)
    np.testing.assert_array_equal(one.alpha, other.alpha)
    np.testing.assert_array_equal(one.instance, other.instance)
    assert (one.face == other.face).mean() > 0.995
    assert np.abs(one.rgb - other.rgb).max(-1).mean() < 1e-4


def test_shadow_falls_behind_an_occluder() -> None:
    lights = sample_lights(np.random.default_rng(1))
    lamp = type(lights)(
        directions=np.array([[0.6, 0, -0.8]], np.float32), colours=np.ones((1, 3), np.float32),
        softness=np.zeros(1, np.float32), dome_directions=lights.dome_directions,
        dome_colours=np.zeros_like(lights.dome_colours), flat=np.zeros(3, np.float32),
    )  # fmt: skip
    wall = ball((0, 0, 700), 250, OBJECT, SOLID, 24)
    blocker = ball((30, 0, 350), 25, RIGHT, SKIN)
    palettes = sample_palettes((wall, blocker), (0, 0))
    camera = Camera(60.0, 60.0, 31.5, 31.5)
    lit = raster.render((wall,), camera, 64, lamp, palettes[:1], 0, 1).rgb.sum(-1)
    shaded = raster.render((wall, blocker), camera, 64, lamp, palettes, 0, 1)
    x = 31.5 - 60 * 49 / 455  # (30, 0, 350) moved along (-0.6, 0, 0.8) until it meets the ball
    on_wall = (shaded.instance == OBJECT) & (shaded.rgb.sum(-1) < 0.2 * lit)
    assert on_wall.sum() >= 3
    assert np.abs(np.nonzero(on_wall)[1].mean() - x) < 3


def test_geometry_beside_or_behind_the_camera_is_harmless() -> None:
    parts = (*PARTS, ball((0, 0, -300), 50, OBJECT, SOLID), ball((0, 60, 30), 50, OBJECT, SOLID))
    made = draw(32, 2, parts)
    assert np.isfinite(made.rgb).all()
    assert np.isfinite(made.depth_mm).all()


def test_wrong_arguments() -> None:
    lights = sample_lights(np.random.default_rng(1))
    with pytest.raises(ValueError, match="palette"):
        raster.render(PARTS, CAMERA, 32, lights, [], 0)
    with pytest.raises(ValueError, match="supersample"):
        raster.render(PARTS, CAMERA, 32, lights, sample_palettes(PARTS, (0, 0)), 0, 0)


def test_missing_warp_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "_kernels", None)
    monkeypatch.setitem(sys.modules, "warp", None)
    with pytest.raises(ImportError, match=r"dfmamba\[synthetic\]"):
        raster.load_kernels()
