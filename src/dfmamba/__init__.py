"""3D hand pose from one picture with deformable state-space backbones.

>>> import dfmamba
>>> "dfmamba_nano" in dfmamba.list_backbones()
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dfmamba.timm_hook import install as _register_with_timm

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dfmamba.backbones import create_backbone as create_backbone
    from dfmamba.backbones import list_backbones as list_backbones
    from dfmamba.models import from_pretrained as from_pretrained
    from dfmamba.models import list_models as list_models
    from dfmamba.models import load as load
    from dfmamba.predict.predictor import Predictor as Predictor
    from dfmamba.predict.result import Hand as Hand
    from dfmamba.predict.result import Prediction as Prediction

_PUBLIC = {
    "Hand": "dfmamba.predict.result",
    "Prediction": "dfmamba.predict.result",
    "Predictor": "dfmamba.predict.predictor",
    "create_backbone": "dfmamba.backbones",
    "from_pretrained": "dfmamba.models",
    "list_backbones": "dfmamba.backbones",
    "load": "dfmamba.models",
    "list_models": "dfmamba.models",
}

__all__ = [
    "Hand",
    "Prediction",
    "Predictor",
    "__version__",
    "create_backbone",
    "from_pretrained",
    "list_backbones",
    "list_models",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dfmamba' has no attribute {name!r}")


_register_with_timm()
