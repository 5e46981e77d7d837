"""Who computes an operator: ours, its definition, and what others offer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dfmamba.backbones.registry import BACKBONES
from dfmamba.ops import (
    anchor_grid,
    deformable_sample,
    deformable_sample_reference,
    deformable_selective_scan,
    selective_scan,
)

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


INSTALL = "not installed (pip install 'dfmamba[bench]')"


@cache
def _anchors(dtype: torch.dtype, device: torch.device) -> Tensor:
    return anchor_grid(NUM_ANCHORS).to(device, dtype)


@cache
def _ones(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    side = math.isqrt(NUM_ANCHORS)
    return torch.ones(channels, 1, side, side, dtype=dtype, device=device)


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """Ours."""
    return selective_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True)  # type: ignore[return-value]


def scan_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """One step after the other: the formula of `selective_scan_reference`.

    Steps are cut out all at once. Cut out one by one, as the reference does for the reader's sake, each of
    them has a gradient as large as the sequence, and the backward pass grows with the square of the length.
    """
    step = F.softplus(delta + bias[:, None])
    state = u.new_zeros(*u.shape[:2], A.shape[1])
    outputs = []
    for x, dt, b, c in zip(u.unbind(2), step.unbind(2), B.unbind(2), C.unbind(2), strict=True):
        dt = dt.unsqueeze(-1)
        state = torch.exp(dt * A) * state + dt * x.unsqueeze(-1) * b.unsqueeze(1)
        outputs.append((state * c.unsqueeze(1)).sum(-1))
    return torch.stack(outputs, dim=2) + D[:, None] * u


def scan_mambapy(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
) -> Tensor:
    """mambapy's parallel scan, given what its own block gives it."""
    from mambapy.pscan import pscan

    u, B, C = u.transpose(1, 2), B.transpose(1, 2), C.transpose(1, 2)  # (B, L, D), (B, L, N)
    step = F.softplus(delta.transpose(1, 2) + bias).unsqueeze(-1)
    decays = torch.exp(step * A)
    states = pscan(decays, step * B.unsqueeze(2) * u.unsqueeze(-1))
    return ((states @ C.unsqueeze(-1)).squeeze(3) + D * u).transpose(1, 2)


def sample(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Ours."""
    return deformable_sample(x, offsets, weights, _anchors(x.dtype, x.device))


def sample_plain(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """The definition."""
    return deformable_sample_reference(x, offsets, weights, _anchors(x.dtype, x.device))


def sample_torchvision(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """A depthwise modulated deformable convolution whose kernel is all ones."""
    from torchvision.ops import deform_conv2d

    kernel = _ones(x.shape[1], x.dtype, x.device)
    return deform_conv2d(
        x, offsets.flatten(1, 3), kernel, padding=kernel.shape[-1] // 2, mask=weights.flatten(1, 2)
    )


def sample_grid(x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """`F.grid_sample` at all positions at once, then the weighted sum."""
    batch, channels, height, width = x.shape
    anchors = _anchors(x.dtype, x.device)[:, :, None, None]
    position = anchors + offsets[:, 0]  # (B, K, 2, H, W)
    y = position[:, :, 0] + torch.arange(height, device=x.device)[:, None]
    along = position[:, :, 1] + torch.arange(width, device=x.device)
    grid = torch.stack(((2 * along + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    values = F.grid_sample(x, grid.view(batch, -1, width, 2), align_corners=False)
    return (values.view(batch, channels, NUM_ANCHORS, height, width) * weights).sum(2)


def dssm(
    x: Tensor,
    offsets: Tensor,
    weights: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
) -> Tensor:
    """Ours: sampling, residual, scan."""
    anchors = _anchors(x.dtype, x.device)
    return deformable_selective_scan(
        x, offsets, weights, anchors, delta, A, B, C, D, None, bias, True, residual=True
    )


def composed(sampling: Function, scanning: Function) -> Function:
    """A DSSM operator made of somebody else's parts."""

    def run(
        x: Tensor,
        offsets: Tensor,
        weights: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        bias: Tensor,
    ) -> Tensor:
        u = (x + sampling(x, offsets, weights)).flatten(2)
        return scanning(u, delta, A, B, C, D, bias).view(x.shape)

    return run


@dataclass(frozen=True)
class Operator:
    """An operator, its definition, and who else computes it.

    Attributes:
        name: as the tables show it.
        make: operands of a shape.
        ours: goes through the backends.
        definition: the right answer, and the competitor called `definition_name`.
        definition_name: says what the definition is.
        others: name, function, the distribution it needs, and whether it wants pixels next to each other.
    """

    name: str
    make: Callable[[Shape, torch.device], Problem]
    ours: Function
    definition: Function
    definition_name: str
    others: tuple[tuple[str, Function, tuple[str, ...], bool], ...]


LOOP = "sequential loop (mamba-ssm's reference formula)"
OPERATORS: dict[str, Operator] = {
    "scan": Operator(
        "selective scan",
        scan_problem,
        scan,
        scan_loop,
        LOOP,
        (("mambapy pscan", scan_mambapy, ("mambapy",), False),),
    ),
    "sample": Operator(
        "deformable sampling",
        sample_problem,
        sample,
        sample_plain,
        "plain definition",
        (
            ("torchvision deform_conv2d", sample_torchvision, ("torchvision",), True),
            ("F.grid_sample", sample_grid, (), True),
        ),
    ),
    "dssm": Operator(
        "DSSM (sampling, residual, scan)",
        dssm_problem,
        dssm,
        composed(sample_plain, scan_loop),
        "plain definition",
        (
            (
                "deform_conv2d + mambapy pscan",
                composed(sample_torchvision, scan_mambapy),
                ("torchvision", "mambapy"),
                True,
            ),
            ("F.grid_sample + sequential loop", composed(sample_grid, scan_loop), (), True),
        ),
    ),
}
