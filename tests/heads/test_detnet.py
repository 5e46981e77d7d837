"""The regression head and its losses against plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dfmamba.heads import build_head, head_config
from dfmamba.heads.detnet import (
    DetNetConfig,
    DetNetHead,
    DetNetLossConfig,
    DetNetOutput,
    detnet_loss,
    heat_maps,
    read_out,
)
from dfmamba.models import count_parameters

SMALL = DetNetConfig(image_size=64, map_size=16, width=8, num_joints=5)


def noisy(module: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters and running statistics none of which is at rest."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if "running_var" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point() and name != "grid":
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return module


def random_maps(batch: int = 2, joints: int = 3, size: int = 8, seed: int = 0) -> DetNetOutput:
    generator = torch.Generator().manual_seed(seed)
    heat = torch.rand(batch, joints, size, size, generator=generator)
    delta, location = torch.randn(2, batch, joints, 3, size, size, generator=generator)
    return DetNetOutput(heat, delta, location)


def random_target(batch: int = 2, joints: int = 3, size: int = 8, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "cell": torch.randint(-6, size + 6, (batch, joints, 2), generator=generator),
        "location": torch.randn(batch, joints, 3, generator=generator),
        "delta": torch.randn(batch, joints, 3, generator=generator),
        "labelled": torch.rand(batch, joints, generator=generator) < 0.8,
        "has_delta": torch.rand(batch, joints, generator=generator) < 0.8,
    }


def test_published_sizes() -> None:
    """On ResNet-50's 2048 channels: neck 10.49 M, heads 2.06 M."""
    with torch.device("meta"):
        head = DetNetHead((2048,), (32,))
    assert count_parameters(head.neck) == 10_487_296
    assert count_parameters(head) - count_parameters(head.neck) == 2_064_531


@pytest.mark.parametrize("channels", [192, 608, 768])
def test_size_of_the_neck_on_other_backbones(channels: int) -> None:
    with torch.device("meta"):
        head = DetNetHead((channels,), (32,))
    assert count_parameters(head.neck) == 4096 * channels + 2_098_688


def test_settings_as_plain_values() -> None:
    config = DetNetConfig(image_size=96, map_size=24, width=32)
    values = config.to_dict()
    assert values["kind"] == "detnet"
    assert head_config(values) == config
    assert config.stride == 4
    with pytest.raises(ValueError, match=r"unknown head setting.*depth"):
        head_config({**values, "depth": 1})
    assert isinstance(build_head((8, 16), (16, 32), config), DetNetHead)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 130}, "not a multiple"),
        ({"width": 0}, "width is 0"),
        ({"num_joints": 2.5}, "num_joints is 2.5"),
        ({"map_size": -4}, "map_size is -4"),
    ],
)
def test_unusable_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetNetConfig(**values)


@pytest.mark.parametrize(
    ("channels", "strides", "config"),
    [
        ((6, 9), (16,), SMALL),
        ((), (), SMALL),
        ((6,), (4,), SMALL),
        ((6,), (12,), SMALL),
        ((6,), (6,), SMALL),
        ((6,), (32,), DetNetConfig(image_size=48, map_size=12)),
    ],
)
def test_maps_that_do_not_suit(
    channels: tuple[int, ...], strides: tuple[int, ...], config: DetNetConfig
) -> None:
    with pytest.raises(ValueError, match="stride"):
        DetNetHead(channels, strides, config)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_shapes(stride: int) -> None:
    head = DetNetHead((3, 7), (4, stride), SMALL)
    output = head([torch.zeros(2, 3, 16, 16), torch.randn(2, 7, 64 // stride, 64 // stride)])
    assert output.heat.shape == (2, 5, 16, 16)
    assert output.delta.shape == output.location.shape == (2, 5, 3, 16, 16)
    assert ((output.heat > 0) & (output.heat < 1)).all()
    with pytest.raises(ValueError, match="last feature map is"):
        head([torch.randn(2, 7, 3, 3)])
    with pytest.raises(ValueError, match="last feature map is"):
        head([torch.randn(2, 6, 64 // stride, 64 // stride)])


def test_against_the_chain_written_out() -> None:
    head = noisy(DetNetHead((7,), (16,), SMALL)).eval()
    state = head.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.relu(F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"]))

    def branch(x: Tensor, name: str) -> Tensor:
        hidden = norm(F.conv2d(x, state[f"{name}.0.weight"], padding=1), f"{name}.1")
        return F.conv2d(hidden, state[f"{name}.3.weight"], state[f"{name}.3.bias"])

    features = torch.randn(2, 7, 4, 4, generator=torch.Generator().manual_seed(1))
    x = features
    for i in (0, 3):
        x = norm(F.conv_transpose2d(x, state[f"neck.{i}.weight"], stride=2, padding=1), f"neck.{i + 1}")
    columns = torch.linspace(-1, 1, 16).repeat(2, 1, 16, 1)
    first = torch.cat((x, columns, columns.transpose(2, 3)), 1)
    heat = torch.sigmoid(branch(first, "heat"))
    second = torch.cat((first, heat), 1)
    delta = branch(second, "delta")
    location = branch(torch.cat((second, delta), 1), "location")
    output = head([features])
    torch.testing.assert_close(output.heat, heat)
    for joint in range(5):
        for axis in range(3):
            torch.testing.assert_close(output.delta[:, joint, axis], delta[:, 3 * joint + axis])
            torch.testing.assert_close(output.location[:, joint, axis], location[:, 3 * joint + axis])


def test_read_out_against_a_loop() -> None:
    output = random_maps(batch=3, joints=4, size=7)
    output.heat[0, 0] = 0.5  # the first of equals
    found = read_out(output)
    for b in range(3):
        for j in range(4):
            best = (-1.0, 0, 0)
            for row in range(7):
                for column in range(7):
                    if output.heat[b, j, row, column] > best[0]:
                        best = (float(output.heat[b, j, row, column]), row, column)
            peak, row, column = best
            assert found.cell[b, j].tolist() == [column, row]
            assert float(found.peak[b, j]) == peak
            assert torch.equal(found.delta[b, j], output.delta[b, j, :, row, column])
            assert torch.equal(found.location[b, j], output.location[b, j, :, row, column])


@settings(max_examples=40, deadline=None)
@given(column=st.integers(-40, 60), row=st.integers(-40, 60), size=st.integers(1, 20))
def test_support_of_a_heat_map(column: int, row: int, size: int) -> None:
    heat = heat_maps(torch.tensor([[column, row]]), size)[0]
    for y in range(size):
        for x in range(size):
            near = abs(x - column) <= 3 and abs(y - row) <= 3
            expected = math.exp(-((x - column) ** 2 + (y - row) ** 2) / 2) if near else 0.0
            assert float(heat[y, x]) == pytest.approx(expected, abs=1e-6)
            assert (float(heat[y, x]) > 0) == near


def plain_loss(output: DetNetOutput, target: dict[str, Tensor], form: str) -> dict[str, Tensor]:
    """The published terms, one cell after the other."""
    batch, joints, size = output.heat.shape[:3]
    heat = torch.zeros(())
    squares = {"delta": torch.zeros(()), "location": torch.zeros(())}
    for b in range(batch):
        for j in range(joints):
            column, row = target["cell"][b, j].tolist()
            truth = {}
            for y in range(size):
                for x in range(size):
                    near = max(abs(x - column), abs(y - row)) <= 3
                    truth[y, x] = math.exp(-((x - column) ** 2 + (y - row) ** 2) / 2) if near else 0.0
            if not target["labelled"][b, j] or not any(truth.values()):
                continue
            for (y, x), weight in truth.items():
                heat = heat + 0.5 * (output.heat[b, j, y, x] - weight) ** 2 / (batch * size * size)
                for name, maps in (("delta", output.delta), ("location", output.location)):
                    if name == "delta" and not target["has_delta"][b, j]:
                        continue
                    error = (maps[b, j, :, y, x] - target[name][b, j]) * weight
                    squares[name] = squares[name] + (error**2).sum()
    samples = max(1, int(target["labelled"].any(1).sum()))
    terms = {name: (value.sqrt() if form == "norm" else value) / samples for name, value in squares.items()}
    return {"heat": heat, **terms}


@pytest.mark.parametrize("form", ["norm", "squared"])
@pytest.mark.parametrize("seed", [1, 2])
def test_losses_and_gradients_against_a_loop(form: Any, seed: int) -> None:
    output = DetNetOutput(*(maps.requires_grad_() for maps in random_maps(batch=3, seed=seed)))
    target = random_target(batch=3, seed=seed)
    target["labelled"][1] = False
    config = DetNetLossConfig(heat=100, delta=1, location=10, form=form)
    losses, expected = detnet_loss(output, target, config), plain_loss(output, target, form)
    assert min(value.item() for value in expected.values()) > 0
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-5, atol=1e-6)
    total = 100 * expected["heat"] + expected["delta"] + 10 * expected["location"]
    torch.testing.assert_close(losses["total"], total, rtol=1e-5, atol=1e-5)
    found, wanted = (torch.autograd.grad(value, list(output)) for value in (losses["total"], total))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_how_the_gradient_depends_on_the_batch() -> None:
    output, target = random_maps(), random_target()
    doubled = DetNetOutput(*(torch.cat((maps, maps)) for maps in output))
    twice = {name: torch.cat((value, value)) for name, value in target.items()}
    for form, factor in (("norm", 2**-0.5), ("squared", 1.0)):
        config = DetNetLossConfig(form=form)  # type: ignore[arg-type]
        one, two = detnet_loss(output, target, config), detnet_loss(doubled, twice, config)
        assert two["location"].item() == pytest.approx(factor * one["location"].item(), rel=1e-5)
        assert two["heat"].item() == pytest.approx(one["heat"].item(), rel=1e-5)


def test_perfect_maps_have_no_loss_and_a_finite_gradient() -> None:
    target = random_target() | {"labelled": torch.ones(2, 3, dtype=torch.bool)}
    maps = [target[name][..., None, None].expand(-1, -1, -1, 8, 8).clone() for name in ("delta", "location")]
    output = DetNetOutput(heat_maps(target["cell"], 8), *maps)
    output = DetNetOutput(*(part.requires_grad_() for part in output))
    losses = detnet_loss(output, target)
    assert losses["total"].item() == 0
    for gradient in torch.autograd.grad(losses["total"], list(output)):
        assert torch.isfinite(gradient).all()


def test_unlabelled_joints_may_hold_anything() -> None:
    output, target = random_maps(), random_target()
    target["labelled"][:, 1] = False
    dirty = {name: value.clone() for name, value in target.items()}
    dirty["location"][:, 1] = torch.nan
    dirty["delta"][:, 1] = torch.inf
    assert detnet_loss(output, dirty)["total"].item() == detnet_loss(output, target)["total"].item()
    target["labelled"][:] = False
    assert detnet_loss(output, target)["total"].item() == 0


def test_unusable_losses() -> None:
    output, target = random_maps(), random_target()
    with pytest.raises(ValueError, match="'cell' is missing"):
        detnet_loss(output, {name: value for name, value in target.items() if name != "cell"})
    with pytest.raises(ValueError, match=r"'labelled' is \(2, 2\)"):
        detnet_loss(output, target | {"labelled": target["labelled"][:, :2]})
    with pytest.raises(ValueError, match="heat is -1"):
        DetNetLossConfig(heat=-1)
    with pytest.raises(ValueError, match="form is 'mean'"):
        DetNetLossConfig(form="mean")  # type: ignore[arg-type]
