"""Registers the backbones with timm once timm is imported; imports neither timm nor PyTorch before."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def _register() -> None:
    """Registers if it can be done; whatever is wrong, timm stays usable."""
    try:
        from dfmamba.backbones.timm_models import register

        register()
    except Exception:
        logging.getLogger(__name__).info("the backbones are not in timm's registry", exc_info=True)


class _Loader:
    """Loads timm by its own loader, which is the only one the module then knows, and registers.

    Everything else that is asked of it is answered by timm's own loader.
    """

    def __init__(self, own: Any, finder: TimmFinder) -> None:
        self._own = own
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        # Not self._own: while a copy is being made there is none, and looking for it would lead here again.
        return getattr(object.__getattribute__(self, "_own"), name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        module.__loader__ = self._own
        self._own.exec_module(module)
        self._finder.remove()
        _register()


class TimmFinder:
    """Finds timm, and nothing else, where the finders after it on `sys.meta_path` find it."""

    def __init__(self) -> None:
        self._state = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """timm's specification with a loader that registers afterwards; None for other modules."""
        if fullname != "timm" or getattr(self._state, "busy", False):
            return None
        self._state.busy = True  # a finder that asks all finders once more must not be answered by this one
        try:
            spec = self._next(fullname, path, target)
        finally:
            self._state.busy = False
        loader: Any = spec and spec.loader
        if spec is not None and hasattr(loader, "exec_module"):
            spec.loader = _Loader(loader, self)  # type: ignore[assignment]
        return spec

    def _next(self, *question: Any) -> ModuleSpec | None:
        finders = list(sys.meta_path)
        after = finders[finders.index(self) + 1 :] if self in finders else []
        for finder in after:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(*question) if find_spec else None
            if spec is not None:
                return spec
        return None

    def remove(self) -> None:
        """Leaves `sys.meta_path`."""
        with suppress(ValueError):
            sys.meta_path.remove(self)


def install() -> None:
    """Registers the backbones now if timm is imported, else as soon as it is."""
    finder = TimmFinder()
    if not any(type(other).__name__ == "TimmFinder" for other in sys.meta_path):
        sys.meta_path.insert(0, finder)
    # Last, so that an import that began before the finder was there is noticed.
    if sys.modules.get("timm") is not None:
        with suppress(Exception):  # timm's own error belongs to the thread that imports timm
            importlib.import_module("timm")  # waits while another thread is at it
            finder.remove()
            _register()
