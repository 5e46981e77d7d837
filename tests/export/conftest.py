"""A small pose model, exported once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dfmamba.export import ExportConfig, Subject, onnx_bytes, pose_subject
from dfmamba.models import MODELS, HandPoseModel

for library in ("onnx", "onnxscript", "onnxruntime", "torchvision"):
    pytest.importorskip(library, reason=f"{library} is missing: pip install 'dfmamba[export]'")


@pytest.fixture(scope="session")
def model() -> HandPoseModel:
    """The tiny model with random weights, offsets and running statistics."""
    torch.manual_seed(0)
    model = HandPoseModel(MODELS["test"]).eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "sampler.branch.2" in name:
                tensor.normal_(std=0.5)
            elif "running_mean" in name:
                tensor.normal_(std=0.2)
            elif "running_var" in name:
                tensor.uniform_(0.5, 2.0)
    return model


@pytest.fixture(scope="session")
def subject(model: HandPoseModel) -> Subject:
    return pose_subject(model)


@pytest.fixture(scope="session")
def onnx_file(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "test.onnx"
    path.write_bytes(onnx_bytes(subject, ExportConfig()))
    return path


@pytest.fixture(scope="session")
def folder(model: HandPoseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder of weights."""
    folder = tmp_path_factory.mktemp("weights") / "test"
    model.save(folder)
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small picture."""
    from PIL import Image

    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope="module")
def detector() -> HandPoseModel:
    """A small detector with random weights that sees hands everywhere."""
    torch.manual_seed(3)
    model = HandPoseModel(MODELS["test_detector"]).eval()
    with torch.no_grad():
        model.head.out.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 1.2, 1.2]))
        model.head.out.weight.normal_(std=0.3)
    return model
