"""What all frameworks have in common."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from dfmamba.data.sample import HandSample
from dfmamba.models import ModelConfig

FRAMEWORKS: dict[str, tuple[str, str]] = {
    "a2j": ("dfmamba.frameworks.a2j", "A2J"),
    "a2j_depth": ("dfmamba.frameworks.a2j_depth", "A2JDepth"),
    "detnet": ("dfmamba.frameworks.detnet", "DetNet"),
}
"""Name -> module and class."""


class Example(NamedTuple):
    """One sample as a network gets it.

    Attributes:
        picture: (C, S, S) float32, before the scale and shift of `ModelConfig`.
        target: what loss and read-out need, tensors that stack into a batch.
    """

    picture: Tensor
    target: dict[str, Tensor]


@dataclass(frozen=True)
class Framework(ABC):
    """A published pose framework with its settings.

    Subclasses are frozen dataclasses whose fields are those settings.
    """

    NAME: ClassVar[str]
    GIVEN: ClassVar[str]
    """What `joints_cam_mm` is given of the truth, for the figures."""

    @abstractmethod
    def model_config(self, backbone: str, **backbone_args: Any) -> ModelConfig:
        """The network of this framework on a backbone.

        Raises:
            ValueError: unknown backbone or argument.
        """

    @abstractmethod
    def example(self, sample: HandSample, rng: np.random.Generator | None) -> Example:
        """Crop and target of a sample.

        Args:
            sample: with picture (or depth) and camera.
            rng: source of the augmentation; None for evaluation, which has none.

        Raises:
            ValueError: the sample can't be used; the message says why.
        """

    @abstractmethod
    def loss(self, output: Any, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars: "total" and its terms."""

    @abstractmethod
    def joints_cam_mm(self, output: Any, target: Mapping[str, Tensor]) -> Tensor:
        """Estimated joints in the camera of the original picture.

        Args:
            output: of the network for a batch.
            target: of the same batch, made without augmentation; what is used of it is said in `GIVEN`.

        Returns:
            (B, 2, J, 3) mm, right then left, in the order and frame of the samples; hands that are not
            labelled hold anything.
        """

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold, with the framework's name."""
        return {"name": self.NAME, **_plain(asdict(self))}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def framework_from_dict(values: Mapping[str, Any]) -> Framework:
    """Builds a framework from what `to_dict` gave.

    Raises:
        ValueError: unknown framework or setting.
    """
    name = values.get("name")
    if name not in FRAMEWORKS:
        raise ValueError(f"unknown framework {name!r}; known: {', '.join(FRAMEWORKS)}")
    module, kind = FRAMEWORKS[str(name)]
    cls = getattr(importlib.import_module(module), kind)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "name"}
    unknown = sorted(set(settings) - {f.name for f in fields(cls)})
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r} of framework {name!r}")
    return cls(**settings)
