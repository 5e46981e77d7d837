"""The one switch that chooses between the implementations of the operators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

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


def chosen(operands: tuple[Any, ...], kernels_take_them: bool = True) -> str:
    """Which of ``native``, ``triton`` and ``torch`` is to run on these operands.

    Args:
        operands: of one call; entries that are no tensors don't matter.
        kernels_take_them: whether the kernels know this form of the operands, their devices and dtypes aside.

    Raises:
        RuntimeError: the backend in force was asked for by name and can't run here, or not on these operands.
    """
    from dfmamba.ops import native

    name = current_backend()
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
