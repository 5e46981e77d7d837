"""What is exported: a network with plain tensors as outputs, its names and its facts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dfmamba.backbones import create_backbone, list_backbones
from dfmamba.backbones.registry import BACKBONES, PEERS
from dfmamba.hands.skeleton import JOINT_NAMES
from dfmamba.layers import fuse
from dfmamba.models import PACKAGED, HandPoseModel, list_models, load
from dfmamba.models.onnx_model import POSE_OUTPUTS, SCHEMA

INPUT_NAME = "image"
SMALLEST_SIZE, DEFAULT_SIZE = 32, 256


@dataclass(frozen=True)
class Subject:
    """A network ready for export.

    Attributes:
        name: of the model, for messages.
        network: (B, in_chans, size, size) in [0, 1] to a tuple of tensors, in evaluation mode; BatchNorms
            are folded into the convolutions before them.
        original: the network as it was; the export is compared with it.
        size: side of the picture in pixels.
        in_chans: channels of the picture.
        output_names: names of the tensors.
        metadata: facts to store in the file.
        pose: the model that the network is, None for a backbone.
    """

    name: str
    network: nn.Module
    original: nn.Module
    size: int
    in_chans: int
    output_names: tuple[str, ...]
    metadata: dict[str, str]
    pose: HandPoseModel | None = None


class _PoseTensors(nn.Module):
    """A pose model with a plain tuple as output."""

    def __init__(self, model: HandPoseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.model(image)
        return output.joints_25d, output.joint_logits, output.present_logits


class _FeatureTensors(nn.Module):
    """A feature backbone that takes pictures in [0, 1], as the pose model does."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(image * 2.0 - 1.0))


def pose_subject(model: HandPoseModel) -> Subject:
    """A whole pose model; its outputs are those of `HandPoseOutput`, see `POSE_OUTPUTS`."""
    config = model.config
    original = _PoseTensors(model.eval())
    metadata = {
        "schema": SCHEMA,
        "model": config.name,
        "kind": "hand pose",
        "image_size": str(config.image_size),
        "joint_names": json.dumps(list(JOINT_NAMES)),
        "hands": json.dumps(["right", "left"]),
        "license": config.license,
        "config": json.dumps(config.to_dict()),
    }
    return Subject(
        name=config.name,
        network=fuse(original),
        original=original,
        size=config.image_size,
        in_chans=config.in_chans,
        output_names=POSE_OUTPUTS,
        metadata=metadata,
        pose=model,
    )


def backbone_subject(name: str, backbone: nn.Module, size: int, license: str = "") -> Subject:
    """A feature backbone; its outputs are "stride_4", "stride_8", ... for the maps that it returns.

    Args:
        name: for messages and the metadata.
        backbone: made with `features_only=True`.
        size: side of the picture in pixels.
        license: of the weights.

    Raises:
        ValueError: if `size` is below 32.
    """
    if size < SMALLEST_SIZE:
        raise ValueError(f"size is {size}; expected at least {SMALLEST_SIZE} pixels")
    original = _FeatureTensors(backbone.eval())
    info, config = backbone.feature_info, backbone.config
    strides = info.reduction()  # type: ignore[union-attr, operator]
    metadata = {
        "schema": SCHEMA,
        "model": name,
        "kind": "features",
        "image_size": str(size),
        "strides": json.dumps(strides),
        "license": license,
    }
    in_chans = int(config.in_chans)  # type: ignore[union-attr, arg-type]
    names = tuple(f"stride_{stride}" for stride in strides)
    return Subject(name, fuse(original), original, size, in_chans, names, metadata)


def find_subject(name: str, size: int | None = None, features: bool = False) -> Subject:
    """A model or a backbone by name.

    Args:
        name: a packaged model, a folder, a hub id, or a backbone of ours or a peer, whose weights are
            then random.
        size: side of the picture in pixels; pose models have their own. Backbones: 256 by default.
        features: of a pose model, take the trained backbone alone.

    Raises:
        ValueError: unknown name, damaged weights, or a size that does not suit.
        OSError: a file is missing, or the hub can't be reached.
    """
    if name in BACKBONES or name in PEERS:
        torch.manual_seed(0)
        backbone = create_backbone(name, features_only=True)
        return backbone_subject(name, backbone, DEFAULT_SIZE if size is None else size)
    backbones = ", ".join([*list_backbones(baselines=False), *PEERS])
    known = f"models {', '.join(list_models())}; backbones {backbones}"
    if not Path(name).is_dir() and not (PACKAGED / name).is_dir() and "/" not in name:
        raise ValueError(f"unknown model {name!r}; known: {known}; or give a folder or a hub id")
    model = load(name)
    config = model.config
    if features:
        chosen = config.image_size if size is None else size
        return backbone_subject(f"{config.name}-features", model.backbone, chosen, config.license)
    if size not in (None, config.image_size):
        raise ValueError(f"size is {size}, but {name} takes crops of {config.image_size}; leave it out")
    return pose_subject(model)
