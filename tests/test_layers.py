"""Layers that backbones and heads share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfmamba.layers import Pointwise


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [False, True])
def test_pointwise_is_the_convolution(memory_format: torch.memory_format, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layer, usual = Pointwise(5, 7, bias), nn.Conv2d(5, 7, 1, bias=bias)
    usual.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 3, 4, generator=generator).contiguous(memory_format=memory_format)
    outcomes = []
    for module in (layer, usual):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = module(leaf)
        assert y.is_contiguous(memory_format=memory_format)
        outcomes.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *module.parameters()])])
    for one, other in zip(*outcomes, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
