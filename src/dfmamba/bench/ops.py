"""Operators: ours in every backend against the loop, mambapy, torchvision and `F.grid_sample`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dfmamba.bench.competitors import (
    INSTALL,
    OPERATORS,
    Function,
    Operator,
    Problem,
    Shape,
    growth_shapes,
    real_shapes,
)
from dfmamba.bench.contest import (
    Absent,
    Entrant,
    Plan,
    Row,
    contest,
    first_line,
    milliseconds,
    ratio,
    relative_error,
    remarks,
    waiter,
)
from dfmamba.ops import backend
from dfmamba.text import Table

TOLERANCE_FORWARD, TOLERANCE_BACKWARD = 1e-4, 1e-3


@dataclass(frozen=True)
class OpsBench:
    """What is measured.

    Attributes:
        shapes: problems of every operator.
        growth: problems of doubling length, for the scan and the whole operator, forward.
        operators: keys of `OPERATORS`.
        train: also forward + backward.
        device: torch device.
        plan: how much is measured.
    """

    shapes: tuple[Shape, ...]
    growth: tuple[Shape, ...] = ()
    operators: tuple[str, ...] = tuple(OPERATORS)
    train: bool = True
    device: str = "cpu"
    plan: Plan = field(default_factory=Plan)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.operators) - set(OPERATORS))
        if unknown:
            raise ValueError(f"unknown operator {unknown[0]!r}; known: {', '.join(OPERATORS)}")

    @classmethod
    def standard(cls, **changes: Any) -> OpsBench:
        """The shapes of the shipped backbones, a scan with 16 states, and lengths from 256 to 4096."""
        shapes = real_shapes(("dfmamba_nano", "dfmamba_tiny"), (8, 16, 32), (1, 8))
        shapes.append(Shape("16 states", 1, 320, 16, 32, 32))
        return cls(tuple(shapes), tuple(growth_shapes(304, 1, 4096, 5)), **changes)

    @classmethod
    def quick(cls, **changes: Any) -> OpsBench:
        """A few seconds on tiny shapes, to see that everything runs."""
        shapes = real_shapes(("dfmamba_test",), (4,), (1, 2))
        return cls(tuple(shapes), tuple(growth_shapes(16, 1, 64, 3)), **changes)


def backends(device: torch.device) -> list[str]:
    """Names of the backends worth timing: not the definition, not the form for export."""
    hidden = {"reference", "export"} | ({"triton"} if device.type != "cuda" else set())
    return [name for name in backend.CHOICES if name not in hidden]


def on_backend(name: str, function: Function) -> Function:
    """The function with a backend chosen."""

    def run(*operands: Tensor) -> Tensor:
        with backend.use_backend(name):
            return function(*operands)

    return run


def entrants(
    operator: Operator, shape: Shape, backward: bool, device: torch.device
) -> list[Entrant | Absent]:
    """The competitors of one operator on one shape, gated by the definition in double precision."""
    problem = operator.make(shape, device)
    exact = problem.copy(torch.float64).call(operator.definition, backward)()
    found: list[Entrant | Absent] = []

    def error(result: Sequence[Tensor]) -> float:
        return relative_error(result, exact)

    def add(name: str, function: Function, operands: Problem, ours: bool) -> None:
        found.append(Entrant(name, operands.call(function, backward), error, ours))

    for name in backends(device):
        function = on_backend(name, operator.ours)
        try:
            problem.call(function, backward=False)()
        except (ValueError, RuntimeError) as refusal:
            found.append(Absent(f"dfmamba {name}", first_line(refusal), ours=True))
        else:
            add(f"dfmamba {name}", function, problem, ours=True)
    add(operator.definition_name, operator.definition, problem, ours=False)
    contiguous = problem.copy(contiguous=True)
    for name, function, needs, wants_contiguous in operator.others:
        absent = [package for package in needs if importlib.util.find_spec(package) is None]
        if absent:
            found.append(Absent(name, f"{absent[0]} is {INSTALL}"))
        else:
            add(name, function, contiguous if wants_contiguous else problem, ours=False)
    return found


def run(
    bench: OpsBench, progress: Callable[[str], object] = lambda line: None
) -> tuple[list[dict[str, Any]], list[Table]]:
    """Measure.

    Returns:
        One mapping a competitor and case, and the tables.
    """
    device = torch.device(bench.device)
    results: list[dict[str, Any]] = []
    tables: list[Table] = []

    def measure(key: str, shape: Shape, backward: bool, part: str) -> list[Row]:
        operator = OPERATORS[key]
        mode = "forward + backward" if backward else "forward"
        progress(f"{operator.name}, {mode}, {shape}")
        tolerance = TOLERANCE_BACKWARD if backward else TOLERANCE_FORWARD
        rows = contest(
            entrants(operator, shape, backward, device), tolerance, bench.plan, synchronize=waiter(device)
        )
        case = {
            "part": part,
            "operator": operator.name,
            "mode": mode,
            "shape": shape.name,
            "batch": shape.batch,
            "channels": shape.channels,
            "states": shape.states,
            "length": shape.length,
        }
        results.extend({**case, **row.as_dict()} for row in rows)
        return rows

    for key in bench.operators:
        for backward in (False, True) if bench.train else (False,):
            cases = [(shape, measure(key, shape, backward, "shapes")) for shape in bench.shapes]
            mode = "forward + backward" if backward else "forward"
            tables.append(shape_table(f"{OPERATORS[key].name}, {mode}, ms", cases))
    if len(bench.growth) > 1:
        for key in (k for k in bench.operators if k != "sample"):
            cases = [(shape, measure(key, shape, False, "growth")) for shape in bench.growth]
            tables.append(growth_table(f"{OPERATORS[key].name}, forward, growth with L, ms", cases))
    return results, tables


def shape_table(title: str, cases: Sequence[tuple[Shape, Sequence[Row]]]) -> Table:
    """A row a shape, a column a competitor; last the time of the best other one over that of our "auto"."""
    names = [row.name for row in cases[0][1]] if cases else []
    body = []
    for shape, rows in cases:
        times = {row.name: row.timing.median for row in rows if row.timing is not None}
        others = [times[row.name] for row in rows if not row.ours and row.name in times]
        auto = times.get("dfmamba auto")
        gain = ratio(min(others), auto) if others else "–"
        body.append((str(shape), *(milliseconds(row) for row in rows), gain))
    notes = remarks(row for _, rows in cases for row in rows)
    header = ("shape", *names, "best other / auto")
    return Table(title, header, tuple(body), notes)


def growth_table(title: str, cases: Sequence[tuple[Shape, Sequence[Row]]]) -> Table:
    """A row a competitor, a column a length, and the slope in the log-log plot: 1 is linear."""
    first, rows = cases[0]
    title += f" (B={first.batch} D={first.channels} N={first.states})"
    body = []
    for i, row in enumerate(rows):
        points = [
            (shape.length, timing.median) for shape, found in cases if (timing := found[i].timing) is not None
        ]
        slope = f"{log_slope(points):.2f}" if len(points) > 1 else "–"
        body.append((row.name, *(milliseconds(found[i]) for _, found in cases), slope))
    header = ("competitor", *(f"L={shape.length}" for shape, _ in cases), "slope")
    return Table(title, header, tuple(body), remarks(row for _, found in cases for row in found))


def log_slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x.

    Raises:
        ValueError: fewer than two different x, or a value that is not positive.
    """
    if any(x <= 0 or y <= 0 for x, y in points) or len({x for x, _ in points}) < 2:
        raise ValueError(f"a slope needs two different positive points, got {list(points)}")
    logs = [(math.log(x), math.log(y)) for x, y in points]
    centre = sum(x for x, _ in logs) / len(logs)
    above = sum((x - centre) * y for x, y in logs)
    return above / sum((x - centre) ** 2 for x, _ in logs)
