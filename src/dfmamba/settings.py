"""Configurations from plain values, and changed copies of them: unknown names are errors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
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
    try:
        return kind(**values)
    except (TypeError, AttributeError, OverflowError) as error:  # of a value that is no number, and so on
        raise ValueError(f"unusable {what} setting ({error})") from None


def with_overrides(
    config: T, overrides: Mapping[str, Any], fixed: Collection[str] = (), also: Collection[str] = ()
) -> T:
    """A copy of a frozen dataclass with some fields changed.

    Args:
        config: the dataclass.
        overrides: new values by field.
        fixed: fields that can't be changed.
        also: other arguments of the dataclass.

    Raises:
        ValueError: an override is no such field, or unusable.
    """
    known = [field.name for field in fields(config) if field.name not in fixed]  # type: ignore[arg-type]
    known += also
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown backbone argument {unknown[0]!r}; known: {', '.join(known)}")
    return replace(config, **overrides)  # type: ignore[type-var]
