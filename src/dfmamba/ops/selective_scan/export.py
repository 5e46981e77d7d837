"""The selective scan in operators that exporters know.

Two forms, both free of exponentials of cumulated sums, which overflow: PyTorch's higher-order `scan`, which
becomes a single ONNX Scan node for any length; and plain operators, in which about sqrt(L) pieces of the
sequence advance together, unrolled. In onnxruntime the Scan node is as fast as the unrolled form with one
state per channel, faster with several, and a tenth of the nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dfmamba.ops.backend import wide_dtype
from dfmamba.ops.selective_scan.plain import piece_length

FORMS = ("auto", "unrolled")

_form: ContextVar[str] = ContextVar("dfmamba_scan_form", default="auto")


@contextmanager
def scan_form(name: str) -> Iterator[None]:
    """Choose the form of the enclosed exported scans.

    Args:
        name: "auto" (the higher-order scan while exporting, unrolled in eager mode) or "unrolled".

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in FORMS:
        raise ValueError(f"unknown form of the scan {name!r}; choose one of {', '.join(FORMS)}")
    token = _form.set(name)
    try:
        yield
    finally:
        _form.reset(token)


def _unrolled(a: Tensor, b: Tensor) -> Tensor:
    """States ``h[t] = a[t] h[t-1] + b[t]`` along the first axis, h = 0 before it, in pieces.

    Every piece starts from zero and keeps the running product of its decays. What the pieces before it leave
    is then added to all its steps, times that product.
    """
    length = a.shape[0]
    piece = piece_length(length)
    count = -(-length // piece)
    missing = count * piece - length
    if missing:
        padding = (0, 0) * (a.dim() - 1) + (0, missing)
        a, b = F.pad(a, padding), F.pad(b, padding)
    decays, inputs = a.unflatten(0, (count, piece)).unbind(1), b.unflatten(0, (count, piece)).unbind(1)
    states, products = [inputs[0]], [decays[0]]
    for t in range(1, piece):
        states.append(inputs[t] + decays[t] * states[-1])
        products.append(decays[t] * products[-1])
    ends, end_products = states[-1].unbind(0), products[-1].unbind(0)
    entering = [torch.zeros_like(ends[0])]
    for s in range(count - 1):
        entering.append(ends[s] + end_products[s] * entering[-1])
    before = torch.stack(entering, dim=0)[:, None]
    return (torch.stack(states, dim=1) + torch.stack(products, dim=1) * before).flatten(0, 1)[:length]


def _higher_order(a: Tensor, b: Tensor) -> Tensor:
    """As `_unrolled`, by the higher-order operator; only while exporting."""
    from torch._higher_order_ops.scan import scan  # not public before PyTorch offers it elsewhere

    def step(state: Tensor, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        state = inputs[0] * state + inputs[1]
        return state, state.clone()  # what is stacked must not alias what is carried

    _, states = scan(step, torch.zeros_like(b[0]), (a, b))
    return states


def _softplus(x: Tensor) -> Tensor:
    """In operators that onnxruntime vectorises: its Softplus takes a twelfth of the time of dfmamba_nano.

    Off by 6e-8 at most, as float32 loses what is smaller beside 1.
    """
    return F.relu(x) + torch.log(1 + torch.exp(-x.abs()))


def selective_scan_export(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Selective scan for exporters; arguments as in `dfmamba.ops.selective_scan`, already checked.

    The batch may be symbolic; L is a number.

    Returns:
        y (batch, D, L) in u's dtype, and the state after the last step (batch, D, N) in the dtype of the
        computation, float32 or, if an operand has it, float64.
    """
    operands = (u, delta, A, B, C, D, z, delta_bias)
    wide = wide_dtype(*operands)
    channels, states = u.shape[1], A.shape[1]

    def time_first(x: Tensor) -> Tensor:
        """(batch, D, L) to (L, batch, D)."""
        return x.to(wide).permute(2, 0, 1)

    def matrix(m: Tensor) -> Tensor:
        """B or C to (L or 1, batch or 1, D or 1, N)."""
        m = m.to(wide)
        if m.dim() == 2:
            return m[None, None]
        if m.dim() == 3:
            return m.permute(2, 0, 1)[:, :, None]
        groups = m.shape[1]
        m = m.permute(3, 0, 1, 2)
        if groups in (1, channels):
            return m
        wide_shape = (-1, -1, -1, channels // groups, -1)
        return m[:, :, :, None].expand(wide_shape).flatten(2, 3)

    x, step = time_first(u), time_first(delta)
    if delta_bias is not None:
        step = step + delta_bias.to(wide)
    if delta_softplus:
        step = _softplus(step)
    a = torch.exp(step[..., None] * A.to(wide))
    b = (step * x)[..., None] * matrix(B)
    by_node = _form.get() == "auto" and torch.compiler.is_exporting()
    h = _higher_order(a, b) if by_node else _unrolled(a, b)
    y = h * matrix(C)
    y = y.squeeze(-1) if states == 1 else y.sum(-1)
    if D is not None:
        y = y + D.to(wide) * x
    y = y.permute(1, 2, 0)
    if z is not None:
        y = y * F.silu(z.to(wide))
    return y.to(u.dtype), h[-1]
