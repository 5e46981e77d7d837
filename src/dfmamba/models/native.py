"""A model as one call of the C kernels: the fastest form for one crop, or a few, on a CPU.

On crops of a hundred pixels PyTorch spends more time between operators than in them. Here the network is
written down once as a list of steps over maps in one piece of memory (``ops/native/network.h``), with batch
norms folded and weights packed, and a crop is one call that runs on the calling thread alone: other threads
may compute at the same time, none is woken or waited for, and a program that forks may go on predicting.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dfmamba.backbones.dfmamba import (
    DSSM,
    FFN,
    ConvBlock,
    ConvNorm,
    GatedConvBlock,
    MambaMixer,
    MixerBlock,
    Tribrid,
    TribridFeatures,
)
from dfmamba.heads import AnchorToJoint
from dfmamba.heads.build import DenseDecoder, SeparableBlock
from dfmamba.heads.detector import DetectorHead
from dfmamba.layers import LayerNorm2d
from dfmamba.ops import native

ACTS = {None: 0, "relu": 1, "silu": 2, "gelu": 3, "sigmoid": 4}
KINDS = (
    "convolve", "depthwise", "norm", "gate", "scale", "bound", "enlarge", "average", "sample", "scan",
)  # fmt: skip
LANES, MOST_CHANNELS = 16, 4096


class Unsupported(ValueError):
    """A network has a part that is not written in C; run it in PyTorch."""


@dataclass(frozen=True)
class _Map:
    """(height * width, channels) numbers in a region of the memory, `row` of them from pixel to pixel."""

    height: int
    width: int
    channels: int
    row: int
    region: int
    start: int = 0

    def part(self, start: int, channels: int) -> _Map:
        return replace(self, start=self.start + start, channels=channels)


@dataclass
class _Step:
    """One step; arrays are weights, in the form that the kernel reads."""

    kind: str
    x: _Map
    out: _Map
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    other: _Map | None = None
    act: str | None = None
    kernel: int = 1
    stride: int = 1
    number: float = 1.0
    details: dict[str, Any] = field(default_factory=dict)

    def maps(self) -> list[_Map]:
        named = [value for value in self.details.values() if isinstance(value, _Map)]
        return [m for m in (self.x, self.out, self.other, *named) if m is not None]


def _array(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().cpu().numpy(), dtype=np.float32)


def _decay_rates(layer: DSSM) -> np.ndarray:
    """By NumPy: PyTorch's exp starts threads, after which a program can't fork."""
    return -np.exp(_array(layer.A_log)) if layer.A is None else _array(layer.A)


def _folded(conv: Any, norm: nn.Module | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Weights (O, I, k, k) and bias of a convolution or linear layer, with the batch norm after it."""
    weight, bias = _array(conv.weight), None if conv.bias is None else _array(conv.bias)
    weight = weight.reshape(*weight.shape, *(1,) * (4 - weight.ndim))
    if norm is None:
        return weight, bias
    factor, shift = _batch_norm(norm)
    return weight * factor[:, None, None, None], shift if bias is None else shift + bias * factor


def _batch_norm(norm: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
        raise Unsupported(f"a {type(norm).__name__} can't be folded")
    factor = _array(norm.weight) / np.sqrt(_array(norm.running_var) + np.float32(norm.eps))
    return factor, _array(norm.bias) - _array(norm.running_mean) * factor


def _packed(weight: np.ndarray) -> np.ndarray:
    """(O, I, k, k) as (O / 16, k k, I, 16), filled up with zeros."""
    out, depth, height, width = weight.shape
    padded = np.zeros((-(-out // LANES) * LANES, depth, height * width), np.float32)
    padded[:out] = weight.reshape(out, depth, -1)
    return np.ascontiguousarray(padded.reshape(-1, LANES, depth, height * width).transpose(0, 3, 2, 1))


def _filled(bias: np.ndarray | None) -> np.ndarray | None:
    return None if bias is None else np.pad(bias, (0, -len(bias) % LANES))


class _Program:
    """The steps of a network, and the regions of memory that its maps take."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.sizes: list[int] = []

    def new(self, height: int, width: int, channels: int) -> _Map:
        if channels > MOST_CHANNELS:
            raise Unsupported(f"{channels} channels are too many")
        self.sizes.append(height * width * channels)
        return _Map(height, width, channels, channels, len(self.sizes) - 1)

    def like(self, x: _Map) -> _Map:
        return self.new(x.height, x.width, x.channels)

    def add(self, step: _Step) -> _Map:
        self.steps.append(step)
        return step.out

    def offsets(self, kept: Sequence[_Map]) -> tuple[list[int], int]:
        """Where each region starts, those that aren't needed at the same time in the same place; the end."""
        first, last = [len(self.steps)] * len(self.sizes), [0] * len(self.sizes)
        for index, step in enumerate(self.steps):
            for m in step.maps():
                first[m.region] = min(first[m.region], index)
                last[m.region] = index
        for m in kept:
            first[m.region], last[m.region] = 0, len(self.steps)
        placed: list[tuple[int, int]] = []
        offsets = [0] * len(self.sizes)
        for region in sorted(range(len(self.sizes)), key=lambda r: -self.sizes[r]):
            size, start = -(-self.sizes[region] // LANES) * LANES + LANES, 0
            taken = sorted(
                (offsets[other], end)
                for other, end in placed
                if first[other] <= last[region] and first[region] <= last[other]
            )
            for begin, end in taken:
                if start + size <= begin:
                    break
                start = max(start, end)
            offsets[region] = start
            placed.append((region, start + size))
        return offsets, max((end for _, end in placed), default=0)

    # What networks are made of.

    def conv(
        self,
        x: _Map,
        layer: Any,
        norm: nn.Module | None = None,
        act: str | None = None,
        other: _Map | None = None,
        out: _Map | None = None,
    ) -> _Map:
        """A convolution or linear layer, its batch norm, plus another map, and an activation."""
        weight, bias = _folded(layer, norm)
        outs, depth, kernel, _ = weight.shape
        stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        if isinstance(layer, nn.Conv2d) and (
            {*layer.kernel_size} != {kernel}
            or {*layer.padding} != {kernel // 2}
            or {*layer.dilation} != {1}
            or {*layer.stride} != {stride}
        ):
            raise Unsupported(f"{layer} has a form that isn't written in C")
        height, width = (x.height - 1) // stride + 1, (x.width - 1) // stride + 1
        out = self.new(height, width, outs) if out is None else out
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            if layer.groups != x.channels or outs != x.channels or stride != 1:
                raise Unsupported(f"{layer} is no depthwise convolution")
            taps = np.ascontiguousarray(weight.reshape(outs, -1).T)
            return self.add(_Step("depthwise", x, out, taps, bias, other, act, kernel))
        if kernel not in (1, 3) or depth != x.channels:
            raise Unsupported(f"{layer} has a form that isn't written in C")
        return self.add(_Step("convolve", x, out, _packed(weight), _filled(bias), other, act, kernel, stride))

    def norm(self, x: _Map, layer: nn.Module | None, other: _Map | None = None) -> _Map:
        """A norm of a map, or of the sum of two."""
        if isinstance(layer, LayerNorm2d):
            weight, bias = _array(layer.weight), _array(layer.bias)
            return self.add(_Step("norm", x, self.like(x), weight, bias, other, number=layer.eps))
        x = x if other is None else self.add(_Step("enlarge", x, self.like(x), other=other))
        if layer is None or isinstance(layer, nn.Identity):
            return x
        return self.add(_Step("scale", x, self.like(x), *_batch_norm(layer)))

    def gate(self, x: _Map, act: str, other: _Map, out: _Map | None = None) -> _Map:
        return self.add(_Step("gate", x, self.like(x) if out is None else out, other=other, act=act))

    def sequence(self, x: _Map, layers: Any, other: _Map | None = None, last: Any = None) -> _Map:
        """Convolutions, each with its norm and activation; the last one plus `other`, then `last`."""
        rest = list(layers)
        while rest:
            conv = rest.pop(0)
            norm = rest.pop(0) if rest and isinstance(rest[0], nn.BatchNorm2d | nn.Identity) else None
            act = _act(rest.pop(0)) if rest and not isinstance(rest[0], nn.Conv2d) else None
            norm = None if isinstance(norm, nn.Identity) else norm
            x = self.conv(x, conv, norm, act if rest else act or last, None if rest else other)
        return x

    # The tribrid backbone.

    def backbone(self, x: _Map, net: Tribrid) -> list[_Map]:
        stem: Any = net.stem
        for part in stem:
            x = self.sequence(x, part)
        maps = []
        wanted = getattr(net, "out_indices", (len(net.stages) - 1,))
        for i in range(wanted[-1] + 1):
            if isinstance(net.downs[i], ConvNorm):
                x = self.sequence(x, net.downs[i])
            stage: Any = net.stages[i]
            for block in stage:
                x = self.block(x, block)
            if i in wanted:
                maps.append(self.norm(x, net.norm) if i == len(net.config.dims) - 1 else x)
        return maps

    def block(self, x: _Map, block: nn.Module) -> _Map:
        if isinstance(block, ConvBlock):
            return self.sequence(self.sequence(x, block.conv1), block.conv2, other=x, last="silu")
        if isinstance(block, GatedConvBlock):
            hidden, kept, dim = block.split
            inner = self.conv(self.norm(x, block.norm), block.in_proj)
            gated = self.new(x.height, x.width, hidden)
            mixed = self.conv(inner.part(hidden + kept, dim), block.conv)
            if kept:
                self.gate(inner.part(0, kept), "gelu", inner.part(hidden, kept), gated.part(0, kept))
            self.gate(inner.part(kept, dim), "gelu", mixed, gated.part(kept, dim))
            return self.conv(gated, block.out_proj, other=x)
        if isinstance(block, MixerBlock) and isinstance(block.mixer, MambaMixer):
            x = self.mixer(self.norm(x, block.norm1), block.mixer, x)
            if isinstance(block.ffn, FFN):
                x = self.sequence(self.norm(x, block.norm2), block.ffn, other=x)
            return x
        raise Unsupported(f"a {type(block).__name__} isn't written in C")

    def mixer(self, x: _Map, mixer: MambaMixer, other: _Map) -> _Map:
        both = self.conv(x, mixer.in_proj)
        u, z = both.part(0, both.channels // 2), both.part(both.channels // 2, both.channels // 2)
        y = self.dssm(self.conv(u, mixer.conv, act="silu"), mixer.dssm)
        return self.conv(self.gate(z, "silu", y), mixer.out_proj, other=other)

    def dssm(self, x: _Map, layer: DSSM) -> _Map:
        config = layer.config
        if type(layer) is not DSSM or not layer.once:
            raise Unsupported("only scans in raster order are written in C")
        u = x
        if layer.sampler is not None:
            sampled = self.sample(x, layer.sampler)
            u = self.norm(sampled, layer.norm, x if config.residual else None)
        source = x if config.params_from == "x" else u
        maps = self.conv(source, layer.x_proj)
        delta = self.conv(maps.part(0, layer.rank), layer.dt_proj)
        out = self.like(x)
        details = {
            "delta": delta,
            "B": maps.part(layer.rank, config.d_state),
            "C": maps.part(layer.rank + config.d_state, config.d_state),
            "A": _decay_rates(layer),
            "D": _array(layer.D),
            "bias": _array(layer.dt_bias),
        }
        return self.add(_Step("scan", u, out, details=details))

    def sample(self, x: _Map, sampler: Any) -> _Map:
        depthwise, _, last = sampler.branch
        fields = self.conv(self.conv(x, depthwise, act="gelu"), last)
        count = sampler.groups * sampler.num_anchors
        offsets = fields.part(0, 2 * count)
        if sampler.reach is not None:
            most = np.tile(np.array([x.height, x.width], np.float32) * np.float32(sampler.reach), count)
            self.add(_Step("bound", offsets, offsets, most, number=sampler.gain))
        elif sampler.gain != 1.0:
            ones = np.ones(2 * count, np.float32)
            self.add(_Step("scale", offsets, offsets, ones, 0 * ones, number=sampler.gain))
        details = {"offsets": offsets, "anchors": _array(sampler.anchors), "groups": sampler.groups}
        if sampler.dynamic:
            details["weights"] = weights = fields.part(2 * count, count)
            if sampler.modulated:
                ones = np.ones(count, np.float32)
                scale = 2.0 / sampler.num_anchors
                self.add(_Step("scale", weights, weights, ones, 0 * ones, act="sigmoid", number=scale))
        else:
            details["fixed"] = np.ascontiguousarray(_array(sampler.weight).T)
        return self.add(_Step("sample", x, self.like(x), details=details))

    # The heads.

    def dense(self, maps: Sequence[_Map], head: DenseDecoder) -> list[_Map]:
        if any(pooling > 1 for pooling in head.pooling):
            raise Unsupported("a map finer than the anchors isn't pooled in C")
        coarse, dim = maps[-1], head.config.dim
        means = self.new(1, 1, coarse.channels + dim)
        pooled = self.add(_Step("average", coarse, means.part(0, coarse.channels)))
        context = self.conv(pooled, head.context)
        x = None
        for level in reversed(range(len(maps))):
            layers = head.laterals[level]
            if x is None:
                everywhere = replace(context, height=maps[level].height, width=maps[level].width, row=0)
                x = self.sequence(maps[level], layers, other=everywhere)
                continue
            lateral = self.sequence(maps[level], layers)
            total = self.add(_Step("enlarge", x, self.like(lateral), other=lateral))
            x = self.separable(total, head.merges[level])
        assert x is not None
        for block in head.mixers:
            x = self.separable(x, block)
        self.add(_Step("average", x, means.part(coarse.channels, dim)))
        return [self.conv(x, head.votes), self.conv(means, head.presence)]

    def separable(self, x: _Map, block: Any) -> _Map:
        assert isinstance(block, SeparableBlock)
        return self.sequence(x, block.layers, other=x if block.residual else None, last="relu")

    def detector(self, maps: Sequence[_Map], head: DetectorHead) -> list[_Map]:
        x = None
        for lateral, m in zip(reversed(head.lateral), reversed(maps), strict=True):
            last = m is maps[0]
            if x is None:
                x = self.sequence(m, lateral, last="relu" if last else None)
                continue
            level = self.sequence(m, lateral)
            x = self.add(_Step("enlarge", x, self.like(level), other=level, act="relu" if last else None))
        assert x is not None
        for part in head.mix:
            x = self.sequence(x, part)
        return [self.conv(x, head.out)]


def _act(layer: nn.Module) -> str:
    for kind, name in ((nn.ReLU, "relu"), (nn.SiLU, "silu"), (nn.GELU, "gelu")):
        if isinstance(layer, kind) and getattr(layer, "approximate", "none") == "none":
            return name
    raise Unsupported(f"a {type(layer).__name__} isn't written in C")


class _StepStructure(ctypes.Structure):
    _fields_ = (
        *(
            (n, ctypes.c_int64)
            for n in (
                "kind", "act", "height", "width", "channels", "out_height", "out_width", "out_channels",
                "kernel", "stride", "in_row", "out_row", "other_row",
            )
        ),
        *((n, ctypes.c_void_p) for n in ("x", "weight", "bias", "other", "out", "sample", "scan", "result")),
        ("number", ctypes.c_float),
    )  # fmt: skip


class _Memory:
    """Room for the maps of one crop, and the steps with addresses in it; one at a time may use it."""

    def __init__(self, program: _Program, kept: Sequence[_Map]) -> None:
        self.offsets, floats = program.offsets(kept)
        room = np.zeros(floats + 2 * LANES, np.float32)
        self.floats = room[-(room.ctypes.data // 4) % LANES :]
        self.alive: list[Any] = [program]
        self.steps = (_StepStructure * len(program.steps))(*map(self.structure, program.steps))
        self.scratch = max((self.needed(step) for step in program.steps), default=0)

    def address(self, m: _Map | None) -> int | None:
        return None if m is None else self.floats.ctypes.data + 4 * (self.offsets[m.region] + m.start)

    def view(self, m: _Map) -> np.ndarray:
        """(height, width, channels) of a map whose region has no other channels."""
        start = self.offsets[m.region]
        return self.floats[start : start + m.height * m.width * m.row].reshape(m.height, m.width, m.row)

    def structure(self, step: _Step) -> _StepStructure:
        x, out, other = step.x, step.out, step.other
        of_sample, of_scan, of_result = None, None, None
        if step.kind == "sample":
            of_sample = self.reference(self.sampling(step))
        if step.kind == "scan":
            scan, result = self.scanning(step)
            of_scan, of_result = self.reference(scan), self.reference(result)
        return _StepStructure(
            KINDS.index(step.kind), ACTS[step.act], x.height, x.width, x.channels, out.height, out.width,
            out.channels, step.kernel, step.stride, x.row, out.row, 0 if other is None else other.row,
            self.address(x), _pointer(step.weight), _pointer(step.bias), self.address(other),
            self.address(out), of_sample, of_scan, of_result, step.number,
        )  # fmt: skip

    def reference(self, structure: ctypes.Structure) -> int:
        self.alive.append(structure)
        return ctypes.addressof(structure)

    def sampling(self, step: _Step) -> native.Sample:
        details, x = step.details, step.x
        groups, count = details["groups"], len(details["anchors"])
        offsets, weights = details["offsets"], details.get("weights")
        nothing = native.Field(None, 0, 0, 0, 0, 0)
        return native.Sample(
            1, x.height, x.width, x.channels, groups, count, 1, self.address(x),
            native.Field(self.address(offsets), 0, 2 * count, 2, 1, offsets.row),
            nothing if weights is None else native.Field(self.address(weights), 0, count, 1, 0, weights.row),
            _pointer(details.get("fixed")), _pointer(details["anchors"]),
        )  # fmt: skip

    def scanning(self, step: _Step) -> tuple[native.Scan, native.ScanResult]:
        details, u, y = step.details, step.x, step.out
        states = details["A"].shape[1]
        last = np.zeros((u.channels, states), np.float32)
        self.alive.append(last)
        B, C = (native.Matrix(self.address(details[n]), 0, 0, 1, details[n].row) for n in ("B", "C"))
        delta = details["delta"]
        scan = native.Scan(
            1, u.height * u.width, u.channels, states, 1, 1, 1,
            native.Rows(self.address(u), 0, 1, u.row), native.Rows(self.address(delta), 0, 1, delta.row),
            native.Rows(None, 0, 0, 0), B, C, *(_pointer(details[n]) for n in ("A", "D", "bias")),
        )  # fmt: skip
        return scan, native.ScanResult(native.Rows(self.address(y), 0, 1, y.row), _pointer(last))

    @staticmethod
    def needed(step: _Step) -> int:
        """Numbers of scratch memory, as the kernels' own entries count them."""
        if step.kind == "sample":
            return 32 * len(step.details["anchors"])
        if step.kind == "scan":
            return 2 * LANES * step.details["A"].shape[1] + 4 * 128 * LANES
        return 0

    def run(self, team: int) -> None:
        sizes = (len(self.steps), self.scratch, team)
        native.compute("dfmamba_run", self.steps, *(ctypes.c_int64(n) for n in sizes))


def _pointer(x: np.ndarray | None) -> int | None:
    return None if x is None else x.ctypes.data


class _Native(nn.Module):
    """Runs a program on each image of a batch.

    Args:
        threads: images of a batch that are computed at the same time, by a thread each.
        team: threads that share the work on one image, of the pool that PyTorch uses too; pays for large
            networks on a machine with nothing else to do.
    """

    def __init__(self, threads: int, team: int) -> None:
        super().__init__()
        if not native.available():
            raise RuntimeError("the C kernels of dfmamba are not built here")
        self.threads, self.team = max(1, threads), max(1, team)
        self._program = _Program()
        self._input = self._program.new(1, 1, 1)
        self._outputs: list[_Map] = []
        self._free: list[_Memory] = []
        self.eval()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_free": []}  # addresses, which a copy can't use

    def compute(self, x: Tensor, scale: float = 1.0, shift: float = 0.0) -> list[Tensor]:
        """The outputs (B, C, h, w) for images (B, C, H, W), of which the network sees `scale * x + shift`.

        Raises:
            ValueError: images of another size, or not on the CPU.
        """
        wanted = (self._input.channels, self._input.height, self._input.width)
        if x.ndim != 4 or tuple(x.shape[1:]) != wanted or x.device.type != "cpu":
            raise ValueError(f"expected crops (B, {', '.join(map(str, wanted))}), got {tuple(x.shape)}")
        images = x.detach().permute(0, 2, 3, 1).numpy()
        results = [np.empty((len(images), m.height, m.width, m.channels), np.float32) for m in self._outputs]

        def work(first: int) -> None:
            memory = self._memory()
            for i in range(first, len(images), workers):
                image = memory.view(self._input)
                np.multiply(images[i], scale, out=image)
                image += shift
                memory.run(self.team)
                for result, m in zip(results, self._outputs, strict=True):
                    result[i] = memory.view(m)
            self._free.append(memory)

        workers = min(self.threads, len(images))
        others = [threading.Thread(target=work, args=(first,)) for first in range(1, workers)]
        for thread in others:
            thread.start()
        if workers:
            work(0)
        for thread in others:
            thread.join()
        return [torch.from_numpy(result).permute(0, 3, 1, 2) for result in results]

    def _memory(self) -> _Memory:
        try:
            return self._free.pop()
        except IndexError:
            return _Memory(self._program, [self._input, *self._outputs])


class NativeNetwork(_Native):
    """A `HandPoseModel` or detector of ours for inference, in C; it keeps copies of the weights.

    Args:
        model: with a tribrid backbone and the dense head or the detector's.
        threads: crops of a batch that are computed at the same time, by a thread each.
        team: threads that share the work on one crop; more than 1 uses PyTorch's pool.

    Raises:
        Unsupported: a part of the model isn't written in C.
        RuntimeError: the C kernels aren't built here.

    Shape: (B, in_chans, S, S) on the CPU, with S of the configuration, to what the model gives, in float32.
    Joints agree with the model's within 0.01 px.
    """

    def __init__(self, model: Any, threads: int = 1, team: int = 1) -> None:
        super().__init__(threads, team)
        self.config = config = model.config
        size, backbone, head = config.image_size, model.backbone, model.head
        if type(backbone) is not TribridFeatures:
            raise Unsupported(f"a {type(backbone).__name__} isn't written in C")
        program = self._program
        self._input = program.new(size, size, config.in_chans)
        maps = program.backbone(self._input, backbone)
        if isinstance(head, AnchorToJoint) and isinstance(head.decoder, DenseDecoder):
            self._outputs = program.dense([maps[level] for level in head.levels], head.decoder)
            self._decoder: Any = _Readout(head.decoder)
        elif isinstance(head, DetectorHead):
            self._outputs, self._decoder = program.detector(maps, head), _only
        else:
            raise Unsupported(f"a {type(head).__name__} isn't written in C")

    def forward(self, x: Tensor) -> Any:
        return self._decoder(*self.compute(x, self.config.input_scale, self.config.input_shift))


class NativeFeatures(_Native):
    """A tribrid backbone for inference, in C: images (B, in_chans, H, W) to its maps, finest first.

    Args:
        backbone: `TribridFeatures`, or a `Tribrid`, of which it gives the last map, normed.
        image_size: H and W.
        threads, team: as for `NativeNetwork`.

    Raises:
        Unsupported: a part of the backbone isn't written in C.
        RuntimeError: the C kernels aren't built here.
    """

    def __init__(
        self, backbone: Tribrid, image_size: tuple[int, int], threads: int = 1, team: int = 1
    ) -> None:
        super().__init__(threads, team)
        self._input = self._program.new(*image_size, backbone.in_chans)
        self._outputs = self._program.backbone(self._input, backbone)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.compute(x)


def _only(result: Tensor) -> Tensor:
    return result.contiguous()


class _Readout:
    """The dense head after its votes: joints, confidences and presence."""

    def __init__(self, decoder: DenseDecoder) -> None:
        self.config, self.joints = decoder.config, decoder.joints
        self.constants = {name: value.float() for name, value in decoder.constants().items()}

    def __call__(self, votes: Tensor, presence: Tensor) -> Any:
        grid, scale = self.constants["anchors"], self.constants["offset_scale"]
        return DenseDecoder.readout(votes, presence.flatten(1), grid, scale, self.config)


def inference_form(model: Any, device: str | torch.device = "cpu", threads: int | None = None) -> nn.Module:
    """The fastest form of a model on a device without extras: on a CPU in C where it can be, else fused.

    Args:
        model: a `HandPoseModel`, which stays as it is; other modules are moved to the device and returned.
        device: that the form runs on.
        threads: crops of a batch that are computed at the same time, by a thread each; None takes PyTorch's
            number.
    """
    if not hasattr(model, "fuse"):
        return model.to(device)
    if torch.device(device).type == "cpu":
        try:
            return NativeNetwork(model, torch.get_num_threads() if threads is None else threads)
        except (Unsupported, RuntimeError):
            pass
    return model.fuse().to(device)
