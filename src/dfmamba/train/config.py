"""Configuration of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, Literal

from dfmamba.data.registry import dataset_info
from dfmamba.heads import LossConfig
from dfmamba.settings import from_values
from dfmamba.train.augment import AugmentConfig


def default_kinds() -> dict[str, float]:
    """Shares of the scene kinds in the default training mixture."""
    return {"single": 0.46, "two": 0.16, "object": 0.12, "ego": 0.09, "depth": 0.05, "sign": 0.12}


def dense_head_loss() -> LossConfig:
    """Weights of the loss that suit the light head; set `image_size` and `depth_range` for the crops."""
    return LossConfig(
        joint=3.0, anchor=0.3, anchor_z=0.0, z=0.5, tau_z=2.0, confidence=2.0, presence=10.0, vote=20.0
    )


@dataclass(frozen=True)
class SetConfig:
    """A labelled set that training draws from, beside the rendered hands.

    Attributes:
        name: of its reader (`dfmamba.data.registry.DATASETS`), such as "own", "freihand" or "shards".
        path: its folder.
        share: of each batch.
        split: of the set; None takes the one to train on.
        options: of the reader.
        size: side in pixels of the squares that are cut around its hands; about twice the model's crop.
        most: samples to use, evenly spaced, since the squares are kept on disk: 0.08 MB each at 144 pixels.
    """

    name: str
    path: str
    share: float
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 192
    most: int = 50_000

    def __post_init__(self) -> None:
        dataset_info(self.name)
        if not 0 < self.share <= 1:
            raise ValueError(
                f"the share of {self.name} {self.path} is {self.share}; expected above 0, up to 1"
            )
        if self.size < 16 or self.most < 1:
            raise ValueError(
                f"{self.name} {self.path} has size {self.size} and most {self.most}; expected >= 16 and >= 1"
            )


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from: rendered once into shards, cut out of labelled sets, composed anew in every
    step.

    Attributes:
        pictures: number of rendered pictures; the first `first` must exist before training starts, the rest
            is rendered beside it.
        first: pictures before the first step.
        cache: folder of the shards; None means one under the user's cache directory, named by the settings.
        seed: seed of the renderer; validation uses others.
        size: side of the rendered pictures in pixels.
        kinds: shares of the scene kinds.
        draw: factors by which some kinds are drawn more or less often than they were rendered.
        backgrounds: number of backgrounds rendered for recomposition.
        photos: folder of photographs without hands, those in the folders below it included, to use as
            backgrounds.
        photo_share: share of the backgrounds that is cut from `photos`.
        sets: labelled sets, each with its share of a batch; the rendered hands have the rest.
        workers: renderer processes.
        render_device: of the renderer, "cpu" or a GPU such as "cuda:0".
        ahead: processes that compose batches beside the training; 0 composes them in it.
    """

    pictures: int = 200_000
    first: int = 20_000
    cache: str | None = None
    seed: int = 1
    size: int = 144
    kinds: Mapping[str, float] = field(default_factory=default_kinds)
    draw: Mapping[str, float] = field(default_factory=dict)
    backgrounds: int = 6000
    photos: str | None = None
    photo_share: float = 0.65
    sets: Sequence[SetConfig] = ()
    workers: int = 2
    render_device: str = "cpu"
    ahead: int = 1

    def __post_init__(self) -> None:
        sets = (s if isinstance(s, SetConfig) else from_values(SetConfig, s, "data set") for s in self.sets)
        object.__setattr__(self, "sets", tuple(sets))
        if not self.rendered_share >= 0:
            raise ValueError(f"the sets' shares of a batch add up to {1 - self.rendered_share:g}; at most 1")
        if not 0 <= self.photo_share <= 1:
            raise ValueError(f"photo_share is {self.photo_share}; expected 0 to 1")
        for name, least in (("pictures", 1), ("first", 1), ("seed", 0), ("size", 16), ("backgrounds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} is {getattr(self, name)}; it must be at least {least}")

    @property
    def rendered_share(self) -> float:
        """What the sets leave of a batch."""
        return round(1.0 - sum(s.share for s in self.sets), 9)


CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("adamw", "adam"),
    "schedule": ("cosine", "step"),
    "precision": ("float32", "bfloat16", "float16"),
    "sharding": ("ddp", "fsdp"),
}
"""Settings of a run that take one of a few words."""


@dataclass(frozen=True)
class RunConfig:
    """What the training loop needs to know, whatever is trained.

    Attributes:
        out: folder of the run.
        steps: optimiser steps.
        batch_size: samples a step.
        optimizer: "adamw" (decoupled weight decay of matrices and kernels, betas 0.9 and 0.99) or, as older
            recipes have it, "adam" (betas 0.9 and 0.999, weight decay added to all gradients).
        lr: peak learning rate, reached after `warmup` steps.
        schedule: "cosine" down to a hundredth, or "step": times `gamma` at each of `milestones`.
        milestones: steps at which the learning rate falls.
        gamma: by which factor.
        warmup: steps of linear warm-up.
        weight_decay: see `optimizer`.
        ema: decay of the averaged weights, which are the ones that are evaluated and kept; 0 keeps the last
            weights themselves.
        clip: largest norm of the gradient; infinity leaves it alone.
        seed: seed of initialisation, order and augmentation.
        validate_every: steps between validations.
        validation: samples in a validation (of each kind, where there are kinds).
        save_every: steps between checkpoints.
        init: folder or name of a model whose weights to start from.
        init_backbone: start the backbone alone, from the folder of a model or a pre-training run, or from a
            safetensors file (`dfmamba.train.transfer`).
        device: torch device.
        threads: torch threads; 0 leaves torch's own choice.
        precision: of the network's forward and backward pass: "bfloat16" and "float16" by autocast, the
            latter with a scaled loss. Weights, loss and averages stay in float32.
        accumulate: parts into which each process divides its share of a batch, one after the other, to save
            memory. The gradient is that of the whole batch where the loss is a mean over samples. It isn't
            where batch norm sees the parts one by one, where a loss normalises over the batch (DetNet's
            "norm" form, terms that are means over the labelled joints), and where drop path draws anew.
        compile: run the network through `torch.compile`.
        channels_last: memory order of pictures and kernels.
        grad_checkpointing: recompute the backbone's blocks in the backward pass, to save memory. Batch norm
            then counts each batch twice in its running statistics.
        layer_decay: each stage of the backbone learns at this factor of the rate of what follows it; the head
            learns at the full rate. 1 for training from nothing, 0.6 to 0.9 for fine-tuning.
        sharding: among several processes, "ddp" keeps a copy of everything in each, "fsdp" divides weights,
            gradients, moments and averages (FSDP2).
        sync_batch_norm: several processes take the statistics of batch norm over all of their samples, so
            that they train as one would; otherwise each takes its own share's.
        keep_last: how many states to keep.
    """

    out: str = "runs/nano"
    steps: int = 30_000
    batch_size: int = 64
    optimizer: Literal["adamw", "adam"] = "adamw"
    lr: float = 2e-3
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.2
    warmup: int = 400
    weight_decay: float = 0.02
    ema: float = 0.999
    clip: float = 300.0
    seed: int = 0
    validate_every: int = 1000
    validation: int = 100
    save_every: int = 250
    init: str | None = None
    init_backbone: str | None = None
    device: str = "cpu"
    threads: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    accumulate: int = 1
    compile: bool = False
    channels_last: bool = True
    grad_checkpointing: bool = False
    layer_decay: float = 1.0
    sharding: Literal["ddp", "fsdp"] = "ddp"
    sync_batch_norm: bool = True
    keep_last: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        kind = type(self).__name__
        for name in ("steps", "batch_size", "validate_every", "save_every", "accumulate", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{kind}.{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"{kind}.seed is {self.seed}; expected 0 to 2**63 - 1")
        if not self.lr > 0 or not 0 <= self.ema < 1:
            raise ValueError(f"{kind} needs lr > 0 and 0 <= ema < 1, got lr={self.lr}, ema={self.ema}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"{kind}.layer_decay is {self.layer_decay}; it must be above 0 and at most 1")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{kind}.{name} is {getattr(self, name)!r}; use {' or '.join(known)}")
        if self.precision == "float16" and self.sharding == "fsdp":
            raise ValueError(f"{kind}: float16 isn't supported with fsdp; use bfloat16, or ddp")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return _plain(asdict(self))


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Training on synthetic hands. A run is a function of this and of nothing else.

    Attributes:
        model: name of the model to train (`dfmamba.models.MODELS`).
        backbone_args: changes to the configuration of its backbone, such as `deformable: false` for the twin
            of a model without deformable positions.
        crop: side of the training crops; None takes the model's. Features learn several times faster from
            small crops, so a first stage at half size and a second one with `init` saves time.
        data: pictures.
        augment: augmentation.
        loss: loss weights; `image_size` is set from the model.

    The other settings are those of `RunConfig`.
    """

    model: str = "nano"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    crop: int | None = None
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=dense_head_loss)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Builds from plain values.

        Raises:
            ValueError: an unknown key or an unusable value.
        """
        values = {**values, "backbone_args": dict(values.get("backbone_args") or {})}
        parts = {"data": DataConfig, "augment": AugmentConfig, "loss": LossConfig}
        built: dict[str, Any] = {}
        for key, value in values.items():
            built[key] = _build(parts[key], value, (key,)) if key in parts else value
        return _build(cls, built, ())


def _build(kind: type, values: Any, where: tuple[str, ...]) -> Any:
    if is_dataclass(values):
        return values
    return from_values(kind, values, " ".join(["training", *where]))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value
