"""timm's registry and calls: as registered, and alike to timm's own models."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dfmamba.backbones import BACKBONES, create_backbone, list_backbones

timm = pytest.importorskip("timm")

from timm.models import group_parameters  # noqa: E402
from timm.models._features import feature_take_indices  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402

from dfmamba.backbones import timm_models  # noqa: E402
from dfmamba.backbones.features import POOLS, GlobalPool, chosen_maps  # noqa: E402
from dfmamba.layers import DropPath  # noqa: E402

timm_models.register()

OURS = "dfmamba_nano"
PEER = "convnext_atto"
DIMS, SIDES = BACKBONES[OURS].dims, (16, 8, 4, 2)


def make(name: str = OURS, **kwargs) -> nn.Module:
    return timm.create_model(name, **kwargs).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return make(num_classes=7)


def test_registry_lists_every_backbone() -> None:
    assert timm.list_models("dfmamba*") == list_backbones(baselines=False)
    assert not timm.is_model("dfmamba_test")
    timm_models.register()
    for name in list_backbones(baselines=False):
        assert timm.model_entrypoint(name) is getattr(timm_models, name)


@pytest.mark.parametrize("name", list_backbones(baselines=False))
def test_configuration_names_real_modules_and_sizes(name: str) -> None:
    model = make(name)
    cfg = model.pretrained_cfg
    assert model.default_cfg["architecture"] == cfg["architecture"] == name
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert model.get_submodule(cfg["first_conv"]).in_channels == cfg["input_size"][0]
    assert cfg["num_classes"] == model.num_classes == model.get_classifier().out_features == 1000
    assert tuple(side // 32 for side in cfg["input_size"][1:]) == cfg["pool_size"]
    assert timm.data.resolve_data_config(model=model)["mean"] == (0.5, 0.5, 0.5)


def test_misuse_is_explained() -> None:
    with pytest.raises(ValueError, match="unknown backbone argument 'depth'"):
        make(depth=3)
    with pytest.raises(ValueError, match="'list', 'getter', 'hook' or 'fx', got 'dict'"):
        make(features_only=True, feature_cls="dict")
    with pytest.raises(RuntimeError, match=f"No pretrained weights exist for {OURS}"):
        make(pretrained=True)


def test_methods_take_the_arguments_of_timms(model: nn.Module) -> None:
    other = make(PEER, num_classes=7)
    for name, method in vars(type(other)).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            mine = inspect.signature(getattr(model, name)).parameters
            for key, parameter in inspect.signature(getattr(other, name)).parameters.items():
                assert key == "reset_other" or mine[key].default == parameter.default, (name, key)
    for attribute in ("num_classes", "in_chans", "drop_rate", "num_features", "head_hidden_size"):
        assert type(getattr(model, attribute)) is type(getattr(other, attribute)), attribute


def head_facts(name: str, x: Tensor, **kwargs) -> tuple:
    model = make(name, **kwargs)
    features = model.forward_features(x)
    pooled = model.forward_head(features, pre_logits=True)
    assert (features.shape[1], pooled.shape[1]) == (model.num_features, model.head_hidden_size)
    assert torch.equal(model.forward_head(features), model(x))
    scores = model(x).shape if model.num_classes else model(x).ndim
    return pooled.shape[1] // model.num_features, pooled.ndim, scores, type(model.get_classifier())


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("pool", list(POOLS))
def test_heads_behave_like_timms(pool: str, num_classes: int, x: Tensor) -> None:
    peer = "resnet18" if pool == "catavgmax" else PEER
    kwargs = {"global_pool": pool, "num_classes": num_classes}
    assert head_facts(OURS, x, **kwargs) == head_facts(peer, x, **kwargs)
    theirs = timm.layers.SelectAdaptivePool2d(pool_type=pool, flatten=bool(pool))
    torch.testing.assert_close(GlobalPool(pool)(x), theirs(x))


@pytest.mark.parametrize("call", [(0, None), (4, None), (4, ""), (4, "max"), (0, "")])
def test_reset_classifier_like_timms(call: tuple, x: Tensor) -> None:
    facts = []
    for name in (OURS, PEER):
        model = timm.create_model(name, num_classes=2).double()
        model.reset_classifier(*call)
        assert model.get_classifier().training
        y = model.eval()(x.double())
        facts.append((model.num_classes, y.dtype, tuple(y.shape) if call[0] else y.ndim))
    assert facts[0] == facts[1]


@pytest.mark.parametrize("indices", [None, 2, [2, 0], [1, 3]], ids=str)
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("only", [False, True])
def test_intermediates_like_timms(only: bool, early: bool, indices, model: nn.Module, x: Tensor) -> None:
    kwargs = {"stop_early": early, "intermediates_only": only}
    mine = model.forward_intermediates(x, indices, **kwargs)
    theirs = make(PEER).forward_intermediates(x, indices, **kwargs)
    assert type(mine) is type(theirs)
    if not only:
        assert mine[0].shape[2:] == theirs[0].shape[2:]
        assert mine[0].shape[3] > 3 or torch.equal(mine[0], model.forward_features(x))
        mine, theirs = mine[1], theirs[1]
    assert [m.shape[2:] for m in mine] == [m.shape[2:] for m in theirs]
    assert [m.shape[1] for m in mine] == [DIMS[SIDES.index(m.shape[2])] for m in mine]
    normed = model.forward_intermediates(x, indices, norm=True, intermediates_only=True)
    last = model.forward_features(x)
    assert torch.equal(normed[-1], mine[-1] if mine[-1].shape != last.shape else last)


@given(st.integers(1, 5), st.none() | st.integers(-2, 6) | st.lists(st.integers(-6, 6), max_size=4))
def test_indices_mean_what_they_mean_in_timm(count: int, indices) -> None:
    try:
        theirs = sorted(set(feature_take_indices(count, indices)[0]))
    except (AssertionError, ValueError):
        with pytest.raises(ValueError, match="indices"):
            chosen_maps(indices, count, "indices")
    else:
        assert chosen_maps(indices, count, "indices") == theirs


@pytest.mark.parametrize("indices", [2, [0, 1], (-2,)])
@pytest.mark.parametrize("options", [{}, {"prune_norm": True, "prune_head": False}], ids=str)
def test_pruning_like_timms(indices, options: dict, x: Tensor) -> None:
    facts = []
    for name in (OURS, PEER):
        model = make(name, num_classes=3)
        before = model.forward_intermediates(x, indices, intermediates_only=True)
        taken = model.prune_intermediate_layers(indices, **options)
        features, maps = model.forward_intermediates(x, taken, norm=bool(options))
        assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))
        assert model.num_features == features.shape[1] == model.feature_info[taken[-1]]["num_chs"]
        facts.append((taken, len(model.stages), model.num_classes, model(x).ndim))
        model.reset_classifier(6, "avg")
        assert model(x).shape == (2, 6)
    assert facts[0] == facts[1]


@pytest.mark.parametrize("feature_cls", [None, "list", "getter", "hook", "fx"])
@pytest.mark.parametrize("out_indices", [None, (0, -1), 2], ids=str)
def test_features_like_timms(out_indices, feature_cls: str | None, x: Tensor) -> None:
    kwargs = {"features_only": True, "out_indices": out_indices, "feature_cls": feature_cls, "in_chans": 1}
    mine, theirs = make(**kwargs, num_classes=5), make(PEER, **kwargs, num_classes=5)
    maps, others = mine(x[:, :1]), theirs(x[:, :1])
    assert type(maps) is type(others) is list
    assert [m.shape[2:] for m in maps] == [m.shape[2:] for m in others]
    assert mine.feature_info.channels() == [m.shape[1] for m in maps]
    for call in ("reduction", "module_name"):
        for idx in (None, 1, [0, 2]):
            assert getattr(mine.feature_info, call)(idx) == getattr(theirs.feature_info, call)(idx)
    assert mine.feature_info.get_dicts()[0].keys() == theirs.feature_info[0].keys()
    assert len(mine.feature_info) == len(theirs.feature_info) == 4
    assert not {"classifier", "num_classes"} & set(mine.pretrained_cfg)


def test_features_are_those_of_create_backbone(x: Tensor) -> None:
    models = []
    for build in (timm.create_model, create_backbone):
        torch.manual_seed(3)
        models.append(build(OURS, features_only=True, out_indices=(3, 1, 3), deformable=False).eval())
    assert set(models[0].state_dict()) == set(models[1].state_dict())
    assert all(torch.equal(a, b) for a, b in zip(models[0](x), models[1](x), strict=True))
    assert [m.shape[1] for m in models[0](x)] == models[0].feature_info.channels() == [DIMS[1], DIMS[3]]


def test_rates_and_placement_reach_the_model() -> None:
    model = timm.create_model(OURS, drop_rate=0.5, drop_path_rate=0.2, dtype=torch.float64)
    assert max(m.p for m in model.modules() if isinstance(m, DropPath)) == pytest.approx(0.2)
    ones = torch.ones(64, model.num_features, 1, 1, dtype=torch.float64)
    dropped = model.forward_head(ones, pre_logits=True)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert {p.device.type for p in timm.create_model(OURS, device="meta").parameters()} == {"meta"}


@pytest.mark.parametrize("coarse", [False, True])
def test_groups_go_from_input_to_output(coarse: bool) -> None:
    model = make(num_classes=3)
    layer = group_parameters(model, model.group_matcher(coarse), reverse=True)
    assert all((layer[name] == 0) == name.startswith("stem") for name in layer)
    depths = model.config.depths
    for i, depth in enumerate(depths):
        for j in range(depth):
            expected = 1 + (i if coarse else sum(depths[:i]) + j)
            prefixes = (f"stages.{i}.{j}.", f"downs.{i}.") if j == 0 else f"stages.{i}.{j}."
            assert {layer[name] for name in layer if name.startswith(prefixes)} == {expected}
    last = max(layer.values())
    assert layer["head.weight"] == layer["head.bias"] == last == 1 + (4 if coarse else sum(depths))
    assert layer["norm.weight"] == (last if coarse else last - 1)


def test_parameter_groups_of_timms_optimizers(x: Tensor) -> None:
    model = timm.create_model(OURS, num_classes=3)
    names = {id(p): name for name, p in model.named_parameters()}
    plain = create_optimizer_v2(model, "adamw", weight_decay=0.05)
    layered = create_optimizer_v2(model, "adamw", weight_decay=0.05, layer_decay=0.5)
    for groups in (plain.param_groups, layered.param_groups):
        assert sorted(names[id(p)] for g in groups for p in g["params"]) == sorted(names.values())
        free = {names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
        assert {n for n in names.values() if n.endswith(("A_log", "sampler.anchors", "bias"))} <= free
        assert "stages.2.0.mixer.in_proj.weight" not in free
    scale = {names[id(p)]: g["lr_scale"] for g in layered.param_groups for p in g["params"]}
    assert (scale["head.weight"], scale["norm.weight"], scale["stages.3.1.in_proj.weight"]) == (1, 0.5, 0.5)
    assert scale["stem.0.0.weight"] == pytest.approx(0.5 ** (1 + sum(model.config.depths)))
    before = model.head.weight.detach().clone()
    model(x).square().sum().backward()
    layered.step()
    assert not torch.equal(model.head.weight, before)


def test_weights_are_read_and_adapted(tmp_path: Path, model: nn.Module, x: Tensor) -> None:
    """timm changes channels and classes of weights by the names in the configuration."""
    path = str(tmp_path / "weights.pth")
    torch.save(model.state_dict(), path)
    assert torch.equal(make(num_classes=7, checkpoint_path=path)(x), model(x))
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        make(num_classes=8, checkpoint_path=path)
    kwargs = {"pretrained": True, "pretrained_cfg_overlay": {"file": path, "num_classes": 7}}
    assert torch.equal(make(**kwargs)(x), model(x))
    grey = make(**kwargs, in_chans=1, num_classes=3)
    expected = model.forward_features(x[:, :1].expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey.forward_features(x[:, :1]), expected, atol=1e-4, rtol=1e-4)
    maps = make(**kwargs, features_only=True, out_indices=(0, 3))(x)
    expected = model.forward_intermediates(x, [0, 3], norm=True, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))
