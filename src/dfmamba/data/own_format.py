"""Writing the package's own data format and WebDataset shards; depth maps on disk.

The format is documented in docs/train/own_data.md; its reader is `dfmamba.data.readers.own.OwnData`.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dfmamba.data.index import Report
from dfmamba.data.indexed import IndexedDataset
from dfmamba.data.sample import DEPTH_UNIT_MM, HandSample, encode_depth_png
from dfmamba.hands.skeleton import HAND_NAMES, JOINT_NAMES, convert_joints
from dfmamba.io.files import open_atomic, open_atomic_bytes

FORMAT = "dfmamba-own"
VERSION = 1
UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
"""Units that a file may declare -> millimetres."""

SPLITS = ("train", "val", "test")

_COPIED = frozenset({".jpg", ".jpeg", ".png"})
_FOLDER_SIZE = 10_000


@dataclass(frozen=True)
class Source:
    """A sample and the file that its picture came from.

    Attributes:
        sample: with picture or depth.
        file: JPEG or PNG whose bytes are copied; None encodes the picture as PNG.
    """

    sample: HandSample
    file: Path | None = None


def sources_of(dataset: IndexedDataset, report: Report) -> Iterator[Source]:
    """All samples of a data set with the files of their pictures; unreadable ones go to the report."""
    untouched = type(dataset).open_picture is IndexedDataset.open_picture
    for i in range(len(dataset)):
        row = dataset.index[i]
        try:
            sample = dataset[i]
        except (OSError, ValueError):
            report.leave_out(row.id, "picture or depth map is missing or damaged")
            continue
        file = dataset.root / row.picture
        copied = untouched and row.picture and file.suffix.lower() in _COPIED
        yield Source(sample, file if copied else None)


def write_own(dataset: IndexedDataset, folder: str | Path, split: str) -> Report:
    """Writes one split in the own format: `<split>.json`, and pictures in `<split>/`.

    Pictures that are JPEG or PNG files are copied byte for byte, others become PNG; depth maps become 16-bit
    PNG in steps of `DEPTH_UNIT_MM` (see `encode_depth_png`). Joints in an order without 21 counterparts (NYU)
    keep those that have one. Masks are not written. The JSON file appears last and at once.

    Args:
        dataset: an opened split of any data set.
        folder: of the copy; may hold other splits.
        split: "train", "val" or "test".

    Returns:
        What was written and what left out.

    Raises:
        ValueError: unknown split.
        OSError: the split is there already, or the folder can't be written.
    """
    report = Report()
    return write_samples(sources_of(dataset, report), folder, split, report)


def write_samples(
    sources: Iterable[Source], folder: str | Path, split: str, report: Report | None = None
) -> Report:
    """As `write_own`, for samples from anywhere."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; the own format has {', '.join(SPLITS)}")
    root = Path(folder)
    target = root / f"{split}.json"
    if os.path.lexists(target):
        raise FileExistsError(f"{target}: exists; choose another folder or remove it first")
    report = Report() if report is None else report
    with open_atomic(target) as file:
        file.write(json.dumps(header())[:-1] + ', "samples": [')
        for i, source in enumerate(sources):
            stem = f"{split}/{i // _FOLDER_SIZE:04d}/{i:08d}"
            entry = entry_of(source.sample)
            for key, (suffix, content) in _pictures(source).items():
                entry[key] = stem + suffix
                path = root / entry[key]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            file.write(("," if report.kept else "") + "\n" + json.dumps(entry))
            report.kept += 1
        file.write("\n]}\n")
    return report


def write_shards(dataset: IndexedDataset, folder: str | Path, per_shard: int = 1000) -> Report:
    """Writes one split as tar files in WebDataset's naming: 000000.tar, 000001.tar, ...

    A sample is `<key>.jpg` or `<key>.png`, `<key>.depth.png` where there is depth, and `<key>.json`: the
    entry of the own format together with its header, so that each stands for itself. The same data set gives
    the same bytes.

    Args:
        dataset: an opened split of any data set.
        folder: for the shards; must not hold any.
        per_shard: samples a shard.

    Returns:
        What was written and what left out.

    Raises:
        ValueError: `per_shard` is below 1.
        OSError: the folder holds shards already, or can't be written.
    """
    if per_shard < 1:
        raise ValueError(f"per_shard is {per_shard}; expected at least 1")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.glob("[0-9]*.tar")):
        raise FileExistsError(f"{root}: holds shards already; choose another folder")
    report = Report()
    sources = sources_of(dataset, report)
    for first in sources:
        batch = itertools.chain([first], itertools.islice(sources, per_shard - 1))
        report.kept += write_tar(root / f"{report.kept // per_shard:06d}.tar", batch, report.kept)
    return report


def write_tar(path: Path, sources: Iterable[Source], first: int) -> int:
    """Writes one shard, which appears only when it is complete and on the disk.

    Args:
        path: of the shard.
        sources: its samples.
        first: number of the first of them, which its key names; the others count on.

    Returns:
        How many there were.

    Raises:
        OSError: the file can't be written; the message names it.
    """
    count = 0
    try:
        with (
            open_atomic_bytes(path) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for source in sources:
                text = json.dumps(header() | entry_of(source.sample))
                for suffix, content in [*_pictures(source).values(), (".json", text.encode())]:
                    member = tarfile.TarInfo(f"{first + count:08d}{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                count += 1
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{path}: cannot be written ({error.strerror or error})") from error
    return count


def header() -> dict[str, Any]:
    """What a file in the own format says of all its entries, as it is written here."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "units": "mm",
        "depth_unit_mm": DEPTH_UNIT_MM,
        "joint_names": list(JOINT_NAMES),
    }


def entry_of(sample: HandSample) -> dict[str, Any]:
    """The labels of a sample as an entry of the own format, without the names of its files."""
    joints, known = convert_joints(sample.joints_cam_mm, sample.order, "openpose", return_valid=True)
    pixels, valid, visible = (
        convert_joints(array, sample.order, "openpose", axis=axis, return_valid=True)[0]
        for array, axis in ((sample.joints_2d_px, -2), (sample.valid, -1), (sample.visible, -1))
    )
    valid, visible = valid & known, visible & known
    joints, pixels = (np.where(valid[..., None], array, np.float32(0)) for array in (joints, pixels))
    depth = None
    if sample.depth_px is not None:
        known_z = convert_joints(sample.depth_px, sample.order, "openpose", axis=-1, return_valid=True)[0]
        depth = [[float(str(d)) if np.isfinite(d) else None for d in hand] for hand in known_z]
    camera, size = sample.camera, sample.size
    if size is None:
        raise ValueError(f"sample {sample.id!r} has neither picture nor depth map; nothing to write")
    return {
        "id": sample.id,
        "size": list(size),
        "camera": None if camera is None else [camera.fx, camera.fy, camera.cx, camera.cy],
        "box": _plain(sample.box_xyxy) if sample.box_xyxy.any() else None,
        "hands": [
            {
                "side": HAND_NAMES[hand],
                **({"joints_cam": _plain(joints[hand])} if depth is None else {"depth_px": depth[hand]}),
                "joints_2d_px": _plain(pixels[hand]),
                "valid": valid[hand].tolist(),
                "visible": visible[hand].tolist(),
            }
            for hand in np.flatnonzero(sample.present)
        ],
    }


def files_digest(folders: Iterable[Path], wanted: Callable[[str], bool]) -> str:
    """One text that changes when a file of these folders (not of those below) comes, goes or changes.

    Args:
        folders: where to look; missing ones count as such.
        wanted: by the file's name, whether it matters.
    """
    digest = hashlib.sha256()
    for folder in folders:
        digest.update(f"\n{folder}".encode(errors="surrogateescape"))
        try:
            with os.scandir(folder) as entries:
                marks = [
                    f"{entry.name} {status.st_size} {status.st_mtime_ns}"
                    for entry in entries
                    if wanted(entry.name) and (status := entry.stat())
                ]
        except OSError:
            marks = ["missing"]
        digest.update("\n".join(sorted(marks)).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _pictures(source: Source) -> dict[str, tuple[str, bytes]]:
    """What a sample has of "picture" and "depth": suffix and content of each."""
    found: dict[str, tuple[str, bytes]] = {}
    sample = source.sample
    if source.file is not None:
        suffix = ".png" if source.file.suffix.lower() == ".png" else ".jpg"
        found["picture"] = (suffix, source.file.read_bytes())
    elif sample.image is not None:
        memory = io.BytesIO()
        Image.fromarray(sample.image).save(memory, "PNG")
        found["picture"] = (".png", memory.getvalue())
    if sample.depth_mm is not None:
        found["depth"] = (".depth.png", encode_depth_png(sample.depth_mm))
    return found


def _plain(array: np.ndarray) -> Any:
    """Nested lists of the shortest decimals that give the same float32 again."""
    if array.ndim > 1:
        return [_plain(row) for row in array]
    return [float(str(value)) for value in np.asarray(array, np.float32)]
