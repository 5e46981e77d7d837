"""Configurations from plain values: unknown names are errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def from_values(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """An instance of a configuration's dataclass.

    Args:
        kind: the dataclass.
        values: of its fields, by name.
        what: they are settings of, for the error.

    Raises:
        ValueError: an unknown name; or what the dataclass says of an unusable value.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown {what} setting {unknown[0]!r}; known: {', '.join(known)}")
    return kind(**values)
