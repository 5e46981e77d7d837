"""Registers functions as PyTorch operators in the namespace ``dfmamba``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("dfmamba", "FRAGMENT")


def _refuse(*_: Any) -> None:
    raise RuntimeError("the operators of dfmamba can be differentiated once, not twice")


def register(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    differentiate: Callable[..., Any] = _refuse,
    keep: Callable[..., Any] | None = None,
) -> Any:
    """Makes ``torch.ops.dfmamba.NAME``, which compilers and exporters keep whole.

    `torch.library.custom_op` would do the same, but imports the compiler at the first call, which takes
    longer than finding the hands of a picture.

    Args:
        schema: name, arguments and results, in PyTorch's language.
        run: the operator on any device; results must not share memory with operands or each other.
        fake: shapes, dtypes and strides of its results, from operands without values.
        differentiate: the backward pass, (context, *gradients of the results) -> gradients of the arguments;
            without one, asking for it is an error.
        keep: (context, inputs, output), stores what it needs.

    Returns:
        The operator.
    """
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dfmamba::{name}", fake, lib=_LIBRARY)
    torch.library.register_autograd(f"dfmamba::{name}", differentiate, setup_context=keep, lib=_LIBRARY)
    return getattr(torch.ops.dfmamba, name)
