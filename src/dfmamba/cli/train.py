"""Train a model on hands that the package renders itself.

With the name of a data set first, `dfmamba train interhand26m --help`, train on a copy of it instead.
Pictures are rendered once into a cache (a part before the first step, the rest beside the training) and laid
over new backgrounds in every step. Stop with Ctrl-C at any time and go on with --resume.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace


def variant(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The module that trains what is named first: a data set, the "detector", or "synthetic" hands."""
    if not words or words[0].startswith("-"):
        return __name__, words
    if words[0] == "synthetic":
        return __name__, words[1:]
    if words[0] == "detector":
        return "dfmamba.cli.train_detector", words[1:]
    return "dfmamba.cli.train_dataset", words


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba train`: every field of `TrainConfig`, dotted for its parts."""
    from dfmamba.train.config import TrainConfig

    add_run_options(parser)
    parser.add_class_arguments(TrainConfig, None)


def run(options: Namespace) -> int:
    """Render, train and report; returns the exit code.

    Raises:
        ValueError: unusable settings.
        OSError: the cache or the folder of the run can't be written.
    """
    from dfmamba.train.config import TrainConfig
    from dfmamba.train.parallel import Ranks
    from dfmamba.train.pool import PoseTask, rehearse_pose, train_pose

    values = options.as_dict()
    chosen = run_options(values)
    config = TrainConfig.from_dict(values)
    PoseTask(config)  # refuses unusable settings
    if chosen.print_config:
        return print_config(config)
    ranks = Ranks.from_environment(config.device)
    if chosen.dry_run:
        print(*rehearse_pose(config, ranks), sep="\n")
        return 0
    train_pose(config, ranks, chosen.resume, chosen.until, chosen.board)
    if ranks.first:
        print(f"model: {Path(config.out) / 'last'}")
    return 0


class RunOptions(NamedTuple):
    """What is asked of a run beside its settings; the same for all forms of training."""

    resume: bool
    until: int | None
    board: bool
    print_config: bool
    dry_run: bool


def add_run_options(parser: ArgumentParser) -> None:
    """Declares --config and the options of `RunOptions`."""
    parser.add_argument("--config", action="config", help="YAML or JSON file with some of these settings")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the folder of the run")
    parser.add_argument("--until", type=int | None, metavar="STEP", help="stop and save before this step")
    parser.add_argument(
        "--board", action="store_true", help="write for TensorBoard into the run's folder, too"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print all settings as YAML, for --config, and end"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="two steps of everything; tells time, memory and disk"
    )


def run_options(values: dict[str, Any]) -> RunOptions:
    """Takes what `add_run_options` declared out of the parsed values; settings are left.

    Raises:
        ValueError: unusable value.
    """
    values.pop("config", None)
    values.pop("__path__", None)
    chosen = RunOptions(*(values.pop(name) for name in RunOptions._fields))
    if chosen.until is not None and chosen.until < 0:
        raise ValueError(f"--until is {chosen.until}; expected a step from 0 on")
    return chosen


def print_config(config: Any, without: Sequence[str] = ()) -> int:
    """Prints a run's settings as YAML that --config reads; returns the exit code.

    Args:
        config: the run.
        without: settings that have no option.
    """
    import yaml

    if int(os.environ.get("RANK", "0")) > 0:  # another process of torchrun prints them
        return 0
    settings = {name: value for name, value in config.to_dict().items() if name not in without}
    print(yaml.safe_dump(settings, sort_keys=False), end="")
    return 0
