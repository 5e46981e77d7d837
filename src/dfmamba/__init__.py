"""3D hand pose from one picture with deformable state-space backbones.

>>> import dfmamba
>>> "dfmamba_nano" in dfmamba.list_backbones()
True
"""

from __future__ import annotations

import importlib
from typing import Any

from dfmamba.timm_hook import install as _register_with_timm

__version__ = "0.1.0"

_PUBLIC = {
    "create_backbone": "dfmamba.backbones",
    "list_backbones": "dfmamba.backbones",
    "load": "dfmamba.models",
    "list_models": "dfmamba.models",
}

__all__ = ["__version__", "create_backbone", "list_backbones", "list_models", "load"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dfmamba' has no attribute {name!r}")


_register_with_timm()
