"""Pictures of predictions, drawn with Pillow alone."""

from __future__ import annotations

from dfmamba.draw.overlay import draw_overlay
from dfmamba.draw.sheet import draw_prediction
from dfmamba.draw.view3d import VIEWS, View, draw_view

__all__ = ["VIEWS", "View", "draw_overlay", "draw_prediction", "draw_view"]
