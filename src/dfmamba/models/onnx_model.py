"""A pose model from an ONNX file, with the call interface of `HandPoseModel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dfmamba.extras import need
from dfmamba.heads import HandPoseOutput
from dfmamba.io.untrusted import parse_json
from dfmamba.models import ModelConfig

SCHEMA = "dfmamba.onnx/1"
"""What a file's metadata names as its layout."""

POSE_OUTPUTS = ("joints_25d", "joint_logits", "present_logits")
"""Names of a pose model's outputs, in the order of `HandPoseOutput`."""


def open_session(source: str | Path | bytes, threads: int = 0, name: str = "the exported network"):
    """An onnxruntime session on the CPU.

    Args:
        source: a file or its content.
        threads: of one operator; 0 leaves the choice to onnxruntime.
        name: of the content in messages.

    Raises:
        ImportError: onnxruntime is missing.
        OSError: the file can't be read.
        ValueError: it is no ONNX file that onnxruntime can run.
    """
    (runtime,) = need("export", "onnxruntime")
    name = name if isinstance(source, bytes) else str(source)
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Idle threads that wait busily take a quarter of a small machine from what happens between two calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise ValueError(f"{name}: onnxruntime can't run it ({str(error).splitlines()[0]})") from error


def run_in_batches(
    run: Callable[[np.ndarray], Sequence[np.ndarray]], image: np.ndarray, batch: int
) -> list[np.ndarray]:
    """Outputs for pictures (B, C, S, S) of a network that takes `batch` of them; the last are filled up."""
    parts = []
    for start in range(0, len(image), batch):
        part = image[start : start + batch]
        full = np.concatenate((part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)))
        parts.append([values[: len(part)] for values in run(full)])
    return [np.concatenate(values) for values in zip(*parts, strict=True)]


def run_session(session, image: np.ndarray) -> list[np.ndarray]:
    """Outputs for pictures (B, C, S, S) float32, also where the file has a fixed batch size."""
    entry = session.get_inputs()[0]

    def run(pictures: np.ndarray) -> list[np.ndarray]:
        return session.run(None, {entry.name: pictures})

    size = entry.shape[0]
    return run_in_batches(run, image, size) if isinstance(size, int) else run(image)


class OnnxModel(nn.Module):
    """A hand pose model that onnxruntime runs on the CPU; a `Predictor` takes it like a `HandPoseModel`.

    Args:
        path: a file written by `dfmamba export MODEL --format onnx`. Its content is kept, so that the model
            can be pickled and copied to where the file isn't.
        threads: of one operator; 0 leaves the choice to onnxruntime.

    Raises:
        ImportError: onnxruntime is missing.
        OSError: the file can't be read.
        ValueError: it is no pose model of this package.

    Shape: (B, in_chans, S, S) with values in [0, 1] to `HandPoseOutput`, without `layers`.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        super().__init__()
        self.content, self.threads = Path(path).read_bytes(), threads
        self.session = open_session(self.content, threads, str(path))
        facts = self.session.get_modelmeta().custom_metadata_map
        names = tuple(output.name for output in self.session.get_outputs())
        if facts.get("schema") != SCHEMA or names != POSE_OUTPUTS:
            raise ValueError(
                f"{path}: not a hand pose model of this package; its schema is {facts.get('schema')!r} and "
                f"its outputs are {', '.join(names)}, expected {SCHEMA!r} and {', '.join(POSE_OUTPUTS)}"
            )
        try:
            self.config = ModelConfig.from_dict(parse_json(facts["config"], "config"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its configuration can't be used ({error})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.session = open_session(self.content, self.threads)

    def forward(self, x: Tensor) -> HandPoseOutput:
        image = np.ascontiguousarray(x.detach().cpu().numpy(), dtype=np.float32)
        tensors = [torch.from_numpy(values) for values in run_session(self.session, image)]
        joints, joint_logits, present = tensors
        return HandPoseOutput(joints, joint_logits, present, ())
