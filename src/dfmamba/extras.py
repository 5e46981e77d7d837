"""Optional libraries."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(extra: str, *names: str) -> tuple[ModuleType, ...]:
    """Imports optional modules.

    Args:
        extra: of this package, that brings them.
        names: of the modules.

    Raises:
        ImportError: if one is missing; the message names the extra.
    """
    try:
        return tuple(importlib.import_module(name) for name in names)
    except ImportError as error:
        library = names[0].split(".")[0]
        raise ImportError(f"this needs {library}: pip install 'dfmamba[{extra}]'") from error
