"""From a film, a camera or a folder of frames to hands that keep their number."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfmamba.video.encode import OverlayWriter as OverlayWriter
    from dfmamba.video.film import read_film as read_film
    from dfmamba.video.frames import Frame as Frame
    from dfmamba.video.frames import read_frames as read_frames
    from dfmamba.video.smooth import SmoothConfig as SmoothConfig
    from dfmamba.video.track import TrackConfig as TrackConfig
    from dfmamba.video.track import Tracked as Tracked
    from dfmamba.video.track import track_film as track_film

_PUBLIC = {
    "Frame": "dfmamba.video.frames",
    "OverlayWriter": "dfmamba.video.encode",
    "SmoothConfig": "dfmamba.video.smooth",
    "TrackConfig": "dfmamba.video.track",
    "Tracked": "dfmamba.video.track",
    "read_film": "dfmamba.video.film",
    "read_frames": "dfmamba.video.frames",
    "track_film": "dfmamba.video.track",
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
