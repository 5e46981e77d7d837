"""Crops on which exports are checked and calibrated: what the network sees when the predictor runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dfmamba.export.subject import Subject
from dfmamba.hands.affine import crop_affine, picture_square
from dfmamba.hands.crop import warp_image
from dfmamba.io import find_images, load_image

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
"""Pictures beside the source; an installed package has none."""

NOISE_PICTURES = 4
CROPS_PER_PICTURE = 16


def find_pictures(paths: Sequence[str] = ()) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 to check with: those given, else the examples, else smooth noise.

    Raises:
        OSError, ValueError: a given picture is missing or not readable.
    """
    if paths or EXAMPLES.is_dir():
        return [load_image(path) for path in find_images(list(paths) or [str(EXAMPLES)])]
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (NOISE_PICTURES, 12, 16, 3), dtype=np.uint8)
    return [warp_image(c, crop_affine((-0.5, -0.5, 15.5, 15.5), 256), 256) for c in coarse]


def crops_of(subject: Subject, pictures: Sequence[np.ndarray]) -> Tensor:
    """Network inputs (n, in_chans, size, size) in [0, 1].

    For a pose model of RGB pictures they are all the crops that the predictor makes, at most
    `CROPS_PER_PICTURE` of each picture; else the square around each whole picture.
    """
    if subject.pose is None or subject.in_chans != 3:
        crops = []
        for picture in pictures:
            square = picture_square((picture.shape[1], picture.shape[0]))
            crop = torch.from_numpy(warp_image(picture, crop_affine(square, subject.size), subject.size))
            shown = crop.permute(2, 0, 1).float() / 255.0
            if subject.in_chans != 3:
                shown = shown.mean(0, keepdim=True).expand(subject.in_chans, -1, -1)
            crops.append(shown)
        return torch.stack(crops)

    from dfmamba.predict.predictor import Predictor

    predictor = Predictor(subject.pose, "cpu", detector=None)
    remembering = predictor.network.model = _Remembering(predictor.model)
    crops = []
    for picture in pictures:
        remembering.seen.clear()
        predictor.predict(picture, threshold=0.2)
        crops.append(torch.cat(remembering.seen)[:CROPS_PER_PICTURE])
    return torch.cat(crops)


class _Remembering(nn.Module):
    """A network that keeps what it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, list[Tensor]()

    def forward(self, crops: Tensor) -> Any:
        self.seen.append(crops.cpu())
        return self.network(crops)
