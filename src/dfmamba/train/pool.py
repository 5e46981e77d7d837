"""What training draws foregrounds from, and the batches composed of them.

Rendered hands and squares cut out of labelled sets are the same thing: images with coverage on disk, and
labels in 2.5D. They are made once and laid over another background with other colours each time they are
drawn. What is drawn depends on the configuration and the step alone, however fast the renderer is: the
rendered pool grows with the step by a fixed rule and waits for shards that aren't there yet.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dfmamba.data.index import ColumnFile, Report, cache_root, fingerprint
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.kinds import SYNTHETIC_KINDS
from dfmamba.data.registry import dataset_info, open_dataset
from dfmamba.data.sample import HandSample, encode_depth
from dfmamba.hands.affine import box_of_points, crop_affine, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.heads import HeadConfig, LossConfig, pose_loss
from dfmamba.io.files import open_atomic_bytes, write_atomic
from dfmamba.io.untrusted import read_json
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.synth import raster
from dfmamba.synth.appearance import SKIN_RAMP_SRGB
from dfmamba.synth.background import cut_photo, photo_files, sample_background
from dfmamba.synth.generator import SyntheticConfig
from dfmamba.synth.shards import ShardedHands, render_shards
from dfmamba.train.augment import LEAST_JOINTS, Foregrounds, depth_of_25d, make_batch
from dfmamba.train.config import DataConfig, SetConfig, TrainConfig
from dfmamba.train.engine import rehearse, train
from dfmamba.train.evaluate import SyntheticValidation
from dfmamba.train.meter import clock, telling
from dfmamba.train.parallel import Ranks
from dfmamba.train.run_folder import find_states
from dfmamba.train.samples import PoolBatches, Prefetched, fault

SETS_FILE = "sets.json"
SHARD = 2000
LAYERS = ("hand",)
DEPTH_KIND = SYNTHETIC_KINDS.index("depth")

ROOM = 1.9
"""Side of the square cut out of a photograph over the longer side of the box of a hand's joints."""

TOGETHER = 1.6
"""Two hands share a square if the box of both is at most so many times as large as the larger hand's."""

SMALLEST = 24.0
"""Hands with a smaller box, in pixels of their image, are left out."""

CUT_VERSION = 1
"""Counted up when squares are cut or kept in another way."""

FEW = 500
"""So many samples are cut in this process."""

PATIENCE_S = 3600.0
"""How long a process waits for what another one makes."""


def synthetic_config(data: DataConfig) -> SyntheticConfig:
    """What the renderer needs to know of the data settings."""
    return SyntheticConfig(size=data.size, seed=data.seed, kinds=dict(data.kinds), effects=False)


def cache_folder(data: DataConfig) -> Path:
    """Folder of the rendered pictures, named by what is in them unless the settings name one."""
    if data.cache:
        return Path(data.cache)
    return cache_root() / f"synthetic-{_digest(synthetic_config(data).to_dict())}"


def render(data: DataConfig, first: int, count: int) -> Path:
    """Renders pictures `first` to `first + count` into the cache; finished shards are left alone."""
    folder = cache_folder(data)
    return render_shards(
        synthetic_config(data), first, count, folder, data.workers, SHARD, LAYERS, device=data.render_device
    )


def open_backgrounds(data: DataConfig, make: bool = True) -> np.ndarray:
    """(N, S, S, 3) uint8 backgrounds, made once and kept in the cache.

    The share `data.photo_share` of them is cut from the photographs of `data.photos`, if there are any.
    Those that can't be read are counted and named on standard error.

    Args:
        data: the settings.
        make: make them where they are missing; otherwise wait for another process that does.

    Raises:
        OSError: the folder of photographs is missing, or holds none that can be read.
    """
    files = photo_files(data.photos) if data.photos else []
    named = _digest([data.photo_share, fingerprint(files)]) if files else "drawn"
    path = cache_folder(data) / f"backgrounds-{data.backgrounds}-{named}.npy"
    if not path.is_file() and not make:
        _wait(lambda: path.is_file(), PATIENCE_S, f"{path}: the backgrounds didn't appear")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        cut = round(data.photo_share * data.backgrounds) if files else 0
        images = np.empty((data.backgrounds, data.size, data.size, 3), np.uint8)
        report = Report()
        for i, image in enumerate(_cut_photographs(files, cut, data, report)):
            images[i] = image
        for line in report.lines[1:]:
            print(f"photographs {data.photos}: {line}", file=sys.stderr)
        for i in range(cut, data.backgrounds):
            rng = np.random.default_rng([data.seed, 8, i])
            tone = SKIN_RAMP_SRGB[rng.integers(len(SKIN_RAMP_SRGB))]
            images[i] = sample_background(rng, data.size, None, tone)
        with open_atomic_bytes(path) as file:
            np.save(file, images)
    return np.load(path, mmap_mode="r")


def _cut_photographs(
    files: Sequence[Path], count: int, data: DataConfig, report: Report
) -> Iterator[np.ndarray]:
    """`count` squares (S, S, 3) of the photographs, from each of them as often as from the others."""
    queue, made = deque(files), 0
    while made < count:
        if not queue:
            raise OSError(f"{data.photos}: none of {len(files)} photographs can be read: {report.lines[1]}")
        file = queue.popleft()
        try:
            image = cut_photo(np.random.default_rng([data.seed, 9, made]), data.size, file)
        except (OSError, ValueError) as error:
            report.leave_out(str(file), fault(error))
            continue
        queue.append(file)
        made += 1
        yield image


@dataclass
class Stock:
    """Foregrounds on disk that batches draw from.

    Attributes:
        images: gives the (S, S, 4) uint8 straight colour and coverage of a number.
        joints_25d: (n, 2, 21, 3) in pixels of the images.
        valid: (n, 2, 21) bool.
        valid_z: (n, 2, 21) bool, joints of known depth.
        known: (n, 2) bool; False for a hand that is in the image, but not labelled.
        is_depth: (n,) bool.
        chances: (n,) running sums of the chances to be drawn.
        digest: of images and labels; "" where the configuration says all.
    """

    images: Callable[[int], np.ndarray]
    joints_25d: Tensor
    valid: Tensor
    valid_z: Tensor
    known: Tensor
    is_depth: Tensor
    chances: np.ndarray
    digest: str = ""

    def draw(self, rng: np.random.Generator, rows: np.ndarray, among: int) -> Foregrounds:
        """Draws a foreground for each of the given places of a batch, among the first so many."""
        drawn = rng.random(len(rows)) * self.chances[among - 1]
        chosen = np.searchsorted(self.chances[:among], drawn, side="right").clip(max=among - 1)
        index = torch.from_numpy(chosen)
        return Foregrounds(
            torch.from_numpy(rows),
            torch.from_numpy(np.stack([self.images(int(i)) for i in chosen])),
            *(getattr(self, name)[index] for name in ("joints_25d", "valid", "valid_z", "known", "is_depth")),
        )


def open_rendered(folder: Path, draw: dict[str, float]) -> Stock:
    """The finished shards of rendered hands.

    Args:
        folder: of the shards.
        draw: factors of the chances by kind of scene.

    Raises:
        OSError: there are none.
    """
    hands = ShardedHands(folder, LAYERS)
    labels = hands.labels
    cameras, joints, valid, pixels = (
        torch.from_numpy(labels[name].copy()) for name in ("camera", "joints_cam_mm", "valid", "joints_2d")
    )
    relative = depth_of_25d(joints.double(), cameras.double(), valid)
    factors = np.array([draw.get(kind, 1.0) for kind in SYNTHETIC_KINDS])
    return Stock(
        lambda i: hands[i]["hand"],
        torch.cat((pixels, relative[..., None].float()), dim=-1),
        valid,
        valid,
        torch.ones(len(valid), 2, dtype=torch.bool),
        torch.from_numpy(labels["kind"] == DEPTH_KIND),
        np.cumsum(factors[labels["kind"]]),
    )


def open_set(chosen: SetConfig, workers: int = 0, make: bool = True, tell: bool = True) -> Stock:
    """Squares around the hands of a labelled set, cut once and kept in the cache.

    What can't be used (a damaged image, a tiny hand) is counted and named on standard error.

    Args:
        chosen: which set.
        workers: processes that cut; 0 cuts in this one.
        make: cut where that wasn't done yet; otherwise wait for another process that does.
        tell: say on standard error what it holds.

    Raises:
        OSError: the set is missing.
        ValueError: it holds nothing that can be used, or its joints are in another order than OpenPose's.
    """
    split = chosen.split or dataset_info(chosen.name).train
    dataset = open_dataset(chosen.name, chosen.path, split, **chosen.options)
    if dataset.ORDER != "openpose":
        raise ValueError(
            f"{chosen.name} has joints in order {dataset.ORDER!r}, a mixture those of OpenPose's; "
            f"train on it with `dfmamba train {chosen.name}`"
        )
    how = [CUT_VERSION, chosen.size, chosen.most, ROOM, TOGETHER, SMALLEST]
    key = [dataset.key(), str(dataset.root.resolve()), *how]
    folder = cache_root() / f"cut-{chosen.name}-{_digest(key)}"
    if not folder.is_dir() and not make:
        _wait(lambda: folder.is_dir(), PATIENCE_S, f"{folder}: the cut squares didn't appear")
    if not folder.is_dir():
        _cut_set(dataset, chosen, folder, workers)
    facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if tell:
        for line in (*facts["lines"], *(f"not read, {line}" for line in dataset.report.lines[1:])):
            print(f"{chosen.name} {chosen.path} {split}: {line}", file=sys.stderr)
    images = np.load(folder / "hand.npy", mmap_mode="r")
    with np.load(folder / "labels.npz") as file:
        labels = {name: torch.from_numpy(file[name]) for name in file.files}
    chances = np.arange(1.0, len(labels["valid"]) + 1)
    return Stock(images.__getitem__, **labels, chances=chances, digest=facts["digest"])


def _cut_set(dataset: IndexedDataset, chosen: SetConfig, folder: Path, workers: int) -> None:
    """Writes the squares of a set into a folder that appears when it is complete."""
    report = Report()
    numbers = dataset.spaced(chosen.most)
    if len(numbers) < len(dataset):
        line = f"{len(numbers)} of {len(dataset)} samples, evenly spaced; `most` sets how many"
        print(f"{chosen.name} {chosen.path}: {line}", file=sys.stderr)
    cut = partial(_cut_sample, dataset, chosen.size)
    draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    labels: dict[str, list[Any]] = {"joints_25d": [], "valid": [], "valid_z": [], "known": [], "is_depth": []}
    digest = hashlib.sha256()
    try:
        workers = workers if len(numbers) > FEW else 0
        with ColumnFile(draft / "hand.npy", np.uint8) as file, _mapping(workers) as map_:
            for number, found in zip(numbers, map_(cut, numbers), strict=True):
                if isinstance(found, str):
                    report.leave_out(dataset.labels(number).id, found)
                    continue
                for image, *values in found:
                    file.append(image[None])
                    for name, value in zip(labels, values, strict=True):
                        labels[name].append(value)
                    for value in (image, *values):
                        digest.update(np.asarray(value).tobytes())
                report.kept += 1
        count = len(labels["valid"])
        if not count:
            raise ValueError(f"{chosen.name} {chosen.path}: nothing to train on: {'; '.join(report.lines)}")
        np.savez(draft / "labels.npz", allow_pickle=False, **{k: np.stack(v) for k, v in labels.items()})
        lines = [f"{count} squares of {report.lines[0]}", *report.lines[1:]]
        facts = {"lines": lines, "digest": digest.hexdigest()[:16]}
        (draft / "report.json").write_text(json.dumps(facts), encoding="utf-8")
        with suppress(OSError):  # another run may have made the same at the same time
            os.replace(draft, folder)
        assert folder.is_dir()
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _mapping(workers: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` in this process, or in so many others."""
    if not workers:
        yield map
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            yield partial(pool.map, chunksize=16)
        finally:
            pool.shutdown(cancel_futures=True)


Cut = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, bool]
"""Image, and the labels of a `Stock` in its order."""


def _cut_sample(dataset: IndexedDataset, size: int, number: int) -> list[Cut] | str:
    """The squares of one sample, or why there are none."""
    try:
        sample = dataset[number]
        return cut_hands(sample, size) or f"hand smaller than {SMALLEST:g} pixels"
    except (OSError, ValueError) as error:
        return fault(error)


def cut_hands(sample: HandSample, size: int) -> list[Cut]:
    """Squares around the hands of a sample: one for each, or one for both if they are close together.

    Beyond the edges of the image nothing is covered. A second hand with few joints in the square of the first
    is left out of its labels.

    Args:
        sample: with its image or depth map.
        size: side of the squares in pixels.

    Returns:
        For each square image (S, S, 4) uint8, joints_25d (2, 21, 3) float32 in its pixels, valid, valid_z
        (2, 21), known (2,) bool, and whether it is a depth map. Tiny hands have none.

    Raises:
        ValueError: no image, or no hand with enough labels.
    """
    is_depth = sample.image is None
    if is_depth and sample.depth_mm is None:
        raise ValueError(f"sample {sample.id!r}: neither image nor depth map")
    image = sample.image if sample.image is not None else encode_depth(np.asarray(sample.depth_mm))
    cover = np.full(image.shape[:2], 255, np.uint8)
    joints, valid_z = sample.joints_25d
    labelled = sample.valid.sum(-1) >= LEAST_JOINTS
    hands = np.flatnonzero(labelled)
    if not len(hands):
        raise ValueError(f"fewer than {LEAST_JOINTS} joints are labelled")
    boxes = [box_of_points(sample.joints_2d_px[hand], sample.valid[hand]) for hand in hands]
    both = box_of_points(sample.joints_2d_px, sample.valid)
    largest = max(_side(box) for box in boxes)
    if len(boxes) == 2 and _side(both) <= TOGETHER * largest:
        boxes = [both]
    found: list[Cut] = []
    for box in boxes:
        if _side(box) < SMALLEST:
            continue
        affine = crop_affine(square_box(box, ROOM), size)
        layers = (warp_image(image, affine, size), warp_image(cover, affine, size))
        here = np.concatenate((affine.apply(joints[..., :2]), joints[..., 2:] * affine.scale), axis=-1)
        inside = ((here[..., :2] > -0.5) & (here[..., :2] < size - 0.5)).all(-1) & sample.valid
        valid = sample.valid & (inside.sum(-1, keepdims=True) >= LEAST_JOINTS)
        rgba = np.dstack((layers[0], np.full_like(layers[1], 255) if is_depth else layers[1]))
        here = np.where(valid[..., None], here, 0.0).astype(np.float32)
        found.append((rgba, here, valid, valid_z & valid, ~sample.present | labelled, is_depth))
    return found


def _side(box: np.ndarray) -> float:
    return float((box[2:] - box[:2]).max())


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _wait(there: Callable[[], bool], patience_s: float, otherwise: str) -> None:
    deadline = time.monotonic() + patience_s
    while not there():
        if time.monotonic() > deadline:
            raise OSError(otherwise)
        time.sleep(0.2)


class Pool:
    """Batches for the engine, composed of rendered hands and of those of labelled sets.

    Each place of a batch draws its source by the shares of `config.data`. On a GPU only the drawing happens
    on the processor, and composition there.

    Args:
        config: the run; `config.data` says what is drawn, `config.augment` how it is varied.
        image_size: side of the model's crop, unless `config.crop` says otherwise.
        ranks: this process among several, each of which takes its share of every batch.
        patience_s: how long to wait for a shard that another process renders.
        workers: processes that prepare batches ahead; 0 does without. The same batches.
        copy: this is another process's pool again, for which everything is there.

    Raises:
        OSError: something is missing.
        ValueError: a set holds nothing that can be used.
    """

    def __init__(
        self,
        config: TrainConfig,
        image_size: int,
        ranks: Ranks | None = None,
        patience_s: float = PATIENCE_S,
        workers: int = 0,
        copy: bool = False,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.config, self.image_size, self.patience_s = config, config.crop or image_size, patience_s
        self.device = torch.device(config.device)
        data = config.data
        make = self.ranks.first and not copy
        self.backgrounds = open_backgrounds(data, make)
        self.sets = [open_set(chosen, data.workers, make, tell=make) for chosen in data.sets]
        self.shares = np.array([data.rendered_share, *(chosen.share for chosen in data.sets)])
        self.loaded = 0
        if data.rendered_share:
            self._open(self.available(0))
        self._prefetched = Prefetched(
            PoolBatches(self, Pool, config, image_size, ranks, patience_s, 0, True), workers
        )

    def available(self, step: int) -> int:
        """How many rendered hands the pool holds at a step: all of them from half of the run on."""
        data = self.config.data
        first = min(data.first, data.pictures)
        share = min(1.0, step / max(1, 0.5 * self.config.steps))
        return first + int(share * (data.pictures - first)) // SHARD * SHARD

    def _open(self, wanted: int) -> None:
        folder = cache_folder(self.config.data)
        shards = [folder / f"shard-{first:09d}" for first in range(0, wanted, SHARD)]

        def there() -> bool:
            return all(shard.is_dir() for shard in shards)

        if not there():
            print(f"waiting for the renderer ({wanted} pictures needed)", file=sys.stderr, flush=True)
            line = f"{folder}: shards up to picture {wanted} didn't appear; is the renderer running?"
            _wait(there, self.patience_s, line)
        self.rendered = open_rendered(folder, dict(self.config.data.draw))
        self.loaded = wanted

    def batch(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (B, 3, S, S) in [0, 1] and the loss target of one step."""
        prepared = self._prefetched[step]
        return prepared if self.device.type == "cpu" else self._compose(*prepared)

    def compose(self, step: int) -> Any:
        """What is prepared ahead of a step: the batch, or on a GPU what it is composed of."""
        drawn = self.draw(step)
        return self._compose(*drawn) if self.device.type == "cpu" else drawn

    def draw(self, step: int) -> tuple[list[Foregrounds], Tensor, int]:
        """The foregrounds of a step, its backgrounds (B, R, R, 3) uint8, and the seed of its composition."""
        config = self.config
        rng = np.random.default_rng([config.seed, step, self.ranks.rank])
        n = self.ranks.share_of(config.batch_size)
        source = np.zeros(n, np.int64)
        if self.sets:
            source = rng.choice(len(self.shares), n, p=self.shares / self.shares.sum())
        parts: list[Foregrounds] = []
        for number in np.unique(source):
            rows = np.flatnonzero(source == number)
            if number == 0:
                wanted = self.available(step)
                if wanted > self.loaded:
                    self._open(wanted)
                parts.append(self.rendered.draw(rng, rows, wanted))
            else:
                chosen = self.sets[number - 1]
                parts.append(chosen.draw(rng, rows, len(chosen.valid)))
        seed = int(rng.integers(2**62))
        behind = np.stack([self.backgrounds[i] for i in rng.integers(0, len(self.backgrounds), n)])
        return parts, torch.from_numpy(behind), seed

    def _compose(
        self, parts: list[Foregrounds], backgrounds: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator(self.device).manual_seed(seed)
        moved = [part.to(self.device) for part in parts]
        behind = backgrounds.to(self.device)
        return make_batch(moved, behind, self.image_size, self.config.augment, generator)


class PoseTask:
    """A model of `dfmamba.models.MODELS` and its loss on crops of `dfmamba.train.pool`.

    Args:
        config: the run.

    Raises:
        ValueError: unknown model, or setting of its backbone.
    """

    def __init__(self, config: TrainConfig) -> None:
        if config.model not in MODELS:
            raise ValueError(f"unknown model {config.model!r}; known: {', '.join(sorted(MODELS))}")
        model = MODELS[config.model]
        self.model = replace(model, backbone_args={**model.backbone_args, **config.backbone_args})
        self.loss_config = loss_settings(config)

    def build(self) -> HandPoseModel:
        """The model with random weights."""
        return HandPoseModel(self.model)

    def loss(self, output: Any, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """All terms of `dfmamba.heads.pose_loss`."""
        return pose_loss(output, target, self.loss_config)


def loss_settings(config: TrainConfig) -> LossConfig:
    """The loss with the scales of the crops that this run trains on."""
    head = MODELS[config.model].head
    assert isinstance(head, HeadConfig)
    size = config.crop or head.image_size
    depth = head.depth_extent * size / head.image_size if head.depth_unit == "px" else head.depth_extent
    return replace(config.loss, image_size=float(size), depth_range=depth)


REHEARSED = 16
"""Hands that a rehearsal renders where the cache has none."""


def train_pose(
    config: TrainConfig, ranks: Ranks, resume: bool = False, until: int | None = None, board: bool = False
) -> HandPoseModel:
    """Renders, cuts, trains and validates; the rest of the hands is rendered beside the training.

    Args:
        config: the run.
        ranks: this process among several.
        resume: see `dfmamba.train.engine.train`.
        until: likewise.
        board: write for TensorBoard, too.

    Raises:
        ValueError: unusable settings.
        OSError: the cache or the folder of the run can't be written.
    """
    task, data = PoseTask(config), config.data
    first = min(data.first, data.pictures) if data.rendered_share else data.pictures
    if ranks.first and data.rendered_share:
        print(f"pictures: {cache_folder(data)}", file=sys.stderr)
        render(data, 0, first)
    renderer = multiprocessing.get_context("spawn").Process(
        target=_render_rest, args=(data, first, data.pictures - first), daemon=False
    )
    if ranks.first and data.pictures > first:
        renderer.start()
    try:
        source = Pool(config, task.model.image_size, ranks, workers=data.ahead)
        if ranks.first:
            _require_same_sets(Path(config.out), source)
        with telling(config.out, board, ranks) as shown:
            return train(config, source, task, resume, SyntheticValidation(config, shown), until, ranks)
    finally:
        if renderer.pid is not None:
            renderer.terminate()
            renderer.join()


def _require_same_sets(out: Path, source: Pool) -> None:
    """Keeps what the sets of a run hold in its folder; a run that goes on must find the same.

    Raises:
        ValueError: a set has other images or labels than when the run began.
    """
    now = {
        f"{s.name} {s.path}": stock.digest
        for s, stock in zip(source.config.data.sets, source.sets, strict=True)
    }
    path = out / SETS_FILE
    begun = path.is_file() and find_states(out)
    was = read_json(path) if begun else now
    for (name, digest), before in zip(now.items(), was.values(), strict=True):
        if digest != before:
            raise ValueError(
                f"{out} began with other images or labels in {name}; restore them, or begin anew"
            )
    if now and not begun:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (json.dumps(now, indent=1) + "\n").encode())


def _render_rest(data: DataConfig, first: int, count: int) -> None:
    """Renders beside the training, at low priority and one process, so that training keeps its cores."""
    os.nice(5)
    try:
        render(replace(data, workers=1), first, count)
    except KeyboardInterrupt:
        sys.exit(130)


def rehearse_pose(config: TrainConfig, ranks: Ranks) -> list[str]:
    """Two steps of a run, on the hands of the cache; where they aren't there yet, on a few rendered for it.

    Returns:
        Lines to print; none in the processes that don't write.
    """
    task, data, lines = PoseTask(config), config.data, []
    first = min(data.first, data.pictures)
    shards = (cache_folder(data) / f"shard-{place:09d}" for place in range(0, first, SHARD))
    with tempfile.TemporaryDirectory(prefix="dfmamba-") as folder:
        if data.rendered_share and not all(shard.is_dir() for shard in shards):
            few = min(REHEARSED, first)
            small = replace(data, pictures=few, first=few, cache=folder, backgrounds=2, workers=0)
            raster.warm_up(data.render_device)
            begun = time.monotonic()
            render(small, 0, few)
            each = (time.monotonic() - begun) / few / max(1, data.workers)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*.npy")) / few
            lines.append(
                f"rendering: {first} pictures before the first step {clock(first * each)}, "
                f"all {data.pictures} {clock(data.pictures * each)} and {size * data.pictures / 1e9:.1f} GB"
            )
            config = replace(config, data=small)
        source = Pool(config, task.model.image_size, ranks)
        validation = SyntheticValidation(replace(config, validation=1))
        found = rehearse(config, source, task, validation, 1, ranks)
    return [*found, *lines] if ranks.first else []
