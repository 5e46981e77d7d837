"""The operators on the optional C kernels, which are found where the package's build could compile them.

They are called with plain pointers and need neither PyTorch's nor NumPy's headers, so that one build serves
every version of both. The structures mirror ``kernels.h``. All numbers are float32 on the CPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import Structure, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dfmamba.ops.backend import common_groups, empty_like_sequence, gather_groups, spread_groups

MODULE = "dfmamba.ops.native.kernels"


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none."""
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    try:
        return ctypes.CDLL(spec.origin)
    except OSError:
        return None


def available() -> bool:
    """Whether the C kernels were built and can be loaded."""
    return library() is not None


def instruction_set(highest: str = "avx512") -> str:
    """The instruction set in use, after lowering it to `highest` for the rest of the process (for tests).

    Raises:
        RuntimeError: there are no kernels here.
    """
    sets = ("portable", "avx2", "avx512")
    return sets[call("dfmamba_level", sets.index(highest))]


def call(name: str, *arguments: object) -> int:
    """Call a function of the kernels; structures and arrays of them are passed by reference.

    Raises:
        RuntimeError: there are no kernels here.
    """
    kernels = library()
    if kernels is None:
        raise RuntimeError(
            "the C kernels of dfmamba are not built here: reinstall with a C compiler (GCC 12 or Clang 15) "
            "at hand, or choose the backend 'torch'"
        )
    by_reference = (ctypes.Structure, ctypes.Array)
    passed = [ctypes.byref(a) if isinstance(a, by_reference) else a for a in arguments]
    return getattr(kernels, name)(*passed)


def compute(name: str, *arguments: object) -> None:
    """`call` a kernel that reports by its result whether it got its memory.

    Raises:
        MemoryError: it did not.
    """
    if call(name, *arguments):
        raise MemoryError(f"{name} of dfmamba's C kernels found no memory to work in")


def pointer(x: Tensor | None) -> int | None:
    """Address of a tensor's first element; None for none."""
    return None if x is None else x.data_ptr()


LANES = 16


class Rows(Structure):
    _fields_ = (("at", c_void_p), ("batch", c_int64), ("channel", c_int64), ("step", c_int64))


class Matrix(Structure):
    _fields_ = (("at", c_void_p), *((n, c_int64) for n in ("batch", "group", "state", "step")))


class Scan(Structure):
    _fields_ = (
        *((n, c_int64) for n in ("batch", "length", "channels", "states", "groups", "softplus", "threads")),
        ("u", Rows),
        ("delta", Rows),
        ("z", Rows),
        ("B", Matrix),
        ("C", Matrix),
        ("A", c_void_p),
        ("D", c_void_p),
        ("bias", c_void_p),
    )


class ScanResult(Structure):
    _fields_ = (("y", Rows), ("last", c_void_p))


class _ScanGradient(Structure):
    _fields_ = (
        *((n, Rows) for n in ("grad_y", "u", "delta", "z")),
        *((n, c_void_p) for n in ("grad_last", "A", "D", "bias", "B", "C")),
        ("parts", c_int64),
    )


def _rows(x: Tensor | None) -> Rows:
    return Rows(None, 0, 0, 0) if x is None else Rows(x.data_ptr(), *x.stride())


def _by_group(x: Tensor, groups: int) -> Tensor:
    """B or C as (batch, groups, N, L) with the states of a step next to each other.

    Steps that lie a power of two apart, as in a contiguous (batch, N, L), would all fall on one cache line.
    """
    x = x.float()
    x = x.unsqueeze(1) if x.dim() == 3 else x
    if x.stride(2) != 1:
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    return x.expand(-1, groups, -1, -1)


def _matrix(x: Tensor) -> Matrix:
    return Matrix(x.data_ptr(), *x.stride())


class _ScanOperands:
    """The operands as the kernel wants them, kept alive beside the structure that points to them."""

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> None:
        self.batch, self.channels, self.length = u.shape
        self.states = A.shape[1]
        self.groups = max(m.shape[1] if m.dim() == 4 else 1 for m in (B, C))
        self.blocks = -(-self.channels // self.groups // LANES)
        self.u, self.delta, self.z = u.float(), delta.float(), None if z is None else z.float()
        self.matrices = _by_group(B, self.groups), _by_group(C, self.groups)
        constants = A, D, delta_bias
        self.constants = [None if t is None else t.float().contiguous() for t in constants]
        self.structure = Scan(
            self.batch,
            self.length,
            self.channels,
            self.states,
            self.groups,
            int(delta_softplus),
            torch.get_num_threads(),
            _rows(self.u),
            _rows(self.delta),
            _rows(self.z),
            _matrix(self.matrices[0]),
            _matrix(self.matrices[1]),
            *(pointer(t) for t in self.constants),
        )

    def room(self, *shape: int) -> Tensor:
        """Room for numbers that a kernel writes: its own kind, whatever the process's defaults are."""
        return self.u.new_empty(shape)


def scan_forward(*operands: Any) -> tuple[Tensor, Tensor]:
    """y (batch, D, L), in memory as u, and last state (batch, D, N), both float32."""
    p = _ScanOperands(*operands)
    y = empty_like_sequence(operands[0], torch.float32)
    last = p.room(p.batch, p.channels, p.states)
    result = ScanResult(_rows(y), last.data_ptr())
    compute("dfmamba_scan_forward", p.structure, result, c_int64(p.blocks))
    return y, last


def scan_backward(
    grad_y: Tensor,
    grad_last: Tensor | None,
    *operands: Any,
) -> tuple[Tensor | None, ...]:
    """Gradients of the eight tensors, float32; None for those that were None."""
    p = _ScanOperands(*operands)
    u, delta, _, B, C, D, z, delta_bias, _ = operands
    items = p.batch * p.groups
    parts = min(p.blocks, max(1, -(-4 * torch.get_num_threads() // items)))
    incoming = grad_y.float()
    beyond = None if grad_last is None else grad_last.float().contiguous()
    grad_u, grad_delta = (empty_like_sequence(t, torch.float32) for t in (u, delta))
    grad_z = None if z is None else empty_like_sequence(z, torch.float32)
    grad_A = p.room(p.batch, p.channels, p.states)
    grad_D, grad_bias = p.room(p.batch, p.channels), p.room(p.batch, p.channels)
    matrices = p.room(2, parts, p.batch, p.groups, p.length, p.states)
    gradient = _ScanGradient(
        *(_rows(t) for t in (incoming, grad_u, grad_delta, grad_z)),
        *(pointer(t) for t in (beyond, grad_A, grad_D, grad_bias, *matrices)),
        parts,
    )
    compute("dfmamba_scan_backward", p.structure, gradient)
    grad_B, grad_C = (
        _shaped(m.sum(0).transpose(2, 3), like) for m, like in zip(matrices, (B, C), strict=True)
    )
    return (
        grad_u,
        grad_delta,
        grad_A.sum(0),
        grad_B,
        grad_C,
        None if D is None else grad_D.sum(0),
        grad_z,
        None if delta_bias is None else grad_bias.sum(0),
    )


def _shaped(gradient: Tensor, like: Tensor) -> Tensor:
    """(batch, G, N, L) in the shape of B or C: groups that shared it are summed."""
    if like.dim() == 3:
        return gradient.sum(1)
    return gradient if like.shape[1] == gradient.shape[1] else gradient.sum(1, keepdim=True)


class Field(Structure):
    _fields_ = (("at", c_void_p), *((n, c_int64) for n in ("batch", "group", "anchor", "axis", "pixel")))


class Sample(Structure):
    _fields_ = (
        *((n, c_int64) for n in ("batch", "height", "width", "channels", "groups", "anchors", "threads")),
        ("x", c_void_p),
        ("offsets", Field),
        ("weights", Field),
        ("fixed", c_void_p),
        ("grid", c_void_p),
    )


class _SampleGradient(Structure):
    _fields_ = tuple((n, c_void_p) for n in ("grad", "x", "position", "weights", "fixed"))


def _by_pixel(x: Tensor) -> Tensor:
    """(batch, C, H, W) as dense (batch, H W, C)."""
    return x.float().flatten(2).transpose(1, 2).contiguous()


def _field(x: Tensor | None) -> Field:
    if x is None:
        return Field(None, 0, 0, 0, 0, 0)
    batch, group, anchor, *axis, pixel = x.stride()
    return Field(x.data_ptr(), batch, group, anchor, axis[0] if axis else 0, pixel)


class _SampleOperands:
    """The operands as the kernels want them, kept alive beside the structure that points to them."""

    def __init__(self, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> None:
        self.batch, self.channels, self.height, self.width = x.shape
        self.pixels, self.anchors = self.height * self.width, anchors.shape[0]
        self.groups = common_groups(offsets, weights)
        self.x = _by_pixel(x)
        self.offsets = None if offsets is None else spread_groups(offsets.float(), self.groups)
        dynamic = weights.dim() == 5
        self.weights = spread_groups(weights.float(), self.groups) if dynamic else None
        self.fixed = None if dynamic else weights.float().t().contiguous()
        self.grid = anchors.float().contiguous()
        self.structure = Sample(
            self.batch,
            self.height,
            self.width,
            self.channels,
            self.groups,
            self.anchors,
            torch.get_num_threads(),
            self.x.data_ptr(),
            _field(self.offsets),
            _field(self.weights),
            pointer(self.fixed),
            self.grid.data_ptr(),
        )

    def as_map(self, rows: Tensor) -> Tensor:
        """(batch, H W, C) as (batch, C, H, W), channels-last in memory."""
        return rows.view(self.batch, self.height, self.width, self.channels).permute(0, 3, 1, 2)


def sample_forward(x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor) -> Tensor:
    """(batch, C, H, W) in float32, channels-last in memory."""
    p = _SampleOperands(x, offsets, weights, anchors)
    y = p.x.new_empty(p.batch, p.pixels, p.channels)
    compute("dfmamba_sample_forward", p.structure, c_void_p(y.data_ptr()))
    return p.as_map(y)


def sample_backward(
    grad: Tensor, x: Tensor, offsets: Tensor | None, weights: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Gradients of x, offsets (None for none), weights and anchors, in float32."""
    p = _SampleOperands(x, offsets, weights, anchors)
    incoming = _by_pixel(grad)
    grad_x = p.x.new_zeros(p.batch, p.pixels, p.channels)
    position = p.x.new_empty(p.batch, p.groups, p.anchors, 2, p.pixels)
    dynamic = p.x.new_empty(p.batch, p.groups, p.anchors, p.pixels) if p.fixed is None else None
    fixed = None if p.fixed is None else p.x.new_zeros(p.batch, p.anchors, p.channels)
    gradient = _SampleGradient(*(pointer(t) for t in (incoming, grad_x, position, dynamic, fixed)))
    compute("dfmamba_sample_backward", p.structure, gradient)
    grad_offsets = None if offsets is None else gather_groups(position, offsets)
    if fixed is not None:
        grad_weights = fixed.sum(0).t()
    else:
        assert dynamic is not None
        grad_weights = gather_groups(dynamic, weights)
    return p.as_map(grad_x), grad_offsets, grad_weights, position.sum((0, 1, 4))
