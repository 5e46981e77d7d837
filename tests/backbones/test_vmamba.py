"""VMamba: its cross-scan, its published weights, its export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from dfmamba.backbones import backbone_config, create_backbone
from dfmamba.backbones.dfmamba import DSSMConfig
from dfmamba.backbones.vmamba import VMAMBAS, CrossScan, VMamba, VMambaConfig, load_peer_weights
from dfmamba.models import count_parameters
from dfmamba.ops import selective_scan, selective_scan_reference

SMALL = VMambaConfig(dims=(4, 8, 8, 16), depths=(1, 2, 1, 1), d_state=2, expand=2.0)


def small(**changes: object) -> VMamba:
    torch.manual_seed(0)
    return VMamba(SMALL.with_overrides(**changes)).eval()


def routes(height: int, width: int) -> list[list[int]]:
    """Cells in the order of each route."""
    rows = [y * width + x for y in range(height) for x in range(width)]
    columns = [y * width + x for x in range(width) for y in range(height)]
    return [rows, columns, rows[::-1], columns[::-1]]


def scan_along(x: Tensor, layer: object, order: list[int]) -> Tensor:
    """One route by the definition: tokens in order, the recurrence, each result at its cell."""
    tokens = x.flatten(2)[:, :, order]
    mixed = torch.einsum("bcl,kc->bkl", tokens, layer.x_proj.weight[..., 0])
    states = layer.A_log.shape[1]
    step, B, C = mixed.split((mixed.shape[1] - 2 * states, states, states), dim=1)
    delta = torch.einsum("bkl,ck->bcl", step, layer.dt_proj.weight[..., 0])
    y = selective_scan_reference(
        tokens, delta, -layer.A_log.exp(), B, C, layer.D, None, layer.dt_bias, True, False
    )
    placed = [y[:, :, order.index(cell)] for cell in range(len(order))]
    return torch.stack(placed, dim=2).reshape(x.shape)


@pytest.mark.parametrize("size", [(3, 5), (4, 1), (1, 1), (5, 4)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_cross_scan_equals_its_definition(size: tuple[int, int], channels_last: bool) -> None:
    torch.manual_seed(0)
    layer = CrossScan(6, DSSMConfig(d_state=2, dt_rank=2)).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    operands = [x.requires_grad_(), *layer.parameters()]
    found = layer(x)
    expected = sum(
        scan_along(x, route, order) for route, order in zip(layer.routes, routes(*size), strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(found)
    for ours, wanted in zip(
        torch.autograd.grad((found * weight).sum(), operands),
        torch.autograd.grad((expected * weight).sum(), operands),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)  # A is in float32 in the layer


def published_state(config: VMambaConfig, classes: int = 10) -> dict[str, Tensor]:
    """Random tensors under the names and shapes of the release's checkpoints."""
    n, state = config.d_state, {}

    def pair(name: str, *shape: int) -> None:
        state[f"{name}.weight"] = 0.2 * torch.randn(shape) + (len(shape) == 1)
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0])

    dims = config.dims
    pair("patch_embed.0", dims[0] // 2, config.in_chans, 3, 3)
    pair("patch_embed.2", dims[0] // 2)
    pair("patch_embed.5", dims[0], dims[0] // 2, 3, 3)
    pair("patch_embed.7", dims[0])
    for i, (dim, depth) in enumerate(zip(dims, config.depths, strict=True)):
        inner, hidden, rank = int(config.expand * dim), int(config.ffn_ratio * dim), -(-dim // 16)
        for j in range(depth):
            block, op = f"layers.{i}.blocks.{j}", f"layers.{i}.blocks.{j}.op"
            state |= {
                f"{op}.x_proj_weight": torch.randn(4, rank + 2 * n, inner) / inner**0.5,
                f"{op}.dt_projs_weight": 0.3 * torch.randn(4, inner, rank),
                f"{op}.dt_projs_bias": 0.5 * torch.randn(4, inner) - 2,
                f"{op}.A_logs": 0.3 * torch.randn(4 * inner, n),
                f"{op}.Ds": torch.rand(4 * inner),
                f"{op}.in_proj.weight": torch.randn(inner, dim) / dim**0.5,
                f"{op}.conv2d.weight": 0.3 * torch.randn(inner, 1, 3, 3),
                f"{op}.out_proj.weight": torch.randn(dim, inner) / inner**0.5,
            }
            pair(f"{op}.out_norm", inner)
            pair(f"{block}.norm", dim)
            pair(f"{block}.norm2", dim)
            pair(f"{block}.mlp.fc1", hidden, dim)
            pair(f"{block}.mlp.fc2", dim, hidden)
        if i < 3:
            pair(f"layers.{i}.downsample.1", dims[i + 1], dim, 3, 3)
            pair(f"layers.{i}.downsample.3", dims[i + 1])
    pair("classifier.norm", dims[3])
    pair("classifier.head", classes, dims[3])
    return state


def saved(state: dict[str, Tensor], path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def published_stages(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The network as the paper has it, straight from a published state: the map after each stage's blocks."""

    def linear(x: Tensor, name: str) -> Tensor:
        return torch.einsum("bchw,oc->bohw", x, state[f"{name}.weight"])

    def normed(x: Tensor, name: str) -> Tensor:
        norm = F.layer_norm(x.movedim(1, 3), x.shape[1:2], state[f"{name}.weight"], state[f"{name}.bias"])
        return norm.movedim(3, 1)

    def halved(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2, padding=1)

    def ss2d(x: Tensor, name: str) -> Tensor:
        x = linear(x, f"{name}.in_proj")
        x = F.silu(F.conv2d(x, state[f"{name}.conv2d.weight"], padding=1, groups=x.shape[1]))
        orders = torch.tensor(routes(*x.shape[2:]))
        tokens = x.flatten(2)[:, :, orders].movedim(2, 1)  # B, 4, C, L
        mixed = torch.einsum("bgcl,gkc->bgkl", tokens, state[f"{name}.x_proj_weight"])
        A = -state[f"{name}.A_logs"].exp()
        rank, n = state[f"{name}.dt_projs_weight"].shape[2], A.shape[1]
        step, B, C = mixed.split((rank, n, n), dim=2)
        delta = torch.einsum("bgkl,gck->bgcl", step, state[f"{name}.dt_projs_weight"])
        bias = state[f"{name}.dt_projs_bias"].flatten()
        y = selective_scan(
            tokens.flatten(1, 2), delta.flatten(1, 2), A, B, C, state[f"{name}.Ds"], None, bias, True
        )
        y = y.reshape(tokens.shape)
        placed = sum(y[:, k][:, :, orders[k].argsort()] for k in range(4)).reshape(x.shape)
        return linear(normed(placed, f"{name}.out_norm"), f"{name}.out_proj")

    def mlp(x: Tensor, name: str) -> Tensor:
        bias = [state[f"{name}.{layer}.bias"].view(-1, 1, 1) for layer in ("fc1", "fc2")]
        return linear(F.gelu(linear(x, f"{name}.fc1") + bias[0]), f"{name}.fc2") + bias[1]

    x = F.gelu(normed(halved(x, "patch_embed.0"), "patch_embed.2"))
    x = normed(halved(x, "patch_embed.5"), "patch_embed.7")
    maps = []
    for i in range(4):
        j = 0
        while (block := f"layers.{i}.blocks.{j}") + ".norm.weight" in state:
            x = x + ss2d(normed(x, f"{block}.norm"), f"{block}.op")
            x = x + mlp(normed(x, f"{block}.norm2"), f"{block}.mlp")
            j += 1
        maps.append(x)
        if i < 3:
            x = normed(halved(x, f"layers.{i}.downsample.1"), f"layers.{i}.downsample.3")
    return maps


@pytest.mark.parametrize("square_weights", [False, True], ids=["matrices", "convolutions"])
@torch.no_grad()
def test_published_weights_compute_the_published_network(square_weights: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = published_state(SMALL)
    stored = dict(state)
    if square_weights:  # older checkpoints hold the projections as 1x1 convolutions
        for name in state:
            if ("proj.weight" in name or "mlp" in name) and state[name].ndim == 2:
                stored[name] = state[name][:, :, None, None]
    model = small()
    load_peer_weights(model, saved(stored, tmp_path / "published.safetensors"))
    x = torch.rand(1, 3, 45, 64)
    for found, expected in zip(model(x), published_stages(state, x), strict=True):
        normed = F.layer_norm(expected.movedim(1, 3), expected.shape[1:2]).movedim(3, 1)
        torch.testing.assert_close(found, normed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "parameters"), [({}, 30.25e6), ({"depths": (2, 2, 5, 2), "expand": 2.0}, 30.7e6)]
)
def test_published_files_of_size_t_fit(changes: dict, parameters: float, tmp_path: Path) -> None:
    """Both published networks of size T, "s1l8" and "s2l5": every tensor of the file has its place."""
    config = VMAMBAS["vmamba_tiny"].with_overrides(**changes)
    torch.manual_seed(0)
    state = {name: value.half() for name, value in published_state(config, 1000).items()}
    assert abs(sum(value.numel() for value in state.values()) / parameters - 1) < 0.002
    model = VMamba(config)
    before = [norm.weight.clone() for norm in model.norms.values()]
    load_peer_weights(model, saved(state, tmp_path / "t.safetensors"))
    used = sum(value.numel() for name, value in state.items() if not name.startswith("classifier."))
    assert count_parameters(model) == used + sum(p.numel() for p in model.norms.parameters())
    op = "layers.2.blocks.4.op"
    mixer = model.stages[2][4].mixer
    inner = int(config.expand * 384)
    for route, layer in enumerate(mixer.scan.routes):
        for ours, theirs in (
            (layer.x_proj.weight[..., 0], state[f"{op}.x_proj_weight"][route]),
            (layer.dt_proj.weight[..., 0], state[f"{op}.dt_projs_weight"][route]),
            (layer.dt_bias, state[f"{op}.dt_projs_bias"][route]),
            (layer.A_log, state[f"{op}.A_logs"][route * inner : (route + 1) * inner]),
            (layer.D, state[f"{op}.Ds"][route * inner : (route + 1) * inner]),
        ):
            torch.testing.assert_close(ours.detach(), theirs.float(), rtol=0, atol=0)
    for norm, weight in zip(model.norms.values(), before, strict=True):
        torch.testing.assert_close(norm.weight, weight, rtol=0, atol=0)


def test_weights_fit_other_channels_and_fewer_stages(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = published_state(SMALL)
    path = saved(state, tmp_path / "weights.safetensors")
    first = state["patch_embed.0.weight"]
    for chans, expected in ((1, first.sum(1, keepdim=True)), (4, first[:, [0, 1, 2, 0]] * 0.75)):
        model = VMamba(SMALL.with_overrides(in_chans=chans), out_indices=(1,))
        load_peer_weights(model, path)
        torch.testing.assert_close(model.stem[0].weight.detach(), expected)
        assert len(model.stages) == 2


def test_unusable_weights_are_refused(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "other.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_peer_weights(model, path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = published_state(SMALL)
    changes: list[tuple[str, Tensor | None, str]] = [
        ("layers.0.blocks.0.op.A_logs", None, r"routes\.0\.A_log"),
        ("layers.0.blocks.0.op.Ds", torch.zeros(7), r"routes\.0\.D"),
        ("layers.0.blocks.1.norm.weight", torch.zeros(4), r"1 too many \(first: stages\.0\.1\.norm1\.weight"),
        ("layers.1.downsample.1.weight", torch.zeros(8, 8, 2, 2), r"downs\.2\.0\.weight"),
        ("layers.3.blocks.0.op.Ds", torch.full((128,), float("nan")), r"routes\.0\.D holds values"),
    ]
    for name, value, message in changes:
        changed = {**state, name: value}
        saved({key: v for key, v in changed.items() if v is not None}, path)
        with pytest.raises(ValueError, match=rf"other\.safetensors: .*{message}"):
            load_peer_weights(model, path)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.fixture(scope="module")
def mutation_target() -> VMamba:
    return small()


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_mutated_files_of_weights(
    data: st.DataObject, mutation_target: VMamba, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, model = tmp_path_factory.getbasetemp() / "mutated_vmamba.safetensors", mutation_target
    names = ("patch_embed.0.weight", "layers.0.blocks.0.op.Ds", "layers.0.downsample.9.bias", "layers.0")
    shapes = ((2, 3, 3, 3), (32,), (1,), ())
    saved({name: torch.ones(shape) for name, shape in zip(names, shapes, strict=True)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, min(400, len(content)) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with pytest.raises((ValueError, OSError), match=r"mutated_vmamba\.safetensors"):
        load_peer_weights(model, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": (4, 8, 8)}, "dims needs four entries"),
        ({"depths": (1, 0, 1, 1)}, "depths needs four entries of at least 1"),
        ({"dims": (5, 8, 8, 8)}, "dims must start with an even number"),
        ({"d_state": 0}, "d_state must be at least 1, got 0"),
        ({"expand": 0.0}, "expand must be positive"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\)"),
        ({"num_anchors": 9}, "unknown backbone argument 'num_anchors'; known: dims, depths"),
    ],
)
def test_bad_arguments_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone_config("vmamba_nano", **changes)


def test_classifiers_are_refused() -> None:
    with pytest.raises(ValueError, match="vmamba_nano gives maps only: pass features_only=True"):
        create_backbone("vmamba_nano")


@pytest.mark.slow
def test_compiles_in_one_graph_with_gradients() -> None:
    model, x = small(), torch.rand(2, 3, 33, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    parameters = list(model.parameters())
    wanted, found = model(x), compiled(x)
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(other, one)
    for one, other in zip(
        torch.autograd.grad(sum(m.square().sum() for m in wanted), parameters),
        torch.autograd.grad(sum(m.square().sum() for m in found), parameters),
        strict=True,
    ):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


def test_inference_form_gives_the_same() -> None:
    from dfmamba.layers import fuse

    model, x = small(), torch.rand(1, 3, 40, 33)
    with torch.no_grad():
        for one, other in zip(fuse(model)(x), model(x), strict=True):
            torch.testing.assert_close(one, other)
