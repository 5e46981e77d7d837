"""Spatial-Mamba: its state fusion and whole network against plain definitions, budgets, published weights."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dfmamba.backbones import create_backbone
from dfmamba.backbones.spatial_mamba import (
    SPATIAL_MAMBAS,
    SpatialMamba,
    SpatialMambaConfig,
    SpatialSSM,
    StateFusion,
    load_spatial_mamba_weights,
)
from dfmamba.layers import fuse
from dfmamba.models import HandPoseModel, ModelConfig, count_macs, count_parameters
from dfmamba.ops import use_backend

SMALL = {"dims": (8, 8, 16, 16), "depths": (1, 2, 1, 1), "stem_dim": 4}
SIZES = [(3, 5), (7, 2), (1, 1), (1, 6)]


def small(**overrides: object) -> SpatialMamba:
    torch.manual_seed(0)
    model = create_backbone("spatial_mamba_nano", features_only=True, **{**SMALL, **overrides})
    assert isinstance(model, SpatialMamba)
    return model


def randomised(module: nn.Module) -> nn.Module:
    """All that starts as a constant is random, as in a trained network."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if name.endswith(("weight", "bias", "D", "A_log", "alpha")) or ".kernels." in f".{name}":
            tensor.data += 0.3 * torch.randn_like(tensor)
        elif name.endswith("running_mean"):
            tensor.normal_(std=0.2)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
    return module


def fusion_reference(h: Tensor, kernels: list[Tensor], alpha: Tensor) -> Tensor:
    """The weighted sum over the neighbours of each position, nearest cell beyond the border."""
    height, width = h.shape[2:]
    rows = []
    for y, x in product(range(height), range(width)):
        total = torch.zeros_like(h[:, :, 0, 0])
        for (a, kernel, d), i, j in product(zip(alpha, kernels, (1, 3, 5), strict=True), range(3), range(3)):
            v, u = y + d * (i - 1), x + d * (j - 1)
            cell = h[:, :, min(max(v, 0), height - 1), min(max(u, 0), width - 1)]
            total = total + a * kernel[:, 0, i, j] * cell
        rows.append(total)
    return torch.stack(rows, dim=2).unflatten(2, (height, width))


def assert_same_gradients(ours: Tensor, theirs: Tensor, operands: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, theirs)
    seed = torch.randn_like(theirs)
    pairs = (torch.autograd.grad(result, operands, seed) for result in (ours, theirs))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)


def ssm_reference(layer: SpatialSSM, x: Tensor) -> Tensor:
    """State equation one position after the other, fusion, output equation."""
    height, width = x.shape[2:]
    tokens = x.flatten(2)
    projected = torch.einsum("rd,bdl->brl", layer.x_proj.weight[:, :, 0], tokens)
    dt = torch.einsum("dr,brl->bdl", layer.dt_proj.weight[:, :, 0], projected[:, :-2])
    step, B, C = F.softplus(dt + layer.dt_bias[:, None]), projected[:, -2:-1], projected[:, -1:]
    state, states = torch.zeros_like(tokens[:, :, 0]), []
    for t in range(height * width):
        decay = torch.exp(-step[:, :, t] * layer.A_log[:, 0].exp())
        state = decay * state + step[:, :, t] * B[:, :, t] * tokens[:, :, t]
        states.append(state)
    h = torch.stack(states, dim=2).unflatten(2, (height, width))
    fused = fusion_reference(h, list(layer.fusion.kernels), layer.fusion.alpha)
    return fused * C.unflatten(2, (height, width)) + layer.D[:, None, None] * x


@pytest.mark.parametrize("size", SIZES)
def test_fusion_equals_its_definition(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = randomised(StateFusion(4)).double()
    h = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    wanted = fusion_reference(h, list(layer.kernels), layer.alpha)
    assert_same_gradients(layer(h), wanted, (h, *layer.parameters()))
    layer.freeze_constants()
    torch.testing.assert_close(layer(h), wanted)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 2])
def test_layer_equals_its_definition(size: tuple[int, int], batch: int) -> None:
    torch.manual_seed(1)
    layer = randomised(SpatialSSM(6, 2)).double()
    x = torch.randn(batch, 6, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    wanted = ssm_reference(layer, x)
    assert_same_gradients(layer(x), wanted, (x, *layer.parameters()))
    # In single precision the C kernels take over where they were built.
    torch.testing.assert_close(layer.float()(x.float()), wanted.float(), rtol=1e-3, atol=1e-4)


def test_single_pictures_stay_channels_last() -> None:
    """Else every layer behind the scan copies its input."""
    x = torch.randn(1, 16, 5, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert SpatialSSM(16, 1)(x).is_contiguous(memory_format=torch.channels_last)


def published_shapes(config: SpatialMambaConfig, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a published checkpoint, from its network's description."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int, statistics: bool = False) -> None:
        kinds = ("weight", "bias", *(("running_mean", "running_var") if statistics else ()))
        shapes.update({f"{name}.{kind}": (width,) for kind in kinds})
        if statistics:
            shapes[f"{name}.num_batches_tracked"] = ()

    def layer(name: str, shape: tuple[int, ...], bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    dims, half = config.dims, config.stem_dim
    for name, before, after, side in (
        ("conv1", 3, half, 3),
        ("conv2.0", half, half, 3),
        ("conv2.1", half, half, 3),
        ("conv3.0", half, 4 * dims[0], 3),
        ("conv3.1", 4 * dims[0], dims[0], 1),
    ):
        layer(f"patch_embed.{name}.conv", (after, before, side, side), bias=False)
        norm(f"patch_embed.{name}.norm", after, statistics=True)
    for i, (c, depth) in enumerate(zip(dims, config.depths, strict=True)):
        for j in range(depth):
            block, inner, rank = f"layers.{i}.blocks.{j}", 2 * c, math.ceil(c / 16)
            for k in (1, 2):
                layer(f"{block}.cpe{k}", (c, 1, 3, 3))
                norm(f"{block}.ln_{k}", c)
            layer(f"{block}.mlp.fc1", (4 * c, c))
            layer(f"{block}.mlp.fc2", (c, 4 * c))
            mixer = f"{block}.self_attention"
            layer(f"{mixer}.in_proj", (2 * inner, c), bias=False)
            layer(f"{mixer}.conv2d", (inner, 1, 3, 3))
            layer(f"{mixer}.out_proj", (c, inner), bias=False)
            norm(f"{mixer}.out_norm", inner)
            shapes[f"{mixer}.x_proj_weight"] = (rank + 2, inner)
            shapes[f"{mixer}.dt_projs_weight"] = (inner, rank)
            shapes[f"{mixer}.dt_projs_bias"] = shapes[f"{mixer}.Ds"] = (inner,)
            shapes[f"{mixer}.A_logs"] = (inner, 1)
            for kernel in ("kernel_3", "kernel_3_1", "kernel_3_2"):
                shapes[f"{mixer}.state_fusion.{kernel}"] = (inner, 1, 3, 3)
            shapes[f"{mixer}.state_fusion.alpha"] = (3,)
        if i < 3:
            after = dims[i + 1]
            layer(f"layers.{i}.downsample.conv.0.conv", (4 * after, c, 1, 1))
            layer(f"layers.{i}.downsample.conv.1.conv", (4 * after, 1, 3, 3))
            layer(f"layers.{i}.downsample.conv.2.conv", (after, 4 * after, 1, 1))
            norm(f"layers.{i}.downsample.conv.2.norm", after, statistics=True)
    norm("norm", dims[-1])
    layer("head", (classes, dims[-1]))
    return shapes


def made_up(config: SpatialMambaConfig, detector: bool = False) -> dict[str, Tensor]:
    """A checkpoint with random values; a detector's has a norm for each map instead of a classifier."""
    shapes = published_shapes(config, classes=5)
    if detector:
        shapes = {k: v for k, v in shapes.items() if not k.startswith(("norm.", "head."))}
        for i, width in enumerate(config.dims):
            shapes |= {f"outnorm{i}.weight": (width,), f"outnorm{i}.bias": (width,)}
    g = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(shape, generator=g) for name, shape in shapes.items()}
    for name in state:
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
    return state


def published_network(state: dict[str, Tensor], depths: tuple[int, ...], x: Tensor) -> list[Tensor]:
    """The maps of a detector's checkpoint, by the checkpoint's names."""

    def conv(x: Tensor, name: str, stride: int = 1, depthwise: bool = False) -> Tensor:
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2, 1, len(weight) if depthwise else 1)

    def batch_norm(x: Tensor, name: str) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{kind}"] for kind in kinds))

    def layer_norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def stem(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return batch_norm(conv(x, f"patch_embed.{name}.conv", stride), f"patch_embed.{name}.norm")

    def last(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)

    def first(x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    def mixer(x: Tensor, name: str) -> Tensor:
        u, z = linear(x, f"{name}.in_proj").chunk(2, dim=-1)
        u = F.silu(conv(first(u), f"{name}.conv2d", depthwise=True))
        layer = SpatialSSM(u.shape[1], len(state[f"{name}.x_proj_weight"]) - 2)
        with torch.no_grad():
            layer.x_proj.weight.copy_(state[f"{name}.x_proj_weight"][..., None])
            layer.dt_proj.weight.copy_(state[f"{name}.dt_projs_weight"][..., None])
            layer.dt_bias.copy_(state[f"{name}.dt_projs_bias"])
            layer.A_log.copy_(state[f"{name}.A_logs"])
            layer.D.copy_(state[f"{name}.Ds"])
            layer.fusion.alpha.copy_(state[f"{name}.state_fusion.alpha"])
            for own, kind in zip(layer.fusion.kernels, ("3", "3_1", "3_2"), strict=True):
                own.copy_(state[f"{name}.state_fusion.kernel_{kind}"])
        y = layer_norm(last(ssm_reference(layer, u)), f"{name}.out_norm")
        return linear(y * F.silu(z), f"{name}.out_proj")

    x = F.relu(stem(x, "conv1", 2))
    x = x + stem(F.relu(stem(x, "conv2.0")), "conv2.1")
    x = stem(F.relu(stem(x, "conv3.0", 2)), "conv3.1")
    maps = []
    for i, depth in enumerate(depths):
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            x = last(x + conv(x, f"{block}.cpe1", depthwise=True))
            x = first(x + mixer(layer_norm(x, f"{block}.ln_1"), f"{block}.self_attention"))
            x = last(x + conv(x, f"{block}.cpe2", depthwise=True))
            hidden = F.gelu(linear(layer_norm(x, f"{block}.ln_2"), f"{block}.mlp.fc1"))
            x = first(x + linear(hidden, f"{block}.mlp.fc2"))
        maps.append(first(layer_norm(last(x), f"outnorm{i}")))
        if i < 3:
            name = f"layers.{i}.downsample.conv"
            x = F.relu(conv(x, f"{name}.0.conv"))
            x = F.relu(conv(x, f"{name}.1.conv", stride=2, depthwise=True))
            x = batch_norm(conv(x, f"{name}.2.conv"), f"{name}.2.norm")
    return maps


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_network_with_published_weights_equals_its_description(tmp_path: Path, prefix: str) -> None:
    model = small().eval()
    state = made_up(model.config, detector=True)
    save_file({prefix + name: value for name, value in state.items()}, tmp_path / "w.safetensors")
    load_spatial_mamba_weights(model, tmp_path / "w.safetensors")
    x = torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        for ours, theirs in zip(model(x), published_network(state, model.config.depths, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_published_size() -> None:
    """Paper: 27 M parameters and 4.5 GFLOPs with classifier at 224 pixels, 7 operations a step of a scan."""
    config = SPATIAL_MAMBAS["spatial_mamba_tiny"]
    names = published_shapes(config)
    trained = [s for n, s in names.items() if not n.endswith(("running_mean", "running_var", "tracked"))]
    published = sum(map(math.prod, trained))
    assert published == pytest.approx(27e6, rel=0.02)
    model = create_backbone("spatial_mamba_tiny", features_only=True, out_indices=(3,))
    assert count_parameters(model) + 1000 * 512 + 1000 == published
    scans = sum(
        7 * (56 >> i) ** 2 * 2 * dim * depth
        for i, (dim, depth) in enumerate(zip(config.dims, config.depths, strict=True))
    )
    assert count_macs(model, (1, 3, 224, 224)) + 512 * 1000 + scans == pytest.approx(4.5e9, rel=0.02)


def test_small_size_is_as_costly_as_ours() -> None:
    ours, theirs = (create_backbone(f"{n}_nano", features_only=True) for n in ("dfmamba", "spatial_mamba"))
    assert count_parameters(theirs) <= 2e6
    assert count_parameters(theirs) == pytest.approx(count_parameters(ours), rel=0.02)
    shape = (1, 3, 256, 256)
    assert count_macs(theirs, shape) == pytest.approx(count_macs(ours, shape), rel=0.02)


def test_classifier_checkpoint_leaves_the_norms_of_maps(tmp_path: Path) -> None:
    model = small(out_indices=(0, 2))
    before = [norm.weight.clone() for norm in model.norms.values()]
    state = made_up(model.config)
    save_file(state, tmp_path / "w.safetensors")
    load_spatial_mamba_weights(model, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b.weight) for a, b in zip(before, model.norms.values(), strict=True))
    assert torch.equal(model.stages[1][1].mixer.ssm.D, state["layers.1.blocks.1.self_attention.Ds"])
    assert torch.equal(model.downs[2][4].weight, state["layers.1.downsample.conv.2.conv.weight"])
    assert int(model.stem.first[1].num_batches_tracked) == 7


@pytest.mark.parametrize("chans", [1, 4])
@torch.no_grad()
def test_weights_for_other_channels(tmp_path: Path, chans: int) -> None:
    """One channel gives what three equal ones do; of four, the sum of the weights stays."""
    colour, other = small().eval(), small(in_chans=chans).eval()
    save_file(made_up(colour.config, detector=True), tmp_path / "w.safetensors")
    for model in (colour, other):
        load_spatial_mamba_weights(model, tmp_path / "w.safetensors")
    if chans == 1:
        grey = torch.rand(1, 1, 32, 32)
        torch.testing.assert_close(other(grey)[0], colour(grey.expand(-1, 3, -1, -1))[0])
    else:
        expected = colour.stem.first[0].weight[:, [0, 1, 2, 0]] * 0.75
        torch.testing.assert_close(other.stem.first[0].weight, expected)


def test_unusable_weights_are_explained(tmp_path: Path) -> None:
    model = small()
    path = tmp_path / "w.safetensors"
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_spatial_mamba_weights(model, path)
    path.write_bytes(b"PK\x03\x04 no safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_spatial_mamba_weights(model, path)
    good = made_up(model.config, detector=True)
    missing = {name: value for name, value in good.items() if not name.endswith("kernel_3_2")}
    wider = good | {"outnorm0.weight": torch.ones(9)}
    turned = good | {"layers.0.blocks.0.mlp.fc1.weight": torch.ones(8, 32)}
    broken = good | {"layers.3.blocks.0.self_attention.Ds": torch.full((32,), torch.nan)}
    for state, message in (
        (missing, r"another network .*: 5 tensors .*kernel_3_2"),
        (wider, r"1 tensors .*outnorm0.weight"),
        (turned, r"1 tensors .*mlp.fc1.weight, expected \(32, 8, 1, 1\)"),
        (broken, "self_attention.Ds holds values that are not finite"),
        ({"conv1.weight": torch.ones(3)}, "another network"),
    ):
        save_file(state, path)
        with pytest.raises(ValueError, match=message):
            load_spatial_mamba_weights(model, path)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (33, 47), (100, 61)])
@pytest.mark.parametrize("chans", [1, 3])
@torch.no_grad()
def test_maps_of_any_size(size: tuple[int, int], chans: int) -> None:
    model = small(in_chans=chans).eval()
    maps = model(torch.rand(2, chans, *size))
    assert model.feature_info.channels() == [m.shape[1] for m in maps] == [8, 8, 16, 16]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    for m, stride in zip(maps, (4, 8, 16, 32), strict=True):
        assert tuple(m.shape[2:]) == tuple(-(-side // stride) for side in size)
        assert torch.isfinite(m).all()


@pytest.mark.parametrize("indices", [(0,), (1, 2), (-1,), 2])
@torch.no_grad()
def test_chosen_maps_are_those_of_the_whole(indices: int | tuple[int, ...]) -> None:
    full, some = small().eval(), small(out_indices=indices).eval()
    missing, _ = some.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    x = torch.rand(1, 3, 64, 64)
    wanted = [full(x)[i] for i in some.out_indices]
    assert some.feature_info.channels() == [m.shape[1] for m in wanted]
    for a, b in zip(some(x), wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", list(SPATIAL_MAMBAS))
def test_every_parameter_learns(name: str) -> None:
    torch.manual_seed(0)
    model = create_backbone(name, features_only=True, drop_path_rate=0.2).train()
    assert model.stages[3][-1].drop_path.p == pytest.approx(0.2)
    assert model.stages[0][0].drop_path.p == 0.0
    for part in model.modules():
        if type(part).__name__ == "DropPath":
            part.p = 0.0
    sum((m**2).mean() for m in model(torch.rand(2, 3, 64, 64))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


def test_gradient_checkpointing_changes_nothing() -> None:
    model, x = small().train(), torch.rand(2, 3, 64, 64)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for enable in (False, True):
        model.load_state_dict(start)
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        sum(m.square().mean() for m in model(x)).backward()
        results.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_state_space_parameters_do_not_decay() -> None:
    model = small()
    kept = model.no_weight_decay() & {name for name, _ in model.named_parameters()}
    assert len(kept) == 3 * sum(model.config.depths)
    assert {name.rpartition(".")[2] for name in kept} == {"A_log", "D", "dt_bias"}


@torch.no_grad()
def test_fused_and_plain_backends_agree() -> None:
    model, x = randomised(small()).eval(), torch.rand(2, 3, 64, 32)
    fused = fuse(model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    wanted = model(x)
    for backend in ("reference", "torch", "export"):
        with use_backend(backend):
            others = model(x)
        for one, other in zip(wanted, others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for one, other in zip(wanted, fused(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_half_precision_stays_near() -> None:
    model, x = small().eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        halves = model(x)
    for one, other in zip(model(x), halves, strict=True):
        assert (one - other.float()).abs().mean() < 0.05 * one.abs().mean()


@pytest.mark.slow
def test_compiles_in_one_graph_with_gradients() -> None:
    model, x = small(depths=(1, 1, 1, 1)).eval(), torch.randn(2, 3, 64, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    wanted, found = ([*maps] for maps in (model(x), compiled(x)))
    parameters = list(model.parameters())
    gradients = [
        torch.autograd.grad(sum(m.square().sum() for m in maps), parameters) for maps in (wanted, found)
    ]
    for one, other in zip((*wanted, *gradients[0]), (*found, *gradients[1]), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.detach().abs().max()) + 1e-6)


@pytest.mark.slow
def test_onnx_equals_pytorch() -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason=f"{library} is missing: pip install 'dfmamba[export]'")
    from dfmamba.export import backbone_subject, onnx_bytes
    from dfmamba.models.onnx_model import open_session, run_session

    model = randomised(small(depths=(1, 1, 1, 1))).eval()
    subject = backbone_subject("spatial_mamba", model, 45)
    session = open_session(onnx_bytes(subject))
    for batch in (1, 3):
        x = torch.rand(batch, 3, 45, 45)
        with torch.no_grad():
            wanted = model(x * 2 - 1)
        for a, b in zip(run_session(session, x.numpy()), wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-3, atol=1e-3)


def test_pose_model_on_top() -> None:
    from dfmamba.heads import HeadConfig

    head = HeadConfig(image_size=64, num_layers=0, dim=16, anchor_stride=8)
    config = ModelConfig(name="t", backbone="spatial_mamba_nano", backbone_args=SMALL, head=head)
    output = HandPoseModel(config).eval()(torch.rand(1, 3, 64, 64))
    assert output.joints_25d.shape == (1, 2, 21, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(window=7), "unknown backbone argument 'window'"),
        (lambda: small(dims=(8, 8, 8)), "dims needs four entries"),
        (lambda: small(depths=(1, 0, 1, 1)), "depths needs four entries of at least 1"),
        (lambda: small(expand=0.0), "must be positive"),
        (lambda: small(in_chans=0), "must be positive"),
        (lambda: small(drop_path_rate=1.0), "drop_path_rate"),
        (lambda: small(out_indices=(4,)), "out_indices"),
        (lambda: small()(torch.rand(1, 1, 64, 64)), r"expected a picture \(B, 3, H, W\)"),
        (lambda: small()(torch.rand(1, 3, 31, 64)), "at least 32"),
        (lambda: create_backbone("spatial_mamba_nano"), "features_only=True"),
    ],
)
def test_misuse_is_explained(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
