"""What all forms of training have in common on the command line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser


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


@contextlib.contextmanager
def telling(out: str, board: bool, ranks: Any) -> Iterator[Any]:
    """Within it, a run is shown on TensorBoard if wished; at its end its curves are drawn.

    Raises:
        ValueError: TensorBoard is missing.
    """
    from dfmamba.train.curves import write_curves
    from dfmamba.train.meter import Board, listening

    try:
        shown = Board(out) if board and ranks.first else None
    except ImportError as error:
        raise ValueError(str(error)) from error
    try:
        with listening(*([shown] if shown else [])):
            yield shown
    finally:
        if shown is not None:
            shown.close()
        if ranks.first:
            with contextlib.suppress(OSError):
                write_curves(Path(out))
