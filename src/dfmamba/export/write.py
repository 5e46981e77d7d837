"""From a network to a checked file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfmamba.export.check import Errors, Runner, compare, crops_of, find_pictures, verdict
from dfmamba.export.formats import ExportConfig, int8_bytes, onnx_bytes, program_bytes, quiet
from dfmamba.export.subject import Subject
from dfmamba.io.files import write_atomic
from dfmamba.models.onnx_model import open_session, run_in_batches, run_session

BATCHES = (1, 3, 16)
"""Batch sizes in which a file without a fixed one is checked."""


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: the file.
        size: its bytes.
        errors: differences to PyTorch; None if they were not looked at.
    """

    path: Path
    size: int
    errors: Errors | None


def export(
    subject: Subject,
    path: str | Path,
    config: ExportConfig | None = None,
    pictures: list[str] | None = None,
) -> Report:
    """Write a network into a file, unless it computes something else than PyTorch does.

    Args:
        subject: see `find_subject`.
        path: the file; it is replaced only by a whole and checked one.
        config: what to write.
        pictures: files or folders for the check and the calibration; None takes the example pictures.

    Raises:
        ImportError: a library of the extra `export` is missing.
        OSError: a picture can't be read or the file can't be written.
        ValueError: the network can't be exported, or the result differs too much from PyTorch.
    """
    config = config or ExportConfig()
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, name a file")
    crops: Tensor | None = None
    if config.check or config.quantize:
        crops = crops_of(subject, find_pictures(pictures or []))
    as_program = config.format == "torch-export"
    content = program_bytes(subject, config) if as_program else onnx_bytes(subject, config)
    if config.quantize:
        assert crops is not None
        content = int8_bytes(content, crops)
    errors = None
    if config.check:
        assert crops is not None
        runner = _program(content, config.batch) if as_program else _session(content)
        batches = BATCHES if config.batch is None else (config.batch,)
        errors = compare(subject, runner, crops, batches)
        reason = verdict(subject, errors, config.quantize is not None)
        if reason is not None:
            raise ValueError(f"{path} was not written: {reason} from PyTorch's; {errors}")
    try:
        write_atomic(path, content)
    except OSError as error:
        raise OSError(f"{path}: cannot write there ({error.strerror or error})") from error
    return Report(path, len(content), errors)


def _session(content: bytes) -> Runner:
    session = open_session(content)
    return lambda crops: run_session(session, crops.numpy())


def _program(content: bytes, batch: int | None) -> Runner:
    with quiet():
        module = torch.export.load(io.BytesIO(content)).module()

    def run(image: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            return [values.numpy() for values in module(torch.from_numpy(image))]

    if batch is None:
        return lambda crops: run(crops.numpy())
    return lambda crops: run_in_batches(run, crops.numpy(), batch)
