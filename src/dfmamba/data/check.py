"""Checks of a copy of a data set: is everything there, and can the labels be right?

Labels of single samples are checked when the index is made (`dfmamba.data.indexed.complete_row`). Here a
whole split is looked at: files and published numbers, and statistics that a misread unit, joint order or side
would spoil and no single sample gives away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from dfmamba.data.indexed import IndexedDataset
from dfmamba.hands.skeleton import (
    FINGER_NAMES,
    FINGERS,
    HAND_NAMES,
    JOINT_NAMES,
    KNUCKLES,
    PARENTS,
    REFERENCE_BONES_MM,
    TIPS,
    convert_joints,
    joint_order,
)

LEVELS = ("ok", "note", "wrong", "unusable")
"""How bad: fine, worth knowing, figures would be wrong, nothing can be done with it."""

MOST_LABELS = 50_000
"""Statistics of labels are taken of at most so many samples, evenly spaced."""

SIZE_RANGE = (0.5, 2.0)
"""Hands, and bones in hands of their size, are this many times the mean hand's at most."""

CLEAR_CURL_MM = 25.0
"""Fingertips that far out of the plane of the palm tell a right hand from a left one."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: its name.
        level: one of `LEVELS`.
        text: one line.
        figures: the numbers behind it, by name.
    """

    check: str
    level: str
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)


def worst(findings: Iterable[Finding]) -> str:
    """The worst level among findings; "ok" without any."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def evenly(length: int, count: int | None) -> list[int]:
    """Indices of `count` evenly spaced entries of `length`, the first and last among them; None takes all."""
    if count is None or count >= length:
        return list(range(length))
    return np.unique(np.linspace(0, length - 1, count).round().astype(int)).tolist()


class Labels:
    """The labels of evenly spaced samples of a split, as arrays; frames and units of `HandSample`.

    Attributes:
        order: of the joints.
        cam: (N, 2, J, 3) mm.
        pixels: (N, 2, J, 2).
        valid: (N, 2, J) bool.
        camera: (N, 4) fx, fy, cx, cy; nan where unknown.
        box: (N, 4).
        size: (N, 2) width, height.
    """

    def __init__(self, dataset: IndexedDataset, most: int = MOST_LABELS) -> None:
        chosen = evenly(len(dataset), most)
        column = dataset.index.column
        self.order = dataset.ORDER
        self.cam = column("joints_cam_mm")[chosen].astype(np.float64)
        self.pixels = column("joints_2d_px")[chosen].astype(np.float64)
        self.valid = np.asarray(column("valid")[chosen])
        self.camera = np.asarray(column("camera")[chosen])
        self.box = column("box_xyxy")[chosen].astype(np.float64)
        self.size = np.asarray(column("size")[chosen])

    @cached_property
    def hands(self) -> tuple[np.ndarray, np.ndarray]:
        """Hands with labels, (M, 21, 3) mm in OpenPose order, nan where not valid, and their sides (M,)."""
        known = self.valid & (self.cam[..., 2] > 0)
        array = np.where(known[..., None], self.cam, np.nan)
        hands, known = convert_joints(array, self.order, "openpose", return_valid=True)
        hands[:, :, ~known] = np.nan
        here = np.argwhere(np.isfinite(hands).any(axis=-1).any(axis=-1))
        return hands[here[:, 0], here[:, 1]], here[:, 1]


def check_numbers(labels: Labels) -> Finding:
    """Numbers that are not finite, in labels that are said to be valid."""
    joints = int((~np.isfinite(labels.cam[labels.valid])).sum() + (~np.isfinite(labels.box)).sum())
    bad = joints + int((~np.isfinite(labels.pixels[labels.valid])).sum())
    text = (
        f"{len(labels.cam):,} samples, {int(labels.valid.sum()):,} valid joints, {bad:,} numbers not finite"
    )
    return Finding("labels", "wrong" if bad else "ok", text, {"samples": len(labels.cam), "not_finite": bad})


def check_projection(labels: Labels) -> Finding:
    """Distance of the projected 3D joints to the labelled pixels; 0 where the source labels no pixels."""
    seen = labels.valid & np.isfinite(labels.camera[:, :1, None]) & (labels.cam[..., 2] > 0)
    if not seen.any():
        return Finding("projection", "note", "no camera: 3D joints can't be compared with pixels")
    camera = np.broadcast_to(labels.camera[:, None, None], (*seen.shape, 4))[seen]
    points = labels.cam[seen]
    pixels = points[:, :2] / points[:, 2:] * camera[:, :2] + camera[:, 2:]
    off = np.linalg.norm(pixels - labels.pixels[seen], axis=-1)
    median, high = float(np.median(off)), float(np.percentile(off, 99))
    level = "wrong" if median > 2 else "note" if high > 2 else "ok"
    text = f"3D joints fall {median:.2f} px from their pixels (median), {high:.2f} px (99 %)"
    return Finding("projection", level, text, {"median_px": median, "percentile_99_px": high})


def check_inside(labels: Labels) -> Finding:
    """Share of the valid joints that lie in the picture, and in the labelled box."""

    def share(low: np.ndarray, high: np.ndarray) -> float:
        low, high = low[:, None, None], high[:, None, None]
        inside = (labels.pixels >= low - 0.5) & (labels.pixels <= high + 0.5)
        return float(inside[labels.valid].all(-1).mean())

    picture = share(np.zeros_like(labels.size), labels.size - 1)
    box = share(labels.box[:, :2], labels.box[:, 2:])
    level = "wrong" if min(picture, box) < 0.5 else "note" if min(picture, box) < 0.9 else "ok"
    text = f"{100 * picture:.1f} % of the joints in the picture, {100 * box:.1f} % in the box"
    return Finding("inside", level, text, {"in_picture": picture, "in_box": box})


def check_bones(labels: Labels) -> Finding:
    """Bone lengths against a mean hand's: finds another unit, and fingers that run from tip to base.

    Where an order lacks joints, the distance of the next two of a finger that it has counts as one bone.
    """
    hands, _ = labels.hands
    names, lengths, reference, fingers = _segments(hands, labels.order)
    here = np.isfinite(lengths).any(0)
    if not here.any():
        return Finding("bones", "note", "no two joints of a finger are labelled together")
    names = [name for name, use in zip(names, here, strict=True) if use]
    ratio = np.nanmedian(lengths[:, here], axis=0) / reference[here]
    size = float(np.median(ratio))
    of_finger = {
        name: float(np.median(ratio[fingers[here] == i]))
        for i, name in enumerate(FINGER_NAMES)
        if (fingers[here] == i).any()
    }
    figures = {"size": size} | of_finger
    text = f"{size:.3g} times a mean hand's: " + ", ".join(f"{n} {r:.3g}" for n, r in of_finger.items())
    low, high = SIZE_RANGE
    if not low < size < high:
        return Finding("bones", "wrong", f"{text}; {_unit(size)}", figures)
    relative = dict(zip(names, ratio / size, strict=True))
    swapped = [
        finger
        for finger in FINGER_NAMES[1:]
        if f"{finger}_dip" in relative
        and relative.get(f"{finger}_pip", 1.0) < 0.8
        and relative.get(f"{finger}_tip", 1.0) > 1.25
    ]
    if len(swapped) > 2:
        return Finding("bones", "wrong", f"{text}; {', '.join(swapped)} run from tip to base", figures)
    odd = [name for name, r in relative.items() if not low < r < high]
    if odd:
        level = "wrong" if len(odd) > len(names) // 5 else "note"
        return Finding(
            "bones", level, f"{text}; unlike a hand's: those that end in {', '.join(odd)}", figures
        )
    return Finding("bones", "ok", text, figures)


def check_fingers(labels: Labels) -> Finding:
    """Whether the knuckles follow each other from index to little finger, with the thumb beside the index."""
    hands, _ = labels.hands
    knuckles, thumb = hands[:, list(KNUCKLES)], hands[:, FINGERS["thumb"][1]]
    known = np.isfinite(knuckles).all(axis=(1, 2)) & np.isfinite(thumb).all(axis=1)
    if not known.any():
        return Finding("fingers", "ok", "no hand has all knuckles: their order was not checked")
    knuckles, thumb = knuckles[known], thumb[known]
    across = knuckles[:, 3] - knuckles[:, 0]
    along = np.einsum("nkc,nc->nk", knuckles, across)
    near, far = (np.linalg.norm(thumb - knuckles[:, k], axis=-1) for k in (0, 3))
    share = float(((np.diff(along, axis=1) > 0).all(1) & (near < far)).mean())
    level = "wrong" if share < 0.5 else "note" if share < 0.9 else "ok"
    text = f"in {100 * share:.1f} % of the hands the knuckles are in order, the thumb beside the index finger"
    return Finding("fingers", level, text, {"in_order": share, "hands": int(known.sum())})


def check_sides(labels: Labels) -> Finding:
    """Whether fingers bend to the side of the palm that left and right hands bend to; a hint, no proof.

    The fingers of a left hand bend towards (index to little knuckle) x (wrist to middle knuckle), those of a
    right hand away from it.
    """
    hands, sides = labels.hands
    across, along = hands[:, 17] - hands[:, 5], hands[:, 9] - hands[:, 0]
    normal = np.cross(across, along)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    bent = hands[:, list(TIPS[1:])].mean(1) - hands[:, list(KNUCKLES)].mean(1)
    curl = np.einsum("nc,nc->n", normal / np.where(length > 0, length, 1.0), bent)
    with np.errstate(invalid="ignore"):
        clear = np.abs(curl) > CLEAR_CURL_MM
    if not clear.any():
        return Finding("sides", "ok", "no hand tells left from right by its shape")
    agrees = (curl[clear] > 0) == (sides[clear] == HAND_NAMES.index("left"))
    share = float(agrees.mean())
    text = f"{int(agrees.sum()):,} of {len(agrees):,} clearly bent hands bend as their side does"
    if share < 0.5:
        text += "; left and right may be swapped"
    level = "note" if share < 0.9 else "ok"
    return Finding("sides", level, text, {"clear": len(agrees), "agree": share})


LABEL_CHECKS = (check_numbers, check_projection, check_inside, check_bones, check_fingers, check_sides)
"""All checks of labels, each `Labels` -> `Finding`."""


def _segments(hands: np.ndarray, order: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Distances of joints that follow each other in a finger, among those that an order has.

    Returns:
        For each of S segments the name of its outer joint; lengths (M, S) mm; those of the mean hand when
        stretched (S,); the number of its finger (S,).
    """
    has = [joint in joint_order(order).joints for joint in JOINT_NAMES]
    names: list[str] = []
    columns: list[np.ndarray] = []
    reference: list[float] = []
    fingers: list[int] = []
    for number, joints in enumerate(FINGERS.values()):
        chain = (PARENTS[joints[0]], *joints)
        last, stretched = (chain[0] if has[chain[0]] else -1), 0.0
        for joint in chain[1:]:
            stretched += float(REFERENCE_BONES_MM[joint - 1])
            if not has[joint]:
                continue
            if last >= 0:
                names.append(JOINT_NAMES[joint])
                columns.append(np.linalg.norm(hands[:, joint] - hands[:, last], axis=-1))
                reference.append(stretched)
                fingers.append(number)
            last, stretched = joint, 0.0
    return names, np.stack(columns, 1), np.array(reference), np.array(fingers)


def _unit(size: float) -> str:
    """What may explain hands of another size."""
    for factor, unit in ((1e-3, "metres"), (0.1, "centimetres")):
        if 0.5 * factor < size < 2 * factor:
            return f"lengths look like {unit}, expected millimetres"
    return "no hand has this size: another unit or wrong joints?"


_T = TypeVar("_T")


def check_dataset(
    dataset: IndexedDataset, published: int | None = None, source: str = "", pictures: int | None = 200
) -> Iterator[Finding]:
    """All checks of one split.

    Args:
        dataset: opened.
        published: number of its entries that its authors state; None where there is none.
        source: what that number counts.
        pictures: how many to open, evenly spaced; None opens all.
    """
    yield from check_report(dataset)
    yield check_count(dataset, published, source)
    yield check_sizes(dataset)
    yield check_files(dataset)
    if pictures != 0:
        yield check_pictures(dataset, pictures)
    labels = Labels(dataset)
    for check in LABEL_CHECKS:
        yield check(labels)


def check_report(dataset: IndexedDataset) -> Iterator[Finding]:
    """What was left out when the index was made; wrong where it is more than what was kept."""
    report = dataset.report
    left_out = sum(report.left_out.values())
    level = "wrong" if left_out > report.kept else "note" if left_out else "ok"
    figures = {"kept": report.kept, "left_out": left_out}
    lines = report.lines
    yield Finding("samples", level, lines[0] if left_out else f"{lines[0]}, none left out", figures)
    for line in lines[1:]:
        yield Finding("left out", level, line)


def check_count(dataset: IndexedDataset, published: int | None, source: str = "") -> Finding:
    """Number of entries, kept or not, against the published one."""
    kept, left_out = dataset.report.kept, sum(dataset.report.left_out.values())
    if published is None:
        return Finding("count", "ok", "no published number to compare with")
    figures = {"kept": kept, "left_out": left_out, "published": published}
    text = f"{kept:,} of {published:,} {source}".rstrip() + ": "
    if kept == published:
        return Finding("count", "ok", text + "complete", figures)
    if kept + left_out == published:
        return Finding("count", "note", text + f"complete but for the {left_out:,} left out", figures)
    if kept + left_out < published:
        return Finding(
            "count", "note", text + "a part of the data set; don't compare with published figures", figures
        )
    return Finding("count", "note", text + "more than published; another version?", figures)


def check_sizes(dataset: IndexedDataset) -> Finding:
    """Which picture sizes the labels state."""
    sizes, counts = np.unique(dataset.index.column("size"), axis=0, return_counts=True)
    order = np.argsort(-counts)
    named = [f"{sizes[i, 0]} x {sizes[i, 1]}: {counts[i]:,}" for i in order[:4]]
    more = f", and {len(order) - 4} more sizes" if len(order) > 4 else ""
    return Finding("sizes", "ok", ", ".join(named) + more, {"sizes": len(order)})


def check_files(dataset: IndexedDataset) -> Finding:
    """Whether the picture and depth map of every sample are there and not empty."""
    wanted: dict[str, set[str]] = {}
    index = dataset.index
    for i in _shown(range(len(index)), "files"):
        for column in ("picture", "depth"):
            path = index.text(column, i)
            if path:
                folder, _, name = path.rpartition("/")
                wanted.setdefault(folder, set()).add(name)
    missing: list[str] = []
    empty: list[str] = []
    for folder, names in _shown(sorted(wanted.items()), "folders"):
        there: dict[str, int] = {}
        try:
            with os.scandir(dataset.root / folder) as entries:
                there = {entry.name: entry.stat().st_size for entry in entries if entry.name in names}
        except OSError:
            pass
        missing += [f"{folder}/{name}".lstrip("/") for name in sorted(names - there.keys())]
        empty += [f"{folder}/{name}".lstrip("/") for name, size in there.items() if size == 0]
    total = sum(map(len, wanted.values()))
    figures = {"files": total, "missing": len(missing), "empty": len(empty)}
    bad = missing + empty
    if not bad:
        return Finding("files", "ok", f"{total:,} pictures and depth maps, all there", figures)
    text = f"{len(missing):,} of {total:,} missing, {len(empty):,} empty (such as {', '.join(bad[:3])})"
    return Finding("files", "unusable" if len(bad) == total else "wrong", text, figures)


def check_pictures(dataset: IndexedDataset, count: int | None = 200) -> Finding:
    """Opens evenly spaced samples: do their pictures decode, at the labelled size, and show anything?"""
    chosen = evenly(len(dataset), count)
    failures: list[str] = []
    dark: list[str] = []
    for i in _shown(chosen, "pictures"):
        try:
            sample = dataset[i]
        except (OSError, ValueError) as error:
            failures.append(" ".join(str(error).split()))
            continue
        shown = sample.image if sample.image is not None else sample.depth_mm
        if shown is None or not shown.max() > (8 if sample.image is not None else 0):
            dark.append(sample.id)
    figures = {"opened": len(chosen), "failed": len(failures), "black": len(dark)}
    text = f"{len(chosen):,} opened"
    if dark:
        text += f", {len(dark):,} black (such as {', '.join(dark[:3])})"
    if not failures:
        return Finding("pictures", "note" if dark else "ok", text, figures)
    level = "unusable" if len(failures) == len(chosen) else "wrong"
    return Finding("pictures", level, f"{text}, {len(failures):,} unreadable (first: {failures[0]})", figures)


def _shown(items: Iterable[_T], what: str) -> Iterator[_T]:
    """The items, with their count on a terminal."""
    shown = sys.stderr.isatty()
    for count, item in enumerate(items):
        if shown and count % 100 == 0:
            print(f"\r{what}: {count} ", end="", file=sys.stderr, flush=True)
        yield item
    if shown:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
