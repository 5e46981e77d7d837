"""Figures of a trained framework on a labelled data set, by the published protocols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dfmamba.data.index import Report
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.sample import HandSample
from dfmamba.frameworks import Example, Framework
from dfmamba.metrics import HandMetrics
from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS, score_depth
from dfmamba.models import HandPoseModel
from dfmamba.train.dataset_source import collate, fault
from dfmamba.train.evaluate import batched

DEPTH_ORDERS = {"nyu14": "nyu"}
"""Joint orders that belong to a depth benchmark, scored by its own protocol."""


@torch.no_grad()
def predict_dataset(
    model: HandPoseModel, framework: Framework, samples: list[tuple[HandSample, Example]]
) -> np.ndarray:
    """Joints (n, 2, J, 3) in mm in the cameras of the samples, with what `framework.GIVEN` says is given."""
    device = next(model.parameters()).device
    pictures, target = collate([example for _, example in samples])
    moved = {name: value.to(device) for name, value in target.items()}
    return framework.joints_cam_mm(model(pictures.to(device)), moved).cpu().double().numpy()


def evaluate_dataset(
    model: HandPoseModel,
    framework: Framework,
    dataset: IndexedDataset,
    batch: int = 32,
    limit: int | None = None,
) -> tuple[dict[str, Any], Report, list[np.ndarray]]:
    """Errors of a model on the samples of a split.

    A joint counts where the data set labels it, whether or not the crop shows it. "Two hands" are the samples
    that are labelled to show both, whether or not both have joints.

    Args:
        model: in evaluation mode.
        framework: that the model was trained in.
        dataset: samples.
        batch: crops per forward pass.
        limit: number of samples, evenly spaced over the split; None takes all.

    Returns:
        The figures of `dfmamba.metrics.PROTOCOLS`, or those of `score_depth` for a depth benchmark; what was
        left out on the way; and for a depth benchmark the predictions, (J, 3) u, v, d each.

    Raises:
        ValueError: no sample is usable.
    """
    report = Report()
    scores = _Scores(dataset.ORDER)
    for chunk in batched(_usable(dataset, framework, dataset.spaced(limit), report), batch):
        scores.add([sample for sample, _ in chunk], predict_dataset(model, framework, chunk))
        report.kept += len(chunk)
    if not report.kept:
        raise ValueError(f"nothing to evaluate: {'; '.join(report.lines)}")
    return scores.compute(), report, scores.predicted


def _usable(
    dataset: IndexedDataset, framework: Framework, chosen: list[int], report: Report
) -> Iterator[tuple[HandSample, Example]]:
    for i in chosen:
        try:
            sample = dataset[i]
            yield sample, framework.example(sample, None)
        except (OSError, ValueError) as error:
            report.leave_out(dataset.labels(i).id, fault(error))


class _Scores:
    """Gathers by the protocol that suits the joints."""

    def __init__(self, order: str) -> None:
        self.benchmark = DEPTH_BENCHMARKS[DEPTH_ORDERS[order]] if order in DEPTH_ORDERS else None
        self.metrics = HandMetrics()
        self.predicted: list[np.ndarray] = []
        self.true: list[np.ndarray] = []

    def add(self, samples: list[HandSample], joints_cam_mm: np.ndarray) -> None:
        """Samples and their estimated joints (n, 2, J, 3), mm."""
        if self.benchmark is None:
            valid = np.stack([sample.valid for sample in samples])
            truth = np.stack([sample.joints_cam_mm for sample in samples]).astype(np.float64)
            visible = np.stack([sample.visible for sample in samples]) & valid
            interacting = np.array([sample.present.all() for sample in samples])
            self.metrics.update(joints_cam_mm, truth, valid, visible, interacting=interacting)
            return
        for sample, joints in zip(samples, joints_cam_mm, strict=True):
            hand = int(sample.present.argmax())
            self.predicted.append(self.benchmark.from_mm(joints[hand]))
            self.true.append(self.benchmark.from_mm(sample.joints_cam_mm[hand].astype(np.float64)))

    def compute(self) -> dict[str, Any]:
        if self.benchmark is None:
            return dict(self.metrics.compute())
        return score_depth(self.benchmark, np.stack(self.predicted), np.stack(self.true))
