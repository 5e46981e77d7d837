"""What backbones share: which stages' maps they give out, checks of images, pooling, files of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
"""Of the maps of the four stages."""

MOST_BLOCKS = 1000
"""Of a network; a configuration that asks for more is damaged."""

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "avgmax": lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2,
    "catavgmax": lambda x: torch.cat((x.mean((2, 3)), x.amax((2, 3))), dim=1),
    "": lambda x: x,
}
"""Global poolings of a map (B, C, H, W): to (B, C), to (B, 2 C), or none."""


def chosen_maps(indices: int | Sequence[int] | None, count: int, name: str) -> list[int]:
    """The chosen ones of `count` maps, in order: all for None, the last n for n, else the listed ones."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 1 <= indices <= count:
            raise ValueError(f"{name} as one number takes that many last maps, 1 to {count}, got {indices}")
        return list(range(count - indices, count))
    taken = sorted({i + count if i < 0 else i for i in indices})
    if not taken or taken[0] < 0 or taken[-1] >= count:
        raise ValueError(f"{name} must lie in 0..{count - 1}, got {tuple(indices)}")
    return taken


class GlobalPool(nn.Module):
    """One of `POOLS` as a layer."""

    def __init__(self, pool_type: str = "avg") -> None:
        super().__init__()
        if pool_type not in POOLS:
            raise ValueError(f"global_pool must be one of {tuple(POOLS)}, got {pool_type!r}")
        self.pool_type = pool_type
        self.factor = 2 if pool_type == "catavgmax" else 1

    def forward(self, x: Tensor) -> Tensor:
        return POOLS[self.pool_type](x)


class FeatureInfo:
    """What is known of each stage, and which stages' maps a feature backbone returns, by timm's names.

    `idx` of the methods is a stage or a list of them; None stands for the returned ones.
    """

    def __init__(self, info: Sequence[Mapping[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = [{"index": i, **entry} for i, entry in enumerate(info)]
        self.out_indices = tuple(out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """One value of a stage, or a list of them."""
        chosen = self.get_dicts((key,), idx)
        return chosen[key] if isinstance(idx, int) else [entry[key] for entry in chosen]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """The entry of a stage, or a list of them, with all keys or some."""
        if isinstance(idx, int):
            return {key: self.info[idx][key] for key in keys or self.info[idx]}
        return [self.get_dicts(keys, i) for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of each map."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Stride of each map."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Module that makes each map."""
        return self.get("module", idx)

    def __getitem__(self, stage: int) -> dict[str, Any]:
        return self.info[stage]

    def __len__(self) -> int:
        return len(self.info)


def checked_image(x: Tensor, in_chans: int) -> Tensor:
    """The image (B, in_chans, H, W) as it is.

    Raises:
        ValueError: it has other channels or axes, or a side below 32 pixels.
    """
    if x.ndim != 4 or x.shape[1] != in_chans or min(x.shape[2:]) < STRIDES[-1]:
        wanted = f"(B, {in_chans}, H, W) with H and W at least {STRIDES[-1]}"
        raise ValueError(f"expected a picture {wanted}, got {tuple(x.shape)}")
    return x


def depth_rates(last: float, count: int) -> list[float]:
    """Rates of stochastic depth of `count` blocks: from 0 at the first, evenly up to `last`."""
    return [last * i / max(1, count - 1) for i in range(count)]


def read_weights(path: Path, expected: str = "weights in safetensors format") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Args:
        path: the file.
        expected: what to say is expected where there is none.

    Raises:
        OSError: no such file.
        ValueError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected {expected}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


def for_channels(kernel: Tensor, channels: int) -> Tensor:
    """A first convolution (D, 3, h, w) for pictures of another number of channels, (D, channels, h, w).

    The sum over the channels stays that of the colours, so that activations keep their size.
    """
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel[:, [i % 3 for i in range(channels)]] * (3 / channels)


def require_finite(state: Mapping[str, Tensor], names: Iterable[str], path: Path) -> None:
    """Refuses tensors that hold what is not finite.

    Raises:
        ValueError: naming the file and the first of them.
    """
    broken = next((name for name in names if not bool(torch.isfinite(state[name]).all())), None)
    if broken is not None:
        raise ValueError(f"{path}: {broken} holds values that are not finite")
