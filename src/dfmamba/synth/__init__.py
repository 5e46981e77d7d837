"""Synthetic hands: pictures with exact labels, made on the fly from a baked hand, without downloads.

Importing this package is cheap; geometry and Warp are loaded when `SyntheticHands` is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfmamba.synth.generator import SyntheticConfig as SyntheticConfig
    from dfmamba.synth.generator import SyntheticHands as SyntheticHands
    from dfmamba.synth.post import recompose as recompose
    from dfmamba.synth.shards import ShardedHands as ShardedHands
    from dfmamba.synth.shards import render_shards as render_shards

_HOMES = {
    "ShardedHands": "shards",
    "render_shards": "shards",
    "SyntheticConfig": "generator",
    "SyntheticHands": "generator",
    "recompose": "post",
}

__all__ = ["ShardedHands", "SyntheticConfig", "SyntheticHands", "recompose", "render_shards"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
