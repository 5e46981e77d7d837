"""Measure speed and memory: operators, backbones, whole models or films, against what else can be installed.

Competitors take turns in one process, each is checked against the right answer before it is timed, and
medians are compared.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from dfmamba.bench.contest import Plan, Report
    from dfmamba.text import Table

    Outcome = tuple[list[dict[str, Any]], list[Table]]

OUTPUTS = ("json", "markdown")
"""Options that are not part of the command line that a report shows."""

QUICK_BACKBONES = ("dfmamba_test", "test_resnet", "test_vit")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba bench`."""
    kinds = parser.add_subcommands(required=True, dest="kind")
    for kind, (describe, summary) in KINDS.items():
        options = ArgumentParser(description=summary, exit_on_error=False)
        describe(options)
        _add_common(options)
        kinds.add_subcommand(kind, options, help=summary)


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="of PyTorch; left out: as many as it takes by itself")
    parser.add_argument("--device", type=str, default="cpu", help="a torch device such as cpu or cuda")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each competitor")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="a competitor slower than this in all gets fewer turns"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="does it all run? Few rounds and tiny shapes, whatever --size, --rounds and --seconds say",
    )
    parser.add_argument("--json", type=str, metavar="FILE", help="also write everything into this JSON file")
    parser.add_argument("--markdown", type=str, metavar="FILE", help="also write the tables as Markdown")


def _ops_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--only", type=str, nargs="+", metavar="OP", help="scan, sample, dssm; left out: all of them"
    )
    parser.add_argument("--train", type=bool, default=True, help="also forward + backward")


def _backbone_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--only", type=str, nargs="+", metavar="NAME", help="backbones of dfmamba or timm; left out: see docs"
    )
    parser.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="pictures at once")
    parser.add_argument("--train", action="store_true", help="also forward + backward")
    parser.add_argument(
        "--form",
        type=str,
        nargs="+",
        default=["eager", "channels_last", "compiled", "best"],
        help="eager, channels_last, compiled, best",
    )
    parser.add_argument("--compile", type=bool, default=True, help="let the best form try torch.compile")
    parser.add_argument("--memory", type=bool, default=True, help="measure peak memory too")
    parser.add_argument("--baseline", type=str, default="resnet50", help="what ratios refer to")


def _model_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--only", type=str, nargs="+", metavar="MODEL", help="packaged models or folders; left out: packaged"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="crops at once, bare network")
    parser.add_argument("--picture", type=str, metavar="FILE", help="a photo; left out: a picture of noise")


def _film_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("film", type=str, metavar="FILE", help="a film")
    parser.add_argument(
        "--load",
        type=int,
        default=2,
        metavar="N",
        help="busy processes beside which all is measured once more",
    )
    parser.add_argument(
        "--peer_python", type=str, metavar="PATH", help="Python that has MediaPipe; left out: this one"
    )
    parser.add_argument("--model", type=str, default="nano", help="packaged model or folder")


def run(options: Namespace) -> int:
    """Measure and print; returns the exit code: 1 where a competitor of ours was wrong or failed.

    Raises:
        ValueError: unusable settings.
        OSError: something can't be read or written.
    """
    kind, chosen = options.kind, options[options.kind]
    for name in OUTPUTS:
        if chosen[name] is not None and Path(chosen[name]).is_dir():
            raise IsADirectoryError(f"--{name} {chosen[name]}: is a folder, expected a file to write")
    if chosen.threads is not None and chosen.threads < 1:
        raise ValueError(f"--threads: expected at least 1, got {chosen.threads}")
    import torch

    before = torch.get_num_threads()
    try:
        if chosen.threads is not None:
            torch.set_num_threads(chosen.threads)
        report = measure(kind, chosen, command_line(kind, chosen))
    finally:
        torch.set_num_threads(before)
    print(report.text())
    _write(report, chosen)
    return int(any(r["ours"] and r["status"] in ("wrong", "failed") for r in report.results))


def measure(kind: str, options: Namespace, command: str) -> Report:
    """Run one kind of benchmark.

    Raises:
        ValueError: unusable settings.
        OSError: a model or picture can't be read.
    """
    from dfmamba.bench.contest import Plan, Report, now
    from dfmamba.machine import check_device, describe_machine

    check_device(options.device)
    plan = (
        Plan(rounds=3, fewest=1, warmup=1, sample_seconds=0.0, budget_seconds=1.0)
        if options.quick
        else Plan(rounds=options.rounds, budget_seconds=options.seconds)
    )
    machine = describe_machine(options.device)
    results, tables = RUNS[kind](options, plan)
    _progress("")
    return Report(kind, command, plan, _settings(options), machine, results, tables, now())


def _run_ops(options: Namespace, plan: Plan) -> Outcome:
    from dfmamba.bench.ops import OpsBench, run

    make = OpsBench.quick if options.quick else OpsBench.standard
    changes = {"operators": tuple(options.only)} if options.only else {}
    return run(make(train=options.train, device=options.device, plan=plan, **changes), _progress)


def _run_backbones(options: Namespace, plan: Plan) -> Outcome:
    from dfmamba.bench.backbones import BackboneBench, run

    changes: dict[str, Any] = {"size": options.size, "baseline": options.baseline}
    if options.quick:
        changes = {"size": 64, "baseline": QUICK_BACKBONES[1], "names": QUICK_BACKBONES}
    if options.only:
        changes["names"] = tuple(options.only)
    bench = BackboneBench(
        batches=tuple(options.batch),
        train=options.train,
        forms=tuple(options.form),
        compiler=options.compile and not options.quick,
        memory=options.memory,
        device=options.device,
        plan=plan,
        **changes,
    )
    return run(bench, _progress)


def _run_models(options: Namespace, plan: Plan) -> Outcome:
    from dfmamba.bench.models import ModelsBench, run

    changes = {"models": tuple(options.only)} if options.only else {}
    bench = ModelsBench(
        batches=tuple(options.batch), picture=options.picture, device=options.device, plan=plan, **changes
    )
    return run(bench, _progress)


def _run_film(options: Namespace, plan: Plan) -> Outcome:
    from dfmamba.bench.film import FilmBench, run

    bench = FilmBench(options.film, options.load, options.peer_python, options.model, options.device, plan)
    try:
        return run(bench, _progress)
    except ImportError as error:
        raise ValueError(str(error)) from error


KINDS: dict[str, tuple[Callable[[ArgumentParser], None], str]] = {
    "ops": (_ops_arguments, "scan, sampling and both together, in every backend and against other libraries"),
    "backbones": (_backbone_arguments, "ours against timm's: time, memory, parameters, MACs"),
    "models": (_model_arguments, "pose models, photo to joints"),
    "film": (
        _film_arguments,
        "a whole film, stage by stage, alone and beside busy processes, next to MediaPipe",
    ),
}
RUNS: dict[str, Callable[[Namespace, Plan], Outcome]] = {
    "ops": _run_ops,
    "backbones": _run_backbones,
    "models": _run_models,
    "film": _run_film,
}


def command_line(kind: str, options: Namespace) -> str:
    """The command that repeats a benchmark: what differs from the defaults, files by their bare names."""
    parser = ArgumentParser()
    KINDS[kind][0](parser)
    _add_common(parser)
    usual = parser.get_defaults()
    words = ["dfmamba", "bench", kind]
    for name, value in _settings(options).items():
        if value == usual[name]:
            continue
        if name != "film":  # which has no option's name
            words.append(f"--{name}")
        if isinstance(value, list):
            words += map(str, value)
        elif value is not True:
            words.append(str(value).lower() if value is False else str(value))
    return " ".join(words)


def _settings(options: Namespace) -> Mapping[str, Any]:
    """All options but the output files; files and folders by their bare names."""

    def bare(value: Any) -> Any:
        if isinstance(value, list):
            return [bare(item) for item in value]
        return Path(value).name if isinstance(value, str) and Path(value).exists() else value

    return {name: bare(value) for name, value in options.as_dict().items() if name not in OUTPUTS}


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line[:100]:<100}" + ("" if line else "\r"), end="", file=sys.stderr, flush=True)


def _write(report: Report, options: Namespace) -> None:
    from dfmamba.io import write_atomic
    from dfmamba.text import format_json

    content = {"json": lambda: format_json(report.as_dict()), "markdown": report.markdown}
    for name, make in content.items():
        if options[name] is None:
            continue
        try:
            write_atomic(Path(options[name]), make().encode())
        except OSError as error:
            reason = error.strerror or error
            raise OSError(f"--{name} {options[name]}: cannot write there ({reason})") from None
