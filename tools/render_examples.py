"""Renders the example pictures of `make demo`: one of each kind of scene, at a size people look at.

python tools/render_examples.py examples
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from dfmamba.synth import SyntheticConfig, SyntheticHands

PICTURES = {
    "one_hand": ("single", 11),
    "two_hands": ("two", 11),
    "hand_and_object": ("object", 8),
    "egocentric": ("ego", 11),
}
SEED = 990_777


def main(folder: Path) -> None:
    """Writes one JPEG a scene."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (kind, index) in PICTURES.items():
        hands = SyntheticHands(SyntheticConfig(size=384, seed=SEED, kinds={kind: 1.0}))
        sample = hands.sample(index)
        assert sample.image is not None
        Image.fromarray(sample.image).save(folder / f"{name}.jpg", quality=92)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples"))
