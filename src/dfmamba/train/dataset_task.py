"""Training in a published framework on a labelled data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from dfmamba.backbones.registry import load_published_weights
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.registry import open_dataset
from dfmamba.frameworks import Framework, framework_from_dict
from dfmamba.models import HandPoseModel
from dfmamba.train.config import RunConfig


@dataclass(frozen=True)
class DatasetRun(RunConfig):
    """Training on a data set. A run is a function of this and of the data.

    Attributes:
        dataset: a name of `dfmamba.data.registry.DATASETS`.
        data: folder of the data set as downloaded.
        split: to train on.
        test_split: to validate on during the run, `validation` samples of it.
        options: of the reader.
        backbone: a name of `dfmamba.list_backbones()`.
        backbone_args: changes to the backbone's configuration.
        backbone_weights: safetensors file with a peer's or baseline's published weights, to start from.
        framework: settings of the framework, with its "name".
        workers: processes that prepare batches.
        buffer: for shards: read them one after the other and mix over so many samples, for storage that is
            slow at seeking; 0 shuffles all samples.

    The other settings are those of `RunConfig`.
    """

    dataset: str = ""
    data: str = ""
    split: str = "train"
    test_split: str = "test"
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "dfmamba_tiny"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    backbone_weights: str | None = None
    framework: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 1
    buffer: int = 0

    def open(self, split: str | None = None) -> IndexedDataset:
        """The samples of a split, by default the one to train on.

        Raises:
            OSError: files are missing.
            ValueError: unusable labels or options.
        """
        return open_dataset(self.dataset, self.data, split or self.split, **self.options)


class DatasetTask:
    """A framework's network on a backbone, and its loss.

    Args:
        run: the run.

    Raises:
        ValueError: unknown framework, backbone or setting.
        ImportError: the backbone needs an extra that is missing.
    """

    def __init__(self, run: DatasetRun) -> None:
        self.weights = run.backbone_weights
        self.framework: Framework = framework_from_dict(run.framework)
        config = self.framework.model_config(run.backbone, **run.backbone_args)
        self.config = replace(config, framework=self.framework.to_dict())

    def build(self) -> HandPoseModel:
        """The network with random weights, or those of the backbone's file.

        Raises:
            OSError: the file is missing.
            ValueError: it belongs to another backbone, or to none that takes such files.
        """
        model = HandPoseModel(self.config)
        if self.weights is not None:
            load_published_weights(model.config.backbone, model.backbone, self.weights)
        return model

    def loss(self, output: Any, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """The framework's terms."""
        return self.framework.loss(output, target)
