"""Sampled positions, offset statistics and receptive fields: numbers known beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dfmamba.backbones.dfmamba import DeformableSampler
from dfmamba.backbones.features import FeatureInfo
from dfmamba.models import HandPoseModel
from studies.synthhands5.drawing import Panel
from studies.synthhands5.insight import (
    effective_receptive_field,
    evenly_spaced,
    offset_statistics,
    sampled_layers,
)
from studies.synthhands5.receptive_figure import ramp, receptive_fields, smallest_areas
from studies.synthhands5.sampling_figure import Query, hidden_queries, joints_in_crops, sampling_positions
from studies.synthhands5.tests.made_up import made_up_pictures, small_model
from studies.synthhands5.training import HEAD, crops_of

SIZE = HEAD.image_size


def samplers(model: HandPoseModel) -> list[DeformableSampler]:
    return [m for m in model.backbone.modules() if isinstance(m, DeformableSampler)]


def set_offsets(model: HandPoseModel, dy: float, dx: float) -> None:
    """All offsets equal to (dy, dx) cells, by the bias of the last layer."""
    for sampler in samplers(model):
        last: Any = sampler.branch[-1]
        k = sampler.num_anchors * sampler.groups
        with torch.no_grad():
            last.bias[: 2 * k] = torch.tensor([dy, dx]).repeat(k)


def test_zero_offsets_sample_the_grid() -> None:
    crops = crops_of(made_up_pictures(2), [0, 1])
    layers = sampled_layers(small_model(), crops)
    assert [(layer.name, layer.stride) for layer in layers] == [("stages.2.0", 16), ("stages.3.0", 32)]
    for layer in layers:
        h = SIZE // layer.stride
        assert layer.positions.shape == (2, 1, 9, 2, h, h)
        assert torch.equal(layer.positions[0, 0], layer.regular)
        assert torch.allclose(layer.weights, torch.tensor(1 / 9))
        # the anchors of cell (1, 2), row by row
        assert layer.regular[:, :, 1, 2].tolist() == [[r, c] for r in (0, 1, 2) for c in (1, 2, 3)]


def test_known_offsets_move_positions_and_pixels() -> None:
    model = small_model(scan={"offset_reach": None, "offset_groups": 2})
    set_offsets(model, 0.5, -1.25)
    layer = sampled_layers(model, crops_of(made_up_pictures(1), [0]))[0]
    moved = layer.in_pixels(layer.positions[0, 1, :, :, 3, 2])
    centre = moved[4].tolist()
    assert centre == pytest.approx([16 * (2 - 1.25), 16 * (3 + 0.5)])
    told = offset_statistics(model, made_up_pictures(2))["stages.2.0"]
    length = float(np.hypot(0.5, 1.25))
    assert told["median_cells"] == pytest.approx(length, abs=1e-4)
    assert told["p90_px"] == pytest.approx(16 * length, abs=1e-2)
    assert (told["over_positions"], told["over_pictures"]) == (0.0, 0.0)
    assert (told["map"], told["anchors"], told["groups"], told["pictures"]) == ([6, 6], 9, 2, 2)


def test_bounded_offsets_are_those_that_are_sampled() -> None:
    model = small_model(scan={"offset_reach": 0.25})
    set_offsets(model, 40.0, 0.0)
    layer = sampled_layers(model, crops_of(made_up_pictures(1), [0]))[0]
    assert float(layer.offsets[:, :, :, 0].max()) == pytest.approx(0.25 * 6)
    told = offset_statistics(model, made_up_pictures(1))["stages.2.0"]
    assert told["at_bound_share"] == 1.0
    free = small_model(scan={"offset_reach": None})
    assert offset_statistics(free, made_up_pictures(1))["stages.2.0"]["at_bound_share"] is None


def test_shares_outside_of_the_map() -> None:
    told = offset_statistics(small_model(), made_up_pictures(2))
    for layer, cells in (("stages.2.0", 6), ("stages.3.0", 3)):
        inside = (3 * cells - 2) / (3 * cells)  # of each axis: the outermost cells lack one neighbour
        assert told[layer]["outside_share"] == pytest.approx(1 - inside**2, abs=1e-4)
        assert told[layer]["outside_share_regular"] == told[layer]["outside_share"]
        # all weights are alike
        assert told[layer]["outside_weight_share"] == told[layer]["outside_share"]
        assert told[layer]["at_bound_share"] == 0.0
        assert told[layer]["over_positions"] is None
        assert told[layer]["centre_weight_share"] == pytest.approx(1 / 9, abs=1e-4)
        assert (told[layer]["median_cells"], told[layer]["anchor_shift_cells"]) == (0.0, 0.0)


def test_static_weights_even_grids_and_moved_anchors() -> None:
    model = small_model(scan={"weights": "static", "residual": False}, num_anchors=9)
    with torch.no_grad():
        for sampler in samplers(model):
            sampler.anchors += torch.tensor([3.0, 4.0])
            sampler.weight[:, 0] = -1.0
    told = offset_statistics(model, made_up_pictures(1))["stages.2.0"]
    assert told["centre_weight_share"] == pytest.approx(0.5)
    assert told["anchor_shift_cells"] == pytest.approx(5.0)
    assert (
        offset_statistics(small_model(num_anchors=4), made_up_pictures(1))["stages.2.0"][
            "centre_weight_share"
        ]
        is None
    )


def test_offsets_that_depend_on_the_picture_vary() -> None:
    model = small_model()
    for sampler in samplers(model):
        nn.init.normal_(sampler.branch[-1].weight)  # type: ignore[arg-type]
    told = offset_statistics(model, made_up_pictures(3))["stages.2.0"]
    assert told["over_positions"] > 0.05
    assert told["over_pictures"] > 0.05


def test_a_model_without_deformable_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="no deformable layer"):
        sampled_layers(small_model(deformable=False), crops_of(made_up_pictures(1), [0]))
    with pytest.raises(ValueError, match="no pictures"):
        offset_statistics(small_model(), made_up_pictures(0))


def test_cell_centres_are_where_the_convolutions_put_them() -> None:
    """With positive, equal weights and a constant picture, the gradient of a cell is centred on it."""
    none = {"conv": "none", "gated": "none", "dssm": "none"}
    model = small_model(replaced=none)
    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    x = torch.full((1, 3, SIZE, SIZE), 0.5, requires_grad=True)
    maps = model.backbone(x)
    for cells, stride, (row, column) in ((maps[0], 8, (5, 7)), (maps[1], 16, (2, 4))):
        (gradient,) = torch.autograd.grad(cells[0, 0, row, column], x, retain_graph=True)
        field = gradient.abs().sum((0, 1))
        axis = torch.arange(SIZE).float()
        centre = [float((field.sum(1 - a) * axis).sum() / field.sum()) for a in (0, 1)]
        assert centre == pytest.approx([stride * row, stride * column], abs=1e-3)


def test_nearest_cell_is_that_of_the_nearest_centre() -> None:
    layer = sampled_layers(small_model(), crops_of(made_up_pictures(1), [0]))[0]
    assert layer.nearest_cell((39.9, 40.1)) == (3, 2)
    assert layer.nearest_cell((-20.0, 95.0)) == (5, 0)


class OneConvolution(nn.Module):
    """A backbone with one map of stride 1, by a 3x3 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.feature_info = FeatureInfo([{"num_chs": 4, "reduction": 1, "module": "conv"}], (0,))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]


def test_receptive_field_of_one_convolution() -> None:
    model = small_model()
    model.backbone = OneConvolution()
    field = effective_receptive_field(model, made_up_pictures(2), stride=1)
    middle = SIZE // 2
    assert field.shape == (SIZE, SIZE)
    assert int((field > 0).sum()) == 9
    assert bool((field[middle - 1 : middle + 2, middle - 1 : middle + 2] > 0).all())
    with pytest.raises(ValueError, match="no map of stride 16"):
        effective_receptive_field(model, made_up_pictures(1))


@pytest.mark.parametrize("backbone", ["dfmamba_test", "vmamba_nano"])
def test_receptive_field_sees_through_final_norms(backbone: str) -> None:
    """The channels of a layer norm add up to a constant, the signed ones don't."""
    model = small_model(backbone)
    field = effective_receptive_field(model, made_up_pictures(1), stride=16)
    again = effective_receptive_field(model, made_up_pictures(1), stride=16)
    assert torch.equal(field, again)
    peak = divmod(int(field.argmax()), SIZE)
    assert all(abs(value - SIZE // 2) <= 16 for value in peak)
    assert float(field.max()) > 1e-4


def test_smallest_areas() -> None:
    field = torch.zeros(10, 10)
    field[3, 4], field[0, 0] = 3.0, 1.0
    assert smallest_areas(field) == {0.5: 0.01, 0.9: 0.02}
    assert smallest_areas(torch.ones(10, 10)) == {0.5: 0.5, 0.9: 0.9}
    for bad in (torch.zeros(2, 2), torch.tensor([1.0, -0.1]), torch.tensor([1.0, torch.nan])):
        with pytest.raises(ValueError, match="finite, not negative"):
            smallest_areas(bad)


def test_evenly_spaced() -> None:
    assert evenly_spaced(1000, 4) == [0, 250, 500, 750]
    assert evenly_spaced(3, 10) == [0, 1, 2]
    assert evenly_spaced(0, 5) == []


def test_joints_in_crops_show_what_the_picture_shows() -> None:
    """A white dot at a joint of the picture is at the joint of the crop."""
    pictures = made_up_pictures(1)
    place = torch.tensor([70.0, 51.0])
    pixels = torch.zeros_like(pictures.pixels)
    pixels[0, 51, 70] = 255
    pictures = replace(pictures, pixels=pixels, joints_2d_px=place.expand(1, 2, 21, 2))
    crop = crops_of(pictures, [0])[0, 0]
    weights = crop / crop.sum()
    axis = torch.arange(SIZE).float()
    seen = [float((weights.sum(0) * axis).sum()), float((weights.sum(1) * axis).sum())]
    assert joints_in_crops(pictures)[0, 1, 4].tolist() == pytest.approx(seen, abs=0.5)


def test_queries_are_hidden_and_central() -> None:
    pictures = made_up_pictures(4)
    queries = hidden_queries(pictures, 2)
    assert [query.picture for query in queries] == [0, 2]
    joints = joints_in_crops(pictures)
    for query in queries:
        assert query.hand == 1  # the hidden one
        distance = (joints[query.picture, 1, 1:] - (SIZE - 1) / 2).norm(dim=-1)
        assert query.joint == int(distance.argmin()) + 1
    seen = replace(pictures, visible=pictures.valid)
    assert hidden_queries(seen) == []
    with pytest.raises(ValueError, match="no query"):
        sampling_positions(small_model(), seen)


def test_sampling_figure_is_the_same_twice_and_says_its_rule() -> None:
    model, pictures = small_model(), made_up_pictures(2)
    set_offsets(model, 0.4, 0.2)
    first, second = (sampling_positions(model, pictures) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert "hidden joint" in first.caption
    asked = sampling_positions(model, pictures, [Query(1, 0, 8)])
    assert "evenly spaced" not in asked.caption
    assert asked.image.width < first.image.width


def test_sampling_figure_draws_the_moved_positions() -> None:
    """The figure changes where offsets do, and counts what it can't show."""
    model, pictures = small_model(scan={"offset_reach": None}), made_up_pictures(1)
    still = sampling_positions(model, pictures)
    set_offsets(model, 0.0, 0.3)
    moved = sampling_positions(model, pictures)
    assert still.image.size == moved.image.size
    assert still.image.tobytes() != moved.image.tobytes()
    set_offsets(model, 0.0, 30.0)
    assert "18 positions lie outside" in sampling_positions(model, pictures).caption


def test_receptive_figure_tells_the_areas_of_each_model() -> None:
    pictures, model = made_up_pictures(2), small_model()
    figure, areas = receptive_fields({"one": model, "two": model}, pictures, count=2)
    assert areas["one"] == areas["two"]
    assert 0 < areas["one"]["area_50"] < areas["one"]["area_90"] <= 1
    assert areas["one"]["area_50"] == smallest_areas(effective_receptive_field(model, pictures))[0.5]
    assert "mean of 2 test crops" in figure.caption
    with pytest.raises(ValueError, match="no models"):
        receptive_fields({}, pictures)


def test_ramp_gets_lighter() -> None:
    light = ramp(np.linspace(0, 1, 30)).astype(int).sum(-1)
    assert (np.diff(light) > 0).all()


def test_panel_keeps_pixel_centres() -> None:
    panel = Panel(zoom=4.0, margin=3.0)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[2, 5] = 255
    drawn = np.asarray(panel.canvas(pixels, smooth=False).finish())[12:-12, 12:-12, 0] > 0
    rows, columns = np.nonzero(drawn)
    assert panel.place(np.array([5.0, 2.0])) == pytest.approx([columns.mean() + 12, rows.mean() + 12])
