"""The benchmark's pictures: rendering them once, and reading them as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfmamba.data.index import cache_root
from dfmamba.data.sample import encode_depth
from dfmamba.synth.generator import SyntheticConfig
from dfmamba.synth.shards import ShardedHands, render_shards
from dfmamba.train.augment import depth_of_25d
from studies.synthhands5.scenes import scene_makers
from studies.synthhands5.settings import PICTURE, SETTINGS, SPLITS, VERSION, known, seed_of

SHARD = 500


def default_folder() -> Path:
    """Where the pictures go unless another folder is named: below the user's cache directory."""
    return cache_root() / f"synthhands5-v{VERSION}"


def renderer_config(setting: str, split: str) -> SyntheticConfig:
    """Settings of the generator for one split of one setting.

    Raises:
        ValueError: unknown setting or split.
    """
    known(setting, SETTINGS, "setting")
    known(split, SPLITS, "split")
    which = SETTINGS[setting]
    return SyntheticConfig(size=PICTURE, seed=seed_of(which, SPLITS[split]), kinds={which.kind: 1.0})


def _layer(setting: str) -> str:
    return "depth" if SETTINGS[setting].kind == "depth" else "full"


def render(
    setting: str,
    split: str,
    folder: str | Path | None = None,
    workers: int = 2,
    count: int | None = None,
    progress: bool = True,
) -> Path:
    """Renders one split of one setting; finished shards of `SHARD` pictures are left alone.

    Args:
        setting: one of `SETTINGS`.
        split: one of `SPLITS`.
        folder: of the benchmark; `default_folder()` if None.
        workers: processes; 0 renders in this one.
        count: fewer pictures than the split has, for tests.
        progress: a line with the rate to standard error now and then.

    Returns:
        The split's folder.

    Raises:
        ValueError: unknown setting or split, or the folder holds pictures of other settings.
        ImportError: the extra `synthetic` is missing.
    """
    config = renderer_config(setting, split)
    compose, backdrop = scene_makers(setting)
    where = Path(folder) if folder else default_folder()
    return render_shards(
        config,
        0,
        SPLITS[split].pictures if count is None else count,
        where / setting / split,
        workers,
        SHARD,
        (_layer(setting),),
        compose,
        progress,
        backdrop,
    )


@dataclass(frozen=True)
class Pictures:
    """One split of one setting, in memory.

    Attributes:
        pixels: (n, S, S, 3) uint8 RGB; of the depth setting the grey code of `dfmamba.data.sample` around the
            mean depth of the joints, which frameworks for depth pictures are given, too.
        joints_2d_px: (n, 2, 21, 2), right hand then left.
        joints_mm: (n, 2, 21, 3), camera frame.
        valid: (n, 2, 21) bool: labelled, which an absent hand's joints aren't.
        visible: (n, 2, 21) bool.
        camera: (n, 4) fx, fy, cx, cy.
    """

    pixels: Tensor
    joints_2d_px: Tensor
    joints_mm: Tensor
    valid: Tensor
    visible: Tensor
    camera: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def joints_25d(self) -> Tensor:
        """(n, 2, 21, 3): pixels, and depth relative to each wrist in pixels at its depth, 0 if not valid."""
        relative = depth_of_25d(self.joints_mm, self.camera, self.valid)
        return torch.cat((self.joints_2d_px, relative[..., None]), dim=-1)

    @property
    def hidden_share(self) -> Tensor:
        """(n, 2) share of each hand's joints that aren't visible, 0 for an absent hand."""
        hidden = (self.valid & ~self.visible).sum(-1)
        return hidden / self.valid.sum(-1).clamp_min(1)


def load_pictures(
    setting: str, split: str, folder: str | Path | None = None, first: int | None = None
) -> Pictures:
    """Reads what `render` wrote.

    Raises:
        OSError: the pictures aren't there, or not all of them.
        ValueError: unknown setting or split.
    """
    renderer_config(setting, split)
    where = (Path(folder) if folder else default_folder()) / setting / split
    layer = _layer(setting)
    hands = ShardedHands(where, (layer,))
    wanted = SPLITS[split].pictures if first is None else first
    if len(hands) < wanted or (first is None and len(hands) > wanted):
        raise OSError(
            f"{where}: {len(hands)} pictures, expected {wanted}; render them with "
            f"python -m studies.synthhands5 render --setting {setting} --split {split}"
        )
    pixels = np.concatenate([one[layer] for one in hands.pictures])
    if layer == "depth":
        centres = [
            joints[valid][:, 2].mean()
            for joints, valid in zip(hands.labels["joints_cam_mm"], hands.labels["valid"], strict=True)
        ]
        pixels = np.stack([encode_depth(d, float(c)) for d, c in zip(pixels, centres, strict=True)])
    labels = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in hands.labels.items()}
    return Pictures(
        torch.from_numpy(pixels),
        labels["joints_2d"],
        labels["joints_cam_mm"],
        labels["valid"],
        labels["visible"],
        labels["camera"],
    )
