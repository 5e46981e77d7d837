"""Masked-image pre-training: a backbone learns from unlabelled pictures to fill in what is covered.

After SimMIM (Xie et al., CVPR 2022): random patches are covered at the input, a single layer paints them from
the last map, and the loss is the mean absolute error of the covered pixels. A backbone with a convolutional
stem has no patch embedding to put a learnt token into; covered patches are grey here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dfmamba.backbones import create_backbone
from dfmamba.frameworks import Example
from dfmamba.io.files import write_atomic
from dfmamba.io.images import find_images, load_image
from dfmamba.models import CONFIG_FILE, WEIGHTS_FILE
from dfmamba.train.config import RunConfig
from dfmamba.train.parallel import Ranks
from dfmamba.train.samples import DatasetSource

LEAST_AREA = 0.67
"""Smallest share of a picture that a crop shows, and the narrowest and widest shape of it: as in SimMIM."""

SHAPES = (3 / 4, 4 / 3)

GREY = 0.5


@dataclass(frozen=True)
class PretrainRun(RunConfig):
    """Pre-training on pictures. A run is a function of this and of the pictures.

    Attributes:
        pictures: folder of the pictures, a picture, or a pattern such as "DIR/**/*.jpg".
        backbone: a name of `dfmamba.list_backbones()`.
        backbone_args: changes to the backbone's configuration.
        image_size: side of the crops in pixels; a multiple of `patch` and of 32.
        patch: side of a covered patch in pixels.
        mask: share of the patches that is covered.
        workers: processes that prepare batches.

    The other settings are those of `RunConfig`.
    """

    out: str = "runs/pretrain"
    lr: float = 1e-3
    weight_decay: float = 0.05
    clip: float = 5.0
    pictures: str = ""
    backbone: str = "dfmamba_nano"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    image_size: int = 128
    patch: int = 32
    mask: float = 0.6
    workers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, unit in (("patch", self.patch), ("stride", 32)):
            if unit < 1 or self.image_size < unit or self.image_size % unit:
                raise ValueError(
                    f"image_size is {self.image_size}; expected a multiple of the {name}, {unit}"
                )
        if not 0 < self.mask < 1:
            raise ValueError(f"mask is {self.mask}; expected a share between 0 and 1")


class MaskedPictures(nn.Module):
    """A backbone with a layer that paints the picture from its last map: a 1x1 convolution to the pixels of
    each cell.

    Args:
        run: the run.

    Shape: pictures (B, 3, S, S) in [0, 1], covered in part, to (B, 3, S, S).
    """

    def __init__(self, run: PretrainRun) -> None:
        super().__init__()
        self.run = run
        self.backbone = create_backbone(
            run.backbone, features_only=True, out_indices=(3,), **{**run.backbone_args, "in_chans": 3}
        )
        info: Any = self.backbone.feature_info
        (self.stride,) = info.reduction()
        self.decoder = nn.Conv2d(info.channels()[0], 3 * self.stride**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.decoder(self.backbone(2 * x - 1)[0]), self.stride) + GREY

    def save(self, folder: str | Path) -> None:
        """Writes the backbone's weights, for `--init_backbone`, and what it was trained on.

        Raises:
            OSError: the folder can't be written.
        """
        from safetensors.torch import save

        state = {f"backbone.{n}": t.contiguous().cpu() for n, t in self.backbone.state_dict().items()}
        facts = {"pretraining": "masked pictures", **asdict(self.run), "out": None}
        write_atomic(Path(folder) / WEIGHTS_FILE, save(state, {"format": "pt"}))
        write_atomic(Path(folder) / CONFIG_FILE, (json.dumps(facts, indent=2) + "\n").encode())


class MaskedTask:
    """The painting network of a run and its loss."""

    def __init__(self, run: PretrainRun) -> None:
        self.run = run

    def build(self) -> MaskedPictures:
        """The network with random weights.

        Raises:
            ValueError: unknown backbone or argument.
            ImportError: the backbone needs an extra that is missing.
        """
        return MaskedPictures(self.run)

    def loss(self, output: Tensor, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean absolute error of the covered pixels; values in [0, 1].

        Args:
            output: (B, 3, S, S).
            target: "picture" (B, 3, S, S), and "mask" (B, S / patch, S / patch), True where covered.
        """
        mask = _enlarged(target["mask"], self.run.patch)[:, None]
        error = (output - target["picture"]).abs() * mask
        return {"total": error.sum() / (mask.sum() * output.shape[1]).clamp(min=1)}


class _Named(NamedTuple):
    id: str


class PictureFiles:
    """Pictures as a data set for `DatasetSource`, by their files.

    Args:
        source: as for `PretrainRun.pictures`.

    Raises:
        OSError: there is no such folder or file.
        ValueError: there are no pictures in it.
    """

    def __init__(self, source: str | Path) -> None:
        if not str(source):
            raise ValueError("no pictures are named; give a folder of them")
        self.files = find_images([source])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8.

        Raises:
            OSError: the file is missing.
            ValueError: it is damaged.
        """
        return load_image(self.files[i])

    def labels(self, i: int) -> _Named:
        """The file's name, as the sample's `id`."""
        return _Named(self.files[i].name)


class Masking:
    """A picture to a covered crop and its target; to `DatasetSource` what a framework is."""

    def __init__(self, run: PretrainRun) -> None:
        self.size, self.patch, self.share = run.image_size, run.patch, run.mask

    def example(self, picture: np.ndarray, rng: np.random.Generator) -> Example:
        """The covered crop (3, S, S) in [0, 1], and "picture" and "mask" as `MaskedTask.loss` takes them.

        Args:
            picture: (H, W, 3) uint8.
            rng: source of crop, mirroring and mask.
        """
        crop = random_crop(picture, self.size, rng)
        cells = self.size // self.patch
        covered = np.zeros(cells * cells, bool)
        covered[rng.permutation(cells * cells)[: math.ceil(self.share * cells * cells)]] = True
        whole = torch.from_numpy(crop.transpose(2, 0, 1).astype(np.float32) / 255)
        mask = torch.from_numpy(covered.reshape(cells, cells))
        seen = torch.where(_enlarged(mask[None], self.patch), torch.tensor(GREY), whole)
        return Example(seen, {"picture": whole, "mask": mask})


def random_crop(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of a picture (H, W, 3) uint8, mirrored half of the time, as (size, size, 3) uint8."""
    height, width = picture.shape[:2]
    area = rng.uniform(LEAST_AREA, 1.0) * height * width
    shape = math.exp(rng.uniform(*np.log(SHAPES)))
    wide, high = min(width, math.sqrt(area * shape)), min(height, math.sqrt(area / shape))
    x, y = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    image = Image.fromarray(picture).resize(
        (size, size), Image.Resampling.BICUBIC, (x, y, x + wide, y + high)
    )
    found = np.asarray(image)
    return found[:, ::-1].copy() if rng.random() < 0.5 else found


def _enlarged(mask: Tensor, patch: int) -> Tensor:
    """(B, h, w) to (B, h * patch, w * patch)."""
    return mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)


def picture_source(run: PretrainRun, ranks: Ranks | None = None) -> DatasetSource:
    """Batches of covered crops; order, crop and mask depend on (seed, epoch, picture) alone.

    Raises:
        OSError: there is no such folder or file.
        ValueError: there are no pictures in it.
    """
    files, masking = cast(Any, PictureFiles(run.pictures)), cast(Any, Masking(run))
    return DatasetSource(files, masking, run.batch_size, run.seed, ranks, run.workers)
