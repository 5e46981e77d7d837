"""Changed copies of a backbone's configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

T = TypeVar("T")


def with_overrides(config: T, overrides: Mapping[str, Any], fixed: Collection[str] = ()) -> T:
    """A copy of a frozen dataclass with some fields changed.

    Args:
        config: the dataclass.
        overrides: new values by field.
        fixed: fields that can't be changed.

    Raises:
        ValueError: an override is no such field, or unusable.
    """
    known = [field.name for field in fields(config) if field.name not in fixed]  # type: ignore[arg-type]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown backbone argument {unknown[0]!r}; known: {', '.join(known)}")
    return replace(config, **overrides)  # type: ignore[type-var]
