"""Predictions in the formats of other software, and prediction files read back."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dfmamba.formats.reading import Record, as_records, read_records
from dfmamba.formats.writing import Summary

if TYPE_CHECKING:
    from dfmamba.predict.result import Prediction

__all__ = ["FORMATS", "Record", "Summary", "read_records", "write_prediction"]

FORMATS = {
    "openpose": "dfmamba.formats.openpose.write",
    "mediapipe": "dfmamba.formats.mediapipe.write",
    "freihand": "dfmamba.formats.freihand.write",
    "interhand": "dfmamba.formats.interhand.write",
    "csv": "dfmamba.formats.table.write",
    "angles": "dfmamba.formats.table.write_angles",
    "bvh": "dfmamba.formats.bvh.write",
    "glb": "dfmamba.formats.glb.write",
    "obj": "dfmamba.formats.meshes.write_obj",
    "ply": "dfmamba.formats.meshes.write_ply",
}
"""Format -> the function that writes it."""


def write_prediction(
    predictions: Prediction | Iterable[Prediction | Record],
    format: str,
    path: str | os.PathLike[str],
    summary: Summary | None = None,
    **settings: bool,
) -> Summary:
    """Writes predictions in the format of other software.

    Args:
        predictions: of single pictures, or the records of `read_records`. All but BVH and films as GLB
            are written while they come, and need the memory of one.
        format: one of `FORMATS`.
        path: the file; for openpose the folder; for bvh, glb, obj and ply either a folder, or NAME.glb (and
            so on) where there is one result.
        summary: to be added to.
        settings: of the format; mediapipe has `mirrored_names`.

    Returns:
        What was written, and counted notes of what the format can't hold.

    Raises:
        ValueError: the format is unknown, or there is no prediction.
        OSError: something can't be written.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not known; expected one of {', '.join(FORMATS)}")
    summary = Summary() if summary is None else summary
    given = predictions if isinstance(predictions, Iterable) else [predictions]
    records = as_records(given)
    first = next(records, None)
    if first is None:
        raise ValueError("there is no prediction to write")
    module, _, function = FORMATS[format].rpartition(".")
    getattr(importlib.import_module(module), function)(
        _counted(itertools.chain([first], records), summary), path, summary, **settings
    )
    return summary


def _counted(records: Iterator[Record], summary: Summary) -> Iterator[Record]:
    for record in records:
        summary.pictures += 1
        yield record
