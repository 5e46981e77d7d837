"""The backbones in timm's registry.

>>> import dfmamba, timm
>>> dfmamba.register_with_timm()
>>> timm.list_models("dfmamba*")
['dfmamba_nano', 'dfmamba_tiny']
>>> timm.create_model("dfmamba_nano", features_only=True, out_indices=(1, 2)).feature_info.channels()
[64, 128]

Arguments are timm's (`num_classes`, `in_chans`, `drop_rate`, `drop_path_rate`, `global_pool`, `device`,
`dtype`) and all fields of `TribridConfig`. With `features_only` the model is that of
`dfmamba.create_backbone`: the same parameters, and the map of the last stage is normed.
`feature_cls="getter"`, `"hook"` and `"fx"` choose timm's own extractors, which don't norm it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from dfmamba.backbones.registry import create_backbone, list_backbones

ALL_STAGES = (0, 1, 2, 3)

default_cfgs: dict[str, dict[str, Any]] = {
    name: {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 256, 256),
        "min_input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "stem.0.0",
        "classifier": "head",
        "paper_name": "DF-Mamba: Deformable State Space Modeling for 3D Hand Pose Estimation in Interactions",
        "paper_ids": "arXiv:2512.02727",
    }
    for name in list_backbones(baselines=False)
}
"""What timm knows of each model; it looks for this name."""


def _classifier(name: str, device: Any = None, dtype: Any = None, **kwargs: Any) -> nn.Module:
    return create_backbone(name, **kwargs).to(device=device, dtype=dtype)


def _features(
    name: str,
    out_indices: int | Sequence[int],
    num_classes: int = 0,
    drop_rate: float = 0.0,
    global_pool: str = "avg",
    **kwargs: Any,
) -> nn.Module:
    """A feature backbone; takes and ignores the classifier's arguments, which timm always passes."""
    return _classifier(name, features_only=True, out_indices=out_indices, **kwargs)


def _unchanged(model: nn.Module, out_indices: int | Sequence[int]) -> nn.Module:
    """A feature backbone needs no extractor around it."""
    return model


def _build(name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    from timm.models import build_model_with_cfg

    make = partial(_classifier, name)
    feature_cfg: dict[str, Any] = {"out_indices": ALL_STAGES}
    if kwargs.get("features_only"):
        feature_cls = kwargs.pop("feature_cls", "list")
        if feature_cls == "list":
            make = partial(_features, name, kwargs.get("out_indices", ALL_STAGES))
            feature_cls = _unchanged
        elif isinstance(feature_cls, str) and feature_cls not in ("getter", "hook", "fx"):
            raise ValueError(
                f"feature_cls of {name} must be 'list', 'getter', 'hook' or 'fx', got {feature_cls!r}"
            )
        feature_cfg["feature_cls"] = feature_cls
    return build_model_with_cfg(make, name, pretrained, feature_cfg=feature_cfg, **kwargs)


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _build(name, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"The backbone {name}, built by timm."
    return entrypoint


__all__ = ["register"]
for _name in default_cfgs:
    globals()[_name] = _entrypoint(_name)


def register() -> None:
    """Adds the backbones to timm's registry; names that are in it already stay as they are.

    Raises:
        ImportError: timm is not installed, or has no such registry.
    """
    try:
        from timm.models import is_model, register_model
    except ImportError as error:
        raise ImportError(
            "the backbones are registered with timm 1.0.15 or newer: pip install 'dfmamba[baselines]'"
        ) from error
    for name in default_cfgs:
        if not is_model(name):
            register_model(globals()[name])
