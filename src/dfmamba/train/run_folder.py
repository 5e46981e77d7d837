"""What the folder of a run says of where it ran: versions, machine, code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dfmamba.io.files import write_atomic
from dfmamba.io.untrusted import read_json

ENVIRONMENT_FILE, LOG_FILE, CURVES_FILE = "environment.json", "log.jsonl", "curves.png"
SCHEMA = "dfmamba.environment/1"


def write_environment(out: Path, device: str, world: int, step: int) -> None:
    """Adds this start of the run to the folder's `environment.json`, whose "starts" has one entry for each.

    Args:
        out: folder of the run.
        device: torch device.
        world: number of processes.
        step: at which the run starts or goes on.

    Raises:
        OSError: the file can't be written.
    """
    path = out / ENVIRONMENT_FILE
    starts = [*read_starts(path), {"step": step, **describe_start(device, world)}]
    write_atomic(path, (json.dumps({"schema": SCHEMA, "starts": starts}, indent=2) + "\n").encode())


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts in a file of `write_environment`; none where it is missing or damaged."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return []
    starts = found.get("starts") if isinstance(found, dict) else None
    return [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []


def describe_start(device: str, world: int) -> dict[str, Any]:
    """Time (UTC), command line, versions, processor, threads, device, number of processes, state of git.

    There is neither the machine's name nor the user's home folder in it.
    """
    from dfmamba.machine import describe_machine

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(sys.orig_argv, Path.home()),
        "processes": world,
        **describe_machine(device),
        "git": git_state(Path(__file__).parent),
    }


def command_line(words: Sequence[str], home: Path) -> list[str]:
    """The words of a command with the program's folder left out and the home folder written as "~"."""
    program = [Path(word).name for word in words[:1]]
    inside, marked = str(home) + os.sep, "~" + os.sep
    return [*program, *(word.replace(inside, marked) if len(inside) > 1 else word for word in words[1:])]


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that a folder of sources is tracked in, and whether its files are unchanged.

    Returns:
        "commit" and "clean"; None outside of a checkout, such as where the package is installed, or without
        git.
    """
    try:
        # An installed copy may lie within somebody else's checkout, but isn't tracked there.
        _git(folder, "ls-files", "--error-unmatch", ".")
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "clean": not changed}


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()
