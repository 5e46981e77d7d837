"""List the models and the versions of what they run on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

SCHEMA = "dfmamba.info/1"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba info`."""
    parser.add_argument("--json", type=str, metavar="FILE", help="also write the list into this JSON file")


def run(options: Namespace) -> int:
    """Print the table; returns the exit code.

    Raises:
        OSError: if the JSON file cannot be written.
        ValueError: if a packaged model cannot be described.
    """
    facts = collect()
    print(format_table(facts))
    if options.json is not None:
        from dfmamba.io import write_atomic
        from dfmamba.text import format_json

        try:
            write_atomic(Path(options.json), format_json(facts).encode())
        except OSError as error:
            raise OSError(f"--json {options.json}: cannot write there ({error.strerror or error})") from None
    return 0


def collect() -> dict[str, Any]:
    """Versions, devices and the description of every packaged model."""
    import numpy
    import PIL
    import torch

    import dfmamba
    from dfmamba.models import describe, list_detectors, list_models

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    return {
        "schema": SCHEMA,
        "versions": {
            "dfmamba": dfmamba.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
        },
        "gpus": gpus,
        "operators": operators(bool(gpus)),
        "networks": networks(bool(gpus)),
        "models": [dict(describe(name)) for name in [*list_models(), *list_detectors()]],
    }


def operators(on_gpu: bool) -> list[str]:
    """Implementations of the operators that can run here, the one that runs by default first."""
    from dfmamba.ops import native
    from dfmamba.ops.backend import triton_runs

    found = ["triton"] if triton_runs(on_gpu) else []
    if native.available():
        found.append(f"native ({native.instruction_set()})")
    return [*found, "torch"]


def networks(on_gpu: bool) -> str:
    """The form in which a `Predictor` runs the packaged networks here, as `inference_form` chooses it."""
    from dfmamba.ops import native

    if on_gpu:
        return "PyTorch on the GPU"
    return "C" if native.available() else "PyTorch"


def format_table(facts: Mapping[str, Any]) -> str:
    """The facts as lines of text."""
    lines = [", ".join(f"{name} {version}" for name, version in facts["versions"].items())]
    lines += [
        f"GPUs: {', '.join(facts['gpus']) or 'none'}",
        f"operators: {', '.join(facts['operators'])}",
        f"networks run in: {facts['networks']} (.onnx files: onnxruntime)",
        "",
    ]
    rows = [("model", "parameters", "MACs", "input", "licence")]
    for model in facts["models"]:
        size = model["image_size"]
        kind = "RGB" if model["in_chans"] == 3 else f"{model['in_chans']} channel"
        rows.append(
            (
                model["name"],
                f"{model['parameters'] / 1e6:.2f} M",
                f"{model['macs'] / 1e9:.3f} G",
                f"{size} x {size} {kind}",
                model["license"],
            )
        )
    if len(rows) == 1:
        return "\n".join([*lines, "no models are packaged"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join(lines)
