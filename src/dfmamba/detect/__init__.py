"""Where the hands of a picture are: boxes, whoever finds them."""

from __future__ import annotations

import sys

from dfmamba.hands import detection as _detection
from dfmamba.hands.detection import Detection, Detector, merge_overlapping, suppress

sys.modules[f"{__name__}.detection"] = _detection  # its name in version 0.1

__all__ = ["Detection", "Detector", "merge_overlapping", "suppress"]
