"""Heat map targets and losses of the regression head of Zhou et al. (CVPR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .detnet import DetNetOutput

SIGMA = 1.0
REACH = 3
"""A heat map's Gaussian in cells: its standard deviation, and how far from its middle it reaches."""


@dataclass(frozen=True)
class DetNetLossConfig:
    """Weights of `detnet_loss`, by default those of the published PyTorch port's training script.

    Attributes:
        heat: weight of the heat maps.
        delta: weight of the delta maps.
        location: weight of the location maps (1 in the defaults of the port's loss file).
        form: "norm": one norm over all delta (location) maps of the batch, divided by the number of samples,
            as published; its gradient shrinks with the root of the batch size. "squared": the squared norm
            divided likewise, whose gradient doesn't depend on the batch size.

    Raises:
        ValueError: a negative weight or an unknown form.
    """

    heat: float = 100.0
    delta: float = 1.0
    location: float = 10.0
    form: Literal["norm", "squared"] = "norm"

    def __post_init__(self) -> None:
        for name in ("heat", "delta", "location"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"DetNetLossConfig.{name} is {getattr(self, name)}; a weight must not be negative"
                )
        if self.form not in ("norm", "squared"):
            raise ValueError(f"DetNetLossConfig.form is {self.form!r}; use 'norm' or 'squared'")


def heat_maps(cell: Tensor, size: int) -> Tensor:
    """Gaussians of standard deviation 1 cell and height 1, cut off to 7 x 7 cells and at the map's edge.

    Args:
        cell: (..., J, 2) column and row of each joint's cell; may lie outside of the map.
        size: side of the maps.

    Returns:
        (..., J, size, size) float32; zeros for a joint more than 3 cells outside.
    """
    offset = torch.arange(size, device=cell.device) - cell[..., None]
    bell = torch.exp(-0.5 * (offset / SIGMA) ** 2) * (offset.abs() <= REACH)
    return bell[..., 1, :, None] * bell[..., 0, None, :]


def detnet_loss(
    output: DetNetOutput, target: Mapping[str, Tensor], config: DetNetLossConfig | None = None
) -> dict[str, Tensor]:
    """Loss of a batch.

    A joint counts if it is labelled and its Gaussian touches the map. Delta and location maps are compared
    with constants, weighted by the true heat map.

    Args:
        output: maps of the network.
        target: `cell` (B, J, 2) column and row; `location` and `delta` (B, J, 3), see `DetNetOutput`;
            `labelled` (B, J) bool; `has_delta` (B, J) bool, joints whose parent is labelled too.
        config: weights; None takes the defaults.

    Returns:
        Scalars "total", "heat", "delta", "location"; all but the total without their weights.

    Raises:
        ValueError: a target is missing or has another shape.
    """
    config = config or DetNetLossConfig()
    batch, joints, size = output.heat.shape[:3]
    expected = {
        "cell": (batch, joints, 2),
        "location": (batch, joints, 3),
        "delta": (batch, joints, 3),
        "labelled": (batch, joints),
        "has_delta": (batch, joints),
    }
    for name, shape in expected.items():
        if name not in target or tuple(target[name].shape) != shape:
            found = tuple(target[name].shape) if name in target else "missing"
            raise ValueError(f"the loss target {name!r} is {found}; expected shape {shape}")

    truth = heat_maps(target["cell"], size)
    labelled = target["labelled"].bool()
    veil = labelled & (truth > 0).flatten(2).any(-1)
    heat_error = (output.heat.float() - truth) * veil[..., None, None]
    heat = 0.5 * (heat_error**2).mean((0, 2, 3)).sum()

    samples = labelled.any(1).sum().clamp(min=1)
    terms = {"heat": heat}
    for name, maps, counts in (
        ("delta", output.delta, veil & target["has_delta"].bool()),
        ("location", output.location, veil),
    ):
        # Unlabelled joints may hold anything, NaN included: cut them before any arithmetic.
        wanted = torch.where(counts[..., None], target[name].float(), 0.0)[..., None, None]
        weight = (truth * counts[..., None, None])[:, :, None]
        error = (maps.float() - wanted) * weight
        length = (error**2).sum() if config.form == "squared" else torch.linalg.vector_norm(error)
        terms[name] = length / samples
    total = sum((getattr(config, name) * term for name, term in terms.items()), heat.new_zeros(()))
    return {"total": total, **terms}
