"""The one switch that chooses between the fast operators and the plain references."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

VARIABLE = "DFMAMBA_BACKEND"
CHOICES = ("auto", "reference")

_override: ContextVar[str | None] = ContextVar("dfmamba_backend", default=None)


def _checked(name: str, source: str) -> str:
    if name not in CHOICES:
        raise ValueError(f"unknown backend {name!r} from {source}; choose one of {', '.join(CHOICES)}")
    return name


def current_backend() -> str:
    """Name of the backend in force: `use_backend`'s, else ``DFMAMBA_BACKEND``'s, else ``"auto"``.

    Raises:
        ValueError: if the environment variable holds an unknown name.
    """
    chosen = _override.get()
    if chosen is not None:
        return chosen
    return _checked(os.environ.get(VARIABLE, "auto"), f"the environment variable {VARIABLE}")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the enclosed calls on one backend, whatever the environment says.

    A gradient is computed by the backend that ran the forward pass.

    Args:
        name: ``"auto"`` (the fast path) or ``"reference"`` (the plain loop, slow).

    Raises:
        ValueError: if the name is unknown.
    """
    token = _override.set(_checked(name, "use_backend"))
    try:
        yield
    finally:
        _override.reset(token)
