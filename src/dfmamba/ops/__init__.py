"""Operators of deformable state-space modelling; see ``ops/README.md`` for the equations."""

from __future__ import annotations

from dfmamba.ops.backend import current_backend, use_backend
from dfmamba.ops.deformable_sample import (
    anchor_grid,
    centre_index,
    deformable_sample,
    deformable_sample_reference,
)
from dfmamba.ops.deformable_selective_scan import (
    deformable_selective_scan,
    deformable_selective_scan_reference,
)
from dfmamba.ops.selective_scan import selective_scan, selective_scan_reference

__all__ = [
    "anchor_grid",
    "centre_index",
    "current_backend",
    "deformable_sample",
    "deformable_sample_reference",
    "deformable_selective_scan",
    "deformable_selective_scan_reference",
    "selective_scan",
    "selective_scan_reference",
    "use_backend",
]
