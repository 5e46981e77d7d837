"""Whole pose models: photo to joints, and the bare network."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dfmamba.bench.contest import (
    Absent,
    Entrant,
    Plan,
    contest,
    milliseconds,
    relative_error,
    remarks,
    waiter,
)
from dfmamba.heads import HandPoseOutput
from dfmamba.models import HandPoseModel, count_macs, count_parameters, list_models, load
from dfmamba.models.native import NativeNetwork
from dfmamba.ops import use_backend
from dfmamba.predict import Prediction
from dfmamba.predict.predictor import Predictor
from dfmamba.text import Table

TOLERANCE = 1e-2
"""Later looks are aimed by earlier ones, which magnifies rounding."""

PICTURE_SIZE = (640, 480)
"""Width and height of the picture that stands in for a photo, in pixels."""

Form = Callable[[HandPoseModel], nn.Module | str]


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


def eager(model: HandPoseModel) -> nn.Module:
    """As loaded."""
    return model


def channels_last(model: HandPoseModel) -> nn.Module:
    """A copy whose weights have channels next to each other."""
    return copy.deepcopy(model).to(memory_format=torch.channels_last)


def fused(model: HandPoseModel) -> nn.Module:
    """`channels_last` of the model's `fuse()`."""
    return model.fuse().to(memory_format=torch.channels_last)


def in_c(model: HandPoseModel) -> nn.Module | str:
    """As one call of the C kernels a crop, on the CPU."""
    if next(model.parameters()).device.type != "cpu":
        return "the C kernels run on the CPU only"
    try:
        return NativeNetwork(model, torch.get_num_threads())
    except (ValueError, RuntimeError) as error:
        return str(error)


def onnx(model: HandPoseModel) -> nn.Module | str:
    """In onnxruntime, on the CPU."""
    if next(model.parameters()).device.type != "cpu":
        return "onnxruntime is measured on the CPU only"
    from dfmamba.export import OnnxModel, onnx_bytes, pose_subject

    try:
        content = onnx_bytes(pose_subject(model))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(content)
            return OnnxModel(path, torch.get_num_threads())
    except ImportError as error:
        return str(error)


FORMS: dict[str, Form] = {
    "eager": eager,
    "channels_last": channels_last,
    "fused": fused,
    "c": in_c,
    "onnx": onnx,
}
"""Ways to run a model: a function that gives a network, or says why it can't."""


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
        for form, make in FORMS.items():
            progress(f"{name}: {form}")
            network = make(model)
            if config.in_chans == 3:
                entrants.append(_photo(model, network, bench, f"{label}: photo to joints, {form}"))
                facts.append({**known, "what": f"photo to joints, {form}", "batch": 1})
            for batch in bench.batches:
                what = f"network, {form}"
                entrants.append(_network(model, network, batch, f"{label}: {what}, batch {batch}", device))
                facts.append({**known, "what": what, "batch": batch})
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


def _photo(model: HandPoseModel, network: nn.Module | str, bench: ModelsBench, name: str) -> Entrant | Absent:
    """`predict` as a user calls it, reading the file included where there is one."""
    if isinstance(network, str):
        return Absent(name, network, ours=True)
    threshold = 0.5
    picture: Any = bench.picture
    if picture is None:
        width, height = PICTURE_SIZE
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        threshold = 0.0

    def calling(network: nn.Module) -> Callable[[], Prediction]:
        predictor = Predictor(network, device=bench.device, detector=None)
        # By itself it takes the fastest form; here it runs the one that the row names.
        predictor.model = predictor.network.model = network
        return lambda: predictor.predict(picture, threshold=threshold)

    with use_backend("reference"):
        right = calling(model)()
    expected = _joints(right)
    width, height = right.image_size
    source = "noise" if bench.picture is None else "photo"
    note = f"{source}, {width} x {height}, hands found: {len(right.hands)}"
    return Entrant(name, calling(network), lambda found: relative_error(_joints(found), expected), True, note)


def _joints(prediction: Prediction) -> Sequence[Tensor]:
    """(hands, 21, 2) pixels and (hands, 21, 3) mm."""
    hands = prediction.hands
    if not hands:
        return [torch.zeros(0)]
    pixels, millimetres = [h.joints_2d_px for h in hands], [h.joints_3d_mm for h in hands]
    return [torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(millimetres))]


def _network(
    model: HandPoseModel, network: nn.Module | str, batch: int, name: str, device: torch.device
) -> Entrant | Absent:
    if isinstance(network, str):
        return Absent(name, network, ours=True)
    size = model.config.image_size
    generator = torch.Generator().manual_seed(0)
    crop = torch.rand(batch, model.config.in_chans, size, size, generator=generator).to(device)
    # As the predictor's crops lie in memory.
    crop = crop.contiguous(memory_format=torch.channels_last)

    def calling(network: nn.Module) -> Callable[[], HandPoseOutput]:
        def call() -> HandPoseOutput:
            with torch.no_grad():
                return network(crop)

        return call

    with use_backend("reference"):
        expected = _tensors(calling(model)())
    return Entrant(name, calling(network), lambda found: relative_error(_tensors(found), expected), True)


def _tensors(output: HandPoseOutput) -> list[Tensor]:
    return [output.joints_25d, output.joint_logits, output.present_logits]
