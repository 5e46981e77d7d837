"""Named backbones: one dictionary from a name to its configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from fnmatch import fnmatch
from typing import Any

from torch import nn

from dfmamba.backbones.baselines import BASELINES, BaselineConfig, create_baseline
from dfmamba.backbones.dssm import DSSMConfig
from dfmamba.backbones.overrides import with_overrides
from dfmamba.backbones.spatial_mamba import SPATIAL_MAMBAS, SpatialMamba, SpatialMambaConfig
from dfmamba.backbones.tribrid import Tribrid, TribridConfig, TribridFeatures
from dfmamba.backbones.vmamba import VMAMBAS, VMamba, VMambaConfig

PeerConfig = VMambaConfig | SpatialMambaConfig

BACKBONES: dict[str, TribridConfig] = {
    "dfmamba_tiny": TribridConfig(
        dims=(64, 128, 304, 608),
        stem_dim=32,
        stages=(
            ("conv",) * 2,
            ("conv",) * 3,
            ("dssm", "gated") * 4,
            ("dssm", "gated") * 2,
        ),
        scan=DSSMConfig(d_state=1),
    ),
    "dfmamba_nano": TribridConfig(
        dims=(32, 64, 128, 192),
        stem_dim=16,
        stages=(("conv",), ("conv",) * 2, ("dssm", "gated") * 2, ("dssm", "gated")),
        scan=DSSMConfig(d_state=1),
        ffn_ratio=2.0,
        gated_expand=2.0,
        gated_kernel=5,
    ),
    "dfmamba_test": TribridConfig(
        dims=(8, 8, 16, 16),
        stem_dim=4,
        stages=(("conv",), ("conv",), ("dssm", "gated"), ("dssm",)),
        ffn_ratio=1.0,
        gated_expand=1.0,
        gated_kernel=3,
    ),
}

PEERS: dict[str, PeerConfig] = {**VMAMBAS, **SPATIAL_MAMBAS}
"""State-space backbones of other papers, built here on our operators."""

Build = Callable[[Any, int | Sequence[int]], nn.Module]
_ADDED: dict[str, tuple[Any, Build]] = {}


def register_backbone(name: str, config: Any, build: Build) -> None:
    """Gives a backbone from outside the package a name, in this process; the same name again replaces it.

    Args:
        name: what `create_backbone`, models and training call it.
        config: a frozen dataclass with `in_chans`; its other fields can be overridden, too.
        build: of the configuration and `out_indices`, gives a module whose `feature_info`
            (`dfmamba.backbones.features.FeatureInfo`) tells channels and strides of the maps that it returns.

    Raises:
        ValueError: the package has a backbone of this name, or the configuration is of another kind.
    """
    if name in BACKBONES or name in PEERS or name in BASELINES:
        raise ValueError(f"backbone {name!r} is one of the package; take another name")
    if not is_dataclass(config) or isinstance(config, type) or not hasattr(config, "in_chans"):
        raise ValueError(f"backbone {name!r}: expected a dataclass with in_chans, got {config!r}")
    _ADDED[name] = (config, build)


def list_backbones(pattern: str = "*", baselines: bool = True) -> list[str]:
    """Names of the backbones that match a shell-style pattern, ours first.

    Args:
        pattern: `*` and `?` as in file names.
        baselines: list those of other papers as well: the peers, and those that timm builds (extra
            `baselines`).

    `dfmamba_test` is for tests and not listed.
    """
    ours = sorted(name for name in BACKBONES if name != "dfmamba_test")
    others = (*PEERS, *BASELINES) if baselines else ()
    return [name for name in (*ours, *_ADDED, *others) if fnmatch(name, pattern)]


def backbone_config(name: str, **overrides: Any) -> Any:
    """Configuration of a named backbone with some fields changed; needs no timm.

    Raises:
        ValueError: unknown name or field.
    """
    if name in _ADDED:
        return with_overrides(_ADDED[name][0], overrides)
    config = BACKBONES.get(name) or PEERS.get(name) or BASELINES.get(name)
    if config is None:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(list_backbones())}")
    return config.with_overrides(**overrides)


def create_backbone(
    name: str,
    features_only: bool = False,
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
    num_classes: int = 0,
    drop_rate: float = 0.0,
    global_pool: str = "avg",
    **overrides: Any,
) -> nn.Module:
    """Builds a backbone by name.

    Args:
        name: one of `list_backbones()`.
        features_only: return the maps of `out_indices` (strides 4, 8, 16, 32) instead of pooled features.
        out_indices: which stages a feature backbone returns, or how many last ones; those after the last one
            aren't kept.
        num_classes: size of the classifier (not with `features_only`, nor are the next two).
        drop_rate: dropout before the classifier.
        global_pool: "avg", "max", "avgmax", "catavgmax", or "" for a map of class scores.
        **overrides: fields of `TribridConfig`, such as `in_chans`, `drop_path_rate`, `deformable`,
            `num_anchors` or `replaced={"dssm": "mamba"}`; of a peer or baseline, those of its
            configuration.

    Returns:
        A `Tribrid`, or a `TribridFeatures`, peer or `Baseline` whose `feature_info` has channels and strides.

    Raises:
        ValueError: unknown name or argument, one of the classifier together with `features_only`, or a
            peer or baseline without `features_only`.
        ImportError: a baseline without timm.

    Example:
        >>> import torch
        >>> model = create_backbone("dfmamba_nano", features_only=True).eval()
        >>> [tuple(m.shape[1:]) for m in model(torch.zeros(1, 3, 64, 64))]
        [(32, 16, 16), (64, 8, 8), (128, 4, 4), (192, 2, 2)]
    """
    config = backbone_config(name, **overrides)
    if features_only:
        if num_classes or drop_rate or global_pool != "avg":
            raise ValueError(
                "a feature backbone has no classifier: leave num_classes, drop_rate and global_pool out"
            )
        if name in _ADDED:
            return _ADDED[name][1](config, out_indices)
        if isinstance(config, BaselineConfig):
            return create_baseline(config, out_indices)
        if isinstance(config, VMambaConfig):
            return VMamba(config, out_indices)
        if isinstance(config, SpatialMambaConfig):
            return SpatialMamba(config, out_indices)
        return TribridFeatures(config, out_indices)
    if name in _ADDED or isinstance(config, PeerConfig):
        raise ValueError(f"{name} gives maps only: pass features_only=True")
    if isinstance(config, BaselineConfig):
        raise ValueError(
            f"{name} gives maps only: pass features_only=True, or use timm.create_model for a classifier"
        )
    return Tribrid(config, num_classes, drop_rate, global_pool)
