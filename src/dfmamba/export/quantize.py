"""Eight-bit convolutions for onnxruntime, calibrated on crops."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from dfmamba.export.subject import INPUT_NAME
from dfmamba.extras import need

CALIBRATION_CROPS = 256
STEM = 2
"""Convolutions at the start whose rounding costs most accuracy for the time it saves."""


def int8_bytes(content: bytes, crops: Tensor) -> bytes:
    """An ONNX file with eight-bit weights and activations of its dense convolutions.

    Weights have one scale per channel, activations one per tensor, from the range seen on `crops`; weights
    use seven bits, as processors without VNNI would overflow with eight. Scans, sampling, norms, depthwise
    convolutions, the stem and the convolution that gives the joints stay in float32.

    Args:
        content: ONNX file in float32.
        crops: (n, C, S, S) in [0, 1], what the network will see.

    Raises:
        ImportError: a library of the extra `export` is missing.
    """
    onnx, quantization = need("export", "onnx", "onnxruntime.quantization")
    (shapes,) = need("export", "onnxruntime.quantization.shape_inference")
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (str(Path(folder) / name) for name in ("a.onnx", "b.onnx", "c.onnx"))
        Path(plain).write_bytes(content)
        shapes.quant_pre_process(plain, ready, skip_symbolic_shape=True)
        network = onnx.load(ready)
        quantization.quantize_static(
            ready,
            small,
            _Reader(crops[:CALIBRATION_CROPS].numpy()),
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_kept_in_float(network.graph),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return Path(small).read_bytes()


class _Reader:
    """Hands the crops to the calibration one by one."""

    def __init__(self, crops: np.ndarray) -> None:
        self.crops: Iterator[np.ndarray] = iter(crops)

    def get_next(self) -> dict[str, np.ndarray] | None:
        crop = next(self.crops, None)
        return None if crop is None else {INPUT_NAME: crop[None]}

    def __len__(self) -> int:
        return 0

    def set_range(self, start_index: int, end_index: int) -> None:
        raise NotImplementedError


def _kept_in_float(graph) -> list[str]:
    """Names of the depthwise convolutions, of the stem's and of the last one, whose output are joints."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    grouped = [
        node.name for node in convolutions if any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]
    return [*grouped, *(node.name for node in convolutions[:STEM] + convolutions[-1:])]
