"""A network as the bytes of an ONNX file."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch

import dfmamba
from dfmamba.export.config import ExportConfig
from dfmamba.export.subject import INPUT_NAME, Subject
from dfmamba.extras import need
from dfmamba.ops import use_backend
from dfmamba.ops.deformable_sample.export import sampling_form
from dfmamba.ops.selective_scan.export import scan_form

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
