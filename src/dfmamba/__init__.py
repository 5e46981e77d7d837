"""3D hand pose from one picture with deformable state-space backbones.

>>> import dfmamba
>>> "dfmamba_nano" in dfmamba.list_backbones()
True
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

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
    "register_with_timm",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dfmamba' has no attribute {name!r}")


def register_with_timm() -> None:
    """Adds the backbones to timm's registry, for `timm.create_model("dfmamba_tiny")`; imports timm.

    Importing dfmamba does it by itself in programs that have imported timm before, or torchvision, on which
    timm builds, where timm is installed.

    Raises:
        ImportError: timm isn't installed, or is too old.
    """
    from dfmamba.backbones.timm_models import register

    register()


if sys.modules.get("timm") or ("torchvision" in sys.modules and importlib.util.find_spec("timm")):
    register_with_timm()
