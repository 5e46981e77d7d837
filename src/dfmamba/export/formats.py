"""A network as the bytes of a file: ONNX, in eight bits if wished, or torch.export; what can be asked for."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

import dfmamba
from dfmamba.export.subject import INPUT_NAME, Subject
from dfmamba.extras import need
from dfmamba.ops import use_backend
from dfmamba.ops.deformable_sample.export import sampling_form
from dfmamba.ops.selective_scan.export import scan_form

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


LARGEST_BATCH = 1 << 16
"""Of a dynamic batch: without a limit, PyTorch 2.7 finds that the batch must not be the largest integer."""
OF_CONSTANTS = r"Attempted to insert a get_attr Node|Node \S+ target \S+ .* does not reference"
"""What PyTorch 2.7 warns of when it handles the constants of its own graphs."""
TRACED_BATCH = 2
"""Batch size of the example that is traced: 0 and 1 would be taken as constants."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what the exporters say about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(torch|onnx|copyreg|onnxscript)")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=OF_CONSTANTS)
        try:
            yield
        finally:
            logger.setLevel(level)


def example_input(subject: Subject, batch: int | None) -> torch.Tensor:
    """A picture to trace with, of the batch size asked for."""
    shape = (TRACED_BATCH if batch is None else batch, subject.in_chans, subject.size, subject.size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def dynamic_shapes(config: ExportConfig) -> dict[str, dict[int, torch.export.Dim]] | None:
    """The input's batch as a dimension of any size; None where its size is fixed."""
    if config.batch is not None:
        return None
    return {INPUT_NAME: {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}}


def exporter_knows_scans() -> bool:
    """Whether this PyTorch translates its higher-order scan to ONNX; 2.7 doesn't."""
    try:
        from torch.onnx._internal.exporter._torchlib.ops import hop
    except ImportError:  # it has moved: newer than all we know
        return True
    return hasattr(hop, "higher_order_scan")


def onnx_bytes(subject: Subject, config: ExportConfig | None = None) -> bytes:
    """The network as one ONNX file in float32, unchecked.

    Args:
        subject: see `find_subject`.
        config: opset, batch and operators are used.

    Raises:
        ImportError: a library of the extra `export` is missing.
        ValueError: the exporter can't express the network.
    """
    config = config or ExportConfig()
    need("export", "onnx", "onnxscript")
    forms = ("auto", "auto") if config.operators == "auto" else ("unrolled", "basic")
    if not exporter_knows_scans():
        forms = ("unrolled", forms[1])
    with torch.no_grad(), use_backend("export"), scan_form(forms[0]), sampling_form(forms[1]), quiet():
        try:
            program = torch.onnx.export(
                subject.network,
                (example_input(subject, config.batch),),
                dynamo=True,
                verbose=False,
                input_names=[INPUT_NAME],
                output_names=list(subject.output_names),
                opset_version=config.opset,
                dynamic_shapes=dynamic_shapes(config),
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ValueError(f"{subject.name} can't be exported to ONNX: {reason}") from error
    assert program is not None
    proto = program.model_proto
    for key, value in (*subject.metadata.items(), ("dfmamba_version", dfmamba.__version__)):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return proto.SerializeToString()


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


def program_bytes(subject: Subject, config: ExportConfig | None = None) -> bytes:
    """The network as an exported program, with this package's own operators in it.

    `torch.export.load(path).module()` runs it where `dfmamba.ops` has been imported. Facts are in its extra
    files, by the names that ONNX metadata has.

    Args:
        subject: see `find_subject`.
        config: `batch` is used.

    Raises:
        ValueError: the network can't be exported.
    """
    config = config or ExportConfig(format="torch-export")
    buffer = io.BytesIO()
    with torch.no_grad(), quiet():
        try:
            program = torch.export.export(
                subject.network,
                (example_input(subject, config.batch),),
                dynamic_shapes=dynamic_shapes(config),
                strict=False,
            )
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{subject.name} can't be exported by torch.export: {reason}") from error
        torch.export.save(program, buffer, extra_files=dict(subject.metadata))
    return buffer.getvalue()
