"""What a finished run leaves: one JSON file, which everything else reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfmamba.io.files import write_atomic
from dfmamba.metrics import HandMetrics
from dfmamba.metrics.pose import joint_errors, root_aligned
from dfmamba.settings import from_values
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.settings import VERSION
from studies.synthhands5.training import BenchmarkRun

SCHEMA = "dfmamba.synthhands5/1"
THRESHOLDS_MM = tuple(range(0, 101, 4))
"""Of the success curves."""
HIDDEN = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Edges of the occlusion levels: shares of a hand's joints that are hidden."""


@dataclass(frozen=True)
class Result:
    """One run and its errors on the test pictures.

    Attributes:
        setting: of the benchmark.
        entry: name of the row.
        seed: of the run.
        lr: peak learning rate.
        steps: of the optimiser.
        batch_size: pictures a step.
        figures: `mpjpe_mm`, `pa_mpjpe_mm`, `mpjpe_visible_mm`, ... as `dfmamba.metrics.PROTOCOLS` has them.
        success: share of joints (wrists left out) whose error is within each of `THRESHOLDS_MM`.
        by_hidden: mean error in mm of the hands of each occlusion level (`HIDDEN`), None where there is none.
        hands_by_hidden: how many hands that are.
        picture_mm: mean error of each test picture, for paired comparisons.
        parameters: of the whole model.
        macs: multiply-adds of the whole model on a crop, scans and sampling counted.
        seconds: of training, since it was last resumed if it was.
        split: the pictures that were measured on: "test", or "val" for the choice of the learning rate.
        backbone: what was trained, so that a row whose definition has changed isn't mixed with older runs.
        backbone_args: likewise.
        machine: where.
        versions: of dfmamba, torch and the benchmark.
    """

    setting: str
    entry: str
    seed: int
    lr: float
    steps: int
    batch_size: int
    figures: Mapping[str, float]
    success: tuple[float, ...]
    by_hidden: tuple[float | None, ...]
    hands_by_hidden: tuple[int, ...]
    picture_mm: tuple[float, ...]
    parameters: int
    macs: int
    seconds: float
    split: str
    backbone: str
    backbone_args: Mapping[str, Any]
    machine: str
    versions: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in ("seed", "steps", "batch_size", "parameters", "macs"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a whole number")
        for name in ("figures", "backbone_args", "versions"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected names and values")
        for name in ("success", "by_hidden", "hands_by_hidden", "picture_mm"):
            if not isinstance(getattr(self, name), list | tuple):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a list of numbers")
        for name in ("success", "by_hidden", "hands_by_hidden", "picture_mm"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return {"schema": SCHEMA, **asdict(self)}

    @property
    def file_name(self) -> str:
        """Of its JSON file."""
        rate = f"-lr{self.lr:g}" if self.split == "val" else ""
        return f"{self.entry}{rate}-s{self.seed}.json"


def measure(joints_mm: Tensor, pictures: Pictures) -> dict[str, Any]:
    """The errors of predictions (n, 2, 21, 3) mm, camera frame, as the fields of `Result` that hold them."""
    truth, valid = pictures.joints_mm.double(), pictures.valid
    joints = joints_mm.double()
    metrics = HandMetrics()
    metrics.update(joints, truth, valid, pictures.visible & valid)
    errors = joint_errors(root_aligned(joints, truth), truth)
    counted = valid.clone()
    counted[:, :, 0] = False
    flat = errors[counted]
    hand = (errors * counted).sum(-1) / counted.sum(-1).clamp_min(1)
    picture = (errors * counted).sum((1, 2)) / counted.sum((1, 2)).clamp_min(1)
    present, hidden = valid.any(-1), pictures.hidden_share
    means: list[float | None] = []
    counts: list[int] = []
    for low, high in pairwise(HIDDEN):
        within = present & (hidden >= low) & ((hidden < high) | (high == HIDDEN[-1]))
        counts.append(int(within.sum()))
        means.append(round(float(hand[within].mean()), 3) if counts[-1] else None)
    return {
        "figures": {name: round(value, 4) for name, value in metrics.compute().items()},
        "success": tuple(round(float((flat <= limit).double().mean()), 4) for limit in THRESHOLDS_MM),
        "by_hidden": tuple(means),
        "hands_by_hidden": tuple(counts),
        "picture_mm": tuple(round(float(value), 2) for value in picture),
    }


def constant_pose(train: Pictures, test: Pictures) -> Tensor:
    """Predictions (n, 2, 21, 3) mm that ignore the picture: the mean pose of the training hands, by side."""
    relative = train.joints_mm - train.joints_mm[:, :, :1]
    count = train.valid.sum(0)[..., None].clamp_min(1)
    mean = (relative * train.valid[..., None]).sum(0) / count
    return (test.joints_mm[:, :, :1] + mean) * test.valid[..., None]


def versions() -> dict[str, str]:
    """Of what a figure depends on."""
    import dfmamba

    return {"dfmamba": dfmamba.__version__, "torch": torch.__version__, "synthhands5": str(VERSION)}


def write_result(folder: str | Path, result: Result) -> Path:
    """Writes FOLDER/SETTING/ENTRY-sSEED.json.

    Trials of learning rates go into SETTING/tuning/, runs of another length into SETTING/STEPS-steps/.
    """
    usual = "" if result.steps == BenchmarkRun().steps else f"{result.steps}-steps"
    where = Path(folder) / result.setting / ("tuning" if result.split == "val" else usual)
    path = where / result.file_name
    text = json.dumps(result.to_dict(), separators=(",", ":")).replace(',"', ',\n"')
    write_atomic(path, (text + "\n").encode())
    return path


_IDENTITY: dict[str, type] = {"setting": str, "entry": str, "seed": int, "steps": int, "split": str}
"""What results are told apart and sorted by."""


def read_results(folder: str | Path, split: str | None = "test") -> list[Result]:
    """All results below a folder on a split (None: on any), by setting, entry, seed and steps.

    Raises:
        ValueError: a file is damaged or of another schema.
    """
    found = []
    for path in sorted(Path(folder).rglob("*-s*.json")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
                raise ValueError(f"expected the schema {SCHEMA!r}")
            missing = {field.name for field in fields(Result)} - set(values)
            if missing:
                raise ValueError(f"{sorted(missing)[0]!r} is missing")
            for name, kind in _IDENTITY.items():
                if type(values[name]) is not kind:
                    raise ValueError(f"{name} is {values[name]!r}; expected {kind.__name__}")
            found.append(from_values(Result, values, "result"))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: no result of the benchmark ({error})") from error
    return sorted(
        (r for r in found if split in (r.split, None)), key=lambda r: (r.setting, r.entry, r.seed, r.steps)
    )
