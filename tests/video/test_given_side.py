"""Detections that say the side of their hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfmamba.detect import Detection
from dfmamba.heads.config import HandPoseOutput
from dfmamba.predict.looking import CropNetwork, find_at_detections

SIZE = 64
PICTURE = np.zeros((120, 160, 3), np.uint8)
BOX = np.array([50.0, 30.0, 90.0, 70.0])


class Undecided(torch.nn.Module):
    """Sees a hand in every crop; the right slot's likelier by `lean`, the left one's joints lie apart."""

    def __init__(self, lean: float, apart: float = 0.0) -> None:
        super().__init__()
        self.lean, self.apart, self.crops = lean, apart, 0

    def forward(self, x: torch.Tensor) -> HandPoseOutput:
        self.crops += len(x)
        grid = torch.stack(
            torch.meshgrid(torch.linspace(14, 50, 7), torch.linspace(14, 50, 3), indexing="ij"), -1
        )
        joints = torch.zeros(len(x), 2, 21, 3)
        joints[..., :2] = grid.reshape(21, 2)
        joints[:, 1, :, 0] += self.apart
        present = torch.tensor([self.lean / 2, -self.lean / 2]).expand(len(x), 2)
        return HandPoseOutput(joints, torch.zeros(len(x), 2, 21), present, ())


def sides(
    lean: float, own: list[Detection], apart: float = 0.0, refine: bool = True
) -> tuple[list[int], int]:
    """Sides found at detections, and how many crops were looked at."""
    network = Undecided(lean, apart)
    (found,) = find_at_detections(CropNetwork(network, SIZE), [PICTURE], [own], 0.5, refine)
    return sorted(side for side, _ in found), network.crops


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("lean", [-12.0, -1.0, 1.0, 12.0])
def test_a_side_is_kept_whatever_the_network_says(lean: float, refine: bool) -> None:
    for side, name in enumerate(("right", "left")):
        assert sides(lean, [Detection(BOX, 0.9, name)], refine=refine) == ([side], 2 if refine else 1)


def test_without_a_side_the_network_decides() -> None:
    assert sides(12.0, [Detection(BOX)]) == ([0], 2)
    assert sides(-12.0, [Detection(BOX)]) == ([1], 2)
    assert sides(1.0, [Detection(BOX)], refine=True)[1] == 3  # not sure: as the other hand, too


def test_joints_of_the_other_side_only_aim_the_next_look() -> None:
    # The left slot's first joints lie far outside of the box.
    assert sides(8.0, [Detection(BOX, 0.9, "left")], apart=80.0, refine=False) == ([], 1)
    network = Undecided(8.0)
    crops_of = CropNetwork(network, SIZE)
    ((one,),) = find_at_detections(crops_of, [PICTURE], [[Detection(BOX, 0.9, "left")]], 0.5, True)
    assert one[0] == 1
    assert one[1].score == 0.9


def test_hands_that_overlap() -> None:
    near = [Detection(BOX, 0.9, "right"), Detection(BOX + 8, 0.9, "left")]
    assert sides(3.0, near, apart=30.0, refine=False) == ([0, 1], 1)
    twins = [Detection(BOX, 0.9, "right"), Detection(BOX + np.array([12, 0, 12, 0]), 0.9, "right")]
    found, crops = sides(3.0, twins, refine=False)
    assert set(found) == {0}
    assert crops == 2
    mixed = [Detection(BOX, 0.9, "right"), Detection(BOX + 8, 0.9)]
    unsaid = [Detection(BOX, 0.9), Detection(BOX + 8, 0.9)]
    assert sides(3.0, mixed, apart=30.0) == sides(3.0, unsaid, apart=30.0)


def test_a_side_that_is_none() -> None:
    with pytest.raises(ValueError, match="expected 'right', 'left' or None, got 'up'"):
        sides(0.0, [Detection(BOX, 0.9, "up")])
