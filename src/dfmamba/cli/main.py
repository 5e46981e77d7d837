"""The `dfmamba` command: picks the verb, and turns every failure into one line and an exit code.

A verb is a module with two functions:

- `add_arguments(parser)` declares its options on a `jsonargparse.ArgumentParser`,
- `run(options) -> int` does the work, with what was parsed, and returns the exit code.

It is imported only when its verb is used, and must import torch inside `run`, so that `--help` is quick. A
verb with several forms also has `variant(words)`, which gives the module and the words for this call.

Exit codes: 0 all done, 1 some of several failed, 2 unusable arguments or nothing done, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.text import check_yaml, one_line


@dataclass(frozen=True)
class Verb:
    """Where a verb lives and what it does, in one line."""

    module: str
    summary: str


VERBS: dict[str, Verb] = {
    "predict": Verb("dfmamba.cli.predict", "find the hands in pictures: JSON and a drawing of each"),
    "app": Verb("dfmamba.cli.app", "a page for photos, films and the webcam, with an HTTP API"),
    "export-predictions": Verb(
        "dfmamba.cli.export_predictions", "write predictions in the format of other software"
    ),
    "info": Verb("dfmamba.cli.info", "list the models and the versions of what they run on"),
    "train": Verb("dfmamba.cli.train", "train a model"),
    "pretrain": Verb("dfmamba.cli.pretrain", "pre-train a backbone on unlabelled pictures"),
    "eval": Verb("dfmamba.cli.evaluate", "measure a model on labelled pictures"),
    "data": Verb("dfmamba.cli.data", "check, draw and convert copies of data sets"),
    "export": Verb(
        "dfmamba.cli.export", "write a model as an ONNX or torch.export file, or as a page for the browser"
    ),
    "bench": Verb("dfmamba.cli.bench", "measure speed and memory, against other libraries too"),
}

SHOW_TRACEBACK = "DFMAMBA_TRACEBACK"
"""Environment variable that, set to 1, lets unexpected errors through with their traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _make_printable()
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        from dfmamba import __version__

        print(f"dfmamba {__version__}")
        return 0
    if words[0] not in VERBS:
        return fail("dfmamba", f"unknown verb {words[0]!r}, expected one of: {', '.join(VERBS)}")
    return run_command(f"dfmamba {words[0]}", VERBS[words[0]].module, words[1:])


def fail(source: str, reason: object) -> int:
    """Report a failure on stderr as one line; returns exit code 2."""
    print(f"{source}: error: {one_line(reason)}", file=sys.stderr, flush=True)
    return 2


def run_command(program: str, name: str, words: Sequence[str]) -> int:
    """Run a module that has `add_arguments` and `run`; failures are one line on stderr.

    Args:
        program: what was typed, for messages.
        name: of the module.
        words: its arguments.

    Returns:
        The exit code.
    """
    try:
        module = importlib.import_module(name)
        if hasattr(module, "variant"):
            chosen, words = module.variant(words)
            module = importlib.import_module(chosen)
        options = _parse(program, module, words)
        return module.run(options) if isinstance(options, Namespace) else options
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has left. Python would complain when it flushes stdout at exit.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        return fail(program, error)
    except Exception as error:
        if isinstance(error, ImportError) and error.name is None:  # ours: it names the extra that is missing
            return fail(program, error)
        if os.environ.get(SHOW_TRACEBACK) == "1":
            raise
        hint = f"set {SHOW_TRACEBACK}=1 to see where"
        return fail(program, f"unexpected {type(error).__name__}: {one_line(error)} ({hint})")


def _parse(program: str, module, words: Sequence[str]) -> Namespace | int:
    """The parsed options; an exit code where there is nothing to run (`--help`, unusable arguments)."""
    # Where settings can be printed, the verb does it, with what follows from the ones that are given.
    parser = ArgumentParser(prog=program, description=module.__doc__, exit_on_error=False, print_config=None)
    module.add_arguments(parser)
    _limit_yaml()
    try:
        return parser.parse_args(list(words))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        raise
    except Exception as error:
        return fail(program, f"{one_line(error)} (see {program} --help)")


def _limit_yaml() -> None:
    """Settings are read within the limits of `check_yaml`: aliases could make a small file a huge one."""
    from jsonargparse import get_loader, set_loader

    load = get_loader("yaml")
    if getattr(load, "__name__", "") == "_load_checked":
        return

    def _load_checked(text: str) -> Any:
        check_yaml(text)
        return load(text)

    import yaml

    set_loader("yaml", _load_checked, (yaml.YAMLError, ValueError, RecursionError))


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: dfmamba VERB [options]", "", "3D hand pose from single pictures.", "", "verbs:"]
    lines += [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "dfmamba VERB --help explains a verb, dfmamba --version prints the version."]
    return "\n".join(lines)


def _make_printable() -> None:
    """File names may hold bytes that the terminal's encoding does not know."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


if __name__ == "__main__":
    sys.exit(main())
