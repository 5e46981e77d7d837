"""From rendered light to a photograph: exposure, compositing, camera, file and depth sensor effects.

The labels that need the rendered picture, which joints are seen, are here, too.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from dfmamba.synth.appearance import to_linear
from dfmamba.synth.raster import Rendering

_STEPS = 8192
_LINEAR = to_linear(np.arange(256)).astype(np.float32)
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def _srgb_table() -> np.ndarray:
    x = np.arange(_STEPS) / (_STEPS - 1)
    srgb = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.round(255.0 * srgb).astype(np.uint8)


_SRGB = _srgb_table()


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear 0..1 (clipped) to sRGB uint8."""
    return _SRGB[(np.clip(linear, 0.0, 1.0) * (_STEPS - 1) + 0.5).astype(np.int32)]


def expose(rendering: Rendering, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 4) uint8: sRGB foreground, exposed for the hands, and coverage.

    The median luminance of the hands goes to 0.09..0.36 (linear, clipped), times exp(N(0, 0.28));
    highlights roll off softly in 60 % of the pictures and are cut off in the others.
    """
    stray, curved, shoulder = rng.normal(), rng.random() < 0.6, rng.uniform(0.5, 0.85)
    hands = (rendering.alpha > 0.5) & (rendering.instance > 0) & (rendering.instance <= 2)
    if not hands.any():
        hands = rendering.alpha > 0.5
    middle = float(np.median(rendering.rgb[hands] @ _LUMA)) if hands.any() else 0.2
    gain = np.clip(0.85 * middle, 0.09, 0.36) * np.exp(0.28 * stray) / max(middle, 1e-3)
    covered = rendering.alpha > 0
    light = rendering.rgb[covered] * np.float32(gain)
    if curved:
        over = np.maximum(light - np.float32(shoulder), 0.0)
        room = np.float32(1.0 - shoulder)
        light = np.minimum(light, np.float32(shoulder)) + room * (1.0 - np.exp(-over / room))
    layer = np.zeros((*covered.shape, 4), dtype=np.uint8)
    layer[covered, :3] = encode_srgb(light)
    layer[..., 3] = np.round(255.0 * rendering.alpha)
    return layer


def recompose(foreground_rgba: np.ndarray, background_rgb: np.ndarray) -> np.ndarray:
    """Puts a foreground on a background, blending edges in linear light.

    Args:
        foreground_rgba: (H, W, 4) uint8, sRGB, straight alpha.
        background_rgb: (H, W, 3) uint8, sRGB.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: sizes differ.
    """
    if foreground_rgba.shape[:2] != background_rgb.shape[:2]:
        raise ValueError(
            f"foreground is {foreground_rgba.shape}, background {background_rgb.shape}; expected one size"
        )
    alpha = foreground_rgba[..., 3]
    picture = np.where((alpha == 255)[..., None], foreground_rgba[..., :3], background_rgb)
    y, x = np.nonzero((alpha > 0) & (alpha < 255))
    share = alpha[y, x, None].astype(np.float32) / 255.0
    mixed = share * _LINEAR[foreground_rgba[y, x, :3]] + (1.0 - share) * _LINEAR[background_rgb[y, x]]
    picture[y, x] = encode_srgb(mixed)
    return picture


def _curves(rng: np.random.Generator) -> list[int]:
    """768 table entries: white balance, contrast, brightness and gamma."""
    warm, tint = 0.07 * rng.normal(), 0.03 * rng.normal()
    contrast = np.exp(0.06 + 0.12 * rng.normal())
    brightness = 0.04 * rng.normal()
    gamma = np.exp(0.12 * rng.normal())
    x = np.arange(256) / 255.0
    tables = []
    for gain in (1.0 + warm, 1.0 + tint, 1.0 - warm):
        y = np.clip(x * gain, 0.0, 1.0) ** gamma
        tables.append(np.clip(255.0 * ((y - 0.5) * contrast + 0.5 + brightness), 0, 255))
    return np.round(np.concatenate(tables)).astype(int).tolist()


def _streak(rng: np.random.Generator, size: int, image: Image.Image) -> Image.Image:
    """Motion blur along a random straight line."""
    angle = rng.uniform(0, np.pi)
    grid = np.arange(-2, 3)
    offset = grid[None] * np.sin(angle) - grid[:, None] * np.cos(angle)
    weights = np.clip(1.0 - np.abs(offset), 0.0, 1.0)
    kernel = ImageFilter.Kernel((5, 5), weights.ravel().tolist(), scale=float(weights.sum()))
    for _ in range(int(rng.integers(1, 2 + max(1, size // 96)))):
        image = image.filter(kernel)
    return image


def finish(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Camera and file effects.

    White balance, contrast, gamma, saturation; then each with its own chance: blur, motion blur, low
    resolution, sharpening, vignetting, sensor noise, JPEG compression (quality 30-95), grey.

    Args:
        picture: (S, S, 3) uint8 sRGB.
        rng: generator of the post-processing stream.

    Returns:
        (S, S, 3) uint8.
    """
    size = picture.shape[0]
    image = Image.fromarray(picture).point(_curves(rng))
    saturation = rng.uniform(0.65, 1.2) if rng.random() < 0.97 else 0.0
    image = Image.blend(image.convert("L").convert("RGB"), image, saturation)
    chance = rng.random(7)
    if chance[0] < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(size / 128 * rng.uniform(0.2, 0.75)))
    if chance[1] < 0.1:
        image = _streak(rng, size, image)
    if chance[2] < 0.2:
        small = max(24, int(size * rng.uniform(0.35, 0.85)))
        image = image.resize(
            (small, small), Image.Resampling.BOX if rng.random() < 0.5 else Image.Resampling.BILINEAR
        )
        image = image.resize(
            (size, size), Image.Resampling.BILINEAR if rng.random() < 0.7 else Image.Resampling.BICUBIC
        )
    if chance[6] < 0.3:
        image = image.filter(
            ImageFilter.UnsharpMask(size / 128 * rng.uniform(0.5, 1.2), int(rng.integers(30, 130)), 0)
        )
    if chance[3] < 0.2:
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        fall = 1.0 - np.float32(rng.uniform(0.05, 0.3)) * (axis[None, :] ** 2 + axis[:, None] ** 2)
        image = Image.fromarray((np.asarray(image) * np.maximum(fall, 0)[..., None]).astype(np.uint8))
    if chance[4] < 0.7:
        values = np.asarray(image, dtype=np.float32)
        strength = np.float32(6.5 * rng.beta(1.0, 2.5))
        noise = rng.standard_normal(values.shape, dtype=np.float32)
        if rng.random() < 0.5:
            noise[..., 1:] = 0.7 * noise[..., 1:] + 0.7 * noise[..., :1]
        noise *= strength * (0.6 + values * np.float32(0.6 / 255))
        noise += values
        image = Image.fromarray(np.clip(noise, 0, 255, out=noise).astype(np.uint8))
    if chance[5] < 0.6:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(30, 96)))
        image = Image.open(stream)
    return np.array(image)


def sense_depth(depth_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a depth camera may see: a surface behind (70 %), noise, depth steps, jagged edges, holes.

    Args:
        depth_mm: (S, S) float32, 0 = nothing.
        rng: generator of the depth stream.

    Returns:
        (S, S) float32, mm, 0 where nothing was measured.
    """
    size = depth_mm.shape[0]
    seen = depth_mm > 0
    far = float(depth_mm.max()) if seen.any() else 500.0
    depth = depth_mm.copy()
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    if rng.random() < 0.7:
        slope = rng.normal(size=2) * 60
        wall = far + rng.uniform(60, 700) + slope[0] * axis[None, :] + slope[1] * axis[:, None]
        if rng.random() < 0.5:
            x, y, r = *rng.uniform(-0.8, 0.8, 2), rng.uniform(0.3, 1.0)
            bulge = np.sqrt(np.maximum(0.0, 1.0 - ((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / r**2))
            wall = wall - bulge * rng.uniform(20.0, max(21.0, 0.9 * (float(wall.min()) - far)))
        depth = np.where(seen, depth, wall.astype(np.float32))
    rows, columns = np.mgrid[0:size, 0:size]
    jitter = rng.normal(size=(2, size, size)) * rng.uniform(0.0, 0.6) * size / 128
    rows = np.clip(np.round(rows + jitter[0]), 0, size - 1).astype(int)
    columns = np.clip(np.round(columns + jitter[1]), 0, size - 1).astype(int)
    depth = depth[rows, columns]
    grain = rng.standard_normal(depth.shape, dtype=np.float32) * np.float32(rng.uniform(0.3, 2.5))
    depth = np.where(depth > 0, depth + grain * (depth / 600.0) ** 2, 0.0)
    step = np.float32(rng.uniform(0.5, 3.0))
    depth = np.round(depth / step) * step
    low = np.minimum(np.roll(depth, 1, 0), np.roll(depth, 1, 1))
    edge = np.abs(depth - low) > 15.0
    holes = (edge & (rng.random(depth.shape) < rng.uniform(0, 0.7))) | (
        rng.random(depth.shape) < rng.uniform(0, 0.02)
    )
    return np.where(holes, 0.0, depth).astype(np.float32)


_PER_FINGER = [[25.0, 22.0, 14.0, 10.0], *[[22.0, 14.0, 12.0, 10.0]] * 4]
FLESH_MM = np.array([30.0, *np.ravel(_PER_FINGER)], dtype=np.float32)
"""(21,) mm that a joint may lie below its own skin: wrist 30, CMC 25, MCP 22, PIP and IP 14, DIP 12, tip
10."""


def visible_joints(
    joints_2d_px: np.ndarray,
    joints_cam_mm: np.ndarray,
    present: np.ndarray,
    depth_mm: np.ndarray,
    instance: np.ndarray,
) -> np.ndarray:
    """Which joints' own surface is seen, inside the picture.

    A joint is visible where the surface at its pixel belongs to the same hand and is at most the thickness
    of the flesh in front of it. Where its pixel shows the background (the joint lies just outside of the
    outline), one of the eight neighbours may do instead.

    Args:
        joints_2d_px: (2, 21, 2) pixels, pixel centres at integers; right then left hand.
        joints_cam_mm: (2, 21, 3) mm, camera frame.
        present: (2,) bool.
        depth_mm: (H, W) z of the surface, 0 = nothing.
        instance: (H, W) 0 background, 1 right hand, 2 left hand, others anything else.

    Returns:
        (2, 21) bool.
    """
    height, width = instance.shape
    u, v = joints_2d_px[..., 0], joints_2d_px[..., 1]
    inside = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
    column = np.floor(np.clip(u, -1, width) + 0.5).astype(int)
    row = np.floor(np.clip(v, -1, height) + 0.5).astype(int)
    label = np.array([[1], [2]])

    def own(dx: int, dy: int) -> np.ndarray:
        x, y = np.clip(column + dx, 0, width - 1), np.clip(row + dy, 0, height - 1)
        return (instance[y, x] == label) & (joints_cam_mm[..., 2] - depth_mm[y, x] <= FLESH_MM)

    seen = own(0, 0)
    nearby = np.any([own(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)], axis=0)
    outline = instance[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)] == 0
    return inside & np.asarray(present, dtype=bool)[:, None] & (seen | (outline & nearby))
