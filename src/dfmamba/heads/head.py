"""The public head: checks the backbone's maps and hands them to the dense or the transformer decoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .config import HeadConfig
from .dense import DenseDecoder
from .output import HandPoseOutput


class AnchorToJoint(nn.Module):
    """Feature maps to two hands in 2.5D, by anchors that vote for joints.

    `config.num_layers = 0` gives the light dense head, more layers the deformable transformer of
    A2J-Transformer (Jiang et al., CVPR 2023). Both give the same `HandPoseOutput`.

    Args:
        feature_channels: channels of the backbone's maps, finest first.
        feature_strides: their strides in pixels of the crop.
        config: settings; None takes the defaults.

    Raises:
        ValueError: if the lists do not belong together or do not suit the configuration.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        feature_strides: Sequence[int],
        config: HeadConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or HeadConfig()
        if not feature_channels or len(feature_channels) != len(feature_strides):
            raise ValueError(
                f"got {len(feature_channels)} feature channels and {len(feature_strides)} strides; "
                "give one of each per feature map"
            )
        count = len(feature_channels)
        self.num_features = count
        self.levels = tuple(range(count)) if config.feature_levels is None else config.feature_levels
        if any(not -count <= level < count for level in self.levels):
            raise ValueError(f"feature_levels {self.levels} reach outside the {count} maps of the backbone")
        self.channels = tuple(int(feature_channels[level]) for level in self.levels)
        self.strides = tuple(int(feature_strides[level]) for level in self.levels)
        if list(self.strides) != sorted(self.strides):
            raise ValueError(f"feature strides {self.strides} must not decrease; list the finest map first")
        self.decoder: nn.Module
        if config.num_layers == 0:
            self.decoder = DenseDecoder(self.channels, self.strides, config)
        else:
            from .transformer import TransformerDecoder

            self.decoder = TransformerDecoder(self.channels, self.strides, config)

    def forward(self, features: Sequence[Tensor]) -> HandPoseOutput:
        """Estimate both hands.

        Args:
            features: the backbone's maps (B, C, H, W), all of them, finest first.

        Raises:
            ValueError: if their number or channels are not those given at construction.
        """
        if len(features) != self.num_features:
            raise ValueError(f"got {len(features)} feature maps, expected {self.num_features}")
        chosen = [features[level] for level in self.levels]
        found = tuple(feature.shape[1] for feature in chosen)
        if found != self.channels:
            raise ValueError(f"feature maps have {found} channels, expected {self.channels}")
        return self.decoder(chosen)
