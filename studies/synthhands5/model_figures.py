"""The page's figures of trained models: which models, where their weights lie, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfmamba.io.files import write_atomic
from dfmamba.models import HandPoseModel
from studies.synthhands5.compare import run_folder
from studies.synthhands5.drawing import Figure
from studies.synthhands5.insight import offset_statistics
from studies.synthhands5.page import Picture
from studies.synthhands5.pictures import load_pictures
from studies.synthhands5.qualitative import qualitative_sheet
from studies.synthhands5.receptive_figure import receptive_fields
from studies.synthhands5.results import Result
from studies.synthhands5.rows import FAMILIES, REFERENCE, find_row
from studies.synthhands5.sampling_figure import sampling_positions
from studies.synthhands5.settings import SETTINGS

FOLDER, LIST = "models", "figures.json"
BASELINE = "resnet"
"""The other model of the qualitative sheet, as in the paper."""
FINER = "finer"
"""The change of DF-Mamba that samples finer maps, which shows more of where it looks."""


def draw_figures(
    results: Sequence[Result], runs: str | Path, data: str | Path | None, out: str | Path
) -> list[Picture]:
    """Draws sampling positions, receptive fields and the qualitative sheet of the lowest seed there is.

    Args:
        results: by which runs are found.
        runs: folder of the runs.
        data: folder of the pictures; see `load_pictures`.
        out: folder of the page; the figures go into OUT/models, with their captions in figures.json.

    Returns:
        The figures, of each setting that has DF-Mamba's and ResNet's weights.

    Raises:
        OSError: no weights, or no pictures.
    """
    found = []
    for setting in SETTINGS:
        models = _models([r for r in results if r.setting == setting and r.split == "test"], Path(runs))
        if REFERENCE in models and BASELINE in models:
            found += _of_setting(setting, models, data, Path(out) / FOLDER)
    if not found:
        raise FileNotFoundError(f"{runs}: no weights of {REFERENCE} and {BASELINE} there")
    listed = [{"file": p.file.name, "title": p.title, "caption": p.caption} for p in found]
    write_atomic(Path(out) / FOLDER / LIST, (json.dumps(listed, indent=1) + "\n").encode())
    return found


def kept_figures(out: str | Path) -> list[Picture]:
    """The figures that `draw_figures` left in a page's folder, for when the weights aren't there any more."""
    folder = Path(out) / FOLDER
    if not (folder / LIST).is_file():
        return []
    listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
    return [Picture(folder / one["file"], one["title"], one["caption"]) for one in listed]


def _models(results: Sequence[Result], runs: Path) -> dict[str, HandPoseModel]:
    """Trained models by row, of the lowest seed and, of that, the shortest run."""
    models: dict[str, HandPoseModel] = {}
    for result in sorted(results, key=lambda r: (r.seed, r.steps)):
        where = (result.setting, result.entry, result.split, result.lr, result.seed, result.steps)
        folder = run_folder(runs, *where) / "last"
        if result.entry not in models and folder.is_dir():
            models[result.entry] = HandPoseModel.from_pretrained(folder)
    return models


def _of_setting(
    setting: str, models: dict[str, HandPoseModel], data: str | Path | None, folder: Path
) -> list[Picture]:
    pictures = load_pictures(setting, "test", data)
    folder.mkdir(parents=True, exist_ok=True)
    title = SETTINGS[setting].title

    def kept(name: str, what: str, figure: Figure, further: str = "") -> Picture:
        path = folder / f"{setting}-{name}.png"
        figure.image.save(path, optimize=True)
        return Picture(path, f"{title}: {what}", " ".join((figure.caption, further)).strip())

    found = []
    for name in (REFERENCE, FINER):
        if name in models:
            what = f"where {find_row(name).title} samples"
            moved = _moved(offset_statistics(models[name], pictures))
            found.append(kept(f"sampling-{name}", what, sampling_positions(models[name], pictures), moved))
    families = {row.title: models[row.name] for row in FAMILIES.values() if row.name in models}
    fields, areas = receptive_fields(families, pictures)
    told = "; ".join(f"{name} {100 * area['area_50']:.0f} %" for name, area in areas.items())
    further = f"Smallest share of the crop that holds half of the field: {told}."
    found.append(kept("receptive-fields", "effective receptive fields", fields, further))
    two = {find_row(name).title: models[name] for name in (REFERENCE, BASELINE)}
    found.append(kept("qualitative", "predictions in space", qualitative_sheet(two, pictures)))
    return found


def _moved(statistics: dict[str, dict[str, Any]]) -> str:
    """Whether the offsets move, in a sentence a layer."""
    parts = []
    for number, layer in enumerate(statistics.values(), start=1):
        parts.append(
            f"layer {number} (stride {layer['stride']}): median {layer['median_cells']:.2f} cells "
            f"({layer['median_px']:.0f} crop pixels), {100 * layer['outside_share']:.0f} % of the samples "
            f"outside of the map, deviation over positions "
            f"{_share(layer['over_positions'])} and over pictures "
            f"{_share(layer['over_pictures'])} of the mean length"
        )
    return "Length of the offsets, " + "; ".join(parts) + "."


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
