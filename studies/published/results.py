"""The figures files that `dfmamba eval DATASET --json FILE` leaves in a folder of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "dfmamba.eval/1"
LARGEST_BYTES = 64 << 20
"""Of a figures file; whatever is larger is something else."""


@dataclass(frozen=True)
class RunResult:
    """What a model was measured to reach on a split of a data set.

    Attributes:
        path: of the file.
        dataset: a name of `dfmamba.data.registry.DATASETS`.
        split: that was evaluated.
        backbone: of the model.
        framework: name and settings, see `dfmamba.frameworks.base.Framework.to_dict`.
        figures: name -> value, or list of values for a curve.
        samples: how many were evaluated.
        given: figure -> what of the truth was given for it.
        left_out: reason -> number of entries that couldn't be used.
        options: settings of the reader.
        available: usable samples of the split on disk; None where the file doesn't say.
        model: its name.
        weights: where they came from.
        trained_on: data that the weights have seen.
        version: of the package.
        fixture: whether the data is synthetic, written by `dfmamba data fixture`.
    """

    path: Path
    dataset: str
    split: str
    backbone: str
    framework: Mapping[str, Any]
    figures: Mapping[str, Any]
    samples: int
    given: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    available: int | None = None
    model: str = ""
    weights: str = ""
    trained_on: str = ""
    version: str = ""
    fixture: bool = False

    @property
    def framework_name(self) -> str:
        """Name of the framework; "" where the file names none."""
        return str(self.framework.get("name", ""))


def read_result(path: Path) -> RunResult | None:
    """Reads one file.

    Args:
        path: of a JSON file.

    Returns:
        None for a file that is no figures file of a data set.

    Raises:
        OSError: it can't be read.
        ValueError: it is one, but damaged.
    """
    if path.stat().st_size > LARGEST_BYTES:
        return None
    content = path.read_bytes()
    if SCHEMA.encode() not in content:
        return None
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged JSON ({error})") from None
    if not isinstance(facts, Mapping) or facts.get("schema") != SCHEMA or "results" in facts:
        return None
    for key, kinds in _FIELDS.items():
        value = facts.get(key)
        if (value is None and key not in _NEEDED) or (
            isinstance(value, kinds) and (kinds == (bool,) or not isinstance(value, bool))
        ):
            continue
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{path}: {key} is {type(value).__name__}; expected {wanted}")
    for key, kind in (("given", str), ("left_out", int)):
        for name, value in (facts.get(key) or {}).items():
            if not isinstance(value, kind) or isinstance(value, bool):
                found = type(value).__name__
                raise ValueError(f"{path}: {key} of {name} is {found}; expected {kind.__name__}")
    if facts["samples"] < 1:
        raise ValueError(f"{path}: samples is {facts['samples']}; expected at least 1")
    for name, value in facts["figures"].items():
        _check_figure(path, name, value)
    values = {key: facts[key] for key in _FIELDS if facts.get(key) is not None and key != "dfmamba"}
    return RunResult(path=path, version=facts.get("dfmamba") or "", **values)


_FIELDS: dict[str, tuple[type, ...]] = {
    "dataset": (str,),
    "split": (str,),
    "backbone": (str,),
    "framework": (dict,),
    "figures": (dict,),
    "samples": (int,),
    "given": (dict,),
    "left_out": (dict,),
    "options": (dict,),
    "available": (int,),
    "model": (str,),
    "weights": (str,),
    "trained_on": (str,),
    "dfmamba": (str,),
    "fixture": (bool,),
}
_NEEDED = ("dataset", "split", "backbone", "framework", "figures", "samples")


def _check_figure(path: Path, name: str, value: Any) -> None:
    """Numbers must be finite and none negative; curves and figures by joint are left alone."""
    if isinstance(value, list | dict | str):
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{path}: figure {name} is {type(value).__name__}; expected a number")
    try:
        good = math.isfinite(value) and value >= 0
    except OverflowError:
        good = False
    if not good:
        raise ValueError(f"{path}: figure {name} is {value!r:.40}; expected a finite number, 0 or more")


def read_results(folder: Path) -> tuple[list[RunResult], list[str]]:
    """All figures files below a folder, by path; files of other kinds are ignored.

    Args:
        folder: of runs; one that doesn't exist holds none.

    Returns:
        The results, and a line for each damaged file.
    """
    results, complaints = [], []
    for path in sorted(folder.rglob("*.json")):
        try:
            result = read_result(path) if path.is_file() else None
        except (ValueError, OSError) as error:
            complaints.append(" ".join(str(error).split()))
            continue
        if result is not None:
            results.append(result)
    return results, complaints
