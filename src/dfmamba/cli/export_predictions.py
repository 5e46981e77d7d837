"""Write predictions in the format of other software.

PATH are results of `dfmamba predict`: NAME.json, a --json list, the JSON Lines of a film, parts of bulk
prediction, or folders of these. What a format can't hold is counted and said. Exit code: 0 if all was
written, 2 if nothing could be done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba export-predictions`."""
    parser.add_argument(
        "paths", type=str, metavar="PATH", nargs="+", help="prediction files, or folders of them"
    )
    parser.add_argument(
        "--format",
        type=str,
        required=True,
        metavar="openpose|mediapipe|freihand|interhand|csv|angles|bvh|glb|obj|ply",
        help="what to write",
    )
    parser.add_argument(
        "--out",
        type=str,
        required=True,
        metavar="PATH",
        help="a file (mediapipe: .jsonl; freihand, interhand: .json; csv, angles: .csv), or a folder "
        "(openpose, bvh, glb, obj, ply)",
    )
    parser.add_argument(
        "--mirrored_names",
        action="store_true",
        help="mediapipe: swap Left and Right, as MediaPipe before 0.10.15 does",
    )


def run(options: Namespace) -> int:
    """Do what the options say; returns the exit code.

    Raises:
        ValueError, OSError: if an input is not usable or the output can't be written.
    """
    from dfmamba.formats import FORMATS, Record, Summary, read_records, write_prediction

    if options.format not in FORMATS:
        raise ValueError(f"--format: expected one of {', '.join(FORMATS)}, got {options.format!r}")
    out = Path(options.out)
    summary = Summary()

    def records() -> Iterator[Record]:
        for record in read_records(options.paths, summary):
            if record.source and out.exists() and out.samefile(record.source):
                raise ValueError(f"--out {out}: is one of the prediction files, name another")
            yield record

    settings = {}
    if options.mirrored_names:
        if options.format != "mediapipe":
            raise ValueError("--mirrored_names: works with --format mediapipe only")
        settings["mirrored_names"] = True
    try:
        write_prediction(records(), options.format, out, summary, **settings)
    except ImportError as error:
        raise ValueError(str(error)) from error
    for text, count in summary.notes.items():
        print(f"{count} {text}", file=sys.stderr)
    counts = f"{summary.pictures} pictures, {summary.hands} hands, {summary.files} files"
    print(f"{counts}; {options.format} in {out}", flush=True)
    return 0
