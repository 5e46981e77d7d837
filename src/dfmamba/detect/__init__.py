"""Where the hands of a picture are: boxes, whoever finds them."""

from __future__ import annotations

from dfmamba.hands.detection import Detection, Detector, merge_overlapping, suppress

__all__ = ["Detection", "Detector", "merge_overlapping", "suppress"]
