"""Whole pose models: photo to joints, and the bare network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfmamba.bench.contest import Absent, Entrant, contest, relative_error, waiter
from dfmamba.bench.report import Table, milliseconds, remarks
from dfmamba.bench.timing import Plan
from dfmamba.heads import HandPoseOutput
from dfmamba.models import HandPoseModel, count_macs, count_parameters, list_models, load
from dfmamba.ops import use_backend
from dfmamba.predict import Prediction
from dfmamba.predict.predictor import Predictor

TOLERANCE = 1e-2
"""Later looks are aimed by earlier ones, which magnifies rounding."""

PICTURE_SIZE = (640, 480)
"""Width and height of the picture that stands in for a photo, in pixels."""

NetworkCall = Callable[[], HandPoseOutput]
Form = Callable[[HandPoseModel, Tensor], NetworkCall | str]


@dataclass(frozen=True)
class ModelsBench:
    """What is measured.

    Attributes:
        models: packaged models, folders, or names of the hub.
        batches: crops at once, for the bare network.
        picture: file of a photo; None takes a picture of noise, in which two hands are looked for as closely
            as in a photo of two hands.
        device: torch device.
        plan: how much is measured.
    """

    models: tuple[str, ...] = field(default_factory=lambda: tuple(list_models()))
    batches: tuple[int, ...] = (1, 8)
    picture: str | None = None
    device: str = "cpu"
    plan: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        if not self.models or min(self.batches, default=0) < 1:
            raise ValueError(
                f"expected models and batches of at least 1, got {self.models} and {self.batches}"
            )


def eager(model: HandPoseModel, crop: Tensor) -> NetworkCall:
    """As loaded."""
    return _without_gradients(model, crop)


def channels_last(model: HandPoseModel, crop: Tensor) -> NetworkCall:
    """A copy with channels next to each other."""
    moved = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return _without_gradients(moved, crop.contiguous(memory_format=torch.channels_last))


def fused(model: HandPoseModel, crop: Tensor) -> NetworkCall | str:
    """`channels_last` with the backbone's own `fuse()`."""
    fuse = getattr(model.backbone, "fuse", None)
    if fuse is None:
        return f"{type(model.backbone).__name__} has no fuse()"
    moved = copy.deepcopy(model)
    moved.backbone = fuse()
    return channels_last(moved, crop)


NETWORK_FORMS: dict[str, Form] = {"eager": eager, "channels_last": channels_last, "fused": fused}
"""Ways to run the bare network: a function that gives a call, or says why it can't. An exported model is one
more entry."""


def _without_gradients(model: HandPoseModel, crop: Tensor) -> NetworkCall:
    def call() -> HandPoseOutput:
        with torch.no_grad():
            return model(crop)

    return call


def run(
    bench: ModelsBench, progress: Callable[[str], object] = lambda line: None
) -> tuple[list[dict[str, Any]], list[Table]]:
    """Measure.

    Returns:
        One mapping a model and way to run it, and one table.

    Raises:
        OSError: a model or the picture can't be read.
        ValueError: one of them is unusable.
    """
    device = torch.device(bench.device)
    entrants: list[Entrant | Absent] = []
    facts: list[dict[str, Any]] = []
    for name in bench.models:
        progress(f"{name}: load and check")
        model = load(name, bench.device)
        label = Path(name).name
        config = model.config
        shape = (1, config.in_chans, config.image_size, config.image_size)
        known = {
            "model": label,
            "parameters": count_parameters(model),
            "macs": count_macs(model, shape),
            "image_size": config.image_size,
        }
        if config.in_chans == 3:
            entrant, hands = _photo(model, bench, f"{label}: photo to joints")
            entrants.append(entrant)
            facts.append({**known, "what": "photo to joints", "batch": 1, "hands": hands})
        for batch in bench.batches:
            for form, make in NETWORK_FORMS.items():
                what = f"network, {form}"
                entrants.append(_network(model, make, batch, f"{label}: {what}, batch {batch}", device))
                facts.append({**known, "what": what, "batch": batch, "hands": None})
    progress("timing")
    rows = contest(entrants, TOLERANCE, bench.plan, synchronize=waiter(device))
    results, body = [], []
    for fact, row in zip(facts, rows, strict=True):
        rate = None if row.timing is None else fact["batch"] / row.timing.median
        results.append({**fact, "pictures_per_second": rate, **row.as_dict()})
        body.append(
            (
                fact["model"],
                fact["what"],
                str(fact["batch"]),
                milliseconds(row),
                "–" if rate is None else f"{rate:.1f}",
                f"{fact['parameters'] / 1e6:.2f}",
                f"{fact['macs'] / 1e9:.3f}",
                row.note if row.timing is not None else "–",
            )
        )
    header = ("model", "what", "batch", "ms", "pictures/s", "parameters, M", "MACs, G", "remark")
    return results, [Table("Pose models", header, tuple(body), remarks(rows))]


def _photo(model: HandPoseModel, bench: ModelsBench, name: str) -> tuple[Entrant, int]:
    """`predict` as a user calls it (reading the file included where there is one), and the hands it finds."""
    predictor = Predictor(model, device=bench.device)
    threshold = 0.5
    picture: Any = bench.picture
    if picture is None:
        width, height = PICTURE_SIZE
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        threshold = 0.0

    def call() -> Prediction:
        return predictor.predict(picture, threshold=threshold)

    with use_backend("reference"):
        expected = _joints(call())
    hands = expected[0].shape[0]
    width, height = call().image_size
    source = "noise" if bench.picture is None else "photo"
    note = f"{source}, {width} x {height}, hands found: {hands}"
    return Entrant(name, call, lambda found: relative_error(_joints(found), expected), True, note), hands


def _joints(prediction: Prediction) -> Sequence[Tensor]:
    """(hands, 21, 2) pixels and (hands, 21, 3) mm."""
    hands = prediction.hands
    if not hands:
        return [torch.zeros(0)]
    pixels, millimetres = [h.joints_2d_px for h in hands], [h.joints_3d_mm for h in hands]
    return [torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(millimetres))]


def _network(
    model: HandPoseModel, make: Form, batch: int, name: str, device: torch.device
) -> Entrant | Absent:
    size = model.config.image_size
    generator = torch.Generator().manual_seed(0)
    crop = torch.rand(batch, model.config.in_chans, size, size, generator=generator).to(device)
    with use_backend("reference"):
        expected = _tensors(eager(model, crop)())
    call = make(model, crop)
    if isinstance(call, str):
        return Absent(name, call, ours=True)
    return Entrant(name, call, lambda found: relative_error(_tensors(found), expected), True)


def _tensors(output: HandPoseOutput) -> list[Tensor]:
    return [output.joints_25d, output.joint_logits, output.present_logits]
