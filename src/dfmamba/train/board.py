"""TensorBoard, and the pictures of a validation that are shown there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.data.sample import HandSample

SHOWN = 6
"""Samples of a validation that are drawn."""


class Board:
    """Writes figures and pictures of a run into the folder `board` of the run, for `tensorboard --logdir`.

    Args:
        out: folder of the run.

    Raises:
        ImportError: TensorBoard is missing.
    """

    def __init__(self, out: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("--board needs TensorBoard: pip install 'dfmamba[board]'") from error
        self._make, self._folder = SummaryWriter, Path(out) / "board"
        self._writer: Any = None
        self._pending: dict[str, np.ndarray] = {}

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a step, and the pictures that came since the last ones."""
        if self._writer is None:
            # What an interrupted run wrote beyond the step that it goes on from is hidden.
            self._writer = self._make(str(self._folder), purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(name if "/" in name else f"training/{name}", value, step)
        for name, picture in self._pending.items():
            self._writer.add_image(name, picture, step, dataformats="HWC")
        self._pending.clear()
        self._writer.flush()

    def picture(self, name: str, image: np.ndarray) -> None:
        """A picture (H, W, 3) uint8 of the step whose figures follow."""
        self._pending[name] = image

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()


def draw_validation(samples: Sequence[HandSample], joints_2d_px: Sequence[np.ndarray]) -> np.ndarray:
    """A sheet with the labels of some samples above, and estimated joints below.

    Args:
        samples: with their pictures or depth maps.
        joints_2d_px: (2, J, 2) pixels of each sample; of joints that aren't labelled they may be anything.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: no sample, or its joint order can't be drawn.
    """
    from dfmamba.draw.contact import draw_contact

    estimated = [
        replace(sample, joints_2d_px=_usable(joints, sample.valid), visible=sample.valid, id="estimate")
        for sample, joints in zip(samples, joints_2d_px, strict=True)
    ]
    columns = len(samples)
    return np.asarray(draw_contact([*samples, *estimated], "labels above, estimates below", columns, 180))


def _usable(joints_2d_px: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid[..., None], np.nan_to_num(joints_2d_px), 0.0).clip(-1e5, 1e5).astype(np.float32)
