"""The detector that ships with the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dfmamba.detect.decode import decode
from dfmamba.detect.detection import Detection
from dfmamba.hands.affine import crop_affine, picture_square
from dfmamba.hands.crop import warp_image
from dfmamba.models import check_device, load

NAME = "detector"
"""Of the packaged weights."""


class NetworkDetector:
    """Finds hands with a network trained by `dfmamba train-detector`.

    Args:
        model: a `HandPoseModel` with a detector head, or the name or folder of one.
        device: a torch device.

    Raises:
        OSError: no such model.
        ValueError: the model is no detector, or its weights can't be used.
    """

    def __init__(self, model: nn.Module | str = NAME, device: str | torch.device = "cpu") -> None:
        network: Any = model if isinstance(model, nn.Module) else load(model)
        kind = network.config.head.to_dict().get("kind")
        if kind != "detector":
            raise ValueError(f"model {network.config.name!r} is no detector of hands (its head is {kind!r})")
        self.stride = network.head.stride
        self.image_size = int(network.config.image_size)
        self.device = check_device(str(device))
        self.model = (network.fuse() if hasattr(network, "fuse") else network).to(self.device).eval()

    def detect(self, pictures: Sequence[np.ndarray]) -> list[list[Detection]]:
        """See `dfmamba.detect.Detector.detect`; the whole picture at once, at the detector's size.

        Raises:
            ValueError: the network's output is not finite.
        """
        found: list[list[Detection]] = []
        for picture in pictures:
            square = picture_square((picture.shape[1], picture.shape[0]))
            affine = crop_affine(square, self.image_size)
            x = torch.from_numpy(warp_image(picture, affine, self.image_size)).to(self.device)
            with torch.inference_mode():
                maps = self.model(x.permute(2, 0, 1)[None].float() / 255.0).float()
            if not bool(torch.isfinite(maps).all()):
                raise ValueError("detector: the output is not finite; are the weights damaged?")
            found += decode(maps, self.stride, [affine])
        return found
