"""The C form of a model against the model: every variant that it takes, odd sizes, threads, copies."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfmamba.backbones import create_backbone
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.models.native import NativeFeatures, NativeNetwork, Unsupported
from dfmamba.ops import native

pytestmark = pytest.mark.skipif(not native.available(), reason="the C kernels are not built here")


def disturbed(name: str, head: dict[str, Any] | None = None, **backbone: Any) -> HandPoseModel:
    """A model without a part that does nothing: offsets that move, norms with statistics."""
    torch.manual_seed(0)
    config = MODELS[name]
    config = replace(config, backbone_args=backbone, head=replace(config.head, **(head or {})))
    model = HandPoseModel(config).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.5, 2.0)
            if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(std=0.1)
        for parameter_name, parameter in model.named_parameters():
            if "sampler" in parameter_name and "anchors" not in parameter_name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if "votes" in parameter_name or "head.out" in parameter_name:
                parameter.normal_(std=0.1)
    return model


def parts(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [output.joints_25d, output.joint_logits, output.present_logits, output.layers[0].anchors_25d]


def compare(model: HandPoseModel, x: Tensor) -> None:
    with torch.inference_mode():
        wanted, found = parts(model(x)), parts(NativeNetwork(model)(x))
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


SCANS: dict[str, dict[str, Any]] = {
    "default": {},
    "unbounded": {"offset_reach": None, "offset_gain": 0.5},
    "gain": {"offset_gain": 0.1},
    "modulated": {"weights": "modulated", "offset_groups": 2},
    "published": {"weights": "static", "residual": False, "norm": False, "offset_reach": None},
    "static residual": {"weights": "static", "norm": False},
    "sampled": {"params_from": "sampled", "d_state": 3},
    "plain": {"deformable": False, "d_state": 2},
}


@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS)
def test_every_scan_gives_what_pytorch_gives(scan: dict[str, Any]) -> None:
    compare(disturbed("test", scan=scan), torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    "backbone",
    [
        {"dims": (12, 20, 40, 52), "stem_dim": 7, "expand": 1.5, "ffn_ratio": 0.0, "gated_expand": 2.0},
        {"mixer_norm": "batch", "gated_kernel": 5, "ffn_ratio": 2.0},
        {"dims": (8, 24, 80, 96), "gated_kernel": 7, "gated_expand": 1.0},
        {"replaced": {"gated": "mamba", "conv": "gated"}},
    ],
    ids=["odd", "batch", "wide", "blocks"],
)
@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
def test_every_network_gives_what_pytorch_gives(backbone: dict[str, Any], level: str) -> None:
    model = disturbed("test", head={"image_size": 72, "dim": 20}, **backbone)
    try:
        native.instruction_set(level)
        compare(model, torch.rand(1, 3, 72, 72))
    finally:
        native.instruction_set()


@pytest.mark.parametrize("name", ["nano", "test_detector"])
def test_the_models_of_the_package_give_what_pytorch_gives(name: str) -> None:
    model = disturbed(name)
    compare(model, torch.rand(2, 3, model.config.image_size, model.config.image_size))


def test_crops_are_computed_side_by_side_whatever_their_memory_order() -> None:
    model = disturbed("test")
    x = torch.rand(5, 64, 64, 3).permute(0, 3, 1, 2)
    alone, together = NativeNetwork(model), NativeNetwork(model, threads=3)
    wanted = torch.cat([alone(crop[None]).joints_25d for crop in x.contiguous()])
    for _ in range(3):
        assert torch.equal(together(x).joints_25d, wanted)
    assert together(x[:0]).joints_25d.shape == (0, 2, 21, 3)


def test_a_team_gives_what_one_thread_gives() -> None:
    model, x = disturbed("test"), torch.rand(2, 3, 64, 64)
    wanted = NativeNetwork(model)(x).joints_25d
    assert torch.equal(NativeNetwork(model, team=3)(x).joints_25d, wanted)


def test_a_backbone_alone_gives_its_maps() -> None:
    x = torch.rand(2, 3, 70, 97)
    model = disturbed("test").backbone
    for one, other in zip(NativeFeatures(model, (70, 97), team=2)(x), model(x), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    classifier = create_backbone("dfmamba_test").eval()
    (last,) = NativeFeatures(classifier, (70, 97))(x)
    assert torch.allclose(last, classifier.forward_features(x), atol=1e-4)


def test_a_copy_computes_in_memory_of_its_own() -> None:
    network, x = NativeNetwork(disturbed("test")), torch.rand(2, 3, 64, 64)
    wanted = network(x).joints_25d
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x).joints_25d, wanted)
        other(torch.zeros_like(x))
    assert torch.equal(network(x).joints_25d, wanted)


def test_what_is_not_written_in_c_is_refused() -> None:
    config = MODELS["test"]
    transformer = replace(config.head, num_layers=1, dim=32, heads=2, ffn=32)
    for other in (
        replace(config, backbone="vmamba_nano"),
        replace(config, head=transformer),
        replace(config, backbone_args={"replaced": {"gated": "vim"}}),
        replace(config, backbone_args={"scan": {"directions": 2}}),
        replace(config, backbone_args={"norm": "layer"}),
        replace(config, out_indices=(0, 1), head=replace(config.head, anchor_stride=8)),
    ):
        with pytest.raises(Unsupported, match="in C"):
            NativeNetwork(HandPoseModel(other))
    network = NativeNetwork(HandPoseModel(config))
    with pytest.raises(ValueError, match=r"expected crops \(B, 3, 64, 64\), got \(1, 3, 32, 32\)"):
        network(torch.zeros(1, 3, 32, 32))
