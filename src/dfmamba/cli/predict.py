"""Find the hands in pictures.

Writes NAME.json (joints in pixels and millimetres) and NAME.png (a drawing) for each picture. With --engine,
for very many pictures: files of --part_size pictures each instead, made by several processes; a call that was
interrupted goes on when it is repeated. Exit code: 0 if all went well, 1 if some pictures failed, 2 if the
arguments are unusable or nothing could be done.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from dfmamba.predict import Prediction, Predictor

_PROGRAM = "dfmamba predict"
LIST_SCHEMA = "dfmamba.predictions/1"
_BULK_OPTIONS = ("workers", "format", "part_size", "batch_size")
_FAULTS_SHOWN = 10


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba predict`."""
    parser.add_argument(
        "paths",
        type=str,
        metavar="PATH",
        nargs="+",
        help="pictures, folders of pictures, or quoted patterns such as 'a/*.jpg'",
    )
    parser.add_argument(
        "--out", type=str, default="predictions", metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--box",
        type=str,
        metavar="x0,y0,x1,y1",
        help="where the hands are, in pixels; --box=-5,... where it starts with a minus",
    )
    parser.add_argument(
        "--camera",
        type=str,
        metavar="fx,fy,cx,cy",
        help="intrinsics in pixels; 3D joints are then in the camera frame instead of relative to the wrist",
    )
    parser.add_argument(
        "--mirrored", action="store_true", help="the pictures are mirror images, as selfie cameras make them"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--model", type=str, default="nano", help="name or folder of a model (see dfmamba info)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="leave out hands that score less, 0 to 1"
    )
    parser.add_argument(
        "--single_pass", action="store_true", help="do not look a second time, closely, at the hands found"
    )
    parser.add_argument(
        "--json", type=str, metavar="FILE", help="also write all results into this one JSON file"
    )
    parser.add_argument(
        "--engine",
        type=str,
        metavar="local|ray",
        help="predict in bulk, on this machine or on a Ray cluster; PATH may then be a tar file, too",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="with --engine: processes (one for each core or GPU)"
    )
    parser.add_argument(
        "--format", type=str, metavar="parquet|jsonl", help="with --engine: of the parts (parquet)"
    )
    parser.add_argument(
        "--part_size", type=int, metavar="N", help="with --engine: pictures of one file (2000)"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="with --engine: pictures that go through the network together (1); more is faster, and moves "
        "joints by a fraction of a pixel",
    )


def run(options: Namespace) -> int:
    """Do what the options say; returns the exit code.

    Raises:
        ValueError, OSError: if nothing can be done at all.
    """
    from dfmamba.cli.main import fail
    from dfmamba.io import find_images

    box = None if options.box is None else parse_box(options.box)
    if not 0.0 <= options.threshold <= 1.0:
        raise ValueError(f"--threshold: expected a value from 0 to 1, got {options.threshold}")
    bulk = {name: options[name] for name in _BULK_OPTIONS if options[name] is not None}
    if options.engine is not None:
        return _run_bulk(options, box, bulk)
    if bulk:
        raise ValueError(f"--{next(iter(bulk))}: works with --engine local or --engine ray only")
    found: dict[Path, None] = {}
    failures: list[tuple[str, str]] = []
    for name in options.paths:
        try:
            found.update(dict.fromkeys(find_images([name])))
        except (ValueError, OSError) as error:
            failures.append((name, str(error)))
            fail(_PROGRAM, error)
    pictures = list(found)
    if not pictures:
        return 2
    out = Path(options.out)
    require_writable("--out", out)
    listing = None if options.json is None else Path(options.json)
    if listing is not None:
        require_writable("--json", listing.parent)
        if listing.is_dir() or any(os.path.realpath(listing) == os.path.realpath(path) for path in pictures):
            raise ValueError(f"--json {listing}: is a folder or one of the pictures, name another file")

    from dfmamba.hands.camera import Camera
    from dfmamba.predict import Predictor

    camera = None if options.camera is None else Camera.parse(options.camera)
    model = load_model(options.model)
    predictor = Predictor(model.fuse() if hasattr(model, "fuse") else model, options.device)
    settings = {
        "box": box,
        "camera": camera,
        "mirrored": options.mirrored,
        "threshold": options.threshold,
        "refine": not options.single_pass,
    }
    start = time.perf_counter()
    predictions: list[Prediction] = []
    for path, name in zip(pictures, output_names(pictures, out), strict=True):
        try:
            predictions.append(predict_file(predictor, path, out / name, settings))
        except BrokenPipeError:  # nobody reads our lines any more
            raise
        except (ValueError, OSError, RuntimeError) as error:
            reason = str(error) if str(path) in str(error) else f"{path}: {error}"
            failures.append((str(path), reason))
            fail(_PROGRAM, reason)
    if listing is not None:
        save_list(listing, predictions, failures)
    hands = sum(len(prediction.hands) for prediction in predictions)
    seconds = time.perf_counter() - start
    summary = f"{_count(len(predictions), 'picture')}, {_count(hands, 'hand')}, {len(failures)} failed"
    print(f"{summary}, {seconds:.1f} s; results in {out}", flush=True)
    if not failures:
        return 0
    return 1 if predictions else 2


def _run_bulk(options: Namespace, box: tuple[float, float, float, float] | None, bulk: dict[str, Any]) -> int:
    """`run` with `--engine`; `bulk` are those of its options that were given."""
    from dfmamba.bulk.parts import BulkConfig
    from dfmamba.bulk.run import predict_bulk
    from dfmamba.cli.main import fail
    from dfmamba.hands.camera import Camera

    if options.json is not None:
        raise ValueError("--json: doesn't work with --engine, whose parts hold all results")
    workers = bulk.pop("workers", None)
    config = BulkConfig(
        out=os.path.abspath(options.out),
        model=os.path.abspath(options.model) if os.path.exists(options.model) else options.model,
        device=options.device,
        threshold=options.threshold,
        refine=not options.single_pass,
        box=box,
        camera=None if options.camera is None else Camera.parse(options.camera),
        mirrored=options.mirrored,
        **bulk,
    )
    require_writable("--out", Path(config.out))
    start = time.perf_counter()
    try:
        done = predict_bulk(options.paths, config, load_model(options.model), options.engine, workers)
    except ImportError as error:
        raise ValueError(str(error)) from error
    for fault in done.faults[:_FAULTS_SHOWN]:
        fail(_PROGRAM, fault)
    earlier = f" ({done.earlier} were there)" if done.earlier else ""
    summary = (
        f"{_count(done.pictures, 'picture')}{earlier}, {_count(done.hands, 'hand')}, {done.failed} failed"
    )
    print(f"{summary}, {time.perf_counter() - start:.1f} s; results in {options.out}", flush=True)
    if not done.failed:
        return 0
    return 1 if done.failed < done.pictures else 2


def predict_file(predictor: Predictor, path: Path, target: Path, settings: dict) -> Prediction:
    """Predict one picture and write `target`.json and `target`.png; prints one line.

    Raises:
        ValueError, OSError: if the picture is not usable or a file cannot be written.
    """
    import dataclasses

    from dfmamba.draw import draw_prediction
    from dfmamba.io import load_image, write_atomic

    picture = load_image(path)
    prediction = dataclasses.replace(predictor.predict(picture, **settings), image=str(path))
    buffer = BytesIO()
    draw_prediction(picture, prediction).save(buffer, "PNG")
    json_path, png_path = (target.with_name(target.name + suffix) for suffix in (".json", ".png"))
    prediction.save_json(json_path)
    write_atomic(png_path, buffer.getvalue())
    found = ", ".join(f"{hand.side} {hand.score:.2f}" for hand in prediction.hands)
    hands = _count(len(prediction.hands), "hand") + (f" ({found})" if found else "")
    print(f"{path}: {hands} -> {json_path}, {png_path.name}", flush=True)
    return prediction


def load_model(name: str):
    """A trained model by name or folder.

    Raises:
        ValueError: if it is missing, damaged or of another architecture; the message names it.
    """
    from dfmamba.models import load

    try:
        return load(name)
    except Exception as error:
        reason = str(error) if name in str(error) else f"{name}: {error}"
        raise ValueError(f"--model {reason}") from error


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Read "x0,y0,x1,y1".

    Raises:
        ValueError: if it is not four finite numbers, or the box is empty.
    """
    from math import isfinite

    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--box: expected four numbers x0,y0,x1,y1, got {text!r}") from None
    if not all(map(isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
        raise ValueError(f"--box: expected finite numbers with x0 < x1 and y0 < y1, got {text!r}")
    return x0, y0, x1, y1


def output_names(pictures: Sequence[Path], out: Path) -> list[str]:
    """One name for each picture's results, without suffix: its stem where that is unique.

    Otherwise the whole file name, and a number where even that is taken. No result ever takes the place of a
    picture or of another result, also where the file system ignores case.
    """
    stems = Counter(path.stem.casefold() for path in pictures)
    folder = os.path.realpath(out)
    taken = {
        path.name.casefold()
        for path in pictures
        if os.path.realpath(path.parent) == folder or os.path.dirname(os.path.realpath(path)) == folder
    }
    names = []
    for path in pictures:
        candidates = [path.stem] if stems[path.stem.casefold()] == 1 else []
        candidates += [path.name, *(f"{path.name}-{number}" for number in range(2, len(pictures) + 3))]
        for name in candidates:
            files = {f"{name}{suffix}".casefold() for suffix in (".json", ".png")}
            if not files & taken:
                break
        taken |= files
        names.append(name)
    return names


def require_writable(option: str, folder: Path) -> None:
    """Make the folder of an option and see whether files can be written there.

    Raises:
        OSError: if not; the message names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{option} {folder}: cannot write there ({error.strerror or error})") from None


def save_list(path: Path, predictions: Sequence[Prediction], failures: Sequence[tuple[str, str]]) -> None:
    """Write all predictions and failures into one JSON file.

    Raises:
        OSError: if it cannot be written.
    """
    from dfmamba.cli.main import one_line
    from dfmamba.io import write_atomic
    from dfmamba.predict.result import format_json

    content = {
        "schema": LIST_SCHEMA,
        "predictions": [prediction.to_dict() for prediction in predictions],
        "failed": [{"image": image, "reason": one_line(reason)} for image, reason in failures],
    }
    try:
        write_atomic(path, format_json(content).encode())
    except OSError as error:
        raise OSError(f"--json {path}: cannot write there ({error.strerror or error})") from None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
