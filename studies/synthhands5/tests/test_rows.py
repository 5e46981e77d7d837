"""Rows cost what the comparison says, and each ablation is another network."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from dfmamba.models import HandPoseModel, count_macs, count_parameters
from studies.synthhands5.rows import (
    ABLATIONS,
    FAMILIES,
    MACS,
    PARAMETERS,
    REFERENCE,
    ROWS,
    TOLERANCE,
    find_row,
)
from studies.synthhands5.training import HEAD, model_config

TIMM = ("resnet", "convnext", "vit", "swin")
SHAPE = (1, 3, HEAD.image_size, HEAD.image_size)


def build(name: str) -> HandPoseModel:
    if name in TIMM:
        pytest.importorskip("timm", reason="timm is missing: pip install 'dfmamba[baselines]'")
    row = find_row(name)
    torch.manual_seed(0)
    return HandPoseModel(model_config(name, row.backbone, row.args)).eval()


@functools.cache
def cost(name: str) -> tuple[int, int]:
    model = build(name)
    return count_parameters(model), count_macs(model, SHAPE, scans=True)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_within_the_budget(name: str) -> None:
    """Those that change one part of DF-Mamba, too, so that no ablation is a matter of size."""
    parameters, macs = cost(name)
    assert abs(parameters / PARAMETERS - 1) <= TOLERANCE
    assert abs(macs / MACS - 1) <= TOLERANCE
    reference = cost(REFERENCE)
    assert abs(parameters / reference[0] - 1) <= TOLERANCE
    assert abs(macs / reference[1] - 1) <= TOLERANCE


def test_names_and_titles_are_unique() -> None:
    assert len(ROWS) == len(FAMILIES) + len(ABLATIONS)
    assert len({row.title for row in ROWS.values()}) == len(ROWS)
    assert all(name == row.name and name.replace("_", "").isalnum() for name, row in ROWS.items())
    assert REFERENCE in FAMILIES


def test_the_families_of_the_paper_are_there() -> None:
    assert set(FAMILIES) == {REFERENCE, "mamba", "vim", *TIMM, "vmamba", "spatial_mamba"}


def test_all_families_give_the_head_the_same_maps() -> None:
    sizes = {}
    for name in FAMILIES:
        backbone = build(name).backbone
        with torch.no_grad():
            sizes[name] = [tuple(level.shape[-2:]) for level in backbone(torch.zeros(SHAPE))]
    assert set(map(tuple, sizes.values())) == {((12, 12), (6, 6), (3, 3))}


@functools.cache
def strong_weights() -> dict[str, torch.Tensor]:
    """Weights of the reference with noise, so that offsets and scans matter as they do after training."""
    generator = torch.Generator().manual_seed(1)
    state = build(REFERENCE).state_dict()
    for name, value in state.items():
        if value.is_floating_point() and not name.endswith("running_var"):
            state[name] = value + 0.1 * torch.randn(value.shape, generator=generator)
    return state


@functools.cache
def outputs(name: str) -> torch.Tensor:
    model = build(name)
    model.load_state_dict(strong_weights())
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(x).joints_25d


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_another_network(name: str) -> None:
    """It has other weights than DF-Mamba, or makes other joints of the same weights."""
    shapes = {key: value.shape for key, value in build(name).state_dict().items()}
    if shapes != {key: value.shape for key, value in strong_weights().items()}:
        return
    assert outputs(name).isfinite().all()
    assert (outputs(name) - outputs(REFERENCE)).abs().max() > 1e-3


def test_ablations_cost_what_they_change() -> None:
    parameters, macs = ({name: cost(name)[i] for name in (*ABLATIONS, REFERENCE)} for i in (0, 1))
    for costs in (parameters, macs):
        assert costs["k1"] < costs["k4"] < costs[REFERENCE] < costs["k16"] < costs["k25"]
        assert costs["off"] < costs["k1"]
        assert costs[REFERENCE] < costs["states4"] < costs["states16"]
        assert costs["static"] < costs[REFERENCE] < costs["groups4"]
    for name in ("plain_sum", "unbounded", "params_sampled", "directions2", "directions4"):
        assert parameters[name] == parameters[REFERENCE]


def test_ablations_change_what_they_say() -> None:
    """Rows that aren't resized to the budget keep everything else of DF-Mamba."""
    base = dict(ROWS[REFERENCE].args)
    for row in ABLATIONS.values():
        kept = {key: value for key, value in row.args.items() if key in base}
        assert row.backbone == ROWS[REFERENCE].backbone
        if row.about != "budget matched":
            assert kept == base
            assert len(row.args) == len(base) + 1


def test_unknown_row_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown row 'dfmamba2'; known: dfmamba, mamba, "):
        find_row("dfmamba2")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_page_has_the_costs(name: str) -> None:
    parameters, macs = cost(name)
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert f"| {parameters / 1e3:.0f} k | {macs / 1e6:.1f} M |" in line
