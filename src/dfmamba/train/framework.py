"""Training in a published framework on a labelled data set: run, recipe and evaluation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dfmamba.backbones.registry import load_published_weights
from dfmamba.data.index import Report
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.registry import dataset_info, open_dataset
from dfmamba.data.sample import HandSample
from dfmamba.frameworks import Example, Framework, framework_from_dict
from dfmamba.metrics import HandMetrics
from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS, score_depth
from dfmamba.models import HandPoseModel
from dfmamba.train.config import RunConfig
from dfmamba.train.evaluate import batched
from dfmamba.train.meter import SHOWN, draw_validation
from dfmamba.train.samples import collate, fault


@dataclass(frozen=True)
class DatasetRun(RunConfig):
    """Training on a data set. A run is a function of this and of the data.

    Attributes:
        dataset: a name of `dfmamba.data.registry.DATASETS`.
        data: folder of the data set as downloaded.
        split: to train on.
        test_split: to validate on during the run, `validation` samples of it.
        options: of the reader.
        backbone: a name of `dfmamba.list_backbones()`.
        backbone_args: changes to the backbone's configuration.
        backbone_weights: safetensors file with a peer's or baseline's published weights, to start from.
        framework: settings of the framework, with its "name".
        workers: processes that prepare batches.
        buffer: for shards: read them one after the other and mix over so many samples, for storage that is
            slow at seeking; 0 shuffles all samples.

    The other settings are those of `RunConfig`.
    """

    dataset: str = ""
    data: str = ""
    split: str = "train"
    test_split: str = "test"
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "dfmamba_tiny"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    backbone_weights: str | None = None
    framework: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 1
    buffer: int = 0

    def open(self, split: str | None = None) -> IndexedDataset:
        """The samples of a split, by default the one to train on.

        Raises:
            OSError: files are missing.
            ValueError: unusable labels or options.
        """
        return open_dataset(self.dataset, self.data, split or self.split, **self.options)


class DatasetTask:
    """A framework's network on a backbone, and its loss.

    Args:
        run: the run.

    Raises:
        ValueError: unknown framework, backbone or setting.
        ImportError: the backbone needs an extra that is missing.
    """

    def __init__(self, run: DatasetRun) -> None:
        self.weights = run.backbone_weights
        self.framework: Framework = framework_from_dict(run.framework)
        config = self.framework.model_config(run.backbone, **run.backbone_args)
        self.config = replace(config, framework=self.framework.to_dict())

    def build(self) -> HandPoseModel:
        """The network with random weights, or those of the backbone's file.

        Raises:
            OSError: the file is missing.
            ValueError: it belongs to another backbone, or to none that takes such files.
        """
        model = HandPoseModel(self.config)
        if self.weights is not None:
            load_published_weights(model.config.backbone, model.backbone, self.weights)
        return model

    def loss(self, output: Any, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """The framework's terms."""
        return self.framework.loss(output, target)


BACKBONES = (
    "dfmamba_tiny", "resnet50", "convnext_tiny", "vit_small", "swin_tiny",
    "vmamba_tiny", "spatial_mamba_tiny",
)  # fmt: skip
"""Backbones of the paper's comparison."""


@dataclass(frozen=True)
class Recipe:
    """One data set's training.

    Attributes:
        dataset: name in `dfmamba.data.registry.DATASETS`.
        framework: settings of the framework, with its "name".
        epochs: passes over the training split.
        batch_size: samples a step.
        lr: learning rate.
        milestones: epochs at which it falls.
        gamma: by which factor.
        weight_decay: added to the gradient.
        splits: to train and to test on.
        options: of the reader.
        note: where the settings come from, and which are a choice of ours.
    """

    dataset: str
    framework: Mapping[str, Any]
    epochs: int
    batch_size: int
    lr: float = 1e-4
    milestones: tuple[int, ...] = ()
    gamma: float = 0.2
    weight_decay: float = 0.0
    splits: tuple[str, str] = ("train", "test")
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    def run(
        self,
        data: str,
        samples: int,
        epochs: float | None = None,
        framework: Mapping[str, Any] | None = None,
        replace_framework: bool = False,
        **changes: Any,
    ) -> DatasetRun:
        """The run of this recipe on a copy of the data set.

        Args:
            data: folder of the data set.
            samples: of its training split, from which the steps follow.
            epochs: instead of the recipe's; milestones move with them.
            framework: settings to change.
            replace_framework: take `framework` alone, not as changes to the recipe's.
            **changes: fields of `DatasetRun` to change; None leaves the recipe's.

        Raises:
            ValueError: unknown setting or unusable value.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        unknown = sorted(set(given) - {f.name for f in fields(DatasetRun)})
        if unknown:
            raise ValueError(f"unknown training setting {unknown[0]!r}")
        batch = given.get("batch_size", self.batch_size)
        length = math.ceil((epochs or self.epochs) * samples / batch)
        steps = given.get("steps", length)
        schedule: Literal["cosine", "step"] = "step" if self.milestones else "cosine"
        milestones = tuple(round(epoch / self.epochs * steps) for epoch in self.milestones)
        base: dict[str, Any] = {
            "dataset": self.dataset,
            "data": data,
            "split": self.splits[0],
            "test_split": self.splits[1],
            "out": f"runs/{self.dataset}-{given.get('backbone', 'dfmamba_tiny')}",
            "steps": max(1, steps),
            "batch_size": batch,
            "optimizer": "adam",
            "lr": self.lr,
            "schedule": schedule,
            "milestones": milestones,
            "gamma": self.gamma,
            "warmup": 0,
            "weight_decay": self.weight_decay,
            "ema": 0.0,
            "clip": math.inf,
            "validation": 200,
            "options": dict(self.options),
            "framework": {**({} if replace_framework else self.framework), **(framework or {})},
        }
        return DatasetRun(**{**base, **given})


_A2J: dict[str, Any] = {"name": "a2j"}
_DETNET: dict[str, Any] = {"name": "detnet", "factor": 1.75}
_TOOLKIT_CROP: dict[str, Any] = {"box": "labelled", "least_px": 100.0, "integer_centre": False}

RECIPES: dict[str, Recipe] = {
    "interhand26m": Recipe(
        "interhand26m", _A2J, epochs=42, batch_size=48, milestones=(24, 35),
        note="A2J-Transformer's released code (12 pictures a GPU, 4 assumed); its paper adds weight decay",
    ),
    "rhp": Recipe(
        "rhp", _A2J, epochs=42, batch_size=48, milestones=(24, 35), splits=("training", "evaluation"),
        note="paper: 42 epochs; no script was released, so batch and schedule are those of InterHand2.6M",
    ),
    "nyu": Recipe(
        "nyu", {"name": "a2j_depth"}, epochs=45, batch_size=4, milestones=(15, 30), weight_decay=1e-4,
        note="A2J-Transformer's released script (its paper says 42 epochs)",
    ),
    "dexycb": Recipe(
        "dexycb", _DETNET, epochs=120, batch_size=128, lr=1e-3, splits=("s0_train", "s0_test"),
        options={"detnet_filter": True},
        note="epochs and batch of SiMHand's fine-tuning; its schedule isn't published, cosine is our choice; "
        "whether the paper used S0 or S1 is not established: --split s1_train --test_split s1_test",
    ),
    "assemblyhands": Recipe(
        "assemblyhands", _DETNET | _TOOLKIT_CROP, epochs=120, batch_size=128, lr=1e-3,
        splits=("train", "val"),
        note="as dexycb; tested on val, since the test labels are not public",
    ),
    "freihand": Recipe(
        "freihand", _DETNET, epochs=120, batch_size=128, lr=1e-3, splits=("training", "evaluation"),
        note="not in the paper; as dexycb",
    ),
    "own": Recipe(
        "own", _A2J, epochs=42, batch_size=48, milestones=(24, 35),
        note="as interhand26m",
    ),
    "shards": Recipe(
        "shards", _A2J, epochs=42, batch_size=48, milestones=(24, 35),
        note="as interhand26m",
    ),
}  # fmt: skip
"""The recipe of each data set."""


def recipe(dataset: str) -> Recipe:
    """The recipe of a data set.

    Raises:
        ValueError: there is no such data set.
    """
    dataset_info(dataset)
    return RECIPES[dataset]


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


class DatasetValidation:
    """Figures of the model on evenly spaced samples of the split to test on; "score" is the main one.

    Args:
        config: the run.
        task: its task, for the framework.
        board: a logger that is shown some samples with their joints.
    """

    def __init__(self, config: Any, task: Any, board: Any = None) -> None:
        self.config, self.task, self.board = config, task, board
        self.dataset = config.open(config.test_split)

    def __call__(self, model: Any) -> dict[str, float]:
        """Scalars by name."""

        found, report, _ = evaluate_dataset(
            model, self.task.framework, self.dataset, limit=self.config.validation
        )
        if self.board is not None:
            self._show(model)
        figures = {k: round(v, 4) for k, v in found.items() if isinstance(v, float)}
        score = next(figures[k] for k in ("mpjpe_mm", "mean_error_mm") if k in figures)
        return {**figures, "samples": float(report.kept), "score": score}

    def _show(self, model: Any) -> None:
        """Draws the first usable ones of the samples."""

        chosen = []
        for i in self.dataset.spaced(self.config.validation)[: 4 * SHOWN]:
            with contextlib.suppress(OSError, ValueError):
                sample = self.dataset[i]
                chosen.append((sample, self.task.framework.example(sample, None)))
            if len(chosen) == SHOWN:
                break
        if not chosen or any(sample.camera is None for sample, _ in chosen):
            return
        found = predict_dataset(model, self.task.framework, chosen)
        samples = [sample for sample, _ in chosen]
        joints = [sample.camera.project(mm) for sample, mm in zip(samples, found, strict=True)]
        self.board.picture("validation/hands", draw_validation(samples, joints))
