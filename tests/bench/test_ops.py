"""Competitors of the operators: all right, all listed, whatever is installed."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from dfmamba.bench import ops
from dfmamba.bench.competitors import (
    OPERATORS,
    Shape,
    growth_shapes,
    real_shapes,
    sample_problem,
    scan_loop,
    scan_problem,
)
from dfmamba.bench.contest import Absent, Entrant, Plan, Row, Timing, relative_error
from dfmamba.bench.ops import OpsBench, backends, entrants, growth_table, log_slope, run, shape_table
from dfmamba.ops import backend, selective_scan_reference

CPU = torch.device("cpu")
PLAN = Plan(rounds=2, fewest=1, warmup=0, sample_seconds=0.0)
ODD = Shape("odd", 2, 5, 3, 3, 7)


def test_real_shapes_are_those_of_the_backbones() -> None:
    found = [str(shape) for shape in OpsBench.standard().shapes]
    assert len(found) == 13
    assert "dfmamba_tiny: B=8 D=304 N=1 L=256" in found
    assert "dfmamba_tiny: B=1 D=608 N=1 L=64" in found
    assert "dfmamba_nano: B=1 D=128 N=1 L=1024" in found
    assert "16 states: B=1 D=320 N=16 L=1024" in found
    assert [shape.length for shape in growth_shapes(3, 1, 4096, 5)] == [256, 512, 1024, 2048, 4096]
    assert [shape.length for shape in real_shapes(("dfmamba_test",), (4, 16), (1,))] == [16, 256]


def test_sampled_positions_keep_clear_of_whole_numbers() -> None:
    offsets = sample_problem(ODD, CPU).leaves[1].detach()
    distance = (offsets - offsets.round()).abs()
    assert float(distance.min()) > 0.04
    assert float(offsets.abs().max()) > 1.5


def test_operands_lie_channels_last_and_copies_keep_values() -> None:
    problem = scan_problem(ODD, CPU)
    assert problem.leaves[0].stride(1) == 1
    copied = problem.copy(torch.float64, contiguous=True)
    assert copied.leaves[0].is_contiguous()
    for leaf, original in zip(copied.leaves, problem.leaves, strict=True):
        assert leaf.requires_grad
        assert torch.equal(leaf.float(), original)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("key", OPERATORS)
def test_every_competitor_is_right_on_an_odd_size(key: str, backward: bool) -> None:
    for entrant in entrants(OPERATORS[key], ODD, backward, CPU):
        if isinstance(entrant, Entrant):
            result = entrant.run()
            assert len(result) == (1 + len(OPERATORS[key].make(ODD, CPU).leaves) if backward else 1)
            assert entrant.error(result) < 1e-4, entrant.name


def test_the_loop_is_the_reference_gradients_included() -> None:
    problem = scan_problem(ODD, CPU).copy(torch.float64)

    def reference(u, delta, A, B, C, D, bias) -> torch.Tensor:
        y = selective_scan_reference(u, delta, A, B, C, D, None, bias, True)
        assert isinstance(y, torch.Tensor)
        return y

    assert relative_error(problem.call(scan_loop, True)(), problem.call(reference, True)()) < 1e-12


def test_a_change_in_any_result_is_noticed() -> None:
    entrant = entrants(OPERATORS["scan"], ODD, True, CPU)[0]
    assert isinstance(entrant, Entrant)
    result = entrant.run()
    for i in range(len(result)):
        changed = list(result)
        first = torch.zeros(result[i].numel()).index_fill(0, torch.tensor([0]), 1.0).view(result[i].shape)
        changed[i] = result[i] + 0.1 * result[i].abs().max() * first
        assert entrant.error(changed) > 0.05


def test_backends_are_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"auto"} <= set(backends(CPU)) <= set(backend.CHOICES) - {"reference", "export", "triton"}
    monkeypatch.setattr(backend, "CHOICES", ("auto", "triton", "reference", "export", "other"))
    assert backends(CPU) == ["auto", "other"]
    assert backends(torch.device("cuda")) == ["auto", "triton", "other"]


def test_a_backend_that_refuses_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "backends", lambda device: ["auto", "imaginary"])
    found = {entrant.name: entrant for entrant in entrants(OPERATORS["scan"], ODD, False, CPU)}
    refused = found["dfmamba imaginary"]
    assert isinstance(refused, Absent)
    assert refused.ours
    assert "imaginary" in refused.reason


def test_libraries_that_are_not_installed_are_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(ops, "backends", lambda device: ["auto"])
    bench = OpsBench((ODD,), train=False, plan=PLAN)
    results, tables = run(bench)
    status = {(r["operator"], r["competitor"]): (r["status"], r["note"]) for r in results}
    missing = {name for (_, name), (state, _) in status.items() if state == "missing"}
    assert missing == {"mambapy pscan", "torchvision deform_conv2d", "deform_conv2d + mambapy pscan"}
    assert "dfmamba[bench]" in status["selective scan", "mambapy pscan"][1]
    assert all(state in ("ok", "missing") for state, _ in status.values())
    assert any("mambapy is not installed" in note for note in tables[0].notes)
    assert tables[0].rows[0][tables[0].header.index("mambapy pscan")] == "missing"


def test_results_and_tables_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "backends", lambda device: ["auto"])
    lines: list[str] = []
    bench = OpsBench((ODD,), tuple(growth_shapes(5, 2, 16, 2)), ("scan",), plan=PLAN)
    results, tables = run(bench, lines.append)
    assert [table.title for table in tables] == [
        "selective scan, forward, ms",
        "selective scan, forward + backward, ms",
        "selective scan, forward, growth with L, ms (B=1 D=5 N=2)",
    ]
    assert tables[2].header == ("competitor", "L=8", "L=16", "slope")
    loop = [r for r in results if r["competitor"].startswith("sequential loop")]
    assert [(r["part"], r["mode"], r["length"]) for r in loop] == [
        ("shapes", "forward", 21),
        ("shapes", "forward + backward", 21),
        ("growth", "forward", 8),
        ("growth", "forward", 16),
    ]
    assert all(r["ms"]["rounds"] >= 1 and r["relative_error"] < 1e-4 for r in loop)
    assert lines[0] == "selective scan, forward, odd: B=2 D=5 N=3 L=21"


def rows(*seconds: float | None) -> list[Row]:
    names = ("dfmamba auto", "loop", "other")
    return [
        Row(name, "missing", name.startswith("dfmamba"), "away")
        if value is None
        else Row(name, "ok", name.startswith("dfmamba"), timing=Timing((value,)))
        for name, value in zip(names, seconds, strict=True)
    ]


def test_a_table_of_shapes_compares_with_the_best_other() -> None:
    table = shape_table("t", [(ODD, rows(0.001, 0.030, 0.004)), (ODD, rows(0.001, 0.030, None))])
    assert table.header == ("shape", "dfmamba auto", "loop", "other", "best other / auto")
    assert [row[-1] for row in table.rows] == ["4.00", "30.00"]
    assert table.notes == ("other: missing, away",)
    assert shape_table("t", [(ODD, rows(None, 0.03, 0.004))]).rows[0][-1] == "–"


def test_a_table_of_growth_gives_slopes() -> None:
    shapes = growth_shapes(5, 1, 64, 3)
    cases = [(shape, rows(1e-6 * shape.length, 1e-9 * shape.length**2, None)) for shape in shapes]
    assert [row[-1] for row in growth_table("t", cases).rows] == ["1.00", "2.00", "–"]


def test_slope() -> None:
    assert log_slope([(x, 3 * x**1.5) for x in (2, 4, 8, 32)]) == pytest.approx(1.5)
    for points in ([(1, 1)], [(2, 1), (2, 3)], [(1, 0), (2, 1)]):
        with pytest.raises(ValueError, match="slope"):
            log_slope(points)


def test_unknown_operators_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown operator 'fft'"):
        OpsBench((ODD,), operators=("fft",))
    assert math.isinf(relative_error([], [torch.ones(1)]))
