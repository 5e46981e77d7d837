"""Batches for the hand detector, composed anew in every step from rendered hands and rendered people.

Rendered hands (`dfmamba.train.pool`) make pictures with large hands: one of them, or two laid over each
other; rendered people (`dfmamba.synth.shards`) those with small ones, and with faces and bare
arms that are none. Some pictures are backgrounds only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfmamba.heads.detector import HAND, IGNORED, DetectorHead, DetectorLossConfig, detector_loss
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.synth.shards import PeopleShards, ShardedHands
from dfmamba.train.augment import AugmentConfig, join, photograph, random_crops, warp
from dfmamba.train.config import RunConfig
from dfmamba.train.parallel import Ranks
from dfmamba.train.pool import DEPTH_KIND, LAYERS
from dfmamba.train.samples import PoolBatches, Prefetched

MOST_HANDS = 8
"""Boxes of a picture; the rest, the smallest, are left out."""

INSIDE, SEEN = 0.5, 0.2
"""Shares of a hand's joints in the picture, and of those in sight, from which on it is to be found. A fist
hides most of its own joints."""

OUTSIDE, HIDDEN = 0.15, 0.06
"""Shares below which it is none."""

SMALLEST = 10.0
"""Hands with a smaller box side, in pixels of the detector's picture, are neither."""


@dataclass(frozen=True)
class DetectorRun(RunConfig):
    """Training of the hand detector.

    Attributes:
        model: a detector of `dfmamba.models.MODELS`.
        crop: side of the training pictures; 0 takes the model's.
        hands: folder of rendered hands, as `dfmamba train` leaves them.
        people: folder of rendered people, as `dfmamba data people` writes them; None does without.
        close: share of pictures with rendered hands.
        empty: share of pictures without hands.
        ahead: processes that compose batches beside the training.
        augment: photographic effects.
    """

    model: str = "detector"
    crop: int = 0
    hands: str = ""
    people: str | None = None
    close: float = 0.4
    empty: float = 0.12
    ahead: int = 1
    augment: AugmentConfig = field(default_factory=AugmentConfig)


class Layers:
    """Rendered foregrounds with the joints of their hands: what the pool draws from.

    Attributes:
        size: side of the pictures in pixels.
    """

    size: int

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A foreground.

        Returns:
            (S, S, 4) uint8 straight colour and coverage, (N, 21, 2) joints in pixels,
            (N, 21) how well each is seen, 0..1.
        """
        raise NotImplementedError


class HandLayers(Layers):
    """Pictures of hands from the cache of `dfmamba train`, without those of depth.

    Args:
        folder: of the cache.
    """

    def __init__(self, folder: str) -> None:
        self.shards = ShardedHands(folder, LAYERS)
        labels = self.shards.labels
        self.chosen = np.flatnonzero(labels["kind"] != DEPTH_KIND)
        self.size = int(self.shards[0]["hand"].shape[0])

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        item = self.shards[int(self.chosen[index])]
        there = item["present"]
        seen = (item["visible"] & item["valid"])[there]
        return item["hand"], item["joints_2d"][there], seen.astype(np.float32)


class PeopleLayers(Layers):
    """Pictures of whole people; the share of a hand that is seen stands for each of its joints.

    That share doesn't count what a hand hides of itself, about half of its joints.

    Args:
        folder: of `dfmamba.synth.shards`.
    """

    def __init__(self, folder: str) -> None:
        self.shards = PeopleShards(folder)
        self.size = self.shards.config.size

    def __len__(self) -> int:
        return len(self.shards)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        there = self.shards.side[index] > 0
        joints, share = self.shards.joints_px[index][there], 0.5 * self.shards.visible[index][there]
        return self.shards.rgba(index), joints, np.repeat(share[:, None], joints.shape[1], axis=1)


@dataclass(frozen=True)
class _Aim:
    """How a kind of picture is cut out of its rendered one.

    Attributes:
        zoom: range of its sides relative to the rendered picture's, drawn evenly in the logarithm.
        near_hand: share of pictures whose middle is near a hand, and not anywhere.
        reach: how far from there, relative to the picture's side.
        augment: rotation and mirroring.
    """

    zoom: tuple[float, float]
    near_hand: float
    reach: float
    augment: AugmentConfig


_TURNED = AugmentConfig(rotation_deg=15, spin=0.15, scale=0.0, zoom_out=0.0, shift=0.0)
_UPRIGHT = AugmentConfig(rotation_deg=8, spin=0.03, scale=0.0, zoom_out=0.0, shift=0.0)
CLOSE = _Aim((0.7, 3.0), 1.0, 0.35, _TURNED)
SECOND = _Aim((1.0, 3.5), 1.0, 0.5, _TURNED)
PEOPLE = _Aim((0.3, 1.2), 0.7, 0.35, _UPRIGHT)
SECOND_SHARE = 0.35
"""Share of the pictures with rendered hands over which others are laid."""


class DetectorPool:
    """Batches for the engine; a pure function of configuration and step.

    Args:
        config: the run.
        image_size: side of the model's picture, unless `config.crop` says otherwise.
        hands: rendered hands.
        people: rendered people, if there are any.
        backgrounds: (N, R, R, 3) uint8.
        ranks: this process among several, each of which takes its share of every batch.
    """

    def __init__(
        self,
        config: DetectorRun,
        image_size: int,
        hands: Layers,
        people: Layers | None,
        backgrounds: np.ndarray,
        ranks: Ranks | None = None,
    ) -> None:
        self.config, self.ranks = config, ranks or Ranks()
        self.size = config.crop or image_size
        self.hands, self.people, self.backgrounds = hands, people, backgrounds
        self._prefetched = Prefetched(
            PoolBatches(self, open_pool, replace(config, ahead=0), image_size, ranks), config.ahead
        )

    def batch(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, 3, S, S) in [0, 1] and the target of `dfmamba.heads.detector.detector_loss`."""
        return self._prefetched[step]

    def compose(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """As `batch`, in this process."""
        rng = np.random.default_rng([self.config.seed, step, self.ranks.rank])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        n = self.ranks.share_of(self.config.batch_size)
        drawn = rng.random(n)
        close = self.config.close if self.people is not None else 1 - self.config.empty
        kinds = np.where(drawn < self.config.empty, 0, np.where(drawn < self.config.empty + close, 1, 2))
        back = np.stack([self.backgrounds[i] for i in rng.integers(0, len(self.backgrounds), n)])
        x = self._behind(back, generator)
        boxes = torch.zeros(n, MOST_HANDS, 4)
        kind_of = torch.zeros(n, MOST_HANDS, dtype=torch.long)
        for i in range(n):
            hands: list[tuple[Tensor, Tensor]] = []
            if kinds[i] == 1:
                second = rng.random() < SECOND_SHARE
                for aim in (CLOSE, SECOND) if second else (CLOSE,):
                    hands = self._lay(x[i], self.hands, aim, hands, rng, generator)
            elif kinds[i] == 2:
                assert self.people is not None
                hands = self._lay(x[i], self.people, PEOPLE, hands, rng, generator)
            found, judged = judge(hands, self.size)
            boxes[i, : len(found)], kind_of[i, : len(found)] = found, judged
        return photograph(x, self.config.augment, generator), {"boxes": boxes, "kinds": kind_of}

    def _behind(self, back: np.ndarray, generator: torch.Generator) -> Tensor:
        n, side = back.shape[:2]
        wide = AugmentConfig(rotation_deg=10, scale=0.35, zoom_out=0.0, shift=0.2, spin=0.0)
        crops = join(random_crops(n, side, wide, generator), _resize(side, self.size).expand(n, 2, 3))
        picture = torch.from_numpy(back).permute(0, 3, 1, 2).float().div_(255)
        return warp(picture, crops, self.size, padding="reflection")

    def _lay(
        self,
        x: Tensor,
        layers: Layers,
        aim: _Aim,
        hands: list[tuple[Tensor, Tensor]],
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> list[tuple[Tensor, Tensor]]:
        """Lays one rendered picture over `x` (3, S, S); joints and how well they are seen, of all hands."""
        picture, joints, visible = layers.read(int(rng.integers(len(layers))))
        side = layers.size
        zoom = float(np.exp(rng.uniform(*np.log(aim.zoom))))
        centre = np.full(2, (side - 1) / 2) + rng.uniform(-0.5, 0.5, 2) * side * (1 - min(zoom, 1))
        if len(joints) and rng.random() < aim.near_hand:
            centre = joints[rng.integers(len(joints))].mean(0)
        centre = centre + rng.uniform(-aim.reach, aim.reach, 2) * zoom * side
        turn = random_crops(1, side, aim.augment, generator)
        middle = (side - 1) / 2
        move = torch.tensor([[zoom, 0, centre[0] - zoom * middle], [0, zoom, centre[1] - zoom * middle]])
        crop = join(join(move[None].float(), turn), _resize(side, self.size)[None])
        front = torch.tensor(picture).permute(2, 0, 1)[None].float().div_(255)
        gain = torch.exp(torch.randn(1, 1, generator=generator) * 0.2)
        front[:, :3] = (front[:, :3] * gain[..., None, None]).clamp_(0, 1) * front[:, 3:]
        layer = warp(front, crop, self.size)[0]
        x.mul_(1 - layer[3:]).add_(layer[:3])
        inverse = torch.linalg.inv(crop[0, :, :2])
        covered = []
        for points, seen in hands:
            at = points.round().long().clamp(0, self.size - 1)
            covered.append((points, seen * (layer[3, at[:, 1], at[:, 0]] < 0.5)))
        moved = (torch.from_numpy(joints).float() - crop[0, :, 2]) @ inverse.T
        return covered + list(zip(moved, torch.from_numpy(visible), strict=True))


def judge(hands: list[tuple[Tensor, Tensor]], size: int) -> tuple[Tensor, Tensor]:
    """Boxes (M, 4) and kinds (M,) of a picture's hands, the largest first.

    A hand is to be found if enough of its joints are in the picture and in sight (`INSIDE`, `SEEN`) and it
    isn't tiny; it is no hand if hardly any is (`OUTSIDE`, `HIDDEN`); in between it is ignored.

    Args:
        hands: joints (21, 2) in pixels and (21,) how well each is seen, 0..1, of each hand.
        size: side of the picture.
    """
    boxes, kinds = [], []
    for points, visible in hands:
        inside = ((points > -0.5) & (points < size - 0.5)).all(-1)
        within, seen = float(inside.float().mean()), float((visible * inside).mean())
        if within < OUTSIDE or seen < HIDDEN:
            continue
        low, high = points.amin(0), points.amax(0)
        large = float((high - low).amax()) >= SMALLEST
        boxes.append(torch.cat((low, high)))
        kinds.append(HAND if within >= INSIDE and seen >= SEEN and large else IGNORED)
    if not boxes:
        return torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    stacked = torch.stack(boxes)
    order = (stacked[:, 2:] - stacked[:, :2]).prod(1).argsort(descending=True)[:MOST_HANDS]
    return stacked[order], torch.tensor(kinds)[order]


def _resize(side: int, size: int) -> Tensor:
    """The map (2, 3) from pixels of a square picture of `size` to those of one of `side`."""
    scale = side / size
    return torch.tensor([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5]])


def open_pool(config: DetectorRun, image_size: int, ranks: Ranks | None = None) -> DetectorPool:
    """The pool of a configuration's folders.

    Raises:
        OSError: a folder is missing.
    """
    people = PeopleLayers(config.people) if config.people else None
    found = sorted(Path(config.hands).glob("backgrounds-*.npy"))
    if not found:
        raise FileNotFoundError(
            f"hands {config.hands!r}: no backgrounds-*.npy there; `dfmamba train` renders both"
        )
    backgrounds = np.load(found[0], mmap_mode="r")
    return DetectorPool(config, image_size, HandLayers(config.hands), people, backgrounds, ranks)


class DetectorTask:
    """A detector of `dfmamba.models.MODELS` and its loss on the pictures of `dfmamba.train.detector`.

    Args:
        config: the run.
        weights: of the loss.

    Raises:
        ValueError: unknown model, or one that is no detector.
    """

    def __init__(self, config: DetectorRun, weights: DetectorLossConfig | None = None) -> None:
        known = [name for name, model in MODELS.items() if model.detects]
        if config.model not in known:
            raise ValueError(f"model {config.model!r} is no detector; known: {', '.join(sorted(known))}")
        self.config, self.weights = config, weights or DetectorLossConfig()
        self.stride = 0

    def build(self) -> HandPoseModel:
        """The model with random weights."""
        model = HandPoseModel(MODELS[self.config.model])
        assert isinstance(model.head, DetectorHead)
        self.stride = model.head.stride
        return model

    def loss(self, output: Any, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """All terms of `detector_loss`."""
        return detector_loss(output, target, self.stride, self.weights)


VALIDATION_SEED = 90_000


class DetectorValidation:
    """Figures of the averaged detector on composed scenes that training doesn't draw.

    They are made of the same rendered pictures, in other compositions; for figures on unseen ones compare on
    a folder of people with another seed.

    Args:
        config: the run; `validation` is the number of scenes.
    """

    def __init__(self, config: Any) -> None:
        self.config = replace(config, batch_size=config.validation, seed=VALIDATION_SEED, ahead=0)
        self.scenes: tuple[list[Any], list[Any], list[Any]] | None = None

    def __call__(self, model: Any) -> dict[str, float]:
        """Recall, false detections and average precision; "score" is what the latter lacks to 1."""
        from dfmamba.detect.network import NetworkDetector
        from dfmamba.metrics.detection import score_detections

        if self.scenes is None:
            self.scenes = self._compose(model.config.image_size)
        pictures, hands, ignored = self.scenes
        figures = score_detections(NetworkDetector(model).detect(pictures), hands, ignored)
        return {
            "recall": round(figures.recall, 4),
            "false_per_picture": round(figures.false_per_picture, 4),
            "average_precision": round(figures.average_precision, 4),
            "iou": round(figures.iou, 4),
            "score": 1 - figures.average_precision,
        }

    def _compose(self, size: int) -> tuple[list[Any], list[Any], list[Any]]:
        from dfmamba.heads.detector import HAND, IGNORED

        x, target = open_pool(replace(self.config, crop=0), size).compose(0)
        pictures = [np.ascontiguousarray((one.permute(1, 2, 0) * 255).round().byte().numpy()) for one in x]
        boxes = list(zip(target["boxes"].double().numpy(), target["kinds"].numpy(), strict=True))
        hands, ignored = ([box[kinds == kind] for box, kinds in boxes] for kind in (HAND, IGNORED))
        return pictures, hands, ignored
