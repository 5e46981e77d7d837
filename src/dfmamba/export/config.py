"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OPSETS = (20, 23)
"""Lowest and highest ONNX operator set that is offered; GridSample and DeformConv are complete from 20."""


@dataclass(frozen=True)
class ExportConfig:
    """Settings of `dfmamba.export.export`.

    Attributes:
        format: "onnx", or "torch-export" (a `.pt2` file, which needs this package to run).
        opset: ONNX operator set.
        batch: number of crops per run, or None for any number.
        operators: "auto", or "basic" for runtimes without ONNX's Scan and DeformConv.
        check: compare with PyTorch before the file is put in place.
        quantize: "int8" for eight-bit convolutions (ONNX only), or None.
    """

    format: Literal["onnx", "torch-export"] = "onnx"
    opset: int = 20
    batch: int | None = None
    operators: Literal["auto", "basic"] = "auto"
    check: bool = True
    quantize: Literal["int8"] | None = None

    def __post_init__(self) -> None:
        allowed: tuple[tuple[str, tuple[str | None, ...]], ...] = (
            ("format", ("onnx", "torch-export")),
            ("operators", ("auto", "basic")),
            ("quantize", ("int8", None)),
        )
        for name, values in allowed:
            if getattr(self, name) not in values:
                choices = " or ".join(repr(value) for value in values)
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected {choices}")
        low, high = OPSETS
        if not low <= self.opset <= high:
            raise ValueError(f"opset is {self.opset}; expected {low} to {high}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; expected at least 1, or 'dynamic'")
        if self.quantize and self.format != "onnx":
            raise ValueError(f"quantize is {self.quantize!r}, which only the format 'onnx' offers")
