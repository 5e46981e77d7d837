"""What a worker process does: the pictures of a part through a model, and into the part's file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dfmamba.bulk.inputs import Item, read_picture
from dfmamba.bulk.parts import (
    COLUMNS,
    BulkConfig,
    Part,
    PartReport,
    count,
    part_path,
    read_report,
    write_part,
)
from dfmamba.detect.build import make_detector
from dfmamba.models import load
from dfmamba.predict.predictor import Predictor
from dfmamba.predict.result import Prediction

Row = dict[str, Any]


class PartWorker:
    """Predicts parts, with a model that is loaded once, on one thread where it runs on a CPU.

    Args:
        config: what is predicted.
        device: a torch device.
        advance: called after each batch with its number of pictures. What it raises ends the part.

    Raises:
        OSError, ValueError: the model can't be used.
        ImportError: an ONNX file, but no onnxruntime.
    """

    def __init__(
        self, config: BulkConfig, device: str, advance: Callable[[int], None] = lambda pictures: None
    ) -> None:
        torch.set_num_threads(1)
        detector = make_detector(config.detector, device) if config.box is None else None
        self.predictor = Predictor(_load(config.model), device, detector=detector)
        self.config, self.advance = config, advance
        self.settings: dict[str, Any] = {
            "box": config.box,
            "camera": config.camera,
            "mirrored": config.mirrored,
            "threshold": config.threshold,
            "refine": config.refine,
        }

    def __call__(self, part: Part) -> PartReport:
        """Writes the part's file, unless it is there already.

        Raises:
            OSError: it can't be written.
            ValueError: it is there but damaged.
        """
        finished = read_report(self.config, part)
        if finished is not None:
            return finished
        rows: list[Row] = []
        size = self.config.batch_size
        for start in range(0, len(part.items), size):
            items = part.items[start : start + size]
            rows += self.predict(items, part.first + start)
            self.advance(len(items))
        write_part(part_path(self.config, part.number), rows)
        return count(part.number, rows)

    def predict(self, items: tuple[Item, ...], first: int) -> list[Row]:
        """The rows of some pictures, the first of which has the place `first` in the list."""
        pictures: dict[int, np.ndarray] = {}
        answers: dict[int, Prediction | Exception] = {}
        for i, item in enumerate(items):
            try:
                pictures[i] = read_picture(item)
            except (ValueError, OSError) as error:
                answers[i] = error
        try:
            answers |= zip(pictures, self._together(list(pictures.values())), strict=True)
        except ValueError:  # a picture doesn't suit the options
            for i, picture in pictures.items():
                try:
                    (answers[i],) = self._together([picture])
                except ValueError as error:
                    answers[i] = error
        rows: list[Row] = []
        for i, item in enumerate(items):
            rows += _rows(first + i, item.name, answers[i])
        return rows

    def _together(self, pictures: list[np.ndarray]) -> list[Prediction]:
        return self.predictor.predict_batch(pictures, **self.settings) if pictures else []


def fingerprint(model: nn.Module, name: str) -> str:
    """The model's name and 16 hexadecimal digits that stand for its configuration and weights.

    Args:
        model: as `dfmamba.models.load` gives it.
        name: by which it was loaded.
    """
    found = hashlib.sha256()
    if name.endswith(".onnx"):
        found.update(Path(name).read_bytes())
    else:
        found.update(repr(model.config).encode())
        for key, values in sorted(model.state_dict().items()):
            found.update(f"{key} {values.dtype} {tuple(values.shape)}".encode())
            found.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{getattr(model.config, 'name', Path(name).stem)} {found.hexdigest()[:16]}"


def _load(name: str) -> nn.Module:
    if name.endswith(".onnx"):
        from dfmamba.models.onnx_model import OnnxModel

        return OnnxModel(name, threads=1)
    return load(name)


def _rows(picture: int, path: str, answer: Prediction | Exception) -> list[Row]:
    row: Row = {**dict.fromkeys(COLUMNS), "picture": picture, "path": path}
    if isinstance(answer, Exception):
        text = " ".join(str(answer).split()).removeprefix(f"{path}: ")
        return [{**row, "error": text or type(answer).__name__}]
    row["width"], row["height"] = answer.image_size
    if not answer.hands:
        return [row]
    hands = [hand.to_dict() for hand in answer.hands]
    return [{**row, **{name: hand[name] for name in COLUMNS if name in hand}} for hand in hands]
