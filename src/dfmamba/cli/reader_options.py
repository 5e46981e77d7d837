"""`--option NAME=VALUE`: what the reader of a data set is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser


def add_option(parser: ArgumentParser) -> None:
    """Declares the option."""
    parser.add_argument(
        "--option",
        type=str,
        action="append",
        metavar="NAME=VALUE",
        help="of the reader; see docs/train/data.md",
    )


def parse_options(words: Sequence[str] | None) -> dict[str, Any]:
    """Read NAME=VALUE words: true and false are bool, digits int, anything else text.

    Raises:
        ValueError: a word has another form, or a name comes twice.
    """
    values: dict[str, Any] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()) or name in values:
            raise ValueError(f"--option: expected NAME=VALUE, each name once, got {word!r}")
        digits = value.removeprefix("-")
        if value.lower() in ("true", "false"):
            values[name] = value.lower() == "true"
        else:
            values[name] = int(value) if digits.isascii() and digits.isdigit() else value
    return values
