"""Named backbones: one table for ours, the peers, timm's and those from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import nn

from dfmamba.backbones.baselines import BASELINES, create_baseline, load_baseline_weights
from dfmamba.backbones.dfmamba import BACKBONES, Tribrid, TribridFeatures
from dfmamba.backbones.spatial_mamba import SPATIAL_MAMBAS, SpatialMamba, load_spatial_mamba_weights
from dfmamba.backbones.vmamba import VMAMBAS, VMamba, load_peer_weights
from dfmamba.settings import with_overrides

Build = Callable[[Any, int | Sequence[int]], nn.Module]


@dataclass(frozen=True, eq=False)
class _Entry:
    config: Any
    build: Build
    classifier: Callable[..., nn.Module] | None
    load_weights: Callable[[Any, str | Path], None] | None
    kind: str


PEERS = {**VMAMBAS, **SPATIAL_MAMBAS}
"""State-space backbones of other papers, built here on our operators."""

_TABLE: dict[str, _Entry] = {}
_OURS, _OTHERS, _ADDED = "ours", "others", "added"


def register_backbone(
    name: str,
    config: Any,
    build: Build,
    classifier: Callable[..., nn.Module] | None = None,
    load_weights: Callable[[Any, str | Path], None] | None = None,
) -> None:
    """Gives a backbone a name, in this process; the same name again replaces one from outside the package.

    Args:
        name: what `create_backbone`, models and training call it.
        config: a frozen dataclass with `in_chans`; its other fields can be overridden, too.
        build: of the configuration and `out_indices`, gives a module whose `feature_info`
            (`dfmamba.backbones.features.FeatureInfo`) tells channels and strides of the maps that it returns.
        classifier: of the configuration, `num_classes`, `drop_rate` and `global_pool`, gives a module that
            returns class scores or, with 0 classes, pooled features; None if there is no such form.
        load_weights: fills a module that `build` made from a file of weights with the names of its release;
            None if there is no such file.

    Raises:
        ValueError: the package has a backbone of this name, or the configuration is of another kind.
    """
    if name in _TABLE and _TABLE[name].kind != _ADDED:
        raise ValueError(f"backbone {name!r} is one of the package; take another name")
    if not is_dataclass(config) or isinstance(config, type) or not hasattr(config, "in_chans"):
        raise ValueError(f"backbone {name!r}: expected a dataclass with in_chans, got {config!r}")
    _TABLE[name] = _Entry(config, build, classifier, load_weights, _ADDED)


def _register_those_of_the_package() -> None:
    for name, config in BACKBONES.items():
        _TABLE[name] = _Entry(config, TribridFeatures, Tribrid, None, _OURS)
    for name, vmamba in VMAMBAS.items():
        _TABLE[name] = _Entry(vmamba, VMamba, None, load_peer_weights, _OTHERS)
    for name, spatial in SPATIAL_MAMBAS.items():
        _TABLE[name] = _Entry(spatial, SpatialMamba, None, load_spatial_mamba_weights, _OTHERS)
    for name, baseline in BASELINES.items():
        _TABLE[name] = _Entry(baseline, create_baseline, None, load_baseline_weights, _OTHERS)


_register_those_of_the_package()


def list_backbones(pattern: str = "*", baselines: bool = True) -> list[str]:
    """Names of the backbones that match a shell-style pattern: ours, those added, those of other papers.

    Args:
        pattern: `*` and `?` as in file names.
        baselines: list those of other papers as well: the peers, and those that timm builds (extra
            `baselines`).

    `dfmamba_test` is for tests and not listed.
    """

    def of(kind: str) -> list[str]:
        return [name for name, entry in _TABLE.items() if entry.kind == kind and name != "dfmamba_test"]

    names = [*sorted(of(_OURS)), *of(_ADDED), *(of(_OTHERS) if baselines else [])]
    return [name for name in names if fnmatch(name, pattern)]


def _entry(name: str) -> _Entry:
    if name not in _TABLE:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(list_backbones())}")
    return _TABLE[name]


def backbone_config(name: str, **overrides: Any) -> Any:
    """Configuration of a named backbone with some fields changed; needs no timm.

    Raises:
        ValueError: unknown name or field.
    """
    config = _entry(name).config
    own = getattr(config, "with_overrides", None)
    return own(**overrides) if own else with_overrides(config, overrides)


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

    Examples:
        >>> import torch
        >>> model = create_backbone("dfmamba_nano", features_only=True).eval()
        >>> [tuple(m.shape[1:]) for m in model(torch.zeros(1, 3, 64, 64))]
        [(32, 16, 16), (64, 8, 8), (128, 4, 4), (192, 2, 2)]
    """
    entry, config = _entry(name), backbone_config(name, **overrides)
    if features_only:
        if num_classes or drop_rate or global_pool != "avg":
            raise ValueError(
                "a feature backbone has no classifier: leave num_classes, drop_rate and global_pool out"
            )
        return entry.build(config, out_indices)
    if entry.classifier is None:
        raise ValueError(
            f"{name} gives maps only: pass features_only=True"
            + (", or use timm.create_model for a classifier" if name in BASELINES else "")
        )
    return entry.classifier(config, num_classes, drop_rate, global_pool)


def load_published_weights(name: str, backbone: nn.Module, path: str | Path) -> None:
    """Fills in a backbone's weights from a local safetensors file with the names of its release, or of timm.

    Args:
        name: of the backbone, in the registry.
        backbone: made by `create_backbone` with that name.
        path: the file.

    Raises:
        OSError: no such file.
        ValueError: it is damaged or of another network, or there are no such files for this backbone.
    """
    load = _entry(name).load_weights
    if load is None:
        raise ValueError(
            f"{path}: published weights are for peers and baselines, not for {name}; "
            "start ours with init or init_backbone"
        )
    load(backbone, path)
