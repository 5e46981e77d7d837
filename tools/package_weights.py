"""Puts a trained model into the package, in half precision, with a model card made of measured figures.

dfmamba eval synthetic --model runs/nano/best --json synthetic.json
dfmamba eval snap --data ../shared/samples/snap_realworld --model runs/nano/best --json snap.json
python tools/package_weights.py runs/nano/best nano --training training.md synthetic.json snap.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dfmamba.models import PACKAGED, HandPoseModel, count_macs, count_parameters

LIMIT_BYTES = 8_000_000
COLUMNS = ("mpjpe_mm", "mpjpe_scaled_mm", "pa_mpjpe_mm", "error_2d_box", "side_accuracy")

CARD = """# {name}

3D hand pose from one crop: right and left hand, 21 joints each, in 2.5D, with presence and confidences.

| | |
|---|---|
| backbone | `{backbone}` |
| parameters | {parameters:.2f} M |
| multiply-adds | {macs:.3f} G for a {size} x {size} crop |
| input | RGB / 255, {size} x {size}; depth maps as `dfmamba.data.sample.encode_depth` gives them |
| output | joints in OpenPose order (wrist, thumb to little finger, palm to tip); right hand, then left |
| licence | {license} |

## Training data

{training}

## Figures

{table}

{protocol}

## Limits

Most of its photographs show one bare hand that makes a gesture. Expect errors on interlaced hands, fingers
that point at the camera, gloves, tattoos, hands that are small in the picture, and strong motion blur. Size
and distance are those of a mean adult hand. Don't use it where a wrong answer can hurt somebody.
"""


def table(reports: list[dict]) -> str:
    """The figures of all reports, a line for each set of pictures."""
    lines = ["| pictures | samples | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for report in reports:
        for name, figures in report["results"].items():
            cells = [f"{figures[c]:.3f}" if c in figures else "" for c in COLUMNS]
            lines.append(f"| {name} | {int(figures['samples'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Reads the arguments and writes the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("name")
    parser.add_argument(
        "--training", type=Path, required=True, help="Markdown for the model card: data, stages"
    )
    parser.add_argument("reports", type=Path, nargs="+", help="JSON files of dfmamba eval")
    options = parser.parse_args()
    model = HandPoseModel.from_pretrained(options.model)
    reports = [json.loads(path.read_text()) for path in options.reports]
    size = model.config.image_size
    meanings = reports[0]["protocol"]
    protocol = "\n".join(f"* {key}: {meanings[key]}" for key in COLUMNS if key in meanings)
    card = CARD.format(
        name=options.name,
        backbone=model.config.backbone,
        parameters=count_parameters(model) / 1e6,
        macs=count_macs(model, (1, model.config.in_chans, size, size)) / 1e9,
        size=size,
        license=model.config.license,
        training=options.training.read_text().strip(),
        table=table(reports),
        protocol=protocol,
    )
    folder = PACKAGED / options.name
    model.save(folder, half=True, card=card)
    total = sum(path.stat().st_size for path in folder.iterdir())
    if total > LIMIT_BYTES:
        raise SystemExit(f"{folder} has {total} bytes; expected at most {LIMIT_BYTES}")
    print(f"{folder}: {total} bytes")


if __name__ == "__main__":
    main()
