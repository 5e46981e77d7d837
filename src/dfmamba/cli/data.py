"""Look at a data set on disk: check a copy, export it, write a small synthetic one, or render shards.

docs/train/data.md says which data sets there are and how their folders must look.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli.reader_options import add_option, parse_options
from dfmamba.data.kinds import SYNTHETIC_KINDS

SCHEMA = "dfmamba.data_check/1"
SHEET_SAMPLES = 20
"""Cells of a contact sheet."""

_EXIT = {"ok": 0, "note": 0, "wrong": 1, "unusable": 2}
_VERDICT = {
    "ok": "usable",
    "note": "usable",
    "wrong": "figures on it would be wrong: see the lines marked 'wrong'",
    "unusable": "unusable",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba data` and its actions."""
    actions = parser.add_subcommands(dest="action")

    check = _action("check DATASET PATH: is everything there, and can the labels be right?")
    _add_reader_arguments(check)
    check.add_argument("--sheet", type=str, metavar="OUT.png", help="write a contact sheet of labelled hands")
    check.add_argument(
        "--pictures", type=str, default="200", metavar="N", help="how many to open, evenly spaced; or 'all'"
    )
    check.add_argument("--json", type=str, metavar="FILE", help="also write what was found into this file")
    actions.add_subcommand("check", check, help="verify a copy")

    export = _action("export DATASET PATH --out DIR: the own-data format, or WebDataset shards")
    _add_reader_arguments(export)
    export.add_argument("--out", type=str, required=True, metavar="DIR", help="new or empty folder")
    export.add_argument("--format", type=str, default="own", choices=["own", "shards"])
    export.add_argument("--per-shard", type=int, default=1000, metavar="N", help="samples of a shard")
    actions.add_subcommand("export", export, help="write it in another format")

    fixture = _action("fixture DATASET PATH: a small synthetic copy in the official layout")
    _add_dataset_arguments(fixture)
    fixture.add_argument("--count", type=int, default=32, help="pictures of the split to train on")
    fixture.add_argument("--seed", type=int, default=0, help="of the synthetic hands")
    actions.add_subcommand("fixture", fixture, help="write a small synthetic copy")

    label = _action(
        "label PHOTOS --teacher NAME --out FILE: label what a teacher sees alike in several views"
    )
    label.add_argument("photos", type=str, help="folder of photographs, those in folders below it included")
    label.add_argument(
        "--teacher", type=str, required=True, help="mediapipe, or the name or folder of a model of ours"
    )
    label.add_argument(
        "--out", type=str, required=True, metavar="FILE", help="labels in the own format (JSON)"
    )
    label.add_argument(
        "--most", type=float, default=0.05, metavar="X", help="largest disagreement kept, in sides of the box"
    )
    label.add_argument("--device", type=str, default="auto", help="torch device of a model of ours")
    label.add_argument("--sheet", type=str, metavar="OUT.png", help="write a contact sheet of labelled hands")
    actions.add_subcommand("label", label, help="label photographs by a teacher")

    synth = _action("synth OUT: pictures of synthetic hands with depth and labels, as shards")
    synth.add_argument("out", type=str, help="folder; the shards go into SPLIT/ below it")
    synth.add_argument("--count", type=int, default=10_000, metavar="N", help="pictures")
    synth.add_argument("--seed", type=int, default=0, help="of the pictures")
    synth.add_argument("--kind", type=str, default="mix", help="mix, " + ", ".join(SYNTHETIC_KINDS))
    synth.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    synth.add_argument("--workers", type=int, default=2, metavar="N", help="processes that render")
    synth.add_argument("--split", type=str, default="train", choices=["train", "val", "test"])
    synth.add_argument("--per-shard", type=int, default=1000, metavar="N", help="pictures of a shard")
    synth.add_argument("--photos", type=str, metavar="DIR", help="photographs to use as further backgrounds")
    actions.add_subcommand("synth", synth, help="render pictures of synthetic hands into shards")

    people = _action("people OUT: pictures of whole people, to train the detector of hands on")
    people.add_argument("out", type=str, help="folder for the shards")
    people.add_argument("--count", type=int, default=10_000, metavar="N", help="pictures")
    people.add_argument("--seed", type=int, default=1, help="of the pictures")
    people.add_argument("--size", type=int, default=256, help="side of the pictures in pixels")
    people.add_argument("--workers", type=int, default=2, metavar="N", help="processes that render")
    actions.add_subcommand("people", people, help="render pictures of whole people into shards")


def run(options: Namespace) -> int:
    """Do what the action says; returns the exit code.

    `check`: 0 usable, 1 figures would be wrong or one of several splits can't be used, 2 unusable. `export`:
    1 if samples whose pictures can't be read were left out.

    Raises:
        ValueError: unknown data set, split or option, or unusable data.
        OSError: something can't be read or written.
    """
    chosen = options[options.action]
    actions = {
        "check": _check,
        "export": _export,
        "fixture": _fixture,
        "label": _label,
        "synth": _synth,
        "people": _people,
    }
    return actions[options.action](chosen)


def _action(description: str) -> ArgumentParser:
    return ArgumentParser(description=f"dfmamba data {description}", exit_on_error=False)


def _add_dataset_arguments(parser: ArgumentParser) -> None:
    from dfmamba.data.registry import DATASETS

    parser.add_argument("dataset", type=str, help=", ".join(DATASETS))
    parser.add_argument("path", type=str, help="its folder")


def _add_reader_arguments(parser: ArgumentParser) -> None:
    _add_dataset_arguments(parser)
    parser.add_argument(
        "--split", type=str, nargs="+", metavar="NAME", help="default: those to train on and to report on"
    )
    add_option(parser)


def own_split(name: str, dataset: str) -> str:
    """The split of the own-data format, train, val or test, that a data set's split becomes.

    Raises:
        ValueError: the name says none of them.
    """
    from dfmamba.data.registry import dataset_info

    info = dataset_info(dataset)
    known = {"train": "train", "val": "val", "test": "test", info.test: "test", info.train: "train"}
    if name in ("train", "val", "test"):
        return name
    if name in known:
        return known[name]
    for word in ("train", "val", "test"):
        if name.endswith(f"_{word}"):
            return word
    raise ValueError(f"split {name!r} is none of train, val, test, nor ends in one: it can't be exported")


def _splits(options: Namespace) -> list[str]:
    from dfmamba.data.registry import dataset_info

    info = dataset_info(options.dataset)
    return list(dict.fromkeys(options.split or (info.train, info.test)))


def _check(options: Namespace) -> int:
    from dfmamba import __version__
    from dfmamba.data.registry import dataset_info
    from dfmamba.io.files import write_atomic
    from dfmamba.text import format_json

    info, values, splits = dataset_info(options.dataset), parse_options(options.option), _splits(options)
    pictures = _number_or_all(options.pictures)
    results: dict[str, dict[str, Any]] = {}
    for split in splits:
        published = None if values else info.counts.get(split)
        sheet = _sheet_path(options.sheet, split, len(splits))
        print(f"{info.title} {split} in {options.path}", flush=True)
        results[split] = _check_split(options, split, values, (published, info.count_source), pictures, sheet)
    codes = [_EXIT[result["level"]] for result in results.values()]
    if options.json is not None:
        facts = {
            "schema": SCHEMA,
            "dfmamba": __version__,
            "dataset": options.dataset,
            "path": options.path,
            "options": values,
            "splits": results,
        }
        write_atomic(Path(options.json), format_json(facts).encode())
    return 2 if min(codes) == 2 else min(max(codes), 1)


def _check_split(
    options: Namespace,
    split: str,
    values: dict[str, Any],
    published: tuple[int | None, str],
    pictures: int | None,
    sheet: Path | None,
) -> dict[str, Any]:
    """Prints what is found in one split; returns it as it goes into the JSON file."""
    from dfmamba.data.check import Finding, check_dataset, worst
    from dfmamba.data.registry import open_dataset
    from dfmamba.text import one_line

    findings: list[Finding] = []
    left_out: dict[str, int] = {}

    def tell(finding: Finding) -> None:
        findings.append(finding)
        print(f"  {finding.level:<8}  {finding.check:<10}  {one_line(finding.text)}", flush=True)

    try:
        dataset = open_dataset(options.dataset, options.path, split, **values)
    except (OSError, ValueError) as error:
        tell(Finding("samples", "unusable", str(error)))
    else:
        left_out = dict(dataset.report.left_out)
        for finding in check_dataset(dataset, *published, pictures=pictures):
            tell(finding)
        if sheet is not None:
            print(f"  {_write_sheet(dataset, f'{options.dataset} {split}', sheet)}")
    level = worst(findings)
    print(f"  {_VERDICT[level]}")
    return {
        "level": level,
        "left_out": left_out,
        "findings": [
            {"check": f.check, "level": f.level, "text": f.text, "figures": dict(f.figures)} for f in findings
        ],
    }


def _write_sheet(dataset: Any, title: str, path: Path) -> str:
    """Writes a contact sheet, if any picture can be read; returns a line that says so."""
    from dfmamba.data.check import evenly
    from dfmamba.draw.contact import draw_contact
    from dfmamba.io.files import write_atomic
    from dfmamba.io.images import encode_drawing

    samples = []
    chosen = evenly(len(dataset), SHEET_SAMPLES)
    for i in chosen:
        try:
            sample = dataset[i]
        except (OSError, ValueError):
            continue  # named by the check of the pictures
        if sample.size is not None:
            samples.append(sample)
    if not samples:
        return f"no contact sheet: none of {len(chosen)} samples has a readable picture"
    lost = len(chosen) - len(samples)
    title += f": {len(samples)} of {len(dataset):,} samples" + (f", {lost} unreadable" if lost else "")
    write_atomic(path, encode_drawing(draw_contact(samples, title)))
    return f"contact sheet: {path}"


def _export(options: Namespace) -> int:
    from dfmamba.data.own_format import write_own, write_shards
    from dfmamba.data.registry import open_dataset

    if options.per_shard < 1:
        raise ValueError(f"--per-shard: expected at least 1, got {options.per_shard}")
    values, splits = parse_options(options.option), _splits(options)
    names = {split: own_split(split, options.dataset) for split in splits}
    if len(set(names.values())) < len(names):
        raise ValueError(f"--split: {', '.join(splits)} would overwrite each other; export them one by one")
    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out}: exists and is not an empty folder; choose another")
    lost = False
    for split, name in names.items():
        dataset = open_dataset(options.dataset, options.path, split, **values)
        if options.format == "own":
            report = write_own(dataset, out, name)
        else:
            report = write_shards(dataset, out / name, options.per_shard)
        print(f"{out}: {options.dataset} {split} as {name}", flush=True)
        for line in (*report.lines, *(f"not read, {line}" for line in dataset.report.lines[1:])):
            print(f"  {line}")
        lost = lost or bool(report.left_out)
    return 1 if lost else 0


def _fixture(options: Namespace) -> int:
    from dfmamba.fixtures import write_fixture

    if options.count < 1:
        raise ValueError(f"--count: expected at least 1, got {options.count}")
    try:
        write_fixture(options.dataset, options.path, options.count, options.seed)
    except ImportError as error:
        raise ValueError(str(error)) from error
    print(f"{options.path}: a synthetic copy in the layout of {options.dataset}")
    return 0


def _label(options: Namespace) -> int:
    from dfmamba.data.registry import open_dataset
    from dfmamba.train.teacher import label_photographs, make_teacher

    sheet = _sheet_path(options.sheet, "train", 1)
    if not options.most > 0:
        raise ValueError(f"--most: expected a share above 0, got {options.most}")
    try:
        teacher = make_teacher(options.teacher, options.device)
    except ImportError as error:
        raise ValueError(str(error)) from error
    report = label_photographs(teacher, options.photos, options.out, options.most, _show_count)
    print(f"{options.out}: {report.kept} hands by {teacher.name}")
    for line in report.lines[1:]:
        print(f"  {line}")
    if sheet is not None:
        dataset = open_dataset("own", options.photos, "train", labels=options.out)
        print(_write_sheet(dataset, teacher.name, sheet))
    used = {"name": "own", "path": options.photos, "share": 0.3, "options": {"labels": options.out}}
    print(f"to train on them: dfmamba train --data.sets+ '{json.dumps(used)}'")
    return 0


def _show_count(done: int, total: int) -> None:
    """Shows on a terminal how many photographs are done."""
    if sys.stderr.isatty() and done % 10 == 0:
        print(f"\r{done}/{total} photographs ", end="", file=sys.stderr, flush=True)


def _people(options: Namespace) -> int:
    from dfmamba.synth.shards import PeopleConfig, render_people_shards

    config = PeopleConfig(seed=options.seed, size=options.size)
    print(render_people_shards(config, options.count, options.out, options.workers))
    return 0


def _synth(options: Namespace) -> int:
    from dfmamba.synth import SyntheticConfig
    from dfmamba.synth.shards import render_to_shards

    if options.kind not in ("mix", *SYNTHETIC_KINDS):
        raise ValueError(f"--kind: expected mix, {', '.join(SYNTHETIC_KINDS)}, got {options.kind!r}")
    config = SyntheticConfig(size=options.size, seed=options.seed, backgrounds=options.photos)
    if options.kind != "mix":
        config = replace(config, kinds={options.kind: 1.0})
    folder = Path(options.out) / options.split
    began = time.monotonic()
    try:
        made = render_to_shards(config, options.count, folder, options.per_shard, options.workers)
    except ImportError as error:
        raise ValueError(str(error)) from error
    rate = made / max(time.monotonic() - began, 1e-3)
    print(f"{folder}: {options.count} pictures, {made} of them rendered now, {rate:.1f} a second")
    return 0


def _number_or_all(text: str) -> int | None:
    if text == "all":
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise ValueError(f"--pictures: expected a number or 'all', got {text!r}")


def _sheet_path(text: str | None, split: str, splits: int) -> Path | None:
    """Where the contact sheet goes: with several splits each has its own."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise ValueError(f"--sheet: expected a name that ends in .png, got {text!r}")
    return path if splits == 1 else path.with_name(f"{path.stem}-{split}{path.suffix}")
