"""Problems for the operators: real shapes, operands, and calls with and without gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfmamba.backbones.registry import BACKBONES

Function = Callable[..., Tensor]

NUM_ANCHORS = 9


@dataclass(frozen=True)
class Shape:
    """Size of one problem.

    Attributes:
        name: where it occurs.
        batch: pictures.
        channels: D.
        states: N per channel.
        height: of the map, in cells.
        width: of the map, in cells; L = height * width.
    """

    name: str
    batch: int
    channels: int
    states: int
    height: int
    width: int

    @property
    def length(self) -> int:
        """L."""
        return self.height * self.width

    def __str__(self) -> str:
        return f"{self.name}: B={self.batch} D={self.channels} N={self.states} L={self.length}"


def real_shapes(names: tuple[str, ...], sides: tuple[int, ...], batches: tuple[int, ...]) -> list[Shape]:
    """Scans of named backbones: maps up to 8 x 8 have the channels of stride 32, others of stride 16."""
    shapes = []
    for name in names:
        config = BACKBONES[name]
        for batch in batches:
            for side in sides:
                channels = int(config.expand * config.dims[3 if side <= 8 else 2])
                shapes.append(Shape(name, batch, channels, config.scan.d_state, side, side))
    return shapes


def growth_shapes(channels: int, states: int, longest: int, count: int) -> list[Shape]:
    """`count` maps whose lengths double up to `longest`, a power of two."""
    lengths = [longest >> i for i in reversed(range(count))]
    widths = [1 << (math.ceil(math.log2(length)) // 2) for length in lengths]
    return [
        Shape("growth", 1, channels, states, length // width, width)
        for length, width in zip(lengths, widths, strict=True)
    ]


@dataclass(frozen=True)
class Problem:
    """Operands of one operator in the order of its functions, and the gradient that reaches its result."""

    leaves: tuple[Tensor, ...]
    seed: Tensor

    def copy(self, dtype: torch.dtype = torch.float32, contiguous: bool = False) -> Problem:
        """The same values in another precision or, with `contiguous`, with pixels next to each other."""
        memory = torch.contiguous_format if contiguous else torch.preserve_format
        leaves = [t.detach().to(dtype).clone(memory_format=memory).requires_grad_() for t in self.leaves]
        return Problem(tuple(leaves), self.seed.to(dtype))

    def call(self, function: Function, backward: bool) -> Callable[[], tuple[Tensor, ...]]:
        """A call of the function; with `backward`, one that also gives the gradients of all operands."""

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (function(*self.leaves),)

        def both() -> tuple[Tensor, ...]:
            y = function(*self.leaves)
            return (y, *torch.autograd.grad(y, self.leaves, self.seed))

        return both if backward else forward


def _channels_last(*shape: int, generator: torch.Generator) -> Tensor:
    """Normal values (batch, C, ...) with channels next to each other, as the backbones have them."""
    batch, channels, *rest = shape
    values = torch.randn(batch, *rest, channels, generator=generator)
    return values.movedim(-1, 1)


def scan_problem(shape: Shape, device: torch.device) -> Problem:
    """u, delta, A, B, C, D, delta_bias of a selective scan, with Mamba's initial steps and decays."""
    g = torch.Generator().manual_seed(0)
    batch, channels, states, length = shape.batch, shape.channels, shape.states, shape.length
    step = torch.exp(torch.empty(channels).uniform_(math.log(1e-3), math.log(1e-1), generator=g))
    leaves = (
        _channels_last(batch, channels, length, generator=g),
        _channels_last(batch, channels, length, generator=g),
        -torch.arange(1.0, states + 1).expand(channels, states),
        _channels_last(batch, states, length, generator=g),
        _channels_last(batch, states, length, generator=g),
        torch.ones(channels),
        step + torch.log(-torch.expm1(-step)),
    )
    return _finished(leaves, _channels_last(batch, channels, length, generator=g), device)


def sample_problem(shape: Shape, device: torch.device) -> Problem:
    """x, offsets, weights of a deformable sampling with one group and weights per pixel.

    No position is near a whole number, where the slope jumps and rounding would decide on the gradient.
    """
    g = torch.Generator().manual_seed(0)
    batch, height, width = shape.batch, shape.height, shape.width
    field = (batch, 1, NUM_ANCHORS)
    whole = torch.randn(*field, 2, height, width, generator=g).floor()
    part = 0.05 + 0.9 * torch.rand(*field, 2, height, width, generator=g)
    leaves = (
        _channels_last(batch, shape.channels, height, width, generator=g),
        whole + part,
        torch.randn(*field, height, width, generator=g),
    )
    return _finished(leaves, _channels_last(batch, shape.channels, height, width, generator=g), device)


def dssm_problem(shape: Shape, device: torch.device) -> Problem:
    """Operands of `sample_problem`, then those of `scan_problem` but u."""
    sample, scan = sample_problem(shape, device), scan_problem(shape, device)
    return Problem((*sample.leaves, *scan.leaves[1:]), sample.seed)


def _finished(leaves: tuple[Tensor, ...], seed: Tensor, device: torch.device) -> Problem:
    moved = tuple(t.to(device).requires_grad_() for t in leaves)
    return Problem(moved, seed.to(device))
