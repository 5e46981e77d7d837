"""Backbones in their forms: what is built, which form wins, what the table says."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

from dfmamba.bench import backbones
from dfmamba.bench import networks as bench_networks
from dfmamba.bench.backbones import BackboneBench, Case, backbone_table, run
from dfmamba.bench.contest import Plan, Row, Timing
from dfmamba.bench.memory import peak_bytes
from dfmamba.bench.networks import (
    Features,
    Network,
    Ring,
    Variant,
    build,
    call_of,
    folded,
    gathered,
    networks,
    variants,
)

PLAN = Plan(rounds=2, fewest=1, warmup=0, sample_seconds=0.0)
OURS = Network("ours", "dfmamba_test")
PEER = Network("peer", "test_resnet")
X = torch.rand(2, 3, 40, 33, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def quick_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_networks, "PROBE", PLAN)


def test_transformers_are_told_the_size_and_windows_that_fit() -> None:
    found = networks(("vit_small_patch16_224", "swin_tiny_patch4_window7_224", "resnet50"), 256)
    assert [(n.label, dict(n.arguments)) for n in found] == [
        ("vit_small_patch16_224", {"img_size": 256}),
        ("swin_tiny_patch4_window7_224, window 8", {"img_size": 256, "window_size": 8}),
        ("swin_tiny_patch4_window7_224, window 7 (pads)", {"img_size": 256, "window_size": 7}),
        ("resnet50", {}),
    ]
    assert len(networks(("swin_tiny_patch4_window7_224",), 224)) == 1


def test_networks_are_built_alike_and_with_work_to_do() -> None:
    first, second = build(OURS), build(OURS)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    norms = [m for m in first.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(float(m.running_var.std()) > 0 for m in norms)  # type: ignore[union-attr]
    offsets = [m.branch[-1].weight for m in first.modules() if type(m).__name__ == "DeformableSampler"]
    assert offsets
    assert all(float(w.detach().abs().max()) > 0 for w in offsets)


def test_unknown_names_are_an_error() -> None:
    with pytest.raises(ValueError, match="neither a backbone of dfmamba nor of timm"):
        build(Network("x", "no_such_network"))


@pytest.mark.parametrize("network", [OURS, PEER], ids=["ours", "peer"])
@pytest.mark.parametrize("form", ["eager", "channels_last", "best"])
def test_forms_give_the_same_features(network: Network, form: str) -> None:
    model = build(network)
    with torch.no_grad():
        expected = model(X)
    for variant in variants(model, form, train=False):
        (found,) = call_of(variant, X, train=False)()
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_folding_takes_batch_norm_out_of_peers() -> None:
    model = build(PEER)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded(model).modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_our_own_fuse_is_used() -> None:
    model = build(OURS)
    replacement = build(Network("x", "dfmamba_test", {"drop_path_rate": 0.5})).model
    model.model.fuse = lambda: replacement
    found = folded(model)
    assert isinstance(found, Features)
    assert found.model is replacement


def test_training_calls_give_gradients_of_all_parameters_in_use() -> None:
    model = build(OURS)
    result = call_of(variants(model, "eager", train=True)[0], X, train=True)()
    assert model.training
    used = [g for g in result[1:] if g is not None]
    assert len(used) > 10
    features, gradients = gathered(result)
    assert gradients.numel() == sum(g.numel() for g in used)
    assert features.requires_grad is False


def test_unknown_forms_are_an_error() -> None:
    with pytest.raises(ValueError, match="unknown form 'fast'"):
        variants(build(OURS), "fast", train=False)
    with pytest.raises(ValueError, match="unknown form 'fast'"):
        BackboneBench(forms=("fast",))
    for changes in ({"size": 16}, {"batches": (0,)}, {"names": ()}):
        with pytest.raises(ValueError, match="expected backbones"):
            BackboneBench(**changes)


class Plus(nn.Module):
    """Adds a number."""

    def __init__(self, number: float = 1.0) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


def variant(how: str, number: float = 1.0) -> Variant:
    module = Plus(number)
    return Variant(how, module, module)


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that contests find for each competitor that is right."""
    seconds: dict[str, float] = {}

    def judged(entrants, tolerance, plan, synchronize=None) -> list[Row]:
        found = forms_contest(entrants, tolerance, plan)
        return [
            row if row.timing is None else dataclasses.replace(row, timing=Timing((seconds[row.name],)))
            for row in found
        ]

    forms_contest = bench_networks.contest
    monkeypatch.setattr(bench_networks, "contest", judged)
    return seconds


def test_the_fastest_right_candidate_is_the_best_form(
    monkeypatch: pytest.MonkeyPatch, stopwatch: dict[str, float]
) -> None:
    ring = Ring(X, False, [X + 1], True, 1e-3)
    candidates = [variant("slow"), variant("quick"), variant("wrong", 2.0)]
    twin = "quick, compiled with frozen weights"
    stopwatch.update({"slow": 3.0, "quick": 2.0, twin: 1.0})
    assert ring.fastest("x, best", candidates, compiler=False).note == "quick"

    monkeypatch.setattr(bench_networks, "compiled", lambda module, freeze: Plus())
    assert ring.fastest("x, best", candidates, compiler=True).note == twin
    stopwatch[twin] = 2.5
    assert ring.fastest("x, best", candidates, compiler=True).note == "quick"
    monkeypatch.setattr(bench_networks, "compiled", lambda module, freeze: Plus(2.0))
    entrant = ring.fastest("x, best", candidates, compiler=True)
    assert entrant.note.startswith("quick (compiled: wrong, differs")
    assert entrant.error(entrant.run()) == 0.0


def test_where_no_candidate_is_right_the_first_one_shows_why() -> None:
    entrant = Ring(X, False, [X], True, 1e-3).fastest("x", [variant("off")], compiler=False)
    assert entrant.note == "off"
    assert entrant.error(entrant.run()) > 0.5


def timed(name: str, seconds: float, ours: bool = False) -> Row:
    return Row(name, "ok", ours, "as built", 0.0, Timing((seconds,)))


def test_the_table_compares_with_the_same_and_the_best_form_of_the_baseline() -> None:
    cases = [
        Case("ours", "eager", 2_000_000, 3_000_000_000, 5_000_000),
        Case("resnet50", "eager", 1, 1, None),
        Case("resnet50", "best", 1, 1, None),
        Case("gone"),
    ]
    rows = [timed("a", 0.3), timed("b", 0.2), timed("c", 0.1), Row("gone", "missing", note="no timm")]
    table = backbone_table("t", 4, cases, rows, "resnet50")
    assert [row[2:9] for row in table.rows] == [
        ("300 ± 0", "13.3", "1.50", "3.00", "2.00", "3.00", "5"),
        ("200 ± 0", "20.0", "1.00", "2.00", "0.00", "0.00", "–"),
        ("100 ± 0", "40.0", "1.00", "1.00", "0.00", "0.00", "–"),
        ("missing", "–", "–", "–", "–", "–", "–"),
    ]
    assert table.notes == ("gone: missing, no timm",)
    assert backbone_table("t", 4, cases[:1], rows[:1], "resnet50").rows[0][4:6] == ("–", "–")


def test_a_run_without_timm_still_measures_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else real(name))
    asked: list[dict] = []
    monkeypatch.setattr(backbones, "peak_bytes", lambda request: asked.append(dict(request)) or 7_000_000)
    bench = BackboneBench(
        ("dfmamba_test", "resnet50"),
        40,
        (1,),
        True,
        ("eager", "channels_last"),
        baseline="dfmamba_test",
        plan=PLAN,
    )
    results, tables = run(bench)
    assert [(r["mode"], r["backbone"], r["form"], r["status"]) for r in results] == [
        (mode, name, form, status)
        for mode in ("forward", "forward + backward")
        for name, form, status in (
            ("dfmamba_test", "eager", "ok"),
            ("dfmamba_test", "channels_last", "ok"),
            ("resnet50", "–", "missing"),
        )
    ]
    assert results[0]["ratio_same_form"] == 1.0
    assert results[0]["peak_bytes"] == 7_000_000
    assert results[0]["parameters"] == 12574
    assert [(a["train"], a["channels_last"]) for a in asked] == [
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    assert "dfmamba[bench]" in tables[0].notes[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of resident memory is Linux's")
def test_peak_memory_holds_the_first_map_but_not_the_process() -> None:
    request = {"name": "dfmamba_test", "arguments": {}, "size": 256, "batch": 16, "threads": 1}
    found = peak_bytes({**request, "device": "cpu", "train": False, "channels_last": False})
    assert found is not None
    first_map = 16 * 4 * 128 * 128 * 4
    assert first_map < found < 20 * first_map


@pytest.mark.parametrize("printed", ["", "no number"])
def test_peak_memory_that_cannot_be_measured_is_none(monkeypatch: pytest.MonkeyPatch, printed: str) -> None:
    def answer(command, **options) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess(command, 0, stdout=printed)

    monkeypatch.setattr(subprocess, "run", answer)
    assert peak_bytes({"name": "dfmamba_test"}) is None

    def fail(command, **options) -> subprocess.CompletedProcess:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fail)
    assert peak_bytes({"name": "dfmamba_test"}) is None


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        BackboneBench().size = 64  # type: ignore[misc]
