"""A network as the bytes of a `.pt2` file (torch.export)."""

from __future__ import annotations

import io

import torch

from dfmamba.export.config import ExportConfig
from dfmamba.export.onnx_file import dynamic_shapes, example_input, quiet
from dfmamba.export.subject import Subject


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
