"""How the operators run: the one switch between their implementations, precision, and registration.

The operators are PyTorch's own kind, in the namespace ``dfmamba``: opaque to `torch.compile` and
`torch.export`, with their gradients.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

VARIABLE = "DFMAMBA_BACKEND"
CHOICES = ("auto", "native", "torch", "triton", "export", "reference")
"""``auto`` takes the fastest that can run here; ``native`` is the C kernel, ``torch`` its twin in plain
PyTorch, ``triton`` the GPU kernels, ``export`` a form that exporters understand, ``reference`` the plain
definition. A backend asked for by name runs or raises: nothing is replaced silently."""

_override: ContextVar[str | None] = ContextVar("dfmamba_backend", default=None)


def _checked(name: str, source: str) -> str:
    if name not in CHOICES:
        raise ValueError(f"unknown backend {name!r} from {source}; choose one of {', '.join(CHOICES)}")
    return name


def current_backend() -> str:
    """Name of the backend in force: `use_backend`'s, else ``DFMAMBA_BACKEND``'s, else ``"auto"``.

    `torch.compile` and `torch.export` keep the one that is in force when they trace.

    Raises:
        ValueError: if the environment variable holds an unknown name.
    """
    chosen = _override.get()
    if chosen is not None:
        return chosen
    return _checked(os.environ.get(VARIABLE, "auto"), f"the environment variable {VARIABLE}")


# PyTorch 2.7 can't trace context variables. This is what `torch.compiler.assume_constant_result` does, which
# would import the whole compiler, for seconds.
current_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the enclosed calls on one backend, whatever the environment says.

    A gradient is computed by the backend that ran the forward pass.

    Args:
        name: one of `CHOICES`.

    Raises:
        ValueError: if the name is unknown.
    """
    token = _override.set(_checked(name, "use_backend"))
    try:
        yield
    finally:
        _override.reset(token)


_TAKEN = "float32, bfloat16 and float16, with B and C that depend on the step,"


def chosen(name: str, operands: tuple[Any, ...], kernels_take_them: bool = True) -> str:
    """Which of ``native``, ``triton`` and ``torch`` is to run on these operands.

    Args:
        name: the backend in force at the call; a backward pass takes that of its forward pass.
        operands: of one call; entries that are no tensors don't matter.
        kernels_take_them: whether the kernels know this form of the operands, their devices and dtypes aside.

    Raises:
        RuntimeError: the backend in force was asked for by name and can't run here, or not on these operands.
    """
    from dfmamba.ops import native

    on_gpu = any(getattr(t, "is_cuda", False) for t in operands)
    single = kernels_take_them and not _any_double(operands)
    if name == "native":
        if not native.available():
            raise RuntimeError("the backend 'native' was asked for, but its C kernels are not built here")
        if on_gpu or not single:
            raise RuntimeError(f"the backend 'native' was asked for, but takes only {_TAKEN} on the CPU")
        return "native"
    if name == "triton":
        if not triton_runs(on_gpu):
            raise RuntimeError("the backend 'triton' was asked for, but needs Triton and tensors on a GPU")
        if not single:
            raise RuntimeError(f"the backend 'triton' was asked for, but takes only {_TAKEN}")
        return "triton"
    if name != "auto" or not single:
        return "torch"
    if on_gpu:
        return "triton" if triton_runs(on_gpu) else "torch"
    return "native" if native.available() else "torch"


def _any_double(operands: tuple[Any, ...]) -> bool:
    return any(getattr(t, "dtype", None) == torch.float64 for t in operands)


@cache
def triton_runs(on_gpu: bool) -> bool:
    """Whether Triton is installed and has a GPU to run on, or its interpreter is on (TRITON_INTERPRET=1)."""
    if find_spec("triton") is None:
        return False
    return on_gpu or os.environ.get("TRITON_INTERPRET") == "1"


def followed() -> bool:
    """Whether `torch.func` or forward-mode differentiation follows the operands here.

    The kernels know neither, so the operators then run on their definitions, which PyTorch can follow.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def check_operands(operator: str, **operands: Tensor | None) -> None:
    """Raises `ValueError` unless all are real floating-point tensors on one device."""
    first: Tensor | None = None
    for name, tensor in operands.items():
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise ValueError(f"{operator}: {name} is {tensor.dtype}, expected real floating point")
        first = tensor if first is None else first
        if tensor.device != first.device:
            raise ValueError(
                f"{operator}: {name} is on {tensor.device}, expected {first.device}, where the others are"
            )


def wide_dtype(*operands: Any) -> torch.dtype:
    """The precision to compute in: float64 if one of the tensors among the operands has it, else float32."""
    return torch.float64 if _any_double(operands) else torch.float32


_LIBRARY = torch.library.Library("dfmamba", "FRAGMENT")


def _refuse(*_: Any) -> None:
    raise RuntimeError("the operators of dfmamba can be differentiated once, not twice")


def register(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    differentiate: Callable[..., Any] = _refuse,
    keep: Callable[..., Any] | None = None,
) -> Any:
    """Makes ``torch.ops.dfmamba.NAME``, which compilers and exporters keep whole.

    `torch.library.custom_op` would do the same, but imports the compiler at the first call, which takes
    longer than finding the hands of a picture.

    Args:
        schema: name, arguments and results, in PyTorch's language.
        run: the operator on any device; results must not share memory with operands or each other.
        fake: shapes, dtypes and strides of its results, from operands without values.
        differentiate: the backward pass, (context, *gradients of the results) -> gradients of the arguments;
            without one, asking for it is an error.
        keep: (context, inputs, output), stores what it needs.

    Returns:
        The operator.
    """
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dfmamba::{name}", fake, lib=_LIBRARY)
    torch.library.register_autograd(f"dfmamba::{name}", differentiate, setup_context=keep, lib=_LIBRARY)
    return getattr(torch.ops.dfmamba, name)


def channels_adjacent(x: Tensor) -> bool:
    """Whether the channels of a (batch, D, L) tensor are next to each other in memory."""
    return x.stride(1) == 1 and x.shape[2] > 1


def empty_like_sequence(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Room for a result of an operand's shape and memory order: channels adjacent, else contiguous."""
    batch, channels, length = like.shape
    if channels_adjacent(like):
        return like.new_empty(batch, length, channels, dtype=dtype).transpose(1, 2)
    return like.new_empty(batch, channels, length, dtype=dtype)


def arranged(x: Tensor, like: Tensor) -> Tensor:
    """A result in the dtype and memory order of an operand."""
    x = x.to(like.dtype)
    if channels_adjacent(like):
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return x.contiguous()


def common_groups(offsets: Tensor | None, weights: Tensor) -> int:
    """Into how many groups the channels fall when offsets and weights have groups of their own."""
    counts = [t.shape[1] for t in (offsets, weights) if t is not None and t.dim() > 2]
    return math.lcm(*counts) if counts else 1


def spread_groups(x: Tensor, groups: int) -> Tensor:
    """Offsets or weights (batch, own groups, ..., H, W) as (batch, groups, ..., H W)."""
    flat = x.flatten(-2)
    if flat.shape[1] in (1, groups):
        return flat.expand(-1, groups, *flat.shape[2:])
    return flat.repeat_interleave(groups // flat.shape[1], dim=1)


def gather_groups(gradient: Tensor, like: Tensor) -> Tensor:
    """Gradient of `spread_groups`: (batch, groups, ..., H W) in the shape of offsets or weights."""
    shared = gradient.shape[1] // like.shape[1]
    if shared > 1:
        gradient = gradient.unflatten(1, (like.shape[1], shared)).sum(2)
    return gradient.reshape(like.shape)
