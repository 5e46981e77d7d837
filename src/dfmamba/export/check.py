"""Is an exported network the one it was made from? On crops such as the predictor makes, both must agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dfmamba.export.subject import Subject
from dfmamba.hands.affine import crop_affine, picture_square
from dfmamba.hands.crop import warp_image
from dfmamba.io import find_images, load_image
from dfmamba.predict.lift import lift_joints

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
"""Pictures beside the source; an installed package has none."""

NOISE_PICTURES = 4
CROPS_PER_PICTURE = 16


def find_pictures(paths: Sequence[str] = ()) -> list[np.ndarray]:
    """Pictures (H, W, 3) uint8 to check with: those given, else the examples, else smooth noise.

    Raises:
        OSError, ValueError: a given picture is missing or not readable.
    """
    if paths or EXAMPLES.is_dir():
        return [load_image(path) for path in find_images(list(paths) or [str(EXAMPLES)])]
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (NOISE_PICTURES, 12, 16, 3), dtype=np.uint8)
    return [warp_image(c, crop_affine((-0.5, -0.5, 15.5, 15.5), 256), 256) for c in coarse]


def crops_of(subject: Subject, pictures: Sequence[np.ndarray]) -> Tensor:
    """Network inputs (n, in_chans, size, size) in [0, 1].

    For a pose model of RGB pictures they are all the crops that the predictor makes, at most
    `CROPS_PER_PICTURE` of each picture; else the square around each whole picture.
    """
    if subject.pose is None or subject.in_chans != 3:
        crops = []
        for picture in pictures:
            square = picture_square((picture.shape[1], picture.shape[0]))
            crop = torch.from_numpy(warp_image(picture, crop_affine(square, subject.size), subject.size))
            shown = crop.permute(2, 0, 1).float() / 255.0
            if subject.in_chans != 3:
                shown = shown.mean(0, keepdim=True).expand(subject.in_chans, -1, -1)
            crops.append(shown)
        return torch.stack(crops)

    from dfmamba.predict.predictor import Predictor

    predictor = Predictor(subject.pose, "cpu", detector=None)
    remembering = predictor.network.model = _Remembering(predictor.model)
    crops = []
    for picture in pictures:
        remembering.seen.clear()
        predictor.predict(picture, threshold=0.2)
        crops.append(torch.cat(remembering.seen)[:CROPS_PER_PICTURE])
    return torch.cat(crops)


class _Remembering(nn.Module):
    """A network that keeps what it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, list[Tensor]()

    def forward(self, crops: Tensor) -> Any:
        self.seen.append(crops.cpu())
        return self.network(crops)


Runner = Callable[[Tensor], Sequence[np.ndarray]]
"""Runs an exported network on (B, C, S, S)."""

JOINT_TOLERANCE = 2e-4
"""Largest difference of a joint's coordinates, as a share of the picture's side."""

LOGIT_TOLERANCE = 1e-2
FEATURE_TOLERANCE = 2e-3
"""Largest difference of a feature, as a share of the largest feature of its map."""

INT8_JOINT_TOLERANCE = 0.05
"""Largest mean distance of joints between int8 and float32, as a share of the picture's side."""

PRESENT = 0.5


@dataclass(frozen=True)
class Errors:
    """Differences to PyTorch over all pictures and batch sizes.

    Attributes:
        crops: how many were compared.
        joints_px: largest difference of a joint's coordinates in pixels of the crop; None for backbones.
        mean_joints_px: mean distance (u, v, d) of the joints of hands that are present.
        joints_mm: largest distance of a joint of a present hand after lifting to the reference hand; 0 where
            no hand is present.
        logits: largest difference of a logit; None for backbones.
        features: largest difference as a share of the largest value; None for pose models.
    """

    crops: int
    joints_px: float | None = None
    mean_joints_px: float | None = None
    joints_mm: float | None = None
    logits: float | None = None
    features: float | None = None

    def __str__(self) -> str:
        if self.features is not None:
            return f"features differ by at most {self.features:.1e} of the largest ({self.crops} crops)"
        return (
            f"joints differ by at most {self.joints_px:.1e} px, {self.joints_mm:.1e} mm "
            f"(mean {self.mean_joints_px:.1e} px), logits by {self.logits:.1e} ({self.crops} crops)"
        )


def compare(subject: Subject, run: Runner, crops: Tensor, batches: Sequence[int]) -> Errors:
    """Run both networks on the same crops.

    Args:
        subject: with the original network.
        run: the exported network.
        crops: (n, C, S, S) in [0, 1].
        batches: sizes of the batches in which the exported one gets the crops, all crops for each.

    Raises:
        ValueError: the exported network's outputs are not finite or have other shapes.
    """
    with torch.no_grad():
        parts = [subject.original(part) for part in crops.split(32)]
    expected = [torch.cat(values).numpy() for values in zip(*parts, strict=True)]
    worst: list[Errors] = []
    for size in batches:
        ran = [run(part) for part in crops.split(size)]
        found = [np.concatenate(values) for values in zip(*ran, strict=True)]
        shapes = [tuple(values.shape) for values in found]
        if shapes != [values.shape for values in expected]:
            raise ValueError(
                f"{subject.name}: outputs have shapes {shapes}, expected {[v.shape for v in expected]}"
            )
        if not all(np.isfinite(values).all() for values in found):
            raise ValueError(f"{subject.name}: the exported network's outputs are not finite")
        worst.append((_pose_errors if subject.pose is not None else _feature_errors)(found, expected))
    names = ("joints_px", "mean_joints_px", "joints_mm", "logits", "features")
    columns = {name: [getattr(errors, name) for errors in worst] for name in names}
    return Errors(len(crops), **{n: None if v[0] is None else max(v) for n, v in columns.items()})


def _feature_errors(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Errors:
    shares = [np.abs(a - b).max() / max(np.abs(b).max(), 1e-12) for a, b in zip(found, expected, strict=True)]
    return Errors(len(found[0]), features=float(max(shares)))


def _pose_errors(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> Errors:
    off = np.abs(found[0] - expected[0])
    logits = max(float(np.abs(found[i] - expected[i]).max()) for i in (1, 2))
    hands = np.argwhere(expected[2] > np.log(PRESENT / (1 - PRESENT)))
    mm, apart = [0.0], []
    for crop, hand in hands:
        a, b = found[0][crop, hand], expected[0][crop, hand]
        apart.append(np.linalg.norm(a - b, axis=-1).mean())
        lifted = lift_joints(a.astype(np.float64), None) - lift_joints(b.astype(np.float64), None)
        mm.append(float(np.linalg.norm(lifted, axis=-1).max()))
    mean = float(np.mean(apart)) if apart else float(np.linalg.norm(off, axis=-1).mean())
    return Errors(len(found[0]), float(off.max()), mean, max(mm), logits)


def verdict(subject: Subject, errors: Errors, int8: bool = False) -> str | None:
    """Why the export must not be used, or None if it may.

    Args:
        subject: what was exported.
        errors: see `compare`.
        int8: the file is quantised, so only its mean error is limited.
    """
    if errors.features is not None:
        limit = FEATURE_TOLERANCE if not int8 else 1.0
        return None if errors.features <= limit else f"features differ by more than {limit} of the largest"
    assert errors.joints_px is not None
    assert errors.mean_joints_px is not None
    assert errors.logits is not None
    if int8:
        limit = INT8_JOINT_TOLERANCE * subject.size
        far = errors.mean_joints_px > limit
        return f"joints differ by more than {limit:.2g} px on average" if far else None
    limit = JOINT_TOLERANCE * subject.size
    if errors.joints_px > limit:
        return f"joints differ by more than {limit:.2g} px"
    return None if errors.logits <= LOGIT_TOLERANCE else f"logits differ by more than {LOGIT_TOLERANCE}"
