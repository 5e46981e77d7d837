"""The pool of rendered pictures that training draws from, and the batches made of it.

Pictures are rendered once, in shards of `SHARD`, and laid over another background with other colours each
time they are drawn. The pool grows with the step by a fixed rule and waits for shards that aren't there yet,
so that a batch depends on the configuration and the step alone, however fast the renderer is.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfmamba.data.index import cache_root
from dfmamba.data.kinds import SYNTHETIC_KINDS
from dfmamba.hands.affine import extents
from dfmamba.synth.appearance import SKIN_RAMP_SRGB
from dfmamba.synth.background import sample_background
from dfmamba.synth.generator import SyntheticConfig
from dfmamba.synth.shards import ShardedHands, render_shards
from dfmamba.train.augment import (
    AugmentConfig,
    aimed_crops,
    compose,
    join,
    move_joints,
    paste_patches,
    photograph,
    random_crops,
    swap_mirrored,
)
from dfmamba.train.config import DataConfig, TrainConfig
from dfmamba.train.dataset_source import Ahead, Composed
from dfmamba.train.parallel import Ranks

SHARD = 2000
LAYERS = ("hand",)
DEPTH_KIND = SYNTHETIC_KINDS.index("depth")


def synthetic_config(data: DataConfig) -> SyntheticConfig:
    """What the renderer needs to know of the data settings."""
    return SyntheticConfig(size=data.size, seed=data.seed, kinds=dict(data.kinds), effects=False)


def cache_folder(data: DataConfig) -> Path:
    """Folder of the rendered pictures, named by what is in them unless the settings name one."""
    if data.cache:
        return Path(data.cache)
    named = json.dumps(synthetic_config(data).to_dict(), sort_keys=True)
    return cache_root() / f"synthetic-{hashlib.sha256(named.encode()).hexdigest()[:12]}"


def render(data: DataConfig, first: int, count: int) -> Path:
    """Renders pictures `first` to `first + count` into the cache; finished shards are left alone."""
    folder = cache_folder(data)
    return render_shards(
        synthetic_config(data), first, count, folder, data.workers, shard_size=SHARD, layers=LAYERS
    )


def render_backgrounds(data: DataConfig) -> np.ndarray:
    """(N, S, S, 3) uint8 backgrounds, made once and kept in the cache."""
    named = hashlib.sha256(str(data.photos).encode()).hexdigest()[:8] if data.photos else "drawn"
    path = cache_folder(data) / f"backgrounds-{data.backgrounds}-{named}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures = np.empty((data.backgrounds, data.size, data.size, 3), np.uint8)
        for i in range(data.backgrounds):
            rng = np.random.default_rng([data.seed, 8, i])
            tone = SKIN_RAMP_SRGB[rng.integers(len(SKIN_RAMP_SRGB))]
            pictures[i] = sample_background(rng, data.size, data.photos, tone)
        draft = path.with_suffix(f".{os.getpid()}.part.npy")
        np.save(draft, pictures)
        os.replace(draft, path)
    return np.load(path, mmap_mode="r")


class Pool:
    """Batches for the engine, drawn from the rendered pictures.

    Args:
        config: the run; `config.data` says what is rendered, `config.augment` how it is varied.
        image_size: side of the model's crop, unless `config.crop` says otherwise.
        ranks: this process among several, each of which takes its share of every batch.
        patience_s: how long to wait for a shard that another process renders.
        workers: processes that compose batches ahead; 0 composes them in this one. The same batches.
    """

    def __init__(
        self,
        config: TrainConfig,
        image_size: int,
        ranks: Ranks | None = None,
        patience_s: float = 3600.0,
        workers: int = 0,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.config, self.image_size, self.patience_s = config, config.crop or image_size, patience_s
        self._ahead = Ahead(Composed(self, Pool, config, image_size, ranks, patience_s), workers)
        self.folder = cache_folder(config.data)
        self.backgrounds = render_backgrounds(config.data)
        self.loaded = 0
        self._open(self.available(0))

    def available(self, step: int) -> int:
        """How many pictures the pool holds at a step: all of them from half of the run on."""
        data = self.config.data
        first = min(data.first, data.pictures)
        share = min(1.0, step / max(1, 0.5 * self.config.steps))
        return first + int(share * (data.pictures - first)) // SHARD * SHARD

    def _open(self, wanted: int) -> None:
        deadline = time.monotonic() + self.patience_s
        shards = [self.folder / f"shard-{first:09d}" for first in range(0, wanted, SHARD)]
        told = False
        while not all(shard.is_dir() for shard in shards):
            if time.monotonic() > deadline:
                raise OSError(
                    f"{self.folder}: shards up to picture {wanted} didn't appear; is the renderer running?"
                )
            if not told:
                print(f"waiting for the renderer ({wanted} pictures needed)", file=sys.stderr, flush=True)
                told = True
            time.sleep(1.0)
        self.hands = ShardedHands(self.folder, LAYERS)
        labels = self.hands.labels
        cameras, joints, valid, pixels = (
            torch.from_numpy(labels[name]) for name in ("camera", "joints_cam_mm", "valid", "joints_2d")
        )
        relative = depth_of_25d(joints.double(), cameras.double(), valid)
        self.joints_25d = torch.cat((pixels, relative[..., None].float()), dim=-1)
        self.valid = torch.from_numpy(labels["valid"].copy())
        self.is_depth = torch.from_numpy(labels["kind"] == DEPTH_KIND)
        factors = np.array([self.config.data.draw.get(kind, 1.0) for kind in SYNTHETIC_KINDS])
        self.chances = np.cumsum(factors[labels["kind"]])
        self.loaded = wanted

    def batch(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, 3, S, S) in [0, 1] and the loss target of one step."""
        return self._ahead[step]

    def compose(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """As `batch`, in this process."""
        wanted = self.available(step)
        if wanted > self.loaded:
            self._open(wanted)
        config = self.config
        rng = np.random.default_rng([config.seed, step, self.ranks.rank])
        drawn = rng.random(self.ranks.share_of(config.batch_size)) * self.chances[wanted - 1]
        chosen = np.searchsorted(self.chances[:wanted], drawn, side="right").clip(max=wanted - 1)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        foreground = np.stack([self.hands[int(i)]["hand"] for i in chosen])
        background = np.stack(
            [self.backgrounds[i] for i in rng.integers(0, len(self.backgrounds), len(chosen))]
        )
        index = torch.from_numpy(chosen)
        return make_batch(
            torch.from_numpy(foreground),
            torch.from_numpy(background),
            self.joints_25d[index],
            self.valid[index],
            self.is_depth[index],
            self.image_size,
            config.augment,
            generator,
        )


def make_batch(
    foreground: Tensor,
    background: Tensor,
    joints_25d: Tensor,
    valid: Tensor,
    is_depth: Tensor,
    size: int,
    config: AugmentConfig,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Augments one batch.

    Args:
        foreground: (n, S, S, 4) uint8.
        background: (n, R, R, 3) uint8.
        joints_25d: (n, 2, 21, 3) in pixels of the foreground.
        valid: (n, 2, 21) bool.
        is_depth: (n,) bool; depth pictures stay without background and colour effects.
        size: side of the crops.
        config: strengths.
        generator: source of all randomness.

    Returns:
        Pictures (n, 3, size, size) in [0, 1] and the target of `dfmamba.heads.pose_loss`.
    """
    n, side = foreground.shape[:2]
    front = foreground.permute(0, 3, 1, 2).float().div_(255)
    back = background.permute(0, 3, 1, 2).float().div_(255)
    back[is_depth.nonzero().flatten()] = 0
    crops = aimed_crops(joints_25d[..., :2], valid, side, config, generator)
    resize = torch.tensor(
        [[side / size, 0, 0.5 * side / size - 0.5], [0, side / size, 0.5 * side / size - 0.5]]
    )
    crops = join(crops, resize.expand(n, 2, 3))
    wide = AugmentConfig(rotation_deg=10, scale=0.25, zoom_out=0.0, shift=0.15, spin=0.0)
    crops_back = join(random_crops(n, back.shape[-1], wide, generator), resize.expand(n, 2, 3))
    gain = torch.exp(
        torch.randn(n, 1, generator=generator) * 0.2 + torch.randn(n, 3, generator=generator) * 0.05
    )
    gain = 1 + (gain - 1) * config.colour
    gain[is_depth] = 1
    x = compose(front, back, crops, crops_back, size, gain)
    plain = x[is_depth].clone()
    x = photograph(x, config, generator)
    x[is_depth] = plain
    x = paste_patches(x, config, generator)

    joints = move_joints(joints_25d, crops)
    valid = swap_mirrored(valid, crops)
    low, high = -0.5 - 0.15 * size, size - 0.5 + 0.15 * size
    near = ((joints[..., :2] > low) & (joints[..., :2] < high)).all(-1) & valid
    inside = ((joints[..., :2] > -0.5) & (joints[..., :2] < size - 0.5)).all(-1) & valid
    present = inside.sum(-1) >= 8
    valid = near & present[..., None]
    return x, pose_target(joints, valid, present)


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


def pose_target(joints_25d: Tensor, valid: Tensor, present: Tensor) -> dict[str, Tensor]:
    """The target of `dfmamba.heads.pose_loss` for crops, with joints lent to absent hands.

    Args:
        joints_25d: (n, 2, 21, 3) in pixels of the crops.
        valid: (n, 2, 21) bool.
        present: (n, 2) bool.
    """
    joints_25d, valid = lend_to_absent(joints_25d, valid, present)
    return {
        "joints_25d": torch.where(valid[..., None], joints_25d, 0.0),
        "valid": valid,
        "present": present,
        "box_size_px": box_sides(joints_25d, valid),
    }


def lend_to_absent(joints_25d: Tensor, valid: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Gives an absent hand the joints of the one that is there.

    The absent hand's output is otherwise without a teacher. So it learns the same joints, both outputs learn
    from every picture of a single hand, and a wrong side doesn't also mean wrong joints.

    Args:
        joints_25d: (n, 2, 21, 3).
        valid: (n, 2, 21) bool.
        present: (n, 2) bool.
    """
    alone = (present.sum(1) == 1)[:, None] & ~present
    joints_25d = torch.where(alone[..., None, None], joints_25d.flip(1), joints_25d)
    return joints_25d, torch.where(alone[..., None], valid.flip(1), valid)


def box_sides(joints_25d: Tensor, valid: Tensor) -> Tensor:
    """Longer side of the box of each hand's valid joints, (n, 2), 0 without any."""
    low, high = extents(joints_25d[..., :2], valid)
    side = (high - low).amax(-1)
    return torch.where(valid.any(-1), side, torch.zeros_like(side))
