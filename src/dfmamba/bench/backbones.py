"""Backbones: ours against timm's, features only, in the form in which each is fastest and in equal forms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from dfmamba.bench.contest import Absent, Entrant, Plan, Row, contest, milliseconds, remarks, waiter
from dfmamba.bench.memory import peak_bytes
from dfmamba.bench.networks import (
    FORMS,
    PEERS,
    Features,
    Network,
    Ring,
    Variant,
    build,
    call_of,
    gathered,
    many_compilations,
    networks,
    variants,
)
from dfmamba.models import count_macs, count_parameters
from dfmamba.ops import use_backend
from dfmamba.text import Table

TOLERANCE_FORWARD, TOLERANCE_TRAIN = 1e-3, 2e-2


@dataclass(frozen=True)
class BackboneBench:
    """What is measured.

    Attributes:
        names: backbones, ours or timm's.
        size: side of the pictures in pixels.
        batches: pictures at once.
        train: also forward + backward.
        forms: of `FORMS`.
        compiler: whether the best form also tries `torch.compile`.
        memory: also measure peak memory (of eager and channels-last passes, each in a fresh process).
        baseline: the backbone that ratios refer to.
        device: torch device.
        plan: how much is measured.
    """

    names: tuple[str, ...] = ("dfmamba_nano", "dfmamba_tiny", *PEERS)
    size: int = 256
    batches: tuple[int, ...] = (1, 8)
    train: bool = False
    forms: tuple[str, ...] = FORMS
    compiler: bool = True
    memory: bool = True
    baseline: str = "resnet50"
    device: str = "cpu"
    plan: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.forms) - set(FORMS))
        if unknown:
            raise ValueError(f"unknown form {unknown[0]!r}; known: {', '.join(FORMS)}")
        if self.size < 32 or min(self.batches, default=0) < 1 or not self.names:
            raise ValueError(
                "expected backbones, pictures of at least 32 pixels and batches of at least 1, got "
                f"{self.names}, {self.size}, {self.batches}"
            )


@dataclass(frozen=True)
class Contender:
    """A backbone that is built."""

    network: Network
    model: Features
    parameters: int
    macs: int


@dataclass(frozen=True)
class Case:
    """One line of a table, but for its time.

    Attributes:
        backbone: label of the network.
        form: of `FORMS`; a dash for a network that is missing.
        parameters: without classifier.
        macs: multiply-adds for one picture, without scans and sampling.
        peak_bytes: memory of a pass beyond the loaded network, None where not measured.
    """

    backbone: str
    form: str = "–"
    parameters: int | None = None
    macs: int | None = None
    peak_bytes: int | None = None


def run(
    bench: BackboneBench, progress: Callable[[str], object] = lambda line: None
) -> tuple[list[dict[str, Any]], list[Table]]:
    """Measure.

    Returns:
        One mapping a backbone, form, batch and mode, and a table a batch and mode.

    Raises:
        ValueError: a backbone is not known.
    """
    device = torch.device(bench.device)
    contenders: list[Contender | Network] = []
    for network in networks(bench.names, bench.size):
        if network.missing:
            contenders.append(network)
            continue
        model = build(network).to(device)
        macs = count_macs(model, (1, 3, bench.size, bench.size))
        contenders.append(Contender(network, model, count_parameters(model), macs))
    results: list[dict[str, Any]] = []
    tables = []
    for train in (False, True) if bench.train else (False,):
        for batch in bench.batches:
            with many_compilations("compiled" in bench.forms or ("best" in bench.forms and bench.compiler)):
                cases, rows = _measure(bench, contenders, batch, train, progress)
            mode = _mode(train)
            ratios = _ratios(cases, rows, bench.baseline)
            for case, row, against in zip(cases, rows, ratios, strict=True):
                setting = {"mode": mode, "batch": batch, "size": bench.size}
                results.append({**setting, **asdict(case), **row.as_dict(), **against})
            title = f"{mode}, batch {batch}, {bench.size} x {bench.size}"
            tables.append(backbone_table(title, batch, cases, rows, bench.baseline))
    return results, tables


def _mode(train: bool) -> str:
    return "forward + backward" if train else "forward"


def _measure(
    bench: BackboneBench,
    contenders: Sequence[Contender | Network],
    batch: int,
    train: bool,
    progress: Callable[[str], object],
) -> tuple[list[Case], list[Row]]:
    device = torch.device(bench.device)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(batch, 3, bench.size, bench.size, generator=generator).to(device)
    tolerance = TOLERANCE_TRAIN if train else TOLERANCE_FORWARD
    entrants: list[Entrant | Absent] = []
    cases: list[Case] = []
    for contender in contenders:
        if isinstance(contender, Network):
            entrants.append(Absent(contender.label, contender.missing or ""))
            cases.append(Case(contender.label))
            continue
        network, model = contender.network, contender.model
        with use_backend("reference") if network.ours else contextlib.nullcontext():
            expected = gathered(call_of(Variant("", model, model), x, train)())
        ring = Ring(x, train, expected, network.ours, tolerance)
        for form in bench.forms:
            progress(f"{network.label}, {form}, {_mode(train)}, batch {batch}")
            name = f"{network.label}, {form}"
            if form == "best":
                entrants.append(ring.fastest(name, variants(model, form, train), bench.compiler))
            else:
                entrants.append(ring.entrant(name, variants(model, form, train)[0]))
            peak = _peak(bench, network, form, batch, train) if bench.memory else None
            cases.append(Case(network.label, form, contender.parameters, contender.macs, peak))
    progress(f"timing, {_mode(train)}, batch {batch}")
    return cases, contest(entrants, tolerance, bench.plan, synchronize=waiter(device))


def _peak(bench: BackboneBench, network: Network, form: str, batch: int, train: bool) -> int | None:
    if form not in ("eager", "channels_last"):
        return None
    return peak_bytes(
        {
            "name": network.name,
            "arguments": dict(network.arguments),
            "size": bench.size,
            "batch": batch,
            "threads": torch.get_num_threads(),
            "train": train,
            "channels_last": form == "channels_last",
            "device": bench.device,
        }
    )


def _ratios(cases: Sequence[Case], rows: Sequence[Row], baseline: str) -> list[dict[str, float | None]]:
    """Time over the baseline's in the same form, and over that of its fastest form."""
    times = {
        case.form: row.timing.median
        for case, row in zip(cases, rows, strict=True)
        if case.backbone == baseline and row.timing is not None
    }
    least = min(times.values(), default=None)
    found: list[dict[str, float | None]] = []
    for case, row in zip(cases, rows, strict=True):
        own, same = None if row.timing is None else row.timing.median, times.get(case.form)
        found.append(
            {
                "ratio_same_form": own / same if own and same else None,
                "ratio_best_form": own / least if own and least else None,
            }
        )
    return found


def backbone_table(
    title: str, batch: int, cases: Sequence[Case], rows: Sequence[Row], baseline: str
) -> Table:
    """A row a backbone and form."""
    header = (
        "backbone",
        "form",
        "ms",
        "pictures/s",
        f"x {baseline}, same form",
        f"x {baseline}, its best form",
        "parameters, M",
        "MACs, G",
        "peak, MB",
        "run",
    )
    body = []
    for case, row, against in zip(cases, rows, _ratios(cases, rows, baseline), strict=True):
        body.append(
            (
                case.backbone,
                case.form,
                milliseconds(row),
                "–" if row.timing is None else f"{batch / row.timing.median:.1f}",
                _number(against["ratio_same_form"], 1),
                _number(against["ratio_best_form"], 1),
                _number(case.parameters, 1e6),
                _number(case.macs, 1e9),
                _number(case.peak_bytes, 1e6, 0),
                row.note if row.timing is not None else "–",
            )
        )
    return Table(title, header, tuple(body), remarks(rows))


def _number(value: float | None, unit: float, decimals: int = 2) -> str:
    return "–" if value is None else f"{value / unit:.{decimals}f}"
