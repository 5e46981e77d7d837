"""The tribrid backbone: shapes, budgets, switches, gradients."""

from __future__ import annotations

import pytest
import torch

from dfmamba.backbones import BACKBONES, create_backbone, list_backbones
from dfmamba.backbones.dfmamba import DSSM, DeformableSampler, DSSMConfig
from dfmamba.layers import DropPath, LayerNorm2d
from dfmamba.models import count_macs, count_parameters


@pytest.mark.parametrize(
    ("name", "parameters", "macs"), [("dfmamba_tiny", 25e6, 4.9e9), ("dfmamba_nano", 2e6, 0.6e9)]
)
def test_budget(name: str, parameters: float, macs: float) -> None:
    model = create_backbone(name, features_only=True)
    assert count_parameters(model) <= parameters
    assert count_macs(model, (1, 3, 256, 256)) <= macs


def test_list_is_sorted_and_filters() -> None:
    assert list_backbones(baselines=False) == ["dfmamba_nano", "dfmamba_tiny"]
    assert list_backbones("*tiny", baselines=False) == ["dfmamba_tiny"]


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (33, 47), (100, 61)])
@pytest.mark.parametrize("chans", [1, 3, 4])
def test_features_have_the_announced_channels_and_strides(size: tuple[int, int], chans: int) -> None:
    model = create_backbone("dfmamba_test", features_only=True, in_chans=chans).eval()
    maps = model(torch.rand(2, chans, *size))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    for m, stride in zip(maps, model.feature_info.reduction(), strict=True):
        assert tuple(m.shape[2:]) == tuple(-(-s // stride) for s in size)
        assert torch.isfinite(m).all()


@pytest.mark.parametrize("indices", [(0,), (1, 2), (0, 3), (-1,), (0, 1, 2, 3)])
def test_out_indices_choose_maps(indices: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    full = create_backbone("dfmamba_test", features_only=True).eval()
    some = create_backbone("dfmamba_test", features_only=True, out_indices=indices).eval()
    missing, _ = some.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    x = torch.rand(1, 3, 64, 64)
    chosen = [full(x)[i] for i in indices]
    for a, b in zip(some(x), chosen, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = create_backbone(name, features_only=True, drop_path_rate=0.0).train()
    maps = model(torch.rand(2, 3, 64, 64))
    sum((m**2).mean() for m in maps).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize(
    "overrides",
    [
        {"deformable": False},
        {"num_anchors": 1},
        {"num_anchors": 4},
        {"num_anchors": 25},
        {"replaced": {"dssm": "mamba"}},
        {"replaced": {"dssm": "gated"}},
        {"replaced": {"gated": "dssm"}},
        {"replaced": {"conv": "gated"}},
        {"replaced": {"gated": "none"}},
        {"norm": "layer"},
        {"ffn_ratio": 0.0},
        {"expand": 2.0},
        {"scan": DSSMConfig(d_state=4, offset_groups=2, weights="static", residual=False)},
        {"scan": DSSMConfig(params_from="sampled", norm=False, reverse=True)},
    ],
    ids=str,
)
def test_every_switch_of_the_ablations_works(overrides: dict) -> None:
    torch.manual_seed(0)
    model = create_backbone("dfmamba_test", features_only=True, **overrides).train()
    maps = model(torch.rand(2, 3, 64, 64))
    sum((m**2).mean() for m in maps).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_deformable_off_equals_the_mamba_block() -> None:
    torch.manual_seed(0)
    a = create_backbone("dfmamba_test", deformable=False).eval()
    b = create_backbone("dfmamba_test", replaced={"dssm": "mamba"}).eval()
    b.load_state_dict(a.state_dict())
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(a(x), b(x))


def test_gradient_checkpointing_changes_nothing() -> None:
    torch.manual_seed(0)
    model = create_backbone("dfmamba_test", features_only=True).eval()
    x = torch.rand(2, 3, 64, 64)
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x)[-1].square().mean().backward()
        results.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_classifier_can_be_reset() -> None:
    model = create_backbone("dfmamba_test", num_classes=5).eval()
    x = torch.rand(2, 3, 64, 64)
    assert model(x).shape == (2, 5)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    assert isinstance(model.get_classifier(), torch.nn.Identity)


def test_state_space_parameters_do_not_decay() -> None:
    model = create_backbone("dfmamba_test")
    names = dict(model.named_parameters())
    kept = model.no_weight_decay() & set(names)
    assert any(name.endswith("A_log") for name in kept)
    assert any(name.endswith("dt_bias") for name in kept)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("weights", ["static", "dynamic"])
def test_dssm_starts_from_the_regular_grid(residual: bool, weights: str) -> None:
    """Without the residual the layer starts as the plain selective scan (dssm: b = 1 at the centre)."""
    torch.manual_seed(0)
    config = DSSMConfig(residual=residual, weights=weights, norm=False)
    layer = DSSM(8, config)
    plain = DSSM(8, DSSMConfig(deformable=False))
    plain.load_state_dict(layer.state_dict(), strict=False)
    x = torch.rand(2, 8, 5, 7)
    if residual:
        mean = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
        torch.testing.assert_close(layer.sampler(x), mean)
    else:
        torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("size", [(6, 6), (3, 10)])
def test_bounded_offsets_stay_near_and_keep_their_gradient(size: tuple[int, int]) -> None:
    """Even a branch that asks for offsets far outside reads the map with half of its tokens or more."""
    sampler = DeformableSampler(4, DSSMConfig(num_anchors=1, offset_reach=0.5))
    last = sampler.branch[-1]
    with torch.no_grad():
        last.bias[0] = 100.0
    x = torch.rand(2, 4, *size) + 0.5
    offsets, _ = sampler.fields(x)
    assert offsets[:, :, :, 0].abs().max() <= 0.5 * size[0] + 1e-5
    assert offsets[:, :, :, 1].abs().max() <= 0.5 * size[1] + 1e-5
    assert (sampler(x) > 0).any()
    unbounded = DeformableSampler(4, DSSMConfig(num_anchors=1, offset_reach=None))
    with torch.no_grad():
        unbounded.branch[-1].bias[0] = 100.0
    assert (unbounded(x) == 0).all()
    near = 1e-3 * torch.randn(1, 4, 3, 3)
    with torch.no_grad():
        last.bias[0] = 0.0
        unbounded.load_state_dict(sampler.state_dict())
    torch.testing.assert_close(sampler.fields(near)[0], unbounded.fields(near)[0])


def test_offsets_learn_from_the_first_step() -> None:
    torch.manual_seed(0)
    layer = DSSM(8, DSSMConfig())
    layer(torch.rand(2, 8, 6, 6)).square().sum().backward()
    last = layer.sampler.branch[-1]
    assert last.weight.grad[: 2 * 9].abs().sum() > 0
    assert layer.sampler.anchors.grad.abs().sum() > 0


def test_drop_path_keeps_the_mean_and_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 1, 1, 1)
    drop = DropPath(0.25)
    assert abs(float(drop(x).mean()) - 1) < 0.05
    torch.testing.assert_close(drop.eval()(x), x)
    with pytest.raises(ValueError, match="drop path"):
        DropPath(1.0)


def test_layer_norm_acts_on_channels() -> None:
    x = torch.rand(2, 6, 3, 5)
    y = LayerNorm2d(6)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_backbone("resnet"), "unknown backbone 'resnet'"),
        (lambda: create_backbone("dfmamba_nano", depth=3), "unknown backbone argument 'depth'"),
        (lambda: create_backbone("dfmamba_nano", replaced={"dssm": "swin"}), "unknown block 'swin'"),
        (lambda: create_backbone("dfmamba_nano", norm="group"), "unknown norm"),
        (lambda: create_backbone("dfmamba_nano", features_only=True, out_indices=(4,)), "out_indices"),
        (lambda: create_backbone("dfmamba_nano", features_only=True, num_classes=3), "no classifier"),
        (lambda: create_backbone("dfmamba_test")(torch.rand(1, 1, 64, 64)), "expected a picture"),
        (lambda: create_backbone("dfmamba_test")(torch.rand(1, 3, 16, 64)), "at least 32"),
        (lambda: DSSMConfig(weights="soft"), "weights must be one of"),
        (lambda: create_backbone("dfmamba_test", scan=DSSMConfig(offset_groups=3)), "offset groups"),
    ],
)
def test_misuse_is_explained(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_compiles_in_one_graph_with_gradients() -> None:
    torch.manual_seed(0)
    model, x = create_backbone("dfmamba_test", features_only=True), torch.randn(2, 3, 64, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    wanted, found = ([*maps] for maps in (model.eval()(x), compiled(x)))
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    gradients = [
        torch.autograd.grad(sum(m.square().sum() for m in maps), list(model.parameters()), allow_unused=True)
        for maps in (wanted, found)
    ]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
