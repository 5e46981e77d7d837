"""The operators in programs that use PyTorch in other ways: defaults, transforms, devices, empty batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from dfmamba.ops import anchor_grid, deformable_sample, selective_scan, use_backend

# PyTorch's own, of its forward-mode rules
scripting = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is (deprecated|not supported):FutureWarning"
)

BACKENDS = ["auto", "torch", "reference", "export"]


def scan_operands(batch: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float32)

    return draw(batch, 6, 9), draw(batch, 6, 9), -draw(6, 3), draw(batch, 3, 9), draw(batch, 3, 9), draw(6)


def sample_operands(batch: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 6, 5, 4, generator=generator, dtype=torch.float32)
    # Off whole numbers, where the derivative has a step.
    offsets = 0.3 + 0.1 * torch.rand(batch, 2, 9, 2, 5, 4, generator=generator, dtype=torch.float32)
    weights = torch.randn(batch, 3, 9, 5, 4, generator=generator, dtype=torch.float32)
    return x, offsets, weights, torch.stack([torch.arange(9.0) % 3 - 1, torch.arange(9.0) // 3 - 1], dim=1)


Case = tuple[Callable[..., Tensor], tuple[Tensor, ...]]
CASES: dict[str, Case] = {
    "scan": (selective_scan, scan_operands()),
    "sample": (deformable_sample, sample_operands()),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16], ids=str)
def other_default(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


def gradients(operator: Callable[..., Tensor], operands: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [t.clone().requires_grad_() for t in operands]
    y = operator(*leaves)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


WANTED = {name: gradients(*case) for name, case in CASES.items()}


@pytest.mark.usefixtures("other_default")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_process_wide_dtype_changes_nothing(name: str, backend: str) -> None:
    with use_backend(backend):
        found = gradients(*CASES[name])
    for one, other in zip(found, WANTED[name], strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_process_wide_device_changes_nothing(name: str, backend: str) -> None:
    with use_backend(backend), torch.device("meta"):
        found = gradients(*CASES[name])
    for one, other in zip(found, WANTED[name], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@scripting
@pytest.mark.parametrize("index", range(4))
def test_forward_mode_gives_the_slope(case: Case, index: int) -> None:
    operator, operands = case
    operands = tuple(t.double() for t in operands)
    direction, step = torch.ones_like(operands[index]), 1e-6

    def along(value: Tensor) -> Tensor:
        return operator(*operands[:index], value, *operands[index + 1 :])

    high, low = along(operands[index] + step * direction), along(operands[index] - step * direction)
    wanted = (high - low) / (2 * step)
    _, found = torch.func.jvp(along, (operands[index],), (direction,))
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert found.abs().max() > 0.01
    with forward_ad.dual_level():
        dual = along(forward_ad.make_dual(operands[index], direction))
        assert torch.allclose(forward_ad.unpack_dual(dual).tangent, wanted, rtol=1e-5, atol=1e-6)


@scripting
def test_transforms_give_what_reverse_mode_gives(case: Case) -> None:
    operator, operands = case
    leaves = [t.clone().requires_grad_() for t in operands]
    wanted = torch.autograd.grad(operator(*leaves).square().sum(), leaves)
    every = tuple(range(len(operands)))
    found = torch.func.grad(lambda *values: operator(*values).square().sum(), argnums=every)(*operands)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)

    reverse = torch.func.jacrev(lambda x: operator(x, *operands[1:]).sum((0, 2)))(operands[0])
    forward = torch.func.jacfwd(lambda x: operator(x, *operands[1:]).sum((0, 2)))(operands[0])
    assert torch.allclose(reverse, forward, rtol=1e-4, atol=1e-5)


def test_vmap_gives_what_a_loop_gives(case: Case) -> None:
    operator, operands = case
    several = torch.stack([operands[0], 2 * operands[0], -operands[0]])
    found = torch.func.vmap(lambda x: operator(x, *operands[1:]))(several)
    wanted = torch.stack([operator(x, *operands[1:]) for x in several])
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_operands_on_meta_give_a_result_on_meta(case: Case) -> None:
    operator, operands = case
    y = operator(*(t.to("meta") for t in operands))
    assert y.device.type == "meta"
    assert y.shape == operands[0].shape


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", range(4))
def test_operands_on_two_devices_are_refused(case: Case, backend: str, index: int) -> None:
    operator, operands = case
    mixed = [t.to("meta") if i == index else t for i, t in enumerate(operands)]
    with use_backend(backend), pytest.raises(ValueError, match=r"is on (meta|cpu), expected (meta|cpu)"):
        operator(*mixed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("operator", "operands"),
    [
        (selective_scan, scan_operands(0)),
        (deformable_sample, sample_operands(0)),
        (deformable_sample, (torch.zeros(0, 6, 5, 4), None, torch.ones(6, 9), anchor_grid(9))),
    ],
    ids=["scan", "sample", "sample-fixed"],
)
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(
    operator: Callable[..., Tensor], operands: tuple[Tensor | None, ...], backend: str
) -> None:
    leaves = [None if t is None else t.clone().requires_grad_() for t in operands]
    with use_backend(backend):
        y = operator(*leaves)
        y.sum().backward()
    assert y.shape == leaves[0].shape  # type: ignore[union-attr]
    for leaf in leaves:
        assert leaf is None or leaf.grad is None or not leaf.grad.any()
    assert leaves[2].grad is not None  # type: ignore[union-attr]


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_gradient_is_computed_by_the_backend_of_its_forward_pass(
    case: Case, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for anew, the backend would be one that doesn't run here."""
    operator, operands = case
    leaves = [t.clone().requires_grad_() for t in operands]
    with use_backend(backend):
        y = operator(*leaves)
    monkeypatch.setenv("DFMAMBA_BACKEND", "triton")
    found = torch.autograd.grad(y.square().sum(), leaves)
    monkeypatch.delenv("DFMAMBA_BACKEND")
    for one, other in zip(found, gradients(operator, operands)[1:], strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
