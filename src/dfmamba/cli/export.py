"""Write a model, or a backbone, for other runtimes: an ONNX or torch.export file, or a page for the browser.

The file is compared with PyTorch on pictures before it takes its name. docs/use/export.md says what is in it,
and docs/use/browser.md what the page needs.
"""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "browser": "_browser"}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba export`."""
    parser.add_argument("model", type=str, help="a packaged model, a folder, a hub id, or a backbone's name")
    parser.add_argument("--format", type=str, default="onnx", choices=list(SUFFIXES))
    parser.add_argument(
        "--out", type=str, metavar="FILE", help="or folder, for browser; default: the model's name, here"
    )
    parser.add_argument("--opset", type=int, default=20, help="ONNX operator set, from 20")
    parser.add_argument("--batch", type=str, default="dynamic", help="crops per run: 'dynamic' or a number")
    parser.add_argument("--size", type=int, help="side of the picture in pixels, for backbones; default 256")
    parser.add_argument(
        "--features", action="store_true", help="of a pose model, only its backbone: maps, not joints"
    )
    parser.add_argument(
        "--operators",
        type=str,
        default="auto",
        choices=["auto", "basic"],
        help="basic: without ONNX's Scan and DeformConv, for runtimes that lack them",
    )
    parser.add_argument(
        "--quantize", type=str, choices=["int8"], help="eight-bit convolutions: less accurate, see docs"
    )
    parser.add_argument(
        "--pictures",
        type=str,
        nargs="+",
        metavar="PATH",
        help="pictures for the check and for --quantize; default: the examples of the repository",
    )
    parser.add_argument(
        "--runtime",
        type=str,
        metavar="DIR",
        help="with --format browser: onnxruntime-web's dist, from npm install onnxruntime-web",
    )
    parser.add_argument(
        "--detector",
        type=str,
        help="with --format browser: built-in (the default), none, or the folder of a detector",
    )
    parser.add_argument("--no-check", action="store_true", help="write without comparing with PyTorch")


def run(options: Namespace) -> int:
    """Write the file and say how far it is from PyTorch; returns the exit code.

    Raises:
        ValueError: an option is unusable, or the result differs too much.
        OSError: something can't be read or written.
    """
    from pathlib import Path

    from dfmamba.backbones.registry import BACKBONES, PEERS
    from dfmamba.cli.results import require_writable
    from dfmamba.export import ExportConfig, export, find_subject

    page = options.format == "browser"
    for option in ("runtime", "detector"):
        if options[option] is not None and not page:
            raise ValueError(f"--{option}: works with --format browser only")
    config = ExportConfig(
        format="onnx" if page else options.format,
        opset=options.opset,
        batch=parse_batch(options.batch),
        operators=options.operators,
        check=not options.no_check,
        quantize=options.quantize,
    )
    name = Path(options.model).name
    out = Path(options.out if options.out is not None else name + SUFFIXES[options.format])
    if page:
        from dfmamba.export.browser import check_runtime

        check_runtime(options.runtime)
    require_writable("--out", out.parent)
    try:
        subject = find_subject(options.model, options.size, options.features)
        if page:
            from dfmamba.export.browser import export_page, find_detector

            detector = find_detector(options.detector)
            report = export_page(subject, out, options.runtime, config, options.pictures, detector)
        else:
            report = export(subject, out, config, options.pictures)
    except ImportError as error:
        raise ValueError(str(error)) from error
    checked = "not checked" if report.errors is None else f"checked: {report.errors}"
    print(f"{report.path}: {report.size / 1e6:.2f} MB, {checked}")
    if options.model in BACKBONES or options.model in PEERS:
        print(f"{options.model} is a backbone without trained weights: the file's are random")
    return 0


def parse_batch(text: str) -> int | None:
    """Read --batch: a number, or None for "dynamic".

    Raises:
        ValueError: if it is neither.
    """
    if text == "dynamic":
        return None
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ValueError(f"--batch: expected 'dynamic' or a number from 1, got {text!r}")
