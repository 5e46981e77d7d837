"""The operators inside PyTorch: `opcheck`, `torch.compile` without breaks, `torch.export`, autocast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfmamba.ops import anchor_grid, deformable_sample, selective_scan, use_backend
from dfmamba.ops.deformable_sample import sample, sample_backward
from dfmamba.ops.selective_scan import scan, scan_backward

quiet = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # opcheck's own


def scan_operands(adjacent: bool, gate: bool, dtype: torch.dtype = torch.float32) -> tuple:
    generator = torch.Generator().manual_seed(0)

    def sequence() -> Tensor:
        x = torch.randn(2, 7, 5, generator=generator, dtype=dtype)
        return (x.transpose(1, 2) if adjacent else x.reshape(2, 5, 7)).requires_grad_()

    A = -torch.rand(5, 2, generator=generator, dtype=dtype)
    B, C = torch.randn(2, 2, 1, 2, 7, generator=generator, dtype=dtype)
    D = torch.randn(5, generator=generator, dtype=dtype)
    rest = (D, sequence(), None) if gate else (None, None, D)
    return sequence(), sequence(), A.requires_grad_(), B.requires_grad_(), C[:, 0], *rest, True


def sample_operands(moved: bool, dynamic: bool) -> tuple:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 3, 5, generator=generator).requires_grad_()
    offsets = torch.randn(2, 2, 4, 2, 3, 5, generator=generator).requires_grad_() if moved else None
    shape = (2, 3, 4, 3, 5) if dynamic else (6, 4)
    weights = torch.randn(*shape, generator=generator).requires_grad_()
    return x, offsets, weights, anchor_grid(4).requires_grad_()


def detached(operands: tuple) -> tuple:
    return tuple(t.detach() if isinstance(t, Tensor) else t for t in operands)


@quiet
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("adjacent", [False, True])
@pytest.mark.parametrize("gate", [False, True])
def test_scan_passes_opcheck(backend: str, adjacent: bool, gate: bool) -> None:
    operands = scan_operands(adjacent, gate)
    operands = (*operands, backend)
    torch.library.opcheck(scan, operands)
    y, last = scan(*detached(operands))
    torch.library.opcheck(scan_backward, (torch.ones_like(y), torch.ones_like(last), *detached(operands)))


@quiet
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_sample_passes_opcheck(backend: str, moved: bool, dynamic: bool) -> None:
    operands = sample_operands(moved, dynamic)
    operands = (*operands, backend)
    torch.library.opcheck(sample, operands)
    y = sample(*detached(operands))
    torch.library.opcheck(sample_backward, (torch.ones_like(y), *detached(operands)))


class Both(nn.Module):
    """A map sampled and scanned, with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weights = nn.Parameter(torch.randn(6, 4, generator=generator))
        self.register_buffer("anchors", anchor_grid(4))
        self.A_log = nn.Parameter(torch.zeros(6, 2))
        self.project = nn.Conv1d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = deformable_sample(x, None, self.weights, self.anchors).flatten(2)
        B, C = self.project(u).chunk(2, dim=1)
        y = selective_scan(u, u, -self.A_log.exp(), B, C, delta_softplus=True)
        return y.unflatten(2, x.shape[2:])


def test_compiles_in_one_graph() -> None:
    model, x = Both(), torch.randn(2, 6, 3, 5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    wanted, found = model(x), compiled(x)
    assert torch.allclose(found, wanted, atol=1e-6)
    gradients = [torch.autograd.grad(y.square().sum(), list(model.parameters())) for y in (wanted, found)]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_exports_with_any_batch() -> None:
    model, x = Both().eval(), torch.randn(2, 6, 3, 5)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}, strict=False)
    called = {str(node.target) for node in program.graph.nodes}
    assert {"dfmamba.selective_scan.default", "dfmamba.deformable_sample.default"} <= called
    other = torch.randn(5, 6, 3, 5)
    assert torch.allclose(program.module()(other), model(other), atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_autocast_leaves_the_computation_in_single_precision(backend: str) -> None:
    operands = scan_operands(adjacent=True, gate=True)
    with use_backend(backend):
        wanted = selective_scan(*operands)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(selective_scan(*operands), wanted)
            model, x = Both(), torch.randn(1, 6, 4, 4)
            model(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
