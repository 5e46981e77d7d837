"""Puts a trained hand detector into the package, in half precision, with a model card.

python tools/package_detector.py runs/detector/best --operating-point 0.38 --training "..." --figures "..."
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from dfmamba.detect.network import NAME
from dfmamba.heads.detector import DetectorHead
from dfmamba.models import MODELS, PACKAGED, HandPoseModel, count_macs, count_parameters, load

CARD = """# {name}

Finds hands in a whole picture: a score and a box (around the 21 joints) at each cell of a map of stride 8.

| | |
|---|---|
| backbone | `{backbone}` |
| parameters | {parameters:.2f} M |
| multiply-adds | {macs:.3f} G for a {size} x {size} picture |
| input | RGB / 255, the picture in a square of {size} x {size} |
| output | (5, {cells}, {cells}): score, centre, logarithms of width and height; see `dfmamba.detect.decode` |
| licence | {license} |

## Training data

{training}

No photograph of a hand and no other network's output was used.

## Figures

{figures}

The score was shifted so that 0.5 is where, on rendered scenes and photographs together, few hands are missed
and few things are taken for hands (the network's own score there: {point}).

## Limits

Made of rendered people and hands only. Expect misses of hands smaller than 6 % of the picture, in gloves,
behind things or blurred, and some false finds on skin-coloured things. Do not use it where a wrong
answer can hurt somebody.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of the trained detector")
    parser.add_argument("--operating-point", type=float, required=True, help="score that becomes 0.5")
    parser.add_argument("--training", required=True)
    parser.add_argument("--figures", required=True)
    options = parser.parse_args()
    trained = load(options.run)
    model = HandPoseModel(replace(MODELS[NAME], license=trained.config.license)).eval()
    model.load_state_dict(trained.state_dict())
    assert isinstance(model.head, DetectorHead)
    assert model.head.out.bias is not None
    with torch.no_grad():
        model.head.out.bias[0] -= torch.logit(torch.tensor(options.operating_point))
    size = model.config.image_size
    card = CARD.format(
        name=NAME,
        backbone=model.config.backbone,
        parameters=count_parameters(model) / 1e6,
        macs=count_macs(model, (1, 3, size, size)) / 1e9,
        size=size,
        cells=size // model.head.stride,
        license=model.config.license,
        training=options.training,
        figures=options.figures,
        point=options.operating_point,
    )
    folder = Path(PACKAGED) / NAME
    model.save(folder, half=True, card=card)
    print(f"{folder}: {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
