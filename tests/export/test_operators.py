"""The exportable forms of the operators equal the references."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from dfmamba.export.formats import exporter_knows_scans, quiet
from dfmamba.ops import (
    anchor_grid,
    deformable_sample,
    deformable_sample_reference,
    selective_scan,
    selective_scan_reference,
    use_backend,
)
from dfmamba.ops.deformable_sample import export as sampling
from dfmamba.ops.selective_scan import export as scanning


def scan_operands(
    batch: int, channels: int, length: int, states: int, matrices: str, step: float = 1.0
) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    shape: tuple[int, ...] = (batch, states, length)
    if matrices == "constant":
        shape = (channels, states)
    elif matrices != "shared":
        shape = (batch, int(matrices), states, length)
    whole = (batch, channels, length)
    return (
        normal(*whole),
        step * normal(*whole),
        -torch.rand(channels, states, generator=g, dtype=torch.float64) - 0.1,
        normal(*shape),
        normal(*shape),
        normal(channels),
        normal(*whole),
        normal(channels),
    )


SCANS = [
    (2, 6, 37, 3, "shared"),
    (1, 5, 53, 1, "shared"),
    (2, 6, 9, 8, "3"),
    (2, 6, 7, 1, "1"),
    (2, 4, 5, 2, "4"),
    (2, 3, 23, 2, "constant"),
    (3, 4, 1, 3, "shared"),
    (1, 3, 2, 1, "shared"),
]


@pytest.mark.parametrize("shape", SCANS)
@pytest.mark.parametrize("step", [1.0, 300.0])
def test_scan_equals_reference(shape: tuple, step: float) -> None:
    operands = scan_operands(*shape, step=step)
    wanted, wanted_last = selective_scan_reference(*operands, delta_softplus=True, return_last_state=True)
    y, last = scanning.selective_scan_export(*operands, delta_softplus=True)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(last, wanted_last, rtol=1e-10, atol=1e-9)


def test_scan_without_optional_operands() -> None:
    u, delta, A, B, C, *_ = scan_operands(2, 4, 11, 2, "shared")
    y, _ = scanning.selective_scan_export(u.float(), delta.abs().float(), A, B, C)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, selective_scan_reference(u.float(), delta.abs().float(), A, B, C))


class Scan(nn.Module):
    def forward(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return selective_scan(u, delta, A, B, C, delta_softplus=True)


class Sample(nn.Module):
    def forward(self, x: Tensor, offsets: Tensor, weights: Tensor, anchors: Tensor) -> Tensor:
        return deformable_sample(x, offsets, weights, anchors)


def through_onnx(module: nn.Module, operands: tuple[Tensor, ...]) -> tuple[np.ndarray, set[str]]:
    """What onnxruntime makes of a module, and the operators in its graph."""
    with torch.no_grad(), use_backend("export"), quiet():
        program = torch.onnx.export(module.eval(), operands, dynamo=True, verbose=False, opset_version=20)
    assert program is not None
    proto = program.model_proto
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), operands, strict=True)}
    return session.run(None, feed)[0], {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize(("form", "states"), [("auto", 1), ("auto", 3), ("unrolled", 2)])
def test_scan_in_onnxruntime(form: str, states: int) -> None:
    if form == "auto" and not exporter_knows_scans():
        pytest.skip("this PyTorch doesn't translate its higher-order scan to ONNX")
    operands = tuple(t.float() for t in scan_operands(2, 5, 13, states, "shared", step=30.0)[:5])
    with scanning.scan_form(form):
        found, operators = through_onnx(Scan(), operands)
    assert ("Scan" in operators) == (form == "auto")
    wanted = selective_scan_reference(*operands, delta_softplus=True)
    assert isinstance(wanted, Tensor)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-4)


def sample_operands(
    channels: int, height: int, width: int, count: int, offset_groups: int | None, weight_groups: int | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    g = torch.Generator().manual_seed(count * height)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    offsets = None if offset_groups is None else 3 * normal(2, offset_groups, count, 2, height, width)
    if weight_groups is None:
        weights = normal(channels, count)
    else:
        weights = normal(2, weight_groups, count, height, width)
    x = normal(2, channels, height, width)
    return x, offsets, weights, anchor_grid(count).double() + 0.3 * normal(count, 2)


@pytest.mark.parametrize("form", sampling.FORMS)
@pytest.mark.parametrize(
    "shape",
    [
        (6, 5, 7, 9, 1, 1),
        (6, 5, 7, 9, 2, 3),
        (6, 1, 7, 4, 2, 1),
        (6, 3, 3, 1, None, 6),
        (4, 19, 17, 9, 1, 1),
        (6, 4, 5, 9, None, None),
        (6, 5, 3, 16, 3, None),
    ],
)
def test_sampling_equals_reference(form: str, shape: tuple) -> None:
    operands = sample_operands(*shape)
    with sampling.sampling_form(form), use_backend("export"):
        found = deformable_sample(*operands)
    torch.testing.assert_close(found, deformable_sample_reference(*operands), rtol=1e-10, atol=1e-10)


def test_whole_number_positions_and_far_offsets() -> None:
    x, offsets, weights, _ = sample_operands(4, 3, 5, 9, 1, 1)
    assert offsets is not None
    offsets = offsets.round() * 4
    wanted = deformable_sample_reference(x, offsets, weights, anchor_grid(9).double())
    for form in ("dense", "deform_conv", "grid_sample"):
        with sampling.sampling_form(form):
            found = sampling.deformable_sample_export(x, offsets, weights, anchor_grid(9).double())
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("form", "shape", "operator"),
    [
        ("auto", (6, 3, 5, 9, 1, 1), "MatMul"),
        ("auto", (6, 3, 5, 9, 2, None), "DeformConv"),
        ("basic", (6, 3, 5, 9, 2, None), "GridSample"),
        ("deform_conv", (6, 3, 5, 4, 2, 3), "DeformConv"),
    ],
)
def test_sampling_in_onnxruntime(form: str, shape: tuple, operator: str) -> None:
    x, offsets, weights, anchors = sample_operands(*shape)
    assert offsets is not None
    operands = (x.float(), offsets.float(), weights.float(), anchors.float())
    with sampling.sampling_form(form):
        found, operators = through_onnx(Sample(), operands)
    assert operator in operators
    np.testing.assert_allclose(found, deformable_sample_reference(*operands).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choose", [scanning.scan_form, sampling.sampling_form])
def test_unknown_form(choose) -> None:
    with pytest.raises(ValueError, match=r"unknown form of .*'fast'; choose one of auto"), choose("fast"):
        pass
