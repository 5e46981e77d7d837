"""From foregrounds with labels to batches: geometry, backgrounds and photographic effects, all on tensors.

A foreground has straight colour and coverage and is laid over another background each time, so that no two
epochs show the same image. Image, joints, depth and handedness move together. Everything runs on the device
of the random generator that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dfmamba.hands.affine import extents
from dfmamba.hands.upright import CLOSE_FACTOR, upright_maps


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the augmentation; zeros switch a part off.

    Attributes:
        rotation_deg: standard deviation of the rotation about the middle of the crop.
        spin: share of samples turned by any angle.
        scale: standard deviation of the logarithm of the zoom.
        zoom_out: share of samples that are shrunk by up to twice, as when a box is too large.
        shift: largest shift of the crop relative to its side.
        flip: probability of mirroring, which swaps the hands.
        colour: strength of exposure, colour cast, contrast and saturation changes.
        blur: share of samples that are blurred or of low resolution.
        noise: largest standard deviation of sensor noise (picture values 0..1).
        occlude: share of samples with a patch pasted over them.
        upright: share of samples that are cut upright around one hand, as the predictor's last looks are
            (`dfmamba.hands.upright`); they scatter less.
        close: share of the other samples that are cut closely around all hands, not as they were rendered.
        wrong_side: share of the upright samples that show the mirror image of what they should, so that the
            network learns to tell.
    """

    rotation_deg: float = 25.0
    spin: float = 0.08
    scale: float = 0.14
    zoom_out: float = 0.12
    shift: float = 0.1
    flip: float = 0.5
    colour: float = 1.0
    blur: float = 0.4
    noise: float = 0.05
    occlude: float = 0.2
    upright: float = 0.7
    close: float = 0.6
    wrong_side: float = 0.12

    @property
    def scatter_upright(self) -> AugmentConfig:
        """How upright crops scatter about the exact one: as a first look that is a little wrong aims them."""
        return replace(
            self,
            rotation_deg=0.7 * self.rotation_deg,
            spin=0.5 * self.spin,
            zoom_out=0.0,
            shift=0.7 * self.shift,
            flip=self.wrong_side,
        )


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers in [0, 1) on the generator's device."""
    return torch.rand(*shape, generator=generator, device=generator.device)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Numbers of mean 0 and standard deviation 1 on the generator's device."""
    return torch.randn(*shape, generator=generator, device=generator.device)


def aimed_crops(
    joints_2d: Tensor, valid: Tensor, size: int, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Affine maps (n, 2, 3) from crops to pictures, both `size` squares, of the three kinds of crop.

    Crops are as rendered, close around all hands, or upright around one of them, in the shares of `config`,
    and scattered at random.

    Args:
        joints_2d: (n, 2, 21, 2) pixels of the pictures.
        valid: (n, 2, 21) bool.
        size: side of pictures and crops in pixels.
        config: shares and strengths.
        generator: source of all randomness.
    """
    n = len(joints_2d)
    drawn = uniform(generator, 3, n)
    seen = valid.flatten(1)
    upright = (drawn[0] < config.upright) & seen.any(1)
    close = (drawn[1] < config.close) & seen.any(1)
    rows = torch.arange(n, device=joints_2d.device)
    both = valid.any(-1).all(1)
    hand = torch.where(both, (drawn[2] < 0.5).long(), valid.sum(-1).argmax(1))

    all_seen = torch.where(seen.any(1, keepdim=True), seen, True)
    low, high = extents(joints_2d.flatten(1, 2), all_seen)
    zoom = torch.where(close, (high - low).amax(-1).clamp_min(1.0) * CLOSE_FACTOR / size, 1.0)
    middle = (size - 1) / 2
    centre = torch.where(close[:, None], (high + low) / 2, torch.full_like(high, middle))
    shift = (centre - zoom[:, None] * middle)[..., None]
    straight = torch.cat((torch.eye(2, device=zoom.device) * zoom[:, None, None], shift), dim=-1)
    chosen = torch.where(upright[:, None], valid[rows, hand], True)
    turned = upright_maps(joints_2d[rows, hand], chosen, hand == 1, size)
    scatter = random_crops(n, size, config, generator)
    scatter_upright = random_crops(n, size, config.scatter_upright, generator)
    pick = upright[:, None, None]
    return join(torch.where(pick, turned, straight), torch.where(pick, scatter_upright, scatter))


def join(outer: Tensor, inner: Tensor) -> Tensor:
    """The affine maps (n, 2, 3) that apply `inner` first, then `outer`."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    offset = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat((linear, offset), dim=-1)


def random_crops(n: int, size: int, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Affine maps (n, 2, 3) from crop pixels to picture pixels; both are `size` squares."""
    g = generator
    angle = normal(g, n) * math.radians(config.rotation_deg)
    angle = torch.where(uniform(g, n) < config.spin, uniform(g, n) * 2 * math.pi, angle)
    zoom = torch.exp(normal(g, n) * config.scale)
    zoom = torch.where(uniform(g, n) < config.zoom_out, 1.0 + uniform(g, n), zoom)
    mirror = torch.where(uniform(g, n) < config.flip, -1.0, 1.0)
    shift = (uniform(g, n, 2) * 2 - 1) * config.shift * size
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    linear = torch.stack((cos * mirror, -sin, sin * mirror, cos), dim=-1).view(n, 2, 2)
    middle = torch.full((2,), (size - 1) / 2, device=linear.device)
    offset = middle + shift - (linear @ middle)
    return torch.cat((linear, offset[..., None]), dim=-1)


def warp(pictures: Tensor, crops: Tensor, size: int, padding: str = "zeros") -> Tensor:
    """Samples (n, C, H, W) pictures bilinearly at the crops' pixels, giving (n, C, size, size)."""
    h, w = pictures.shape[-2:]
    # Pixel centres at integers to grid_sample's [-1, 1] over the pictures' outer edges.
    steps = torch.arange(size, dtype=crops.dtype, device=crops.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), dim=-1).view(1, -1, 3)
    source = points @ crops.transpose(1, 2)
    grid = (source + 0.5) * (2.0 / torch.tensor([w, h], dtype=crops.dtype, device=crops.device)) - 1.0
    return F.grid_sample(
        pictures, grid.view(-1, size, size, 2), mode="bilinear", padding_mode=padding, align_corners=False
    )


def move_joints(joints_25d: Tensor, crops: Tensor) -> Tensor:
    """2.5D joints (n, 2, 21, 3) of the picture to those of the crop; a mirrored crop swaps the hands."""
    linear, offset = crops[:, :, :2], crops[:, :, 2]
    inverse = torch.linalg.inv(linear)
    uv = (joints_25d[..., :2] - offset[:, None, None]) @ inverse.transpose(1, 2)[:, None]
    determinant = torch.linalg.det(linear)
    d = joints_25d[..., 2:] / determinant.abs().sqrt()[:, None, None, None]
    return swap_mirrored(torch.cat((uv, d), dim=-1), crops)


def swap_mirrored(values: Tensor, crops: Tensor) -> Tensor:
    """Exchanges right and left (dimension 1) of the samples whose crop mirrors."""
    mirrored = torch.linalg.det(crops[:, :, :2]) < 0
    return torch.where(mirrored.view(-1, *[1] * (values.ndim - 1)), values.flip(1), values)


def colour_matrices(n: int, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random exposure, cast, contrast and saturation as matrices (n, 3, 3) and offsets (n, 3, 1)."""

    def spread(scale: float, *shape: int) -> Tensor:
        return normal(generator, n, *shape) * scale * strength

    device = generator.device
    gain = torch.exp(spread(0.25, 1) + spread(0.07, 3)).clamp(0.4, 2.0)
    contrast = torch.exp(spread(0.2, 1, 1)).clamp(0.5, 1.7)
    saturation = (1.0 + spread(0.3, 1, 1)).clamp(0.0, 1.8)
    grey = torch.tensor([0.299, 0.587, 0.114], device=device).expand(3, 3)
    matrix = (torch.eye(3, device=device) * saturation + grey * (1 - saturation)) * contrast
    return matrix * gain[:, None, :], 0.45 * (1 - contrast) * torch.ones(3, 1, device=device)


def photograph(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Photographic effects on (n, 3, S, S) pictures in [0, 1]: colour, resolution, blur, noise."""
    n, _, size, _ = x.shape
    g = generator
    if config.colour:
        matrix, offset = colour_matrices(n, config.colour, generator)
        x = torch.baddbmm(offset, matrix, x.flatten(2)).view_as(x).clamp_(0, 1)
        few = torch.nonzero(uniform(g, n) < 0.4 * config.colour).flatten()
        if len(few):
            gamma = torch.exp(normal(g, len(few), 1, 1, 1) * 0.25)
            x[few] = x[few].clamp_min(1e-4) ** gamma
    if config.blur:
        # The effects act on parts of the batch, each with one strength: some are shrunk, some blurred.
        order = torch.randperm(n, generator=g, device=g.device)[: int(n * config.blur)]
        small, soft = order[: len(order) // 2], order[len(order) // 2 :]
        if len(small):
            low = int(size * (0.35 + 0.5 * float(uniform(g, 1))))
            shrunk = F.interpolate(x[small], size=(low, low), mode="area")
            x[small] = F.interpolate(shrunk, size=(size, size), mode="bilinear", align_corners=False)
        if len(soft):
            sigma = (0.4 + 1.0 * float(uniform(g, 1))) * size / 128
            taps = torch.arange(-3, 4, dtype=x.dtype, device=x.device)
            kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
            kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7).contiguous()
            y = F.conv2d(F.pad(x[soft], (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
            x[soft] = F.conv2d(y, kernel.transpose(2, 3), groups=3)
    if config.noise:
        some = torch.nonzero(uniform(g, n) < 0.6).flatten()
        if len(some):
            strength = uniform(g, len(some), 1, 1, 1) ** 2 * config.noise
            x[some] += normal(g, len(some), 3, size, size) * strength
    return x.clamp_(0, 1)


def paste_patches(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Covers parts of some pictures with patches of others, or with one colour."""
    n, _, size, _ = x.shape
    chosen = torch.nonzero(uniform(generator, n) < config.occlude).flatten().tolist()
    for i, numbers in zip(chosen, uniform(generator, len(chosen), 8).tolist(), strict=True):
        w, h = (max(4, int(size * (0.06 + 0.3 * r))) for r in numbers[:2])
        left, top = int(numbers[2] * (size - w)), int(numbers[3] * (size - h))
        if numbers[4] < 0.5:
            patch = x.new_tensor(numbers[5:8]).view(3, 1, 1).expand(3, h, w)
        else:
            other = int(numbers[5] * n) % n
            y0, x0 = int(numbers[6] * (size - h)), int(numbers[7] * (size - w))
            patch = x[other, :, y0 : y0 + h, x0 : x0 + w].clone()
        x[i, :, top : top + h, left : left + w] = patch
    return x


def lay_over(
    foreground: Tensor, background: Tensor, crops: Tensor, crops_back: Tensor, size: int, gain: Tensor
) -> Tensor:
    """Warps both layers and lays one over the other.

    Args:
        foreground: (n, 4, S, S) in [0, 1], straight colour and coverage; overwritten.
        background: (n, 3, R, R) in [0, 1].
        crops: (n, 2, 3) for the foreground, as `random_crops` gives them.
        crops_back: the same for the background.
        size: side of the result.
        gain: (n, 3) brightness of the foreground relative to the background.
    """
    foreground[:, :3] *= foreground[:, 3:]  # colours of uncovered pixels must not bleed in
    layers = warp(foreground, crops, size)
    back = warp(background, crops_back, size, padding="reflection")
    return (layers[:, :3] * gain[:, :, None, None] + back * (1 - layers[:, 3:])).clamp_(0, 1)


@dataclass(frozen=True)
class Foregrounds:
    """Images of hands with coverage, and their labels.

    Attributes:
        rows: (n,) places in the batch.
        images: (n, S, S, 4) uint8, straight colour and coverage.
        joints_25d: (n, 2, 21, 3) in pixels of the images.
        valid: (n, 2, 21) bool.
        valid_z: (n, 2, 21) bool, joints of known depth.
        known: (n, 2) bool; False for a hand that is in the image, but not labelled.
        is_depth: (n,) bool; depth maps stay without background and colour effects.
    """

    rows: Tensor
    images: Tensor
    joints_25d: Tensor
    valid: Tensor
    valid_z: Tensor
    known: Tensor
    is_depth: Tensor

    def to(self, device: torch.device) -> Foregrounds:
        """The same on another device."""
        return Foregrounds(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


BEHIND = AugmentConfig(rotation_deg=10, scale=0.25, zoom_out=0.0, shift=0.15, spin=0.0)
"""How backgrounds vary."""


def make_batch(
    parts: Sequence[Foregrounds],
    backgrounds: Tensor,
    size: int,
    config: AugmentConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cuts, turns and mirrors foregrounds, lays them over backgrounds and photographs them.

    Args:
        parts: foregrounds on the generator's device, a part for each size of their images.
        backgrounds: (N, R, R, 3) uint8, one for each place of the batch.
        size: side of the crops.
        config: strengths.
        generator: source of all randomness.

    Returns:
        Images (N, 3, size, size) in [0, 1] and the target of `dfmamba.heads.pose_loss`.
    """
    n = len(backgrounds)
    device = generator.device
    x = torch.empty(n, 3, size, size, device=device)
    is_depth = torch.zeros(n, dtype=torch.bool, device=device)
    joints = torch.empty(n, 2, 21, 3, device=device)
    labels = {name: torch.empty(n, 2, 21, dtype=torch.bool, device=device) for name in ("valid", "valid_z")}
    known = torch.empty(n, 2, dtype=torch.bool, device=device)
    for part in parts:
        x[part.rows], crops = _place(part, backgrounds[part.rows], size, config, generator)
        joints[part.rows] = move_joints(part.joints_25d, crops)
        for name, values in labels.items():
            values[part.rows] = swap_mirrored(getattr(part, name), crops)
        known[part.rows] = swap_mirrored(part.known, crops)
        is_depth[part.rows] = part.is_depth
    plain = x[is_depth].clone()
    x = photograph(x, config, generator)
    x[is_depth] = plain
    x = paste_patches(x, config, generator)

    low, high = -0.5 - 0.15 * size, size - 0.5 + 0.15 * size
    near = ((joints[..., :2] > low) & (joints[..., :2] < high)).all(-1) & labels["valid"]
    inside = ((joints[..., :2] > -0.5) & (joints[..., :2] < size - 0.5)).all(-1) & labels["valid"]
    present = inside.sum(-1) >= LEAST_JOINTS
    valid = near & present[..., None]
    return x, pose_target(joints, valid, present, valid & labels["valid_z"], known)


LEAST_JOINTS = 8
"""A hand with fewer joints in a crop counts as absent."""


def _place(
    part: Foregrounds, backgrounds: Tensor, size: int, config: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crops (n, 3, size, size) of foregrounds over backgrounds, and the maps (n, 2, 3) to the foregrounds."""
    n, side = part.images.shape[:2]
    front = part.images.permute(0, 3, 1, 2).float().div_(255)
    back = backgrounds.permute(0, 3, 1, 2).float().div_(255)
    back[part.is_depth.nonzero().flatten()] = 0
    crops = aimed_crops(part.joints_25d[..., :2], part.valid, side, config, generator)
    crops = join(crops, _resize(side, size, crops))
    crops_back = random_crops(n, back.shape[-1], BEHIND, generator)
    crops_back = join(crops_back, _resize(back.shape[-1], size, crops_back))
    gain = torch.exp(normal(generator, n, 1) * 0.2 + normal(generator, n, 3) * 0.05)
    gain = 1 + (gain - 1) * config.colour
    gain[part.is_depth] = 1
    return lay_over(front, back, crops, crops_back, size, gain), crops


def _resize(side: int, size: int, like: Tensor) -> Tensor:
    """The maps (n, 2, 3) from pixels of squares of `size` to those of `side`, as many as in `like`."""
    scale = side / size
    offset = 0.5 * scale - 0.5
    return like.new_tensor([[scale, 0, offset], [0, scale, offset]]).expand(len(like), 2, 3)


def depth_of_25d(joints_mm: Tensor, cameras: Tensor, valid: Tensor) -> Tensor:
    """The third coordinate of 2.5D joints, each sample with its camera; see `dfmamba.hands.camera.to_25d`.

    Args:
        joints_mm: (n, 2, 21, 3) camera frame.
        cameras: (n, 4) fx, fy, cx, cy.
        valid: (n, 2, 21) bool.

    Returns:
        (n, 2, 21) pixels, 0 where not valid.
    """
    focal = (cameras[:, 0] * cameras[:, 1]).sqrt()[:, None, None]
    depth = joints_mm[..., 2]
    root = torch.where(depth[..., :1] > 0, depth[..., :1], 1.0)
    return torch.where(valid, (depth - root) * focal / root, 0.0)


def pose_target(
    joints_25d: Tensor,
    valid: Tensor,
    present: Tensor,
    valid_z: Tensor | None = None,
    known: Tensor | None = None,
) -> dict[str, Tensor]:
    """The target of `dfmamba.heads.pose_loss` for crops, with joints lent to absent hands.

    An absent hand beside one that is there has the joints of that one: its output is otherwise without a
    teacher. So both outputs learn from every image of a single hand, and a wrong side doesn't also mean wrong
    joints.

    Args:
        joints_25d: (n, 2, 21, 3) in pixels of the crops.
        valid: (n, 2, 21) bool.
        present: (n, 2) bool.
        valid_z: (n, 2, 21) bool, joints of known depth; None: all that are valid.
        known: (n, 2) bool, whether `present` is known; None: everywhere.
    """
    valid_z = valid if valid_z is None else valid_z
    known = torch.ones_like(present) if known is None else known
    known = known | present
    alone = (present.sum(1) == 1)[:, None] & ~present & known
    joints_25d = torch.where(alone[..., None, None], joints_25d.flip(1), joints_25d)
    valid, valid_z = (torch.where(alone[..., None], flags.flip(1), flags) for flags in (valid, valid_z))
    return {
        "joints_25d": torch.where(valid[..., None], joints_25d, 0.0),
        "valid": valid,
        "valid_z": valid_z,
        "present": present,
        "present_known": known,
        "box_size_px": box_sides(joints_25d, valid),
    }


def box_sides(joints_25d: Tensor, valid: Tensor) -> Tensor:
    """Longer side of the box of each hand's valid joints, (n, 2), 0 without any."""
    low, high = extents(joints_25d[..., :2], valid)
    side = (high - low).amax(-1)
    return torch.where(valid.any(-1), side, torch.zeros_like(side))
