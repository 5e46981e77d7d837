"""From a film, a camera or a folder of frames to hands that keep their number."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfmamba.predict.smooth import SmoothConfig as SmoothConfig
    from dfmamba.predict.track import Frame as Frame
    from dfmamba.predict.track import TrackConfig as TrackConfig
    from dfmamba.predict.track import Tracked as Tracked
    from dfmamba.predict.track import track_film as track_film
    from dfmamba.video.encode import OverlayWriter as OverlayWriter
    from dfmamba.video.film import read_film as read_film
    from dfmamba.video.frames import read_frames as read_frames

_PUBLIC = {
    "Frame": "dfmamba.predict.track",
    "OverlayWriter": "dfmamba.video.encode",
    "SmoothConfig": "dfmamba.predict.smooth",
    "TrackConfig": "dfmamba.predict.track",
    "Tracked": "dfmamba.predict.track",
    "read_film": "dfmamba.video.film",
    "read_frames": "dfmamba.video.frames",
    "track_film": "dfmamba.predict.track",
}

__all__ = [
    "Frame",
    "OverlayWriter",
    "SmoothConfig",
    "TrackConfig",
    "Tracked",
    "read_film",
    "read_frames",
    "track_film",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dfmamba.video' has no attribute {name!r}")
