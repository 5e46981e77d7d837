"""Detectors by name."""

from __future__ import annotations

import functools
import os

from dfmamba.detect.given import GivenBoxes
from dfmamba.hands.detection import Detector

BUILT_IN, NONE, MEDIAPIPE = "built-in", "none", "mediapipe"


def make_detector(name: str, device: str = "auto") -> Detector | GivenBoxes | None:
    """A detector by name.

    Args:
        name: "built-in", the one that ships with the package; "none", for the pose network to look at the
            whole picture; "mediapipe", where that is installed; the path of a JSON file of boxes
            (`dfmamba.detect.given`); or the folder of a detector's weights.
        device: of the built-in one; "auto" is the GPU where there is one.

    Raises:
        OSError: no such file or folder.
        ValueError: the file is none of boxes, the folder none of a detector, or the device is unusable.
        ImportError: MediaPipe is missing.
    """
    if name == NONE:
        return None
    if name == MEDIAPIPE:
        from dfmamba.detect.mediapipe import MediaPipeDetector

        return MediaPipeDetector()
    if name.endswith(".json"):
        return GivenBoxes(name)
    from dfmamba.detect.network import NetworkDetector
    from dfmamba.machine import choose_device

    if name != BUILT_IN and not os.path.isdir(name):
        raise FileNotFoundError(
            f"detector {name!r}: expected {BUILT_IN}, {NONE}, {MEDIAPIPE}, a JSON file of boxes, "
            "or the folder of a detector"
        )
    chosen = choose_device(device)
    return _built_in(str(chosen)) if name == BUILT_IN else NetworkDetector(name, chosen)


@functools.cache
def _built_in(device: str) -> Detector:
    from dfmamba.detect.network import NAME, NetworkDetector

    return NetworkDetector(NAME, device)
