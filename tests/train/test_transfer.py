"""Loading a backbone alone: our folders, files with wrappers' prefixes and timm's names, other channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dfmamba.backbones import create_backbone
from dfmamba.backbones.baselines import ResNetConfig, create_baseline
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.train.config import TrainConfig
from dfmamba.train.engine import start_model
from dfmamba.train.pool import PoseTask
from dfmamba.train.transfer import load_backbone


def backbone(seed: int, in_chans: int = 3, **options) -> nn.Module:
    torch.manual_seed(seed)
    return create_backbone("dfmamba_test", features_only=True, in_chans=in_chans, **options)


def stored(folder: Path, state: dict[str, Tensor]) -> Path:
    path = folder / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor], names: list[str]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in names)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "backbone.", "module.model.backbone.", "_orig_mod."]
)
def test_prefixes_are_stripped(tmp_path: Path, prefix: str) -> None:
    source, target = backbone(1), backbone(2)
    state = source.state_dict()
    found = load_backbone(target, stored(tmp_path, {prefix + name: t for name, t in state.items()}))
    assert (found.missing, found.left) == ([], [])
    assert same(target.state_dict(), state, list(state))


def test_a_model_of_ours_gives_its_backbone(tmp_path: Path) -> None:
    model = HandPoseModel(MODELS["test"])
    model.save(tmp_path / "m")
    target = backbone(2, out_indices=(1, 2, 3))
    found = load_backbone(target, tmp_path / "m")
    head = [name for name in model.state_dict() if name.startswith("head.")]
    assert found.missing == []
    assert len(found.left) == len(head) > 0
    assert same(target.state_dict(), model.backbone.state_dict(), found.taken)
    assert (
        f"{len(found.taken)} of {len(found.taken)} backbone tensors taken, 0 kept as they were" in found.line
    )


@pytest.mark.parametrize("channels", [1, 4])
def test_the_stem_is_adapted(tmp_path: Path, channels: int) -> None:
    source, target = backbone(1), backbone(2, channels)
    state = source.state_dict()
    found = load_backbone(target, stored(tmp_path, state))
    assert found.missing == []
    kernel = next(name for name, value in state.items() if value.ndim == 4)
    got = target.state_dict()[kernel]
    assert got.shape[1] == channels
    summed = state[kernel].sum(1)
    expected = summed if channels == 1 else 0.75 * (summed + state[kernel][:, 0])
    torch.testing.assert_close(got.sum(1), expected)


def test_other_stages_are_left_and_missing_ones_named(tmp_path: Path) -> None:
    state = {name: t for name, t in backbone(1).state_dict().items() if not name.startswith("stages.3.")}
    target = backbone(2)
    before = {name: t.clone() for name, t in target.state_dict().items()}
    found = load_backbone(target, stored(tmp_path, {**state, "fc.weight": torch.ones(3)}))
    assert found.left == ["fc.weight"]
    assert found.missing
    assert all(name.startswith("stages.3.") for name in found.missing)
    assert same(target.state_dict(), before, found.missing)
    assert f"(first: {found.missing[0]}), 1 of the file not used" in found.line


def test_half_precision_is_read(tmp_path: Path) -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in backbone(1).state_dict().items()}
    target = backbone(2)
    load_backbone(target, stored(tmp_path, state))
    assert all(t.dtype != torch.float16 for t in target.state_dict().values())


def test_timm_names_fit_a_baseline(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="baselines need the extra 'baselines'")
    torch.manual_seed(1)
    theirs = timm.create_model("resnet10t", num_classes=5).state_dict()
    target = create_baseline(ResNetConfig("resnet10t", in_chans=1))
    found = load_backbone(target, stored(tmp_path, theirs))
    assert found.missing == []
    assert sorted(found.left) == ["fc.bias", "fc.weight"]
    ours = target.body.state_dict()
    torch.testing.assert_close(ours["conv1.0.weight"], theirs["conv1.0.weight"].sum(1, keepdim=True))
    assert same(ours, theirs, [name for name in found.taken if name != "conv1.0.weight"])


def test_another_network_is_refused(tmp_path: Path) -> None:
    target = backbone(2)
    before = {name: t.clone() for name, t in target.state_dict().items()}
    few = dict(list(backbone(1).state_dict().items())[:20])
    with pytest.raises(ValueError, match=r"weights.safetensors: only \d+ of the backbone's \d+ tensors fit"):
        load_backbone(target, stored(tmp_path, few))
    assert same(target.state_dict(), before, list(before))


def test_unusable_files_are_named(tmp_path: Path) -> None:
    target = backbone(2)
    with pytest.raises(FileNotFoundError, match="expected weights in safetensors format"):
        load_backbone(target, tmp_path)
    damaged = tmp_path / "a.safetensors"
    damaged.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ValueError, match=r"a\.safetensors: not a readable safetensors file"):
        load_backbone(target, damaged)
    state = backbone(1).state_dict()
    name = next(iter(state))
    state[name] = torch.full_like(state[name], torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        load_backbone(target, stored(tmp_path, state))


def test_a_run_starts_with_the_backbone_and_says_so(tmp_path: Path, capsys) -> None:
    first = HandPoseModel(MODELS["test"])
    first.save(tmp_path)
    config = TrainConfig(model="test", init_backbone=str(tmp_path), seed=7)
    model = start_model(config, PoseTask(config))
    names = list(first.backbone.state_dict())
    assert same(model.backbone.state_dict(), first.backbone.state_dict(), names)
    assert not torch.equal(
        model.head.state_dict()["decoder.votes.weight"], first.head.state_dict()["decoder.votes.weight"]
    )
    assert "backbone tensors taken" in capsys.readouterr().err
