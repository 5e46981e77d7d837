"""Networks as files for other runtimes: ONNX and torch.export; see docs/use/export.md."""

from __future__ import annotations

from dfmamba.export.formats import ExportConfig, onnx_bytes, program_bytes
from dfmamba.export.subject import Subject, backbone_subject, find_subject, pose_subject
from dfmamba.export.write import Report, export
from dfmamba.models.onnx_model import OnnxModel

__all__ = [
    "ExportConfig",
    "OnnxModel",
    "Report",
    "Subject",
    "backbone_subject",
    "export",
    "find_subject",
    "onnx_bytes",
    "pose_subject",
    "program_bytes",
]
