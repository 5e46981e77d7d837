"""Backbones of a benchmark, ours and timm's, built by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dfmamba.backbones import create_backbone
from dfmamba.backbones.dfmamba import DeformableSampler
from dfmamba.backbones.registry import BACKBONES

PEERS = (
    "resnet50",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch16_224",
    "mambaout_tiny",
)
NEEDS_TIMM = "timm is not installed (pip install 'dfmamba[bench]')"


@dataclass(frozen=True)
class Network:
    """A backbone by name.

    Attributes:
        label: as the tables show it.
        name: of `dfmamba.create_backbone` or `timm.create_model`.
        arguments: passed to it.
    """

    label: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether it is one of dfmamba's."""
        return self.name in BACKBONES

    @property
    def missing(self) -> str | None:
        """Why it can't be built here, or None."""
        return None if self.ours or importlib.util.find_spec("timm") else NEEDS_TIMM


class Features(nn.Module):
    """A network up to its last map or tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_features(x)  # type: ignore[operator]


def networks(names: tuple[str, ...], size: int) -> list[Network]:
    """The named backbones for pictures of `size` pixels.

    Transformers are told the size. Swin appears twice where its usual window of 7 doesn't divide the map:
    with a window that does, and with 7, which pads.
    """
    found = []
    for name in names:
        if name.startswith("swin"):
            window = size // 32
            found.append(Network(f"{name}, window {window}", name, {"img_size": size, "window_size": window}))
            if window != 7:
                found.append(Network(f"{name}, window 7 (pads)", name, {"img_size": size, "window_size": 7}))
        elif "vit" in name.split("_"):
            found.append(Network(name, name, {"img_size": size}))
        else:
            found.append(Network(name, name))
    return found


def build(network: Network) -> Features:
    """The network with random weights and without classifier, in evaluation mode.

    Statistics of BatchNorm and predicted offsets are random too: as constructed they are the identity and
    zero, which neither time nor check the work of a trained network. Nothing is dropped in training, so that
    results can be compared.

    Raises:
        ImportError: a network of timm's without timm.
        ValueError: unknown name.
    """
    torch.manual_seed(0)
    if network.ours:
        model = create_backbone(network.name, **network.arguments)
    else:
        if network.missing:
            raise ImportError(network.missing)
        import timm

        try:
            model = timm.create_model(network.name, pretrained=False, num_classes=0, **network.arguments)
        except RuntimeError as error:
            known = f"{network.name!r} is neither a backbone of dfmamba nor of timm"
            raise ValueError(f"{known}: {error}") from None
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            nn.init.normal_(mean, std=0.1)
            nn.init.uniform_(variance, 0.5, 1.5)
        if isinstance(module, DeformableSampler):
            last = [m for m in module.branch.modules() if isinstance(m, nn.Conv2d)][-1]
            nn.init.normal_(last.weight, std=0.05)
        if hasattr(module, "drop_prob"):
            vars(module)["drop_prob"] = 0.0
    return Features(model).eval()
