"""Anchors and aggregation against explicit sums."""

from __future__ import annotations

import pytest
import torch

from dfmamba.heads.config import aggregate, anchor_grid, anchor_weights, by_hand


def random_votes(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 6, generator=generator, dtype=dtype)
    offsets = torch.randn(2, 3, 4, 6, generator=generator, dtype=dtype)
    return logits, offsets, anchor_grid(3, 1, 5.0, (-2.0, 7.0), dtype=dtype)


def test_published_grid() -> None:
    grid = anchor_grid(16, 16, 16, (-64.5, -0.5, 63.5))
    assert grid.shape == (768, 3)
    assert grid[0].tolist() == [7.5, 7.5, -64.5]
    assert grid[1].tolist() == [7.5, 7.5, -0.5]
    assert grid[3].tolist() == [23.5, 7.5, -64.5]
    assert grid[48].tolist() == [7.5, 23.5, -64.5]
    assert grid[-1].tolist() == [247.5, 247.5, 63.5]


def test_aggregation_equals_explicit_sums() -> None:
    logits, offsets, anchors = random_votes()
    joints, centroid = aggregate(anchor_weights(logits), offsets, anchors)
    for sample in range(2):
        for joint in range(4):
            total = sum(logits[sample, joint].exp())
            point, middle = torch.zeros(3).double(), torch.zeros(3).double()
            for anchor in range(6):
                weight = logits[sample, joint, anchor].exp() / total
                middle += weight * anchors[anchor]
                point += weight * (anchors[anchor] + offsets[sample, :, joint, anchor])
            torch.testing.assert_close(joints[sample, joint], point)
            torch.testing.assert_close(centroid[sample, joint], middle)


def test_order_of_anchors_is_irrelevant() -> None:
    logits, offsets, anchors = random_votes()
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    once = aggregate(anchor_weights(logits), offsets, anchors)
    again = aggregate(anchor_weights(logits[..., order]), offsets[..., order], anchors[order])
    for first, second in zip(once, again, strict=True):
        torch.testing.assert_close(first, second)


def test_gradients() -> None:
    logits, offsets, anchors = random_votes()

    def both(logits: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return aggregate(anchor_weights(logits), offsets, anchors)

    assert torch.autograd.gradcheck(both, (logits.requires_grad_(), offsets.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_logits_are_single(dtype: torch.dtype) -> None:
    weights = anchor_weights(torch.zeros(1, 1, 768, dtype=dtype))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 1))


def test_depth_is_relative_to_each_root() -> None:
    joints = torch.arange(24.0).reshape(1, 8, 3)
    layer = by_hand(joints, joints, num_hands=2, root_joint=1)
    assert layer.joints_25d.shape == (1, 2, 4, 3)
    assert layer.joints_25d[0, :, :, 2].tolist() == [[-3.0, 0.0, 3.0, 6.0]] * 2
    assert torch.equal(layer.joints_25d[..., :2].flatten(1, 2), joints[..., :2])
    assert torch.equal(layer.anchors_25d.flatten(1, 2), joints)
    assert torch.equal(by_hand(joints, joints, 2, None).joints_25d.flatten(1, 2), joints)
