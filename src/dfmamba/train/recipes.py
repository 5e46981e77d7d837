"""How each data set is trained on: the published recipes as small typed records.

Sources: A2J-Transformer (Jiang et al., CVPR 2023) and its released code for InterHand2.6M, RHP and NYU; the
DetNet line (Zhou et al., CVPR 2020, with the fine-tuning settings of SiMHand) for DexYCB and AssemblyHands.
DF-Mamba (WACV 2026) trains its backbone in these frameworks; where its own settings are not known, `note`
says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from dfmamba.data.registry import dataset_info
from dfmamba.train.dataset_task import DatasetRun

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
