"""A stand-in for a network, whose answers can be read off the picture."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dfmamba.heads.config import HandPoseOutput

SIZE = 64


def centre(mask: Tensor) -> Tensor:
    """Mean pixel (u, v) of a mask (S, S)."""
    v, u = torch.nonzero(mask, as_tuple=True)
    return torch.stack([u.float().mean(), v.float().mean()])


class Stick(nn.Module):
    """Sees a hand as a stick from a red blob (wrist) to a green blob (tip of the little finger).

    It is a right hand if a blue blob (thumb) lies to the left of the stick, seen upright. Joint j lies j / 20
    of the way along, its depth is half its distance from the wrist. `scores` are the presence logits of
    successive calls, `doubt` is how much less likely it finds the other side. The first `mistaken` calls
    take the one side for the other.
    """

    def __init__(
        self, scores: tuple[float, ...] = (4.0, 4.0), doubt: float = 10.0, mistaken: int = 0
    ) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_size=SIZE, name="stick")
        self.scores, self.doubt, self.mistaken = scores, doubt, mistaken
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> HandPoseOutput:
        score = self.scores[min(len(self.inputs), len(self.scores) - 1)]
        calls = len(self.inputs)
        self.inputs.append(x)
        batch = len(x)
        joints = torch.zeros(batch, 2, 21, 3)
        present = torch.full((batch, 2), score - self.doubt)
        for i, image in enumerate(x):
            red, green, blue = image[0] - image[1] > 0.5, image[1] - image[0] > 0.5, image[2] - image[0] > 0.5
            if not (red.any() and green.any() and blue.any()):
                continue
            wrist, tip, thumb = centre(red), centre(green), centre(blue)
            along, across = tip - wrist, thumb - wrist
            side = int((along[0] * across[1] - along[1] * across[0] >= 0) != (calls < self.mistaken))
            share = torch.linspace(0, 1, 21)[:, None]
            joints[i, side, :, :2] = wrist + share * (tip - wrist)
            joints[i, side, :, 2] = 0.5 * share[:, 0] * (tip - wrist).norm()
            present[i, side] = score
        return HandPoseOutput(joints, torch.full((batch, 2, 21), 2.0), present, ())


@pytest.fixture
def stick() -> Stick:
    """A fresh stand-in."""
    return Stick()


@pytest.fixture
def stick_class() -> type[Stick]:
    """To make stand-ins with other scores."""
    return Stick
