"""The optional C kernels: found where the package's build could compile them, and called with plain pointers.

They need neither PyTorch's nor NumPy's headers, so that one build serves every version of both.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache

from torch import Tensor

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
    """Call a function of the kernels; structures are passed by reference.

    Raises:
        RuntimeError: there are no kernels here.
    """
    kernels = library()
    if kernels is None:
        raise RuntimeError(
            "the C kernels of dfmamba are not built here: reinstall with a C compiler (GCC 12 or Clang 15) "
            "at hand, or choose the backend 'torch'"
        )
    passed = [ctypes.byref(a) if isinstance(a, ctypes.Structure) else a for a in arguments]
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
