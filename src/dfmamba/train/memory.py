"""Memory of training on a CPU."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD, TOP_PAD = -4, -3, -1, -2
"""glibc's names for what `mallopt` sets (malloc.h)."""

KEEP = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 256 * 2**20}
GIVE_BACK = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26, TOP_PAD: 2**17}
"""About what glibc arrives at by itself."""


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Within it, glibc keeps freed memory for this process instead of giving it back to the system.

    Every step frees and allocates the same large tensors. By default glibc maps each of them anew, and the
    system fills it with zeros page by page. At the end what is free goes back.

    Yields:
        Whether it is so: False with another C library, and where a MALLOC_ variable of the environment says
        how memory is to be handled.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        yield False
        return
    libc = ctypes.CDLL(None)
    try:
        yield all([libc.mallopt(name, value) for name, value in KEEP.items()])
    finally:
        for name, value in GIVE_BACK.items():
            libc.mallopt(name, value)
        libc.malloc_trim(0)
