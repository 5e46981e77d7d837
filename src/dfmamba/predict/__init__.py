"""From a picture to hands."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfmamba.predict.predictor import Predictor as Predictor
    from dfmamba.predict.result import Hand as Hand
    from dfmamba.predict.result import Prediction as Prediction

_PUBLIC = {
    "Hand": "dfmamba.predict.result",
    "Prediction": "dfmamba.predict.result",
    "Predictor": "dfmamba.predict.predictor",
}

__all__ = ["Hand", "Prediction", "Predictor"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dfmamba.predict' has no attribute {name!r}")
