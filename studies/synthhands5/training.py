"""One run of the benchmark: batches, task, and the error on the test pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfmamba.hands.camera import Camera, from_25d
from dfmamba.heads import HeadConfig, pose_loss
from dfmamba.models import HandPoseModel, ModelConfig
from dfmamba.train.augment import (
    AugmentConfig,
    join,
    move_joints,
    photograph,
    pose_target,
    random_crops,
    swap_mirrored,
    warp,
)
from dfmamba.train.config import RunConfig, dense_head_loss
from dfmamba.train.engine import Batch
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.settings import CROP_FACTOR, MARGIN, PICTURE

HEAD = HeadConfig(image_size=96, num_layers=0, dim=64, anchor_stride=8)
OUT_INDICES = (1, 2, 3)
AUGMENT = AugmentConfig(
    rotation_deg=12.0, spin=0.0, scale=0.1, zoom_out=0.0, shift=0.06, flip=0.5, blur=0.0, noise=0.0
)
"""The pictures have camera effects of their own already."""


@dataclass(frozen=True)
class BenchmarkRun(RunConfig):
    """One row's training, a function of this and of the pictures.

    Attributes:
        setting: of `studies.synthhands5.settings.SETTINGS`.
        entry: name of the row, for the files.
        backbone: a name of `dfmamba.list_backbones()`.
        backbone_args: changes to the backbone's configuration.

    The other settings are those of `RunConfig`; the defaults are the small budget of README.md.
    """

    steps: int = 1000
    batch_size: int = 16
    lr: float = 2e-3
    warmup: int = 50
    ema: float = 0.99
    threads: int = 1
    save_every: int = 250
    keep_last: int = 1
    setting: str = "two"
    entry: str = ""
    backbone: str = "dfmamba_nano"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)


def model_config(name: str, backbone: str, backbone_args: Mapping[str, Any]) -> ModelConfig:
    """A backbone under the benchmark's head."""
    return ModelConfig(
        name=name, backbone=backbone, backbone_args=dict(backbone_args), out_indices=OUT_INDICES, head=HEAD
    )


class BenchmarkTask:
    """The row's backbone under the common head, and the loss.

    Args:
        run: the run.
    """

    def __init__(self, run: BenchmarkRun) -> None:
        self.run = run
        size = float(HEAD.image_size)
        self.loss_config = replace(dense_head_loss(), image_size=size, depth_range=HEAD.depth_extent)

    def build(self) -> HandPoseModel:
        """The model with random weights."""
        run = self.run
        return HandPoseModel(model_config(f"synthhands5-{run.entry}", run.backbone, run.backbone_args))

    def loss(self, output: Any, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """All terms of `dfmamba.heads.pose_loss`."""
        return pose_loss(output, target, self.loss_config)


def centre_crops(n: int, size: int) -> Tensor:
    """Affine maps (n, 2, 3) from the pixels of test crops to those of the pictures."""
    zoom = PICTURE * CROP_FACTOR / MARGIN / size
    shift = (PICTURE - 1) / 2 - zoom * (size - 1) / 2
    return torch.tensor([[zoom, 0.0, shift], [0.0, zoom, shift]]).expand(n, 2, 3)


class Batches:
    """Augmented crops for the engine; the batch of a step depends on the seed and the step alone.

    Args:
        pictures: to train on.
        batch_size: crops a step.
        seed: of order and augmentation.
        size: side of the crops in pixels.
        plain: leave the colours alone, which in depth pictures are distances.
    """

    def __init__(
        self,
        pictures: Pictures,
        batch_size: int,
        seed: int,
        size: int = HEAD.image_size,
        plain: bool = False,
    ) -> None:
        if len(pictures) < batch_size:
            raise ValueError(f"{len(pictures)} pictures are fewer than a batch of {batch_size}")
        self.pictures, self.batch_size, self.seed, self.size = pictures, batch_size, seed, size
        self.joints_25d, self.plain = pictures.joints_25d, plain
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def chosen(self, step: int) -> np.ndarray:
        """Which pictures a step takes: each once an epoch, but for the rest that fills no batch."""
        per_epoch = len(self.pictures) // self.batch_size
        epoch, place = divmod(step, per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 1, epoch]).permutation(len(self.pictures))
            self._epoch = epoch
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]

    def batch(self, step: int) -> Batch:
        """Crops (B, 3, S, S) in [0, 1] and the target of `dfmamba.heads.pose_loss`."""
        index = torch.from_numpy(self.chosen(step))
        seed = int(np.random.default_rng([self.seed, 2, step]).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        n, size = len(index), self.size
        resize = centre_crops(n, size)
        crops = join(resize, random_crops(n, size, AUGMENT, generator))
        x = self.pictures.pixels[index].permute(0, 3, 1, 2).float().div_(255)
        x = warp(x, crops, size, padding="reflection")
        x = x if self.plain else photograph(x, AUGMENT, generator)
        joints = move_joints(self.joints_25d[index], crops)
        valid = swap_mirrored(self.pictures.valid[index], crops)
        return x, pose_target(joints, valid, valid.any(-1))


def crops_of(pictures: Pictures, index: Sequence[int]) -> Tensor:
    """The crops (N, 3, S, S) in [0, 1] that models are tested on, of some pictures."""
    x = pictures.pixels[list(index)].permute(0, 3, 1, 2).float().div_(255)
    x = warp(x, centre_crops(len(x), HEAD.image_size), HEAD.image_size)
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predict(model: HandPoseModel, pictures: Pictures, batch: int = 50) -> Tensor:
    """Joints (n, 2, 21, 3) in mm, camera frame, of the centre crops.

    Given: box, camera, the depth of each wrist, and which hands there are. An absent hand holds zeros.
    """
    size = HEAD.image_size
    found = []
    for first in range(0, len(pictures), batch):
        x = crops_of(pictures, range(first, min(first + batch, len(pictures))))
        found.append(model(x).joints_25d)
    joints = torch.cat(found).double()
    crop = centre_crops(1, size)[0].double()
    zoom = crop[0, 0]
    in_picture = torch.cat((joints[..., :2] * zoom + crop[:, 2], joints[..., 2:] * zoom), dim=-1).numpy()
    present = pictures.valid.any(-1).numpy()
    depth = np.where(present, pictures.joints_mm[:, :, 0, 2].double().numpy(), 1.0)
    in_mm = [
        from_25d(one, Camera(*camera), z)
        for one, camera, z in zip(in_picture, pictures.camera.double().tolist(), depth, strict=True)
    ]
    return torch.from_numpy(np.stack(in_mm) * present[..., None, None]).float()
