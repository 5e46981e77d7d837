"""Looking into trained models, as numbers: where deformable layers sample, which pixels a cell depends on.

Cell (i, j) of a map of stride s has its centre at row s i and column s j of the crop: every halving of the
tribrid backbone is a 3x3 convolution of stride 2 and padding 1 whose output i is centred on input 2 i, and
its other layers are centred on their own cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfmamba.backbones.dfmamba import DeformableSampler
from dfmamba.models import HandPoseModel
from dfmamba.ops import anchor_grid
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.training import HEAD, crops_of


def evenly_spaced(total: int, count: int) -> list[int]:
    """Up to `count` different numbers below `total`, evenly spaced from 0 on."""
    return sorted({total * i // count for i in range(count)}) if total else []


@dataclass(frozen=True)
class SampledLayer:
    """What one deformable layer did on some crops; n crops, G offset groups, K anchors, a map (H, W).

    Attributes:
        name: of its block within the backbone, such as "stages.2.0".
        stride: of its map in pixels of the crop.
        anchors: (K, 2) learned, (dy, dx) in cells.
        offsets: (n, G, K, 2, H, W) (dy, dx) in cells.
        weights: (n, G, K, H, W) b_k; of weights that are static, the mean absolute one of a group's channels.
        reach: bound of the offsets as a share of the map's sides, None without one.
    """

    name: str
    stride: int
    anchors: Tensor
    offsets: Tensor
    weights: Tensor
    reach: float | None = None

    @property
    def regular(self) -> Tensor:
        """(K, 2, H, W): row and column in cells of the undeformed grid around each cell."""
        return self._around(anchor_grid(len(self.anchors)).to(self.anchors))

    @property
    def positions(self) -> Tensor:
        """(n, G, K, 2, H, W): row and column in cells that are sampled."""
        return self._around(self.anchors) + self.offsets

    def _around(self, anchors: Tensor) -> Tensor:
        h, w = self.offsets.shape[-2:]
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        return torch.stack((rows, columns)).to(anchors) + anchors[:, :, None, None]

    def nearest_cell(self, point_px: Sequence[float]) -> tuple[int, int]:
        """Row and column of the cell whose centre is nearest to a point (x, y) of the crop."""
        h, w = self.offsets.shape[-2:]
        column, row = (round(float(value) / self.stride) for value in point_px)
        return min(max(row, 0), h - 1), min(max(column, 0), w - 1)

    def in_pixels(self, cells: Tensor) -> Tensor:
        """(..., 2) rows and columns in cells as (x, y) pixels of the crop."""
        return cells.flip(-1) * self.stride


@torch.no_grad()
def sampled_layers(model: HandPoseModel, crops: Tensor) -> list[SampledLayer]:
    """Runs a model on crops (n, 3, S, S) in [0, 1] and notes what its deformable layers sample, in order.

    Raises:
        ValueError: it has no deformable layer.
    """
    info: Any = model.backbone.feature_info
    stages = {str(entry["module"]): int(entry["reduction"]) for entry in info.info}
    found: list[SampledLayer] = []
    hooks = []
    for path, module in model.backbone.named_modules():
        if isinstance(module, DeformableSampler):
            stride = next(stride for stage, stride in stages.items() if path.startswith(f"{stage}."))
            name = path.removesuffix(".mixer.dssm.sampler")

            def note(sampler: Any, inputs: Any, name: str = name, stride: int = stride) -> None:
                offsets, weights = sampler.fields(inputs[0])
                if weights.ndim == 2:
                    n, groups, k, _, h, w = offsets.shape
                    mean = weights.abs().unflatten(0, (groups, -1)).mean(1)
                    weights = mean[None, :, :, None, None].expand(n, groups, k, h, w)
                found.append(
                    SampledLayer(name, stride, sampler.anchors.detach(), offsets, weights, sampler.reach)
                )

            hooks.append(module.register_forward_pre_hook(note))
    if not hooks:
        raise ValueError(
            f"model {model.config.name!r} ({model.config.backbone}) has no deformable layer; "
            "choose a row whose scan is deformed, such as 'dfmamba'"
        )
    try:
        model.eval()(crops)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def offset_statistics(
    model: HandPoseModel, pictures: Pictures, count: int = 200
) -> dict[str, dict[str, Any]]:
    """How far and how variably each deformable layer moves its samples, on evenly spaced test crops.

    Args:
        model: a trained one.
        pictures: to run it on.
        count: at most how many of them.

    Returns:
        Per layer, by name:
        `stride`, `map` [H, W], `anchors` K, `groups`, `pictures`;
        `median_cells`, `p90_cells`, `median_px`, `p90_px`: length of the offsets, in cells and crop pixels;
        `anchor_shift_cells`: mean distance of the learned anchors from the regular grid;
        `outside_share`: share of the samples outside of the map, which ends half a cell beyond the outermost
        centres; `outside_share_regular`: the same of the undeformed grid; `outside_weight_share`: the share
        that these samples have in the sum of |b_k|;
        `at_bound_share`: share of the samples with an offset beyond 0.9 of its bound along an axis, None
        without a bound;
        `centre_weight_share`: share of the centre anchor in the sum of |b_k|, None for even grids;
        `over_positions`: standard deviation (root of the mean squared distance from the mean) of an anchor's
        offset over the cells of one crop, averaged over crops, relative to the mean length;
        `over_pictures`: the same over crops at one cell. Both are 0 where all offsets are alike, and None
        where all are zero.

    Raises:
        ValueError: the model has no deformable layer, or there are no pictures.
    """
    index = evenly_spaced(len(pictures), count)
    if not index:
        raise ValueError("there are no pictures to take offsets of; pass at least one")
    return {layer.name: _statistics(layer) for layer in sampled_layers(model, crops_of(pictures, index))}


def _statistics(layer: SampledLayer) -> dict[str, Any]:
    n, groups, k, _, h, w = layer.offsets.shape
    offsets, weights = layer.offsets.double(), layer.weights.abs().double()
    lengths = offsets.norm(dim=3)
    mean = float(lengths.mean())
    median, p90 = (float(torch.quantile(lengths.flatten(), q)) for q in (0.5, 0.9))
    shift = (layer.anchors - anchor_grid(k).to(layer.anchors)).norm(dim=-1)

    sides = offsets.new_tensor([h, w]).view(2, 1, 1)

    def outside(places: Tensor) -> Tensor:
        return ((places < -0.5) | (places > sides - 0.5)).any(-3).double()

    beyond = outside(layer.positions)
    at_bound = (offsets.abs() > 0.9 * layer.reach * sides).any(3) if layer.reach is not None else None

    def spread(over: tuple[int, ...]) -> float | None:
        distance = (offsets - offsets.mean(over, keepdim=True)).square().sum(3, keepdim=True)
        return round(float(distance.mean(over).sqrt().mean()) / mean, 4) if mean > 0 else None

    return {
        "stride": layer.stride,
        "map": [h, w],
        "anchors": k,
        "groups": groups,
        "pictures": n,
        "median_cells": round(median, 4),
        "p90_cells": round(p90, 4),
        "median_px": round(median * layer.stride, 2),
        "p90_px": round(p90 * layer.stride, 2),
        "anchor_shift_cells": round(float(shift.mean()), 4),
        "outside_share": round(float(beyond.mean()), 4),
        "outside_share_regular": round(float(outside(layer.regular).mean()), 4),
        "outside_weight_share": round(float((beyond * weights).sum() / weights.sum()), 4),
        "at_bound_share": None if at_bound is None else round(float(at_bound.double().mean()), 4),
        "centre_weight_share": round(float(weights[:, :, k // 2].sum() / weights.sum()), 4)
        if k % 2
        else None,
        "over_positions": spread((4, 5)),
        "over_pictures": spread((0,)),
    }


def effective_receptive_field(
    model: HandPoseModel, pictures: Pictures, stride: int = 16, count: int = 48, seed: int = 0
) -> Tensor:
    """How strongly the central cell of a map depends on each pixel of the crop (Luo et al., NeurIPS 2016).

    The absolute gradient with respect to the crop, summed over its channels and averaged over evenly spaced
    test crops. What is differentiated is the sum over the cell's channels with a random sign each: without
    the signs it would be constant behind a layer norm, which most of the peers' maps end with.

    Args:
        model: with any backbone.
        pictures: to run it on.
        stride: of the map; the central cell is (H // 2, W // 2).
        count: at most how many pictures.
        seed: of the signs, which are drawn for each crop.

    Returns:
        (S, S), not negative.

    Raises:
        ValueError: the model's head gets no map of this stride, or there are no pictures.
    """
    info: Any = model.backbone.feature_info
    strides = [int(value) for value in info.reduction()]
    if stride not in strides:
        raise ValueError(f"model {model.config.name!r} has no map of stride {stride}; it has {strides}")
    index = evenly_spaced(len(pictures), count)
    if not index:
        raise ValueError("there are no pictures to take gradients of; pass at least one")
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    total = torch.zeros(HEAD.image_size, HEAD.image_size, dtype=torch.float64)
    for first in range(0, len(index), 16):
        x = crops_of(pictures, index[first : first + 16]).requires_grad_()
        scaled = x * model.config.input_scale + model.config.input_shift
        cells = model.backbone(scaled)[strides.index(stride)]
        central = cells[:, :, cells.shape[2] // 2, cells.shape[3] // 2]
        signs = torch.randint(0, 2, central.shape, generator=generator).to(central) * 2 - 1
        (gradient,) = torch.autograd.grad((central * signs).sum(), x)
        total += gradient.abs().sum(1).double().sum(0)
    return total / len(index)
