"""timm's networks behind our interface."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from dfmamba.backbones import backbone_config, create_backbone, list_backbones
from dfmamba.backbones.baselines import BASELINES, Baseline, load_baseline_weights
from dfmamba.layers import LayerNorm2d
from dfmamba.models import ModelConfig, count_parameters

NAMES = tuple(BASELINES)
CHANNELS = {
    "resnet50": [256, 512, 1024, 2048],
    "convnext_tiny": [96, 192, 384, 768],
    "vit_small": [96, 192, 384, 384],
    "swin_tiny": [96, 192, 384, 768],
}


def build(name: str, **arguments: object) -> Baseline:
    model = create_backbone(name, features_only=True, **arguments)  # type: ignore[arg-type]
    assert isinstance(model, Baseline)
    return model.eval()


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> tuple[str, Baseline]:
    torch.manual_seed(0)
    return request.param, build(request.param)


def test_list_has_ours_first() -> None:
    names = list_backbones()
    assert names[-len(NAMES) :] == list(NAMES)
    assert names[:2] == list_backbones(baselines=False) == ["dfmamba_nano", "dfmamba_tiny"]
    peers = ["vmamba_tiny", "spatial_mamba_tiny"]
    assert list_backbones("*tiny") == ["dfmamba_tiny", *peers, "convnext_tiny", "swin_tiny"]


@pytest.mark.parametrize("size", [(128, 128), (176, 176), (64, 47)])
@torch.no_grad()
def test_maps_of_any_size(network: tuple[str, Baseline], size: tuple[int, int]) -> None:
    name, model = network
    maps = model(torch.rand(1, 3, *size))
    assert model.feature_info.channels() == [m.shape[1] for m in maps] == CHANNELS[name]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    for picture, stride in zip(maps, (4, 8, 16, 32), strict=True):
        assert tuple(picture.shape[2:]) == tuple(-(-side // 32) * 32 // stride for side in size)
        assert torch.isfinite(picture).all()


@torch.no_grad()
def test_padding_is_at_the_right_and_the_bottom(network: tuple[str, Baseline]) -> None:
    _, model = network
    picture = torch.rand(1, 3, 40, 64)
    padded = torch.zeros(1, 3, 64, 64)
    padded[:, :, :40] = picture
    for ours, theirs in zip(model(picture), model(padded), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@torch.no_grad()
def test_chosen_maps_are_those_of_the_whole(network: tuple[str, Baseline]) -> None:
    name, full = network
    some = build(name, out_indices=(1, 2))
    assert some.feature_info.channels() == CHANNELS[name][1:3]
    assert some.feature_info.reduction() == [8, 16]
    missing, _ = some.body.load_state_dict(full.body.state_dict(), strict=False)
    assert not missing
    for added in ("norms", "levels"):
        if hasattr(full, added):
            setattr(some, added, getattr(full, added)[1:3])
    picture = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(some(picture), full(picture)[1:3], strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("chans", [1, 4])
@pytest.mark.parametrize("name", ["resnet50", "swin_tiny"])
@torch.no_grad()
def test_other_channels(name: str, chans: int) -> None:
    model = build(name, in_chans=chans, out_indices=(0,))
    assert model(torch.rand(1, chans, 32, 32))[0].shape == (1, CHANNELS[name][0], 8, 8)
    with pytest.raises(ValueError, match=rf"expected a picture \(B, {chans}, H, W\)"):
        model(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match="at least 32"):
        model(torch.rand(1, chans, 31, 40))


@pytest.mark.parametrize("name", NAMES)
def test_all_parameters_are_used(name: str) -> None:
    torch.manual_seed(0)
    model = create_backbone(name, features_only=True, out_indices=(1, 2, 3)).train()
    sum((m**2).mean() for m in model(torch.rand(2, 3, 64, 64))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_parameters() -> None:
    """timm's counts less the classifier; the norms of maps and the simple pyramid come on top."""
    with torch.device("meta"):
        counts = {name: count_parameters(create_backbone(name, features_only=True)) for name in NAMES}
        pyramid = build("vit_small").levels
        three = build("vit_small", out_indices=(1, 2, 3))
    norms = 2 * (96 + 192 + 384 + 768)
    assert counts["resnet50"] == 23_508_032
    assert counts["convnext_tiny"] == 27_818_592 + norms
    assert counts["swin_tiny"] == 27_517_818 + norms
    assert counts["vit_small"] == 21_665_664 + count_parameters(pyramid)
    assert count_parameters(three.levels) == 384 * 192 * 4 + 192


def test_no_weight_decay_names_parameters(network: tuple[str, Baseline]) -> None:
    name, model = network
    named = dict(model.named_parameters())
    kept = model.no_weight_decay()
    assert kept <= set(named)
    expected = {"vit_small": "body.pos_embed", "swin_tiny": "relative_position_bias_table"}
    assert bool(kept) == (name in expected)
    assert all(expected[name] in key or key == "body.cls_token" for key in kept)


def test_dilated_resnet() -> None:
    with torch.device("meta"):
        model = build("resnet50", output_stride=16)
        maps = model(torch.rand(1, 3, 64, 96))
    assert model.feature_info.reduction() == [4, 8, 16, 16]
    assert [tuple(m.shape[1:]) for m in maps[2:]] == [(1024, 4, 6), (2048, 4, 6)]


def test_frozen_resnet() -> None:
    model = build("resnet50", frozen_norm=True, frozen_stages=2)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"conv1", "layer1"}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(".bn" in name or "downsample.1" in name for name, _ in model.named_parameters())
    before = {name: value.clone() for name, value in model.named_buffers()}
    model.train()
    sum(m.sum() for m in model(torch.rand(2, 3, 32, 32))).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
    assert all((p.grad is None) == (name in frozen) for name, p in model.named_parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet50", {"output_stride": 8}, "output_stride must be 16 or 32"),
        ("resnet50", {"frozen_stages": 6}, "frozen_stages"),
        ("resnet50", {"num_anchors": 3}, "unknown backbone argument 'num_anchors'"),
        ("swin_tiny", {"output_stride": 16}, "unknown backbone argument 'output_stride'"),
        ("vit_small", {"in_chans": 0}, "in_chans"),
        ("vit_small", {"drop_path_rate": 1.0}, "drop_path_rate"),
        ("vit_small", {"timm_name": "resnet18"}, "unknown backbone argument 'timm_name'"),
        ("resnet18", {}, "unknown backbone 'resnet18'; known: dfmamba_nano"),
    ],
)
def test_bad_arguments_are_refused(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone_config(name, **arguments)


def test_classifiers_are_left_to_timm() -> None:
    with pytest.raises(ValueError, match="features_only=True"):
        create_backbone("resnet50")
    with pytest.raises(ValueError, match="out_indices must lie in"):
        create_backbone("resnet50", features_only=True, out_indices=(4,))


def test_configurations_need_no_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in NAMES:
        assert ModelConfig(name="any", backbone=name).backbone == name
    with pytest.raises(ImportError, match=r"dfmamba\[baselines\]"):
        create_backbone("resnet50", features_only=True)


def timm_weights(name: str, path: Path, **arguments: object) -> dict[str, Tensor]:
    import timm

    torch.manual_seed(7)
    state = timm.create_model(BASELINES[name].timm_name, num_classes=10, **arguments).state_dict()
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path)
    return state


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_tiny"])
def test_weights_of_timm_files_are_taken(name: str, tmp_path: Path) -> None:
    state = timm_weights(name, tmp_path / "weights.safetensors")
    model = build(name, out_indices=(1, 2))
    load_baseline_weights(model, tmp_path / "weights.safetensors")
    own = model.body.state_dict()
    assert len(own) > 50
    for key, value in own.items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


def test_weights_fit_other_channels_grids_and_frozen_norms(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = timm_weights("resnet50", path)
    for chans, expected in (
        (1, state["conv1.weight"].sum(1, keepdim=True)),
        (4, state["conv1.weight"][:, [0, 1, 2, 0]] * 0.75),
    ):
        model = build("resnet50", in_chans=chans, frozen_norm=True, out_indices=(0,))
        load_baseline_weights(model, path)
        torch.testing.assert_close(model.body.conv1.weight, expected)
        torch.testing.assert_close(model.body.bn1.running_var, state["bn1.running_var"])
    state = timm_weights("vit_small", path, img_size=128)
    vit = build("vit_small", out_indices=(2,))
    load_baseline_weights(vit, path)
    code, small = vit.body.pos_embed, state["pos_embed"]
    assert code.shape[1] == 14 * 14 + 1 != small.shape[1]
    torch.testing.assert_close(code[:, 0], small[:, 0])
    torch.testing.assert_close(code[:, 1:].mean(), small[:, 1:].mean(), rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def stem() -> Baseline:
    return build("resnet50", out_indices=(0,))


def test_unusable_weights_are_refused(stem: Baseline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_baseline_weights(stem, tmp_path / "absent.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(3)}, other)
    with pytest.raises(ValueError, match=r"other\.safetensors: weights of another network than resnet50"):
        load_baseline_weights(stem, other)
    broken = {k: v.clone() for k, v in stem.body.state_dict().items()}
    broken["bn1.weight"][0] = float("nan")
    save_file(broken, other)
    with pytest.raises(ValueError, match=r"bn1\.weight holds values that are not finite"):
        load_baseline_weights(stem, other)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_mutated_files_of_weights(
    data: st.DataObject, stem: Baseline, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    save_file({"conv1.weight": torch.zeros(4, 3, 7, 7), "bn1.weight": torch.ones(4)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(300, len(content)) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with pytest.raises((ValueError, OSError), match=r"mutated\.safetensors"):
        load_baseline_weights(stem, path)


def test_maps_of_transformers_are_normed() -> None:
    with torch.device("meta"):
        swin = build("swin_tiny", out_indices=(1, 3))
    assert [type(norm) for norm in swin.norms] == [LayerNorm2d] * 2
    assert [norm.normalized_shape for norm in swin.norms] == [(192,), (768,)]


def test_the_body_can_have_another_size() -> None:
    small = build("convnext_tiny", body={"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)})
    assert small.feature_info.channels() == [8, 16, 24, 32]
    config = ModelConfig(
        "small", "convnext_tiny", {"body": {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}}
    )
    assert ModelConfig.from_dict(config.to_dict()).backbone_args["body"]["dims"] is not None


def test_an_unknown_argument_of_the_body_is_an_error() -> None:
    with pytest.raises(TypeError, match="dimms"):
        build("convnext_tiny", body={"dimms": (8, 16, 24, 32)})
