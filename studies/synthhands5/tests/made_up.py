"""Pictures and models that need no renderer and no training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dfmamba.models import HandPoseModel
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.settings import PICTURE
from studies.synthhands5.training import model_config


def made_up_pictures(n: int = 3) -> Pictures:
    """Noise, with both hands before the middle of the picture; the joints of the left one are hidden."""
    rng = np.random.default_rng(0)
    camera = torch.tensor([300.0, 310.0, 63.5, 63.5]).repeat(n, 1)
    joints = torch.from_numpy(rng.uniform(-70, 70, (n, 2, 21, 3))).float()
    joints[..., 2] += 500.0
    pixels = joints[..., :2] * camera[:, None, None, :2] / joints[..., 2:] + camera[:, None, None, 2:]
    valid = torch.ones(n, 2, 21, dtype=torch.bool)
    visible = valid.clone()
    visible[:, 1] = False
    noise = torch.from_numpy(rng.integers(0, 256, (n, PICTURE, PICTURE, 3), dtype=np.uint8))
    return Pictures(noise, pixels, joints, valid, visible, camera)


def small_model(backbone: str = "dfmamba_test", **args: Any) -> HandPoseModel:
    """A backbone with random weights under the benchmark's head."""
    torch.manual_seed(0)
    return HandPoseModel(model_config("small", backbone, args)).eval()
