"""What is compared: each family of backbones in the same small budget, and DF-Mamba with one part changed.

A row is a backbone's name and changes to its configuration. All families have the parameters and
multiply-adds (scans and sampling counted) of `PARAMETERS` and `MACS` within `TOLERANCE`, the head included.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARAMETERS, MACS = 440_000, 20_600_000
"""The budget: of the whole model on one 96-pixel crop."""
TOLERANCE = 0.05
REFERENCE = "dfmamba"


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        name: by which it is run.
        title: in tables and figures.
        backbone: a name of `dfmamba.list_backbones()`.
        args: changes to the backbone's configuration.
        about: what it is to show, in a few words.
    """

    name: str
    title: str
    backbone: str
    args: Mapping[str, Any]
    about: str = ""


_DIMS = {"dims": (16, 28, 68, 100), "stem_dim": 8}


def _ours(name: str, title: str, about: str = "", **changes: Any) -> Row:
    return Row(name, title, "dfmamba_nano", {**_DIMS, **changes}, about)


def _timm(name: str, title: str, backbone: str, about: str = "", **body: Any) -> Row:
    return Row(name, title, backbone, {"body": body}, about)


_FAMILIES = (
    _ours(REFERENCE, "DF-Mamba"),
    _ours("mamba", "Mamba (scan not deformed)", "a wider FFN instead",
          deformable=False, ffn_ratio=2.25),
    _ours("vim", "Vim-style", "scans from either end", replaced={"dssm": "vim"}, ffn_ratio=2.25),
    _timm("resnet", "ResNet", "resnet50", "bottlenecks, deep stem",
          layers=(2, 2, 2, 1), channels=(12, 24, 48, 96), stem_type="deep", stem_width=6),
    _timm("convnext", "ConvNeXt", "convnext_tiny", depths=(1, 2, 2, 1), dims=(24, 44, 76, 140)),
    _timm("vit", "ViT", "vit_small", "patches of 16, simple feature pyramid",
          embed_dim=72, depth=6, num_heads=4, mlp_ratio=3),
    _timm("swin", "Swin", "swin_tiny", "windows of 6",
          embed_dim=16, depths=(2, 1, 2, 2), num_heads=(1, 2, 4, 8), window_size=6, mlp_ratio=2),
    Row("vmamba", "VMamba", "vmamba_tiny", {"dims": (20, 32, 52, 80), "depths": (1, 2, 5, 2)}, "four routes"),
    Row("spatial_mamba", "Spatial-Mamba", "spatial_mamba_tiny",
        {"dims": (12, 24, 46, 104), "depths": (1, 2, 3, 1), "stem_dim": 4}, "fuses neighbouring states"),
)  # fmt: skip

FAMILIES: dict[str, Row] = {row.name: row for row in _FAMILIES}
"""The comparison of the paper's Table 1 in small."""

_MATCHED = "budget matched"


def _finer(name: str, title: str, **changes: Any) -> Row:
    stages = (("conv",), ("dssm", "gated"), ("dssm", "gated") * 2, ("dssm", "gated"))
    return _ours(name, title, _MATCHED, dims=(16, 36, 72, 92), stages=stages, **changes)


_CHANGES = (
    _ours("off", "scan not deformed, nothing else changed", deformable=False),
    _ours("k1", "K = 1", num_anchors=1),
    _ours("k4", "K = 4", num_anchors=4),
    _ours("k16", "K = 16", num_anchors=16),
    _ours("k25", "K = 25", num_anchors=25),
    _ours("params_sampled", "step, B and C from the sampled features", scan={"params_from": "sampled"}),
    _ours("static", "static weights b_k", scan={"weights": "static"}),
    _ours("groups4", "4 offset groups", scan={"offset_groups": 4}),
    _ours("plain_sum", "no residual around the sampled sum", scan={"residual": False}),
    _ours("unbounded", "offsets without a bound", scan={"offset_reach": None}),
    _ours("slow_offsets", "offsets learn ten times more slowly", scan={"offset_gain": 0.1}),
    _ours("modulated", "weights between 0 and 2 / K", scan={"weights": "modulated"}),
    _ours("near", "offsets within an eighth of the map", scan={"offset_reach": 0.125}),
    _ours("directions2", "2 scan directions", scan={"directions": 2}),
    _ours("directions4", "4 scan directions", scan={"directions": 4}),
    _ours("states4", "4 states", scan={"d_state": 4}),
    _ours("states16", "16 states", scan={"d_state": 16}),
    _ours("no_scan", "gated convolution instead of DSSM", _MATCHED,
          dims=(16, 32, 60, 112), replaced={"dssm": "gated"}),
    _ours("no_gated", "convolution instead of gated convolution", _MATCHED,
          dims=(16, 24, 72, 108), ffn_ratio=2.0,
          stages=(("conv",), ("conv", "conv"), ("dssm", "conv", "dssm"), ("dssm",))),
    _ours("all_scan", "DSSM instead of gated convolution", _MATCHED,
          dims=(16, 28, 64, 96), replaced={"gated": "dssm"}),
    _ours("no_conv", "gated convolution instead of convolution", _MATCHED,
          dims=(24, 40, 72, 92), replaced={"conv": "gated"}),
    _finer("finer", "DSSM from stride 8 on"),
    _finer("finer_off", "the same, scan not deformed", deformable=False, ffn_ratio=2.25),
    _finer("finer_slow", "DSSM from stride 8 on, slow offsets", scan={"offset_gain": 0.1}),
)  # fmt: skip

ABLATIONS: dict[str, Row] = {row.name: row for row in _CHANGES}
"""DF-Mamba with one part changed, at DF-Mamba's learning rate."""

ROWS: dict[str, Row] = {**FAMILIES, **ABLATIONS}


def find_row(name: str) -> Row:
    """The row of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in ROWS:
        raise ValueError(f"unknown row {name!r}; known: {', '.join(ROWS)}")
    return ROWS[name]


def is_defined(row: str, backbone: str, backbone_args: Mapping[str, Any]) -> bool:
    """Whether this is what the row is today; tuples and lists are the same."""

    def plain(args: Mapping[str, Any]) -> str:
        return json.dumps(dict(args), sort_keys=True)

    found = ROWS.get(row)
    return found is not None and found.backbone == backbone and plain(found.args) == plain(backbone_args)


def family_of(row: str) -> str:
    """Whose learning rate a row takes: its own, or DF-Mamba's for a change of DF-Mamba."""
    return row if row in FAMILIES else REFERENCE
