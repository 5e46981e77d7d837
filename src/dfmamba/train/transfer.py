"""Starting a backbone from weights that were trained for something else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from dfmamba.backbones.baselines import Baseline, fitted
from dfmamba.backbones.features import read_weights, require_finite
from dfmamba.models import WEIGHTS_FILE

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that wrappers of a network put before all of its names."""

LEAST_TAKEN = 0.5
"""Share of a backbone's tensors that a file must fill, or it belongs to another one."""


class Transfer(NamedTuple):
    """What became of the tensors of a file and of a backbone.

    Attributes:
        taken: names in the backbone that were filled.
        missing: names in the backbone that kept what they had.
        left: names in the file that were not used.
    """

    taken: list[str]
    missing: list[str]
    left: list[str]

    @property
    def line(self) -> str:
        """The counts in words."""
        kept = f" (first: {self.missing[0]})" if self.missing else ""
        return (
            f"{len(self.taken)} of {len(self.taken) + len(self.missing)} backbone tensors taken, "
            f"{len(self.missing)} kept as they were{kept}, {len(self.left)} of the file not used"
        )


def load_backbone(backbone: nn.Module, source: str | Path) -> Transfer:
    """Fills in a backbone's weights from a model, a pre-training run, or a file with timm's names.

    Names are compared without the prefixes of wrappers (`WRAPPERS`); where some begin with "backbone.", only
    these count. The first convolution is adapted to other than three channels, and position codes are
    resampled, as for `dfmamba.backbones.baselines.load_baseline_weights`. Unlike there, tensors may be
    missing or of another shape, such as those of stages that the file's network lacks.

    Args:
        backbone: a `TribridFeatures`, `Tribrid` or `Baseline`.
        source: a folder with `model.safetensors`, or a safetensors file.

    Raises:
        OSError: no such file.
        ValueError: it is damaged, holds values that are not finite, or fewer than `LEAST_TAKEN` of the
            backbone's tensors fit; the backbone stays as it was.
    """
    path = Path(source)
    path = path / WEIGHTS_FILE if path.is_dir() else path
    expected = f"weights in safetensors format, or a folder with {WEIGHTS_FILE}"
    inner: Any = backbone.body if isinstance(backbone, Baseline) else backbone
    own: dict[str, Tensor] = inner.state_dict()
    found = _backbone_part(read_weights(path, expected), "body." if isinstance(backbone, Baseline) else "")
    ready = fitted(found, own, backbone)
    counted = [name for name in own if not name.endswith("num_batches_tracked")]
    taken = [n for n in counted if n in ready and ready[n].shape == own[n].shape]
    missing = [name for name in counted if name not in set(taken)]
    if len(taken) < LEAST_TAKEN * len(counted):
        other = f"; the first that doesn't: {missing[0]}" if missing else ""
        raise ValueError(
            f"{path}: only {len(taken)} of the backbone's {len(counted)} tensors fit{other}; expected "
            "weights of the same architecture, with our names or timm's"
        )
    require_finite(ready, taken, path)
    extra = [n for n in own if n not in counted and n in ready and ready[n].shape == own[n].shape]
    inner.load_state_dict({**own, **{name: ready[name].to(own[name].dtype) for name in [*taken, *extra]}})
    return Transfer(taken, missing, [name for name in found if name not in own])


def _backbone_part(state: Mapping[str, Tensor], inner: str) -> dict[str, Tensor]:
    """The tensors by their names within the backbone; the others by their own, marked as foreign."""
    named = {_unwrapped(name): value for name, value in state.items()}
    inside = any(name.startswith("backbone.") for name in named)
    part: dict[str, Tensor] = {}
    for name, value in named.items():
        if inside and not name.startswith("backbone."):
            part[f"outside {name}"] = value
            continue
        name = name.removeprefix("backbone.")
        part[name.removeprefix(inner)] = value
    return part


def _unwrapped(name: str) -> str:
    while prefix := next((prefix for prefix in WRAPPERS if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name
