"""The name that `dfmamba.synth` had in version 0.1, with its modules, for programs written then.

New programs import from `dfmamba.synth`. Modules that need Warp are there only where it is installed.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

_HOME = "dfmamba.synth"
_MODULES = {
    **{
        name: f"{_HOME}.{name}"
        for name in (
            *("appearance", "background", "generator", "grasp", "kernels", "mesh", "people", "pose", "post"),
            *("raster", "scenes", "shards", "staging"),
        )
    },
    "body": f"{_HOME}.person",
    "cache": f"{_HOME}.shards",
    "capsules": f"{_HOME}.grasp",
    "hand": "dfmamba.hands.model",
    "labels": f"{_HOME}.post",
    "objects": f"{_HOME}.mesh",
    "people_arms": f"{_HOME}.person",
    "people_looks": f"{_HOME}.people",
    "people_postures": f"{_HOME}.person",
    "people_scenes": f"{_HOME}.people",
    "people_shards": f"{_HOME}.shards",
    "people_views": f"{_HOME}.people",
    "shading": f"{_HOME}.kernels",
}
"""Old module below this one -> where its content is now."""

__path__: list[str] = []  # what makes "import dfmamba.data.synthetic.cache" look below this module

for _old, _new in _MODULES.items():
    with contextlib.suppress(ImportError):  # without Warp
        globals()[_old] = sys.modules[f"{__name__}.{_old}"] = importlib.import_module(_new)


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module(_HOME), name)
