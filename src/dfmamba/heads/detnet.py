"""The regression head of Zhou et al. (CVPR 2020, "DetNet"): heat, delta and location maps of one hand.

A last map of any backbone is enlarged by transposed convolutions, as in the variant with exchangeable
backbones, and three heads in a chain read it together with the coordinates of its cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dfmamba.heads.config import LARGEST_CROP
from dfmamba.layers import Pointwise
from dfmamba.settings import from_values


@dataclass(frozen=True)
class DetNetConfig:
    """Settings of `DetNetHead`.

    Attributes:
        image_size: side of the square crop in pixels.
        map_size: side of the maps in cells; a cell covers `stride` x `stride` pixels.
        width: channels of the neck and of the heads' hidden layers.
        num_joints: joints of the hand.

    Raises:
        ValueError: a value is below 1, or `image_size` is not a multiple of `map_size`.
    """

    image_size: int = 128
    map_size: int = 32
    width: int = 256
    num_joints: int = 21

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or not 1 <= value <= LARGEST_CROP:
                raise ValueError(
                    f"DetNetConfig.{field.name} is {value!r}; expected 1 to {LARGEST_CROP}, whole"
                )
        if self.image_size % self.map_size:
            raise ValueError(
                f"DetNetConfig.image_size {self.image_size} is not a multiple of map_size {self.map_size}"
            )

    @property
    def stride(self) -> int:
        """Side of a cell in pixels of the crop."""
        return self.image_size // self.map_size

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetNetConfig:
        """Builds from plain values, as `to_dict` gives them, without "kind".

        Raises:
            ValueError: an unknown key or an unusable value.
        """
        return from_values(cls, values, "head")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold, with the kind of head."""
        return {"kind": "detnet", **asdict(self)}


class DetNetOutput(NamedTuple):
    """Maps of a batch of crops that show a right hand; S = `map_size`, J = `num_joints`.

    Attributes:
        heat: (B, J, S, S), 0 to 1, high at the cell of the joint.
        delta: (B, J, 3, S, S), direction from the joint's parent to the joint.
        location: (B, J, 3, S, S), place of the joint relative to the root, in units of the bone from wrist to
            middle knuckle; x right, y down, z forward.
    """

    heat: Tensor
    delta: Tensor
    location: Tensor


class DetNetReadout(NamedTuple):
    """What the maps say at the highest cell of each joint's heat map.

    Attributes:
        cell: (B, J, 2) int64, column and row of that cell.
        peak: (B, J), its heat.
        delta: (B, J, 3).
        location: (B, J, 3).
    """

    cell: Tensor
    peak: Tensor
    delta: Tensor
    location: Tensor


def read_out(output: DetNetOutput) -> DetNetReadout:
    """Reads delta and location at the argmax of each heat map (the first one of equals)."""
    size = output.heat.shape[-1]
    peak, at = output.heat.flatten(2).max(-1)
    index = at[..., None, None].expand(-1, -1, 3, 1)
    delta, location = (maps.flatten(3).gather(-1, index)[..., 0] for maps in (output.delta, output.location))
    return DetNetReadout(torch.stack((at % size, at // size), -1), peak, delta, location)


class DetNetHead(nn.Module):
    """Feature maps to `DetNetOutput`.

    Args:
        feature_channels: channels of the backbone's maps, finest first; only the last one is used.
        feature_strides: their strides in pixels of the crop.
        config: settings; None takes the defaults.

    Raises:
        ValueError: the lists do not belong together, or doubling the last map does not lead to `map_size`.
    """

    grid: Tensor

    def __init__(
        self,
        feature_channels: Sequence[int],
        feature_strides: Sequence[int],
        config: DetNetConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or DetNetConfig()
        if not feature_channels or len(feature_channels) != len(feature_strides):
            raise ValueError(
                f"got {len(feature_channels)} feature channels and {len(feature_strides)} strides; "
                "give one of each per feature map"
            )
        channels, stride = int(feature_channels[-1]), int(feature_strides[-1])
        ratio = stride // config.stride
        if stride % config.stride or ratio < 2 or ratio & (ratio - 1) or config.image_size % stride:
            raise ValueError(
                f"the last feature map has stride {stride}; a crop of {config.image_size} pixels and maps of "
                f"{config.map_size} cells need {config.stride} times a power of two that divides the crop"
            )
        self.channels, self.cells = channels, config.image_size // stride
        layers: list[nn.Module] = []
        for i in range(ratio.bit_length() - 1):
            layers += [
                nn.ConvTranspose2d(channels if i == 0 else config.width, config.width, 4, 2, 1, bias=False),
                nn.BatchNorm2d(config.width),
                nn.ReLU(),
            ]
        self.neck = nn.Sequential(*layers)
        joints = config.num_joints
        first = config.width + 2
        self.heat = _branch(first, config.width, joints)
        self.delta = _branch(first + joints, config.width, 3 * joints)
        self.location = _branch(first + 4 * joints, config.width, 3 * joints)
        for name, value in self.constants().items():
            self.register_buffer(name, value, persistent=False)
        self.reset_parameters()

    def constants(self) -> dict[str, Tensor]:
        """The buffer that weights don't hold: column and row of each cell, from -1 to 1."""
        size = self.config.map_size
        steps = torch.linspace(-1.0, 1.0, size, dtype=torch.float32)
        return {"grid": torch.stack((steps.expand(size, -1), steps[:, None].expand(-1, size)))}

    def reset_parameters(self) -> None:
        """Kaiming's normal initialisation of all convolutions, biases 0."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, features: Sequence[Tensor]) -> DetNetOutput:
        """Estimates the maps.

        Args:
            features: the backbone's maps (B, C, H, W), finest first; the last one counts.

        Raises:
            ValueError: its channels or size are not those of the configuration.
        """
        last = features[-1]
        expected = (self.channels, self.cells, self.cells)
        if tuple(last.shape[1:]) != expected:
            raise ValueError(f"the last feature map is {tuple(last.shape[1:])}; expected {expected}")
        x = self.neck(last)
        x = torch.cat((x, self.grid.to(x.dtype).expand(len(x), -1, -1, -1)), 1)
        heat = self.heat(x).sigmoid()
        x = torch.cat((x, heat), 1)
        delta = self.delta(x)
        location = self.location(torch.cat((x, delta), 1))
        each = (self.config.num_joints, 3)
        return DetNetOutput(heat, delta.unflatten(1, each), location.unflatten(1, each))


def _branch(channels: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Pointwise(width, outputs),
    )


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
