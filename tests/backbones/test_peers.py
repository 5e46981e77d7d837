"""Every backbone of the registry, ours and those it is compared with, behind one interface."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dfmamba.backbones import create_backbone, list_backbones
from dfmamba.backbones.baselines import BASELINES
from dfmamba.backbones.dfmamba import DSSMConfig, VimMixer
from dfmamba.models import count_macs, count_parameters

STRIDES = [4, 8, 16, 32]
LARGE = ("dfmamba_tiny", "vmamba_tiny", "spatial_mamba_tiny")
"""Those with a small sister of the same class."""
QUICK = [name for name in list_backbones() if name not in LARGE]


def build(name: str, **arguments: object) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, features_only=True, **arguments).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=list_backbones())
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    return request.param, build(request.param)


def set_checkpointing(model: nn.Module, enable: bool) -> None:
    """Of timm's network where the baseline has no switch of its own."""
    owner = model if hasattr(model, "set_grad_checkpointing") else model.body
    owner.set_grad_checkpointing(enable)  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
@torch.no_grad()
def test_maps_have_the_announced_channels_and_strides(
    network: tuple[str, nn.Module], size: tuple[int, int]
) -> None:
    name, model = network
    maps = model(torch.rand(2, 3, *size))
    assert model.feature_info.reduction() == STRIDES
    assert model.feature_info.channels() == [m.shape[1] for m in maps]
    unit = 32 if name in BASELINES else 1  # these pad the picture, ours round up at each stage
    for picture, stride in zip(maps, STRIDES, strict=True):
        assert tuple(picture.shape) == (
            2,
            picture.shape[1],
            *(-(-side // unit) * unit / stride // -1 * -1 for side in size),
        )
        assert torch.isfinite(picture).all()


@pytest.mark.parametrize(
    "name",
    [name if "nano" in name else pytest.param(name, marks=pytest.mark.slow) for name in list_backbones()],
)
def test_gradients_are_complete_and_the_same_with_checkpoints(name: str) -> None:
    model, x = build(name), torch.rand(2, 3, 64, 64)
    kept, gradients = [], []
    for enable in (False, True):
        set_checkpointing(model, enable)
        model.zero_grad()
        held = [0]

        def count(t: Tensor, held: list[int] = held) -> Tensor:
            held[0] += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            loss = sum(m.square().mean() for m in model(x))
        loss.backward()
        kept.append(held[0])
        gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    assert kept[1] < 0.5 * kept[0]
    assert set(gradients[0]) == {key for key, p in model.named_parameters() if p.requires_grad}
    for key, expected in gradients[0].items():
        assert torch.isfinite(expected).all(), key
        torch.testing.assert_close(gradients[1][key], expected, msg=key)


def test_no_weight_decay_names_parameters(network: tuple[str, nn.Module]) -> None:
    name, model = network
    kept = model.no_weight_decay()
    if name not in BASELINES:
        scans = {key for key, _ in model.named_parameters() if key.endswith(("A_log", ".D", "dt_bias"))}
        assert scans
        assert scans <= kept


@pytest.mark.parametrize("chans", [1, 4])
@pytest.mark.parametrize("name", QUICK)
@torch.no_grad()
def test_other_channels_and_fewer_maps(name: str, chans: int) -> None:
    model = build(name, in_chans=chans, out_indices=(0,))
    (picture,) = model(torch.rand(1, chans, 32, 40))
    assert picture.shape[1] == model.feature_info.channels()[0]
    with pytest.raises(ValueError, match=rf"expected a picture \(B, {chans}, H, W\)"):
        model(torch.rand(1, 3, 32, 40))
    with pytest.raises(ValueError, match="at least 32"):
        model(torch.rand(1, chans, 31, 40))


@pytest.mark.parametrize("name", [n for n in QUICK if n not in BASELINES])
@torch.no_grad()
def test_chosen_maps_are_those_of_the_whole(name: str) -> None:
    x = torch.rand(1, 3, 64, 32)
    full, some = build(name), build(name, out_indices=(-2, 1))
    state = dict(full.state_dict())
    if not any(key.startswith("norms.2") for key in some.state_dict()):  # not named by stage, but numbered
        state = {
            key.replace("norms.1", "norms.0").replace("norms.2", "norms.1"): value
            for key, value in state.items()
            if not key.startswith("norms.0")
        }
    missing, _ = some.load_state_dict(state, strict=False)
    assert not missing
    for one, other in zip(some(x), full(x)[1:3], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", QUICK)
@torch.no_grad()
def test_drop_path_acts_in_training_only(name: str) -> None:
    x = torch.rand(8, 3, 32, 32)
    model = build(name, drop_path_rate=0.9, out_indices=(1,))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm's residual branches start at zero
            nn.init.ones_(module.weight)
    torch.testing.assert_close(model(x), model(x))
    model.train()
    assert any(not torch.equal(one, other) for one, other in zip(model(x), model(x), strict=True))


class Published(NamedTuple):
    """Figures of a paper at 224 x 224 pixels with its classifier, and what either side has more.

    Attributes:
        parameters: published.
        macs: published.
        classifier: parameters of theirs that a feature backbone hasn't.
        added: parameters of ours that theirs hasn't: the norms of maps.
        maps: stages to count with.
    """

    parameters: float
    macs: float
    classifier: int
    added: int = 0
    maps: tuple[int, ...] = (0, 1, 2, 3)


def _linear(width: int) -> int:
    return (width + 1) * 1000


PUBLISHED = {
    "resnet50": Published(25.6e6, 4.1e9, _linear(2048)),
    "convnext_tiny": Published(28.6e6, 4.5e9, _linear(768) + 2 * 768, 2 * 1440),
    "vit_small": Published(22.1e6, 4.6e9, _linear(384), 0, (2,)),
    "swin_tiny": Published(28.3e6, 4.5e9, _linear(768) + 2 * 768, 2 * 1440),
    "vmamba_tiny": Published(30e6, 4.9e9, _linear(768) + 2 * 768, 2 * 1440),
    "spatial_mamba_tiny": Published(27e6, 4.5e9, _linear(512) + 2 * 512, 2 * 960),
}


def _scan_cost(u: tuple[int, ...], delta: object, A: tuple[int, ...], *_: object, **__: object) -> int:
    """VMamba's way: 9 a step, channel and state, and 1 a step and channel, added to the multiply-adds."""
    batch, channels, length = u
    return 2 * batch * channels * length * (9 * A[1] + 1)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in list_backbones()])
def test_published_parameters_and_multiply_adds(name: str) -> None:
    """Within 2 % of the papers' figures, which have two or three digits."""
    figures = PUBLISHED[name]
    model = build(name, out_indices=figures.maps).to("meta")
    parameters = count_parameters(model) - figures.added + figures.classifier
    assert abs(parameters / figures.parameters - 1) < 0.02
    mapping = {torch.ops.dfmamba.selective_scan: _scan_cost}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    assert abs(counter.get_total_flops() / 2 / figures.macs - 1) < 0.02


def test_small_vmamba_costs_as_much_as_ours() -> None:
    """The two that are compared in a small budget differ by less than 5 %."""
    ours, theirs = build("dfmamba_nano").to("meta"), build("vmamba_nano").to("meta")
    assert count_parameters(theirs) <= 2e6
    assert abs(count_parameters(theirs) / count_parameters(ours) - 1) < 0.05
    macs = [count_macs(model, (1, 3, 256, 256)) for model in (theirs, ours)]
    assert abs(macs[0] / macs[1] - 1) < 0.05


def vim_by_steps(layer: VimMixer, x: Tensor) -> Tensor:
    """Vim's algorithm 1, token by token."""
    batch, _, height, width = x.shape
    u, z = torch.einsum("bchw,dc->bdhw", x, layer.in_proj.weight[..., 0, 0]).chunk(2, dim=1)
    total = torch.zeros_like(u.flatten(2))
    for direction in (0, 1):
        conv, ssm = layer.convs[direction], layer.scans[direction]
        kernel = conv.weight[:, 0, 0]
        order = list(range(height * width))[:: -1 if direction else 1]
        tokens = [u.flatten(2)[:, :, cell] for cell in order]
        h = torch.zeros(batch, u.shape[1], ssm.A_log.shape[1], dtype=x.dtype)
        for t, cell in enumerate(order):
            near = [tokens[t - back] * kernel[:, -1 - back] for back in range(min(t + 1, kernel.shape[1]))]
            v = torch.nn.functional.silu(sum(near) + conv.bias)
            step, B, C = (v @ ssm.x_proj.weight[..., 0].T).split((ssm.rank, *[h.shape[2]] * 2), dim=1)
            step = torch.nn.functional.softplus(step @ ssm.dt_proj.weight[..., 0].T + ssm.dt_bias)
            h = torch.exp(step[..., None] * -ssm.A_log.exp()) * h + (step * v)[..., None] * B[:, None]
            placed = torch.zeros_like(total)
            placed[:, :, cell] = (h * C[:, None]).sum(2) + ssm.D * v
            total = total + placed
    gated = total.view_as(z) * torch.nn.functional.silu(z)
    return torch.einsum("bchw,dc->bdhw", gated, layer.out_proj.weight[..., 0, 0])


@pytest.mark.parametrize("size", [(3, 4), (1, 2), (5, 1)])
def test_vim_mixer_equals_its_definition(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = VimMixer(6, DSSMConfig(d_state=3, reverse=True), expand=2.0).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    operands = [x, *layer.parameters()]
    found, expected = layer(x), vim_by_steps(layer, x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # A is in float32 in the layer
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), operands),
        torch.autograd.grad(expected.square().sum(), operands),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block", ["mamba", "vim"])
def test_mixers_of_peers_take_the_place_of_ours(block: str) -> None:
    torch.manual_seed(0)
    model = create_backbone("dfmamba_test", features_only=True, replaced={"dssm": block}).train()
    assert any(isinstance(module, VimMixer) for module in model.modules()) == (block == "vim")
    assert not any("sampler" in key for key, _ in model.named_parameters())
    sum(m.square().mean() for m in model(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", list_backbones())
def test_exports_to_onnx(name: str, tmp_path: Path) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason=f"{library} is missing: pip install 'dfmamba[export]'")
    from dfmamba.export import ExportConfig, backbone_subject, onnx_bytes
    from dfmamba.models.onnx_model import open_session, run_session

    subject = backbone_subject(name, build(name), 64)
    path = tmp_path / "network.onnx"
    path.write_bytes(onnx_bytes(subject, ExportConfig(batch=1)))
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = subject.original(picture)
    for one, other in zip(run_session(open_session(path), picture.numpy()), expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), other, rtol=1e-3, atol=1e-3)
