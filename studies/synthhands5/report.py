"""The report of the benchmark, made from results alone: a page in Markdown and the same in HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dfmamba.metrics import PROTOCOLS
from dfmamba.text import Table
from studies.synthhands5 import charts, page
from studies.synthhands5 import statistics as stats
from studies.synthhands5.chart_choice import setting_charts
from studies.synthhands5.compare import RATES, STEPS, TUNING_SEED, TUNING_STEPS, lowest, next_rates
from studies.synthhands5.page import Block, Picture
from studies.synthhands5.results import Result
from studies.synthhands5.rows import (
    ABLATIONS,
    FAMILIES,
    MACS,
    PARAMETERS,
    REFERENCE,
    TOLERANCE,
    Row,
    find_row,
)
from studies.synthhands5.settings import PICTURE, SETTINGS, SPLITS, VERSION
from studies.synthhands5.statistics import FIGURES, Difference, Summary
from studies.synthhands5.training import HEAD, BenchmarkRun

COSTS_COMMAND = "python -m studies.synthhands5 costs"
"""Measures the latencies."""
_COLUMNS = ("MPJPE, mm", "PA-MPJPE, mm", "visible, mm", "hidden, mm", "AUC 0–50")
_OURS = find_row(REFERENCE).title
_LEVEL = f"{100 * stats.LEVEL:.0f} %"


def write_report(
    results: Sequence[Result],
    out: Path,
    figures: Sequence[Picture] = (),
    costs: Mapping[str, Any] | None = None,
    constants: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Writes OUT/README.md with OUT/figures/*.png, and OUT/index.html, which needs no other file.

    Args:
        results: of any settings, rows and seeds; those of the split "val" are shown as the choice of the
            learning rate. Results that today's definitions don't allow to be compared are listed apart.
        out: folder of the page; made where it is missing.
        figures: further ones, shown after the settings.
        costs: `{"rows": {NAME: {"latency_ms": ...}}, "machine": ..., "command": ...}`, or None.
        constants: figures of a constant pose by setting: `{"mpjpe_mm": ..., "pa_mpjpe_mm": ...}`.

    Returns:
        OUT/index.html.

    Raises:
        ValueError: no result can be compared, `costs` has another form, or two figures have the same name.
        OSError: a figure can't be read or is no picture, or the page can't be written.
        ImportError: Matplotlib is missing.
    """
    measured = [result for result in results if result.split != "val"]
    used, apart = stats.sort_out(result for result in measured if result.steps == STEPS)
    if not used:
        _, apart = stats.sort_out(measured)
        reason = f" ({len(apart)} left out, the first: {apart[0][1]})" if apart else ""
        raise ValueError(f"no results to report on{reason}; run python -m studies.synthhands5 run first")
    longer = {}
    for steps in sorted({result.steps for result in measured} - {STEPS}):
        found, others = stats.sort_out((result for result in measured if result.steps == steps), steps)
        longer[steps] = stats.summarise(found)
        apart += others
    summaries, folder, names = stats.summarise(used), Path(out) / "figures", set[str]()
    blocks = [page.heading(f"SynthHands-5, version {VERSION}: the comparison", 1), *_protocol(len(used))]
    for setting, rows in summaries.items():
        blocks += _setting(rows, setting, folder, names, costs, (constants or {}).get(setting))
        for steps, by_setting in longer.items():
            if setting in by_setting:
                blocks += _longer(setting, steps, by_setting[setting], rows)
        blocks += _tuning(setting, [r for r in results if r.split == "val" and r.setting == setting])
    missing = [
        f"{one.title} (`{one.name}`): not run." for one in SETTINGS.values() if one.name not in summaries
    ]
    blocks += [page.heading("Settings without results"), page.points(missing)] if missing else []
    blocks += [page.heading("What the networks look at")] if figures else []
    blocks += [page.picture(figure, folder, names) for figure in figures]
    if apart:
        lines = tuple((r.setting, r.entry, str(r.seed), reason) for r, reason in apart)
        blocks.append(page.heading("Results left out"))
        blocks.append(page.shown(Table("Not comparable", ("setting", "row", "seed", "reason"), lines)))
    blocks += _rerun(used)
    return page.write_page(f"SynthHands-5, version {VERSION}", blocks, Path(out))


def _protocol(count: int) -> list[Block]:
    run, pictures = BenchmarkRun(), {name: f"{split.pictures:,}" for name, split in SPLITS.items()}
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    about = (
        "Backbones compared on rendered hands with free labels. `python -m studies.synthhands5 page` made "
        f"this page from {count} result files. It shows who learns most from few pictures on small crops and "
        "from random weights, not who wins with weights from ImageNet, on large crops, or on photographs. "
        "[README.md](../README.md) one folder up describes the protocol."
    )
    rules = [
        f"Budget of every row that isn't listed as off it: {PARAMETERS / 1e3:,.0f} thousand "
        f"parameters and {MACS / 1e6:.1f} million multiply-adds (scans and sampling counted), within "
        f"{100 * TOLERANCE:.0f} %, of the whole model on a crop of {HEAD.image_size} × {HEAD.image_size} "
        "pixels.",
        f"Head: dense anchor-to-joint, {HEAD.dim} channels, an anchor every {HEAD.anchor_stride} pixels. "
        "Head, loss, schedule, order of the pictures and augmentation are the same for all; a seed fixes "
        "the last two, so rows are compared seed by seed.",
        f"Training: {STEPS} steps of {run.batch_size} crops out of {pictures['train']} pictures of {PICTURE} "
        f"× {PICTURE} pixels.",
        f"Peak learning rate: for each family the best of {rates}, and beyond while the best is the last, "
        f"by the MPJPE on {pictures['val']} validation pictures after {TUNING_STEPS} steps with "
        f"seed {TUNING_SEED}. Ablations take {_OURS}'s.",
        f"Test: {pictures['test']} pictures. Given are the box, the camera, the depth of each wrist, and "
        "which hands there are.",
        f"MPJPE: {PROTOCOLS['mpjpe_mm']}. Visible, hidden: the same over joints that are seen or not. "
        f"PA-MPJPE: {PROTOCOLS['pa_mpjpe_mm']}. AUC: {PROTOCOLS['auc_0_50']}.",
    ]
    seeds = (
        "Values are means over seeds ± sample standard deviation (in brackets: seeds). A difference is the "
        f"row's MPJPE minus {_OURS}'s over the seeds that both have: above 0, {_OURS} is better. Its first "
        f"interval ({_LEVEL}, Student's t) is about seeds, and the verdict goes by it alone. With two or "
        "three seeds it is wide: “not distinguishable” doesn't mean equal. The second interval (bootstrap, "
        f"{stats.RESAMPLES} resamples) is about test pictures, of errors averaged over each picture's "
        "joints; it takes these seeds as given."
    )
    several = (
        f"Each table makes several comparisons. If no row differed from {_OURS}, one verdict in "
        f"{1 / (1 - stats.LEVEL):.0f} would still say so, and a table with many rows may well hold such a "
        "one. “p, Holm” is the p value of the paired t test after Holm's correction for all comparisons of "
        f"the table: verdicts with a value below {1 - stats.LEVEL:.2f} there stand that, too."
    )
    protocol = [page.heading("Protocol"), page.points(rules)]
    return [
        page.text(about),
        *protocol,
        page.heading("How to read the differences"),
        page.text(seeds),
        page.text(several),
    ]


def _table(
    title: str, rows: Sequence[Row], summaries: Mapping[str, Summary], found: Mapping[str, Difference]
) -> Block:
    header = (
        "row", "learning rate", "parameters, thousands", "multiply-adds, millions", "training, s", *_COLUMNS,
        f"difference, mm [{_LEVEL}, seeds]", f"{_LEVEL}, pictures", "p, Holm", "verdict",
    )  # fmt: skip
    lines: list[tuple[str, ...]] = []
    outside: list[str] = []
    about: dict[str, list[str]] = {}
    for row in rows:
        name = f"`{row.name}`"
        if row.about:
            about.setdefault(row.about, []).append(name)
        if row.name not in summaries:
            lines.append((f"{row.title} ({name})", "not run", *("",) * (len(header) - 2)))
            continue
        one = summaries[row.name]
        first = one.results[0]
        if max(abs(first.parameters / PARAMETERS - 1), abs(first.macs / MACS - 1)) > TOLERANCE:
            outside.append(name)
        errors = [stats.spread_text(one.figure(f), 3 if f == "auc_0_50" else 2) for f in FIGURES]
        compared = stats.difference_texts(found.get(row.name))
        if row.name == REFERENCE:
            compared = ("", "", "", "reference")
        lines.append((
            f"{row.title} ({name})", ", ".join(f"{rate:g}" for rate in one.rates),
            f"{first.parameters / 1e3:.1f}", f"{first.macs / 1e6:.2f}",
            f"{median(r.seconds for r in one.results):.0f}",
            f"{errors[0]} ({len(one.results)})", *errors[1:], *compared,
        ))  # fmt: skip
    notes = ["; ".join(f"{', '.join(names)}: {text}" for text, names in about.items())] if about else []
    if outside:
        notes.append(f"More than {100 * TOLERANCE:.0f} % off the budget: {', '.join(outside)}.")
    return page.shown(Table(title, header, tuple(lines), tuple(notes)))


def _setting(
    rows: Mapping[str, Summary],
    setting: str,
    folder: Path,
    names: set[str],
    costs: Mapping[str, Any] | None,
    constant: Mapping[str, float] | None,
) -> list[Block]:
    title = SETTINGS[setting].title
    families, changes = stats.differences(rows, FAMILIES), stats.differences(rows, ABLATIONS)
    pictures: dict[bool, list[Block]] = {False: [], True: []}
    for chart in setting_charts(rows, families, changes, _latencies(costs)):
        file = charts.save(chart.draw(), folder / f"{setting}-{chart.name}.png")
        one = Picture(file, f"{title}: {chart.title}", chart.caption)
        pictures[chart.ablation].append(page.picture(one, folder, names))
    blocks = [page.heading(f"{title} (after {SETTINGS[setting].mirrors})")]
    blocks.append(_table(f"{title}: families of backbones", list(FAMILIES.values()), rows, families))
    if constant:
        known = [(column.split(",")[0], name) for column, name in zip(_COLUMNS, FIGURES, strict=True)]
        values = ", ".join(
            f"{column} {constant[name]:.2f}{' mm' * name.endswith('_mm')}"
            for column, name in known
            if name in constant
        )
        blocks.append(
            page.text(f"For scale, the mean pose of the training hands, whatever the picture: {values}.")
        )
    if REFERENCE in rows:
        blocks.append(page.points([*map(stats.sentence, families.values()), stats.tally(families)]))
    else:
        blocks.append(page.text(f"{_OURS} was not run, so nothing is compared with it."))
    blocks += [
        page.heading("Does the deformable scan help?", 3),
        page.points(stats.scan_sentences(families | changes)),
    ]
    blocks += pictures[False]
    if costs is None:
        blocks.append(page.text(f"No chart of latencies: they weren't measured. `{COSTS_COMMAND}` does it."))
    else:
        machine = costs.get("machine", "unknown")
        name = machine.get("cpu", "unknown") if isinstance(machine, Mapping) else machine
        threads = f"; threads: {costs['threads']}" if "threads" in costs else ""
        blocks.append(
            page.text(f"Latencies: machine: {name}{threads}; `{costs.get('command', COSTS_COMMAND)}`.")
        )
    if any(name in rows for name in ABLATIONS):
        shown = [find_row(REFERENCE), *ABLATIONS.values()]
        blocks += [
            page.heading(f"{title}: ablations", 3),
            _table(f"{title}: one part changed", shown, rows, changes),
        ]
        blocks += [page.text(stats.tally(changes))] if changes else []
        blocks += pictures[True]
    return blocks


def _longer(
    setting: str, steps: int, rows: Mapping[str, Summary], usual: Mapping[str, Summary]
) -> list[Block]:
    """The rows that were also trained for another number of steps."""
    title = f"{SETTINGS[setting].title}: {steps:,} steps instead of {STEPS:,}"
    found = stats.differences(rows, rows)
    shown = [one.row for one in rows.values()]
    blocks = [page.heading(title, 3), _table(title, shown, rows, found)]
    gains = []
    for name in (name for name in rows if name in usual):
        short, long = stats.on_common_seeds([usual[name], rows[name]])
        old, new = short.figure("mpjpe_mm"), long.figure("mpjpe_mm")
        if short.seeds == long.seeds and old is not None and new is not None:
            means = f"{old.mean:.2f} mm after {STEPS:,} steps, {new.mean:.2f} mm after {steps:,}"
            gains.append(f"{long.row.title}: {means}")
    told = "MPJPE on the seeds of both: " + "; ".join(gains) + "."
    return [*blocks, page.text(told)] if gains else blocks


def _latencies(costs: Mapping[str, Any] | None) -> dict[str, float]:
    if costs is None:
        return {}
    try:
        return {name: float(row["latency_ms"]) for name, row in costs["rows"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"costs: expected rows with a latency_ms each ({error!r}); make them anew: {COSTS_COMMAND}"
        raise ValueError(message) from error


def _tuning(setting: str, tried: Sequence[Result]) -> list[Block]:
    """The errors that chose the learning rates."""
    cells = []
    for name, row in FAMILIES.items():
        trials = [r for r in tried if (r.entry, r.steps, r.seed) == (name, TUNING_STEPS, TUNING_SEED)]
        found = {r.lr: r.figures["mpjpe_mm"] for r in trials if "mpjpe_mm" in r.figures}
        if found:
            state = "not all were tried" if next_rates(found) else f"{lowest(found):g}"
            cells.append((row.title, found, state))
    rates = sorted({rate for _, found, _ in cells for rate in found})
    lines = tuple(
        (name, *(f"{found[rate]:.2f}" if rate in found else "–" for rate in rates), state)
        for name, found, state in cells
    )
    header = ("row", *(f"{rate:g}" for rate in rates), "best")
    title = f"MPJPE, mm, on {SPLITS['val'].pictures} validation pictures after {TUNING_STEPS} steps, one seed"
    name = f"{SETTINGS[setting].title}: choice of the learning rate"
    return [page.heading(name, 3), page.shown(Table(title, header, lines))] if lines else []


def _rerun(used: Sequence[Result]) -> list[Block]:
    versions = (", ".join(f"{name} {value}" for name, value in sorted(r.versions.items())) for r in used)
    counts = [*Counter(f"machine: {r.machine}" for r in used).items(), *Counter(versions).items()]
    one = "python -m studies.synthhands5 run --setting two --row resnet --seed 0"
    every = [
        f"python -m studies.synthhands5 sweep --setting {name} --rows families ablations" for name in SETTINGS
    ]
    return [
        page.heading("Run it again"),
        page.text("One row with one seed, which gives the same figures on the same type of machine:"),
        page.commands(["python -m studies.synthhands5 render --setting two", one]),
        page.text("Everything that is missing (each setting's pictures are rendered once), then this page:"),
        page.commands([*every, "python -m studies.synthhands5 page"]),
        page.heading("Machines and versions"),
        page.points([f"{text} ({count} results)" for text, count in counts]),
    ]
