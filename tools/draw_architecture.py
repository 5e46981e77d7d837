"""Draws docs/images/architecture.svg: the floors of the package, as import-linter's contract has them.

python tools/draw_architecture.py docs/images/architecture.svg
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]

ROOMS = {
    "app": "local page, HTTP API",
    "backbones": "DF-Mamba, peers, baselines",
    "bench": "timing against others",
    "bulk": "millions of pictures",
    "cli": "a verb each: arguments in, exit code out",
    "data": "samples, readers, checks, shards",
    "detect": "boxes around hands",
    "draw": "overlay, views in space",
    "export": "ONNX, browser page",
    "extras": "optional packages",
    "fixtures": "small copies of data sets",
    "formats": "files of other software",
    "frameworks": "published frameworks",
    "hands": "skeleton, camera, crop, hand model",
    "heads": "maps to joints, losses",
    "io": "images and other people's files",
    "layers": "shared layers, fusing",
    "machine": "devices",
    "metrics": "errors, protocols",
    "models": "backbone + head, weights on disk",
    "ops": "selective scan, deformable sampling",
    "predict": "looks, sides, mm, tracks, results",
    "settings": "typed settings",
    "synth": "renderer of hands and people",
    "text": "tables, messages",
    "train": "loop, tasks, evaluation",
    "video": "films and cameras",
    "view": "Rerun viewer",
}
"""Room -> what is in it."""

PASSED = {
    "cli",
    "predict",
    "detect",
    "models",
    "draw",
    "hands",
    "heads",
    "backbones",
    "layers",
    "ops",
    "io",
    "text",
}
"""Rooms that one photograph passes on its way from `dfmamba predict` to its files."""

FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
WIDTH, LEFT, ROW, GAP = 1180, 20, 44, 6
PHOTO = ("#3b6ea5", "#e8f0fa")
OTHER = ("#8a8a8a", "#f5f5f3")


def floors() -> list[list[str]]:
    """The rooms of each floor, the top one first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return [re.findall(r"\w+", layer) for layer in settings["contracts"][0]["layers"]]


def svg() -> str:
    """The drawing."""
    rows = floors()
    height = 20 + len(rows) * (ROW + GAP) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" font-size="13">',
        f'  <rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for i, rooms in enumerate(rows):
        y = 14 + i * (ROW + GAP)
        width = (WIDTH - 2 * LEFT - GAP * (len(rooms) - 1)) / len(rooms)
        for j, room in enumerate(sorted(rooms)):
            x = LEFT + j * (width + GAP)
            line, fill = PHOTO if room in PASSED else OTHER
            place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW}"'
            parts.append(f'  <rect {place} rx="6" fill="{fill}" stroke="{line}"/>')
            middle = f'x="{x + width / 2:.1f}" text-anchor="middle" fill="#222"'
            parts.append(f'  <text {middle} y="{y + 18}" font-weight="bold">{escape(room)}</text>')
            parts.append(f'  <text {middle} y="{y + 35}" font-size="12">{escape(ROOMS[room])}</text>')
    y = 14 + len(rows) * (ROW + GAP) + 18
    for text in (
        "A room imports from the floors below its own only, in functions, too (import-linter, make lint).",
        "Blue: what one photograph passes from dfmamba predict to its JSON file and drawing.",
    ):
        parts.append(f'  <text x="{WIDTH / 2:.1f}" y="{y}" text-anchor="middle" fill="#555">{text}</text>')
        y += 20
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(), encoding="utf-8")
