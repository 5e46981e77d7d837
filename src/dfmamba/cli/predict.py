"""Find the hands in pictures, films and in front of a camera.

Writes NAME.json (joints in pixels and millimetres) and NAME.png (a drawing) for each picture; NAME.jsonl (a
line a frame) and NAME.mp4 (the film with its joints) for each film or camera:N, until Ctrl-C. With --engine,
for very many pictures: files of --part_size pictures each instead, made by several processes; a call that was
interrupted goes on when it is repeated. Exit code: 0 if all went well, 1 if some pictures failed or a film
ended early, 2 if the arguments are unusable or nothing could be done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from dfmamba.cli import predict_bulk, predict_film
from dfmamba.cli.results import count, output_names, require_writable, save_list, viewing

if TYPE_CHECKING:
    import numpy as np

    from dfmamba.detect import Detector
    from dfmamba.detect.given import GivenBoxes
    from dfmamba.predict import Prediction, Predictor
    from dfmamba.view import Viewer

_PROGRAM = "dfmamba predict"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba predict`."""
    parser.add_argument(
        "paths",
        type=str,
        metavar="PATH",
        nargs="+",
        help="pictures, folders of pictures, quoted patterns such as 'a/*.jpg', films, or camera:0",
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
        "--detector",
        type=str,
        default="built-in",
        metavar="NAME",
        help="finds the hands of a picture: built-in, mediapipe where installed, a JSON file of boxes, a "
        "detector's folder, or none: the model looks at the whole picture, for one large hand of each side",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="leave out hands that score less, 0 to 1"
    )
    parser.add_argument(
        "--single_pass", action="store_true", help="do not look a second time, closely, at the hands found"
    )
    parser.add_argument(
        "--mesh",
        action="store_true",
        help="fit the hand model to the joints: results gain its angles and shape, drawings show its surface",
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
    parser.add_argument(
        "--view",
        type=str,
        metavar="rerun|rerun:spawn",
        help="also record pictures and joints on a time line for the Rerun viewer",
    )
    predict_film.add_film_arguments(parser)


def run(options: Namespace) -> int:
    """Do what the options say; returns the exit code.

    Raises:
        ValueError, OSError: if nothing can be done at all.
    """
    from dfmamba.cli.main import fail
    from dfmamba.io import list_images

    box = None if options.box is None else _box(options.box)
    if not 0.0 <= options.threshold <= 1.0:
        raise ValueError(f"--threshold: expected a value from 0 to 1, got {options.threshold}")
    predict_film.check_film_options(options)
    bulk = {name: options[name] for name in predict_bulk.OPTIONS if options[name] is not None}
    for_films = [name for name in predict_film.OPTIONS if options[name] not in (None, False)]
    if options.engine is not None:
        for_films += [name for name in ("view", "mesh") if options[name] not in (None, False)]
        if for_films:
            raise ValueError(f"--{for_films[0]}: works without --engine only, which is for single pictures")
        return predict_bulk.run_bulk(options, box, bulk)
    if bulk:
        raise ValueError(f"--{next(iter(bulk))}: works with --engine local or --engine ray only")
    films, paths = predict_film.split(options.paths, options.film)
    found: dict[Path, None] = {}
    left_out: dict[Path, str] = {}
    failures: list[tuple[str, str]] = []
    for name in paths:
        try:
            listing_of = list_images([name])
            found.update(dict.fromkeys(listing_of.images))
            left_out.update(listing_of.left_out)
            for note in listing_of.notes:
                print(f"{_PROGRAM}: {note}", file=sys.stderr, flush=True)
        except (ValueError, OSError) as error:
            failures.append((name, str(error)))
            fail(_PROGRAM, error)
    pictures = list(found)
    if not pictures and not films:
        return 2
    if for_films and not films:
        raise ValueError(f"--{for_films[0]}: works with films, cameras, and folders with --film")
    if options.film and pictures:
        raise ValueError(f"--film: expected folders of frames and films, got {pictures[0]}")
    out = Path(options.out)
    require_writable("--out", out)
    listing = None if options.json is None else Path(options.json)
    if listing is not None:
        if not pictures:
            raise ValueError("--json: works with pictures; a film has a JSON Lines file of its own")
        require_writable("--json", listing.parent)
        if listing.is_dir() or any(os.path.realpath(listing) == os.path.realpath(path) for path in pictures):
            raise ValueError(f"--json {listing}: is a folder or one of the pictures, name another file")

    from dfmamba.detect.given import GivenBoxes
    from dfmamba.hands.camera import Camera
    from dfmamba.predict import Predictor
    from dfmamba.text import printable

    camera = None if options.camera is None else Camera.parse(options.camera)
    model = load_model(options.model)
    predictor = Predictor(
        model,
        options.device,
        detector=load_detector(options.detector, options.device) if box is None else None,
    )
    if isinstance(predictor.detector, GivenBoxes):
        lacking = predictor.detector.require(pictures)
        if lacking:
            examples = printable(", ".join(lacking[:3]))
            print(
                f"{_PROGRAM}: --detector {options.detector} doesn't name {count(len(lacking), 'picture')} "
                f"({examples}{', ...' if lacking[3:] else ''}): taken to show no hand",
                file=sys.stderr,
            )
    settings = {
        "box": box,
        "camera": camera,
        "mirrored": options.mirrored,
        "threshold": options.threshold,
        "refine": not options.single_pass,
    }
    codes = []
    if pictures:
        with viewing(options.view, out / "predictions.rrd") as viewer:
            codes.append(
                _run_pictures(
                    predictor, pictures, out, listing, settings, options.mesh, failures, left_out, viewer
                )
            )
    elif failures:
        codes.append(2)
    if films:
        sources = [Path(os.path.abspath(name.replace("camera:", "camera-"))) for name in films]
        names = output_names(sources, out, predict_film.SUFFIXES)
        targets = [out / name for name in names]
        codes.append(predict_film.run_films(predictor, films, targets, options, settings))
    if len(set(codes)) == 1 or 130 in codes:
        return max(codes)
    return 1


def _run_pictures(
    predictor: Predictor,
    pictures: Sequence[Path],
    out: Path,
    listing: Path | None,
    settings: dict[str, Any],
    mesh: bool,
    failures: list[tuple[str, str]],
    left_out: Mapping[Path, str],
    viewer: Viewer | None,
) -> int:
    """`run` for single pictures; `failures` are sources that weren't found, and grow."""
    from dfmamba.cli.main import fail

    start = time.perf_counter()
    predictions: list[Prediction] = []
    for path, name in zip(pictures, output_names(pictures, out), strict=True):
        try:
            picture, prediction = predict_file(predictor, path, out / name, settings, mesh)
            if viewer is not None:
                viewer.log(len(predictions), None, picture, prediction)
            predictions.append(prediction)
        except BrokenPipeError:  # nobody reads our lines any more
            raise
        except (ValueError, OSError, RuntimeError) as error:
            reason = str(error) if str(path) in str(error) else f"{path}: {error}"
            failures.append((str(path), reason))
            fail(_PROGRAM, reason)
    if listing is not None:
        save_list(listing, predictions, failures, left_out)
    hands = sum(len(prediction.hands) for prediction in predictions)
    seconds = time.perf_counter() - start
    summary = f"{count(len(predictions), 'picture')}, {count(hands, 'hand')}, {len(failures)} failed"
    summary += f", {len(left_out)} left out" if left_out else ""
    print(f"{summary}, {seconds:.1f} s; results in {out}", flush=True)
    if not failures:
        return 0
    return 1 if predictions else 2


def predict_file(
    predictor: Predictor, path: Path, target: Path, settings: dict[str, Any], mesh: bool = False
) -> tuple[np.ndarray, Prediction]:
    """Predict one picture and write `target`.json and `target`.png; prints one line.

    Boxes of a file are looked up by the picture's path.

    Raises:
        ValueError, OSError: if the picture is not usable or a file cannot be written.
    """
    import dataclasses

    from dfmamba.detect.given import GivenBoxes
    from dfmamba.draw import draw_prediction
    from dfmamba.io import load_image, write_atomic
    from dfmamba.io.images import encode_drawing
    from dfmamba.predict.surface import with_surface
    from dfmamba.text import printable

    picture = load_image(path)
    if isinstance(predictor.detector, GivenBoxes):
        at = {name: value for name, value in settings.items() if name != "box"}
        (prediction,) = predictor.predict_at([picture], [predictor.detector.of(path)], **at)
    else:
        prediction = predictor.predict(picture, **settings)
    prediction = dataclasses.replace(prediction, image=str(path))
    if mesh:
        prediction = with_surface(prediction)
    json_path, png_path = (target.with_name(target.name + suffix) for suffix in (".json", ".png"))
    prediction.save_json(json_path)
    write_atomic(png_path, encode_drawing(draw_prediction(picture, prediction)))
    found = ", ".join(f"{hand.side} {hand.score:.2f}" for hand in prediction.hands)
    hands = count(len(prediction.hands), "hand") + (f" ({found})" if found else "")
    print(printable(f"{path}: {hands} -> {json_path}, {png_path.name}"), flush=True)
    return picture, prediction


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


def load_detector(name: str, device: str) -> Detector | GivenBoxes | None:
    """A detector by name; None for "none".

    Raises:
        ValueError: if it is unknown, damaged or needs a library that is missing; the message names it.
    """
    from dfmamba.detect.build import make_detector

    try:
        return make_detector(name, device)
    except (ImportError, OSError, ValueError) as error:
        reason = str(error) if name in str(error) else f"{name}: {error}"
        raise ValueError(f"--detector {reason}") from error


def _box(text: str) -> tuple[float, float, float, float]:
    from dfmamba.hands.affine import parse_box

    try:
        return parse_box(text)
    except ValueError as error:
        raise ValueError(f"--box: {error}") from None
