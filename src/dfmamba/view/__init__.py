"""Predictions on a time line, to be looked at in a viewer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from dfmamba.predict.result import Prediction

VIEWERS = ("rerun", "rerun:spawn")


class Viewer(Protocol):
    """Takes pictures and what was predicted for them, one after the other."""

    def log(self, index: int, time_s: float | None, picture: np.ndarray, prediction: Prediction) -> None:
        """Adds a picture to the time line.

        Args:
            index: its number, from 0.
            time_s: seconds since the film began; None for single pictures.
            picture: (H, W, 3) uint8 RGB, as it was given to the predictor.
            prediction: its hands.
        """
        ...

    def close(self) -> None:
        """Ends the recording."""
        ...


def make_viewer(name: str, path: str | os.PathLike[str]) -> Viewer:
    """A viewer by name.

    Args:
        name: "rerun" records to a file and opens no window, "rerun:spawn" opens one and writes no file.
        path: the recording, NAME.rrd.

    Raises:
        ValueError: the name is unknown.
        OSError: the file can't be written.
        ImportError: the viewer isn't installed; the message names the extra.
    """
    if name not in VIEWERS:
        raise ValueError(f"viewer {name!r} is not known; expected one of {', '.join(VIEWERS)}")
    from dfmamba.view.rerun_view import RerunViewer

    return RerunViewer(None if name == "rerun:spawn" else path)
