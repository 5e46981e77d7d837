"""Backbones as programs use them: empty batches, other precisions, without memory, traced, configured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dfmamba.backbones import BACKBONES, DSSMConfig, backbone_config, create_backbone
from dfmamba.backbones.dfmamba import BLOCKS, DSSM
from dfmamba.layers import fuse
from dfmamba.ops import use_backend

NAMES = ["dfmamba_test", "vmamba_nano", "spatial_mamba_nano"]


def features(name: str, **overrides: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, features_only=True, **overrides).eval()


@pytest.mark.parametrize("name", [*NAMES, "resnet50"])
def test_a_batch_of_none_gives_maps_of_none(name: str) -> None:
    if name == "resnet50":
        pytest.importorskip("timm")
    model = features(name)
    wanted = [tuple(m.shape[1:]) for m in model(torch.zeros(1, 3, 64, 96))]
    maps = model(torch.zeros(0, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(0, *shape) for shape in wanted]
    sum(m.sum() for m in maps).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", [*NAMES, "dfmamba_tiny"])
def test_it_is_built_and_run_without_memory(name: str) -> None:
    with torch.device("meta"):
        model = features(name)
        maps = model(torch.zeros(2, 3, 64, 64))
    assert all(p.is_meta for p in model.parameters())
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_it_runs_in_other_precisions(name: str, dtype: torch.dtype) -> None:
    model, x = features(name), torch.rand(1, 3, 64, 64)
    wanted = model(x)
    found = model.to(dtype)(x.to(dtype))
    tolerance = 1e-4 if dtype == torch.float64 else 0.15
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert (one.float() - other).abs().max() <= tolerance * other.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_torch_fx_traces_it(name: str) -> None:
    model, x = features(name), torch.rand(2, 3, 64, 64)
    traced = torch.fx.symbolic_trace(model)
    for one, other in zip(traced(x), model(x), strict=True):
        assert torch.equal(one, other)


def test_the_scan_is_configured_in_one_place() -> None:
    wide = BACKBONES["dfmamba_test"].with_overrides(scan=DSSMConfig(num_anchors=25, deformable=False))
    assert (wide.scan.num_anchors, wide.scan.deformable) == (25, False)
    assert wide.with_overrides(num_anchors=1, deformable=True).scan == DSSMConfig(num_anchors=1)
    assert backbone_config("dfmamba_test", num_anchors=4).scan.num_anchors == 4
    model = create_backbone("dfmamba_test", scan=DSSMConfig(num_anchors=25))
    assert [m.num_anchors for m in model.modules() if hasattr(m, "num_anchors")] == [25, 25]
    for short in ({"num_anchors": 4}, {"deformable": True}):
        with pytest.raises(ValueError, match=f"{next(iter(short))}=.* contradicts scan"):
            BACKBONES["dfmamba_test"].with_overrides(scan=wide.scan, **short)


def test_a_block_is_an_entry_of_the_table_and_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Double(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    config = BACKBONES["dfmamba_test"]
    with pytest.raises(ValueError, match="unknown block 'double'; known: conv, gated"):
        replace(config, stages=(("double",), ("conv",), ("conv",), ("conv",)))
    monkeypatch.setitem(BLOCKS, "double", lambda dim, rate, config: Double())
    built = create_backbone("dfmamba_test", replaced={"gated": "double"})
    assert [type(block).__name__ for block in built.stages[2]] == ["MixerBlock", "Double"]


def test_the_published_equations_start_as_the_plain_scan_and_are_one_operator() -> None:
    torch.manual_seed(0)
    config = DSSMConfig.as_published(d_state=2)
    assert (config.weights, config.residual, config.norm, config.offset_reach) == (
        "static",
        False,
        False,
        None,
    )
    layer, x = DSSM(8, config), torch.randn(2, 8, 5, 7)
    plain = DSSM(8, DSSMConfig(d_state=2, deformable=False))
    plain.load_state_dict({n: v for n, v in layer.state_dict().items() if not n.startswith("sampler")})
    assert torch.allclose(layer(x), plain(x), atol=1e-6)

    for part in layer.sampler.parameters():  # type: ignore[union-attr]
        nn.init.normal_(part, std=0.5)
    with use_backend("reference"):
        wanted = layer(x)
    assert not torch.allclose(wanted, plain(x), atol=0.1)
    assert torch.allclose(layer(x), wanted, atol=1e-5)
    assert torch.allclose(fuse(layer)(x), wanted, atol=1e-5)
