"""Files of weights that other programs wrote: reading, and fitting to another number of channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor


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
