"""Published weights of other papers' backbones, from local safetensors files."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dfmamba.backbones.baselines import Baseline, load_baseline_weights
from dfmamba.backbones.spatial_mamba import SpatialMamba, load_spatial_mamba_weights
from dfmamba.backbones.vmamba import VMamba, load_peer_weights


def load_published_weights(backbone: nn.Module, path: str | Path) -> None:
    """Fills in a peer's or baseline's weights from a file with the names of their release, or of timm.

    Raises:
        OSError: no such file.
        ValueError: it is damaged or of another network, or the backbone is none of these.
    """
    if isinstance(backbone, Baseline):
        load_baseline_weights(backbone, path)
    elif isinstance(backbone, VMamba):
        load_peer_weights(backbone, path)
    elif isinstance(backbone, SpatialMamba):
        load_spatial_mamba_weights(backbone, path)
    else:
        raise ValueError(
            f"{path}: published weights are for peers and baselines, not for {type(backbone).__name__}; "
            "start ours with init or init_backbone"
        )
