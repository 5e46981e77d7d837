"""The detector's head, its targets and its losses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.heads import build_head, head_config
from dfmamba.heads.detector import (
    FIRST_SCORE,
    HAND,
    IGNORED,
    DetectorConfig,
    DetectorHead,
    boxes_of_map,
    detector_loss,
    generalised_iou,
    heat_target,
)


def maps_saying(boxes: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """A perfect map of one picture: high at each box's cell, the box itself at all cells around."""
    maps = torch.full((1, 5, size, size), 0.0)
    maps[:, 0] = -12.0
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for box, centre in zip(boxes, centres, strict=True):
        column, row = ((centre + 0.5) / stride).floor().long().tolist()
        maps[0, 0, row, column] = 12.0
        for y in range(size):
            for x in range(size):
                nearest = ((centres + 0.5) / stride - torch.tensor([x + 0.5, y + 0.5])).norm(dim=1).argmin()
                if torch.equal(boxes[nearest], box):
                    middle = torch.tensor([x + 0.5, y + 0.5]) * stride - 0.5
                    maps[0, 1:3, y, x] = (centre - middle) / stride
                    maps[0, 3:5, y, x] = ((box[2:] - box[:2]) / stride).log()
    return maps


def test_the_head_gives_a_map_at_the_finest_stride_and_hardly_any_hand() -> None:
    torch.manual_seed(0)
    head = build_head((8, 12), (8, 16), DetectorConfig(image_size=64, width=16)).eval()
    assert isinstance(head, DetectorHead)
    maps = head([torch.randn(2, 8, 8, 8), torch.randn(2, 12, 4, 4)])
    assert maps.shape == (2, 5, 8, 8)
    assert float(maps[:, 0].sigmoid().mean().detach()) == pytest.approx(FIRST_SCORE, abs=0.01)


def test_settings_round_trip_and_bad_ones_are_refused() -> None:
    config = DetectorConfig(image_size=96, width=24)
    assert head_config(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown head setting"):
        head_config({"kind": "detector", "depth": 3})
    with pytest.raises(ValueError, match="expected 1 to"):
        DetectorConfig(width=0)
    with pytest.raises(ValueError, match="can't be divided"):
        DetectorHead((8,), (16,), DetectorConfig(image_size=40))
    with pytest.raises(ValueError, match="one of each"):
        DetectorHead((8, 8), (16,))
    with pytest.raises(ValueError, match="expected 2"):
        DetectorHead((8, 8), (8, 16))([torch.zeros(1, 8, 32, 32)])


def test_a_perfect_map_costs_nothing_and_a_wrong_one_does() -> None:
    boxes = torch.tensor([[10.0, 20.0, 40.0, 44.0], [50.0, 6.0, 60.0, 30.0]])
    target = {"boxes": boxes[None], "kinds": torch.tensor([[HAND, HAND]])}
    maps = maps_saying(boxes, 8, 8)
    right = detector_loss(maps, target, 8)
    assert float(right["total"]) < 1e-3
    moved = detector_loss(maps, {**target, "boxes": boxes[None] + 8}, 8)
    assert float(moved["box"]) > 0.2
    assert float(moved["score"]) > 1


def test_ignored_hands_cost_nothing_either_way() -> None:
    boxes = torch.tensor([[[10.0, 20.0, 40.0, 44.0]]])
    maps = torch.full((1, 5, 8, 8), -9.0)
    blank = {"boxes": boxes, "kinds": torch.tensor([[0]])}
    ignored = {"boxes": boxes, "kinds": torch.tensor([[IGNORED]])}
    sure = maps.clone()
    sure[0, 0, 3, 3] = 5.0
    assert float(detector_loss(sure, blank, 8)["score"]) > 1
    assert float(detector_loss(sure, ignored, 8)["score"]) < 1e-3
    assert float(detector_loss(maps, ignored, 8)["score"]) < 1e-3


def test_gradients_are_finite_without_hands_and_with_a_flat_one() -> None:
    maps = torch.zeros(2, 5, 4, 4, requires_grad=True)
    boxes = torch.tensor([[[3.0, 3.0, 3.0, 9.0]], [[0.0, 0.0, 0.0, 0.0]]])
    detector_loss(maps, {"boxes": boxes, "kinds": torch.tensor([[HAND], [0]])}, 8)["total"].backward()
    assert maps.grad is not None
    assert bool(torch.isfinite(maps.grad).all())


@settings(max_examples=40, deadline=None)
@given(st.floats(4, 50), st.floats(4, 50), st.floats(4, 40), st.floats(4, 40))
def test_the_target_is_one_exactly_at_the_cell_of_the_centre(x: float, y: float, w: float, h: float) -> None:
    boxes = torch.tensor([[[x - w / 2, y - h / 2, x + w / 2, y + h / 2]]])
    heat, _ = heat_target(boxes, torch.tensor([[HAND]]), 8, 8, 8)
    centre = (boxes[0, 0, :2] + boxes[0, 0, 2:]) / 2
    column, row = ((centre + 0.5) / 8).floor().long().tolist()
    assert heat.shape == (1, 1, 8, 8)
    assert float(heat[0, 0, row, column]) == 1.0
    assert int((heat == 1).sum()) == 1


def test_boxes_are_read_in_pixels() -> None:
    boxes = torch.tensor([[10.0, 20.0, 40.0, 44.0]])
    maps = maps_saying(boxes, 8, 8)
    assert torch.allclose(boxes_of_map(maps, 8)[0, :, 2, 5], boxes[0], atol=1e-4)


def test_generalised_iou_of_known_boxes() -> None:
    first = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 3)
    second = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    assert generalised_iou(first, second).tolist() == pytest.approx([1.0, 1 / 3, -1 / 3])
