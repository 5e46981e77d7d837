"""Biovision hierarchies (BVH): the motion of one hand a file.

Format: the description of BVH by the University of Wisconsin (research.cs.wisc.edu/graphics/Courses/
cs-838-1999/Jeff/BVH.html): a HIERARCHY of offsets, and a MOTION of channels a frame; a joint's rotation is
the product of its channels in their order, in degrees.

Millimetres; x right, y up, z towards the viewer (our frame with y and z turned round). The rig is that of the
hand model (`dfmamba.hands.model`), fitted to the joints: its wrist with place and orientation, the thumb's
three bones, a metacarpal and three phalanges of each finger, all of one length over the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from scipy.spatial.transform import Rotation

from dfmamba.formats.reading import Record
from dfmamba.formats.rig import BONE_NAMES, FRAME_SECONDS, Rig, Take, rig_of, takes_of
from dfmamba.formats.writing import OutputFiles, Summary
from dfmamba.io.files import open_atomic

MOST_FRAMES = 1_000_000
"""A file of more frames is refused: numbers of pictures that far apart are not those of a film."""

_RELATIVE = "hands relative to their wrist, as no camera was given: they are where that puts them"
_HELD = "frames in which a hand was not found: it holds its pose"
_LOST = "hands whose pixels and scores are lost"


def write(records: Iterable[Record], path: str | os.PathLike[str], summary: Summary) -> None:
    """Writes NAME.bvh for each hand: for each track of a film, for every hand of single pictures."""
    takes = takes_of(records, summary)
    if not takes:
        raise ValueError("there is no hand in these predictions: nothing to write")
    files = OutputFiles(path, ".bvh")
    for take in takes:
        summary.hands += len(take.hands)
        summary.note(_LOST, len(take.hands))
        summary.note(_RELATIVE, sum(hand.root != "camera" for hand in take.hands))
        repeats = _repeats(take)
        summary.note(_HELD, int(repeats.sum()) - len(repeats))
        with open_atomic(files.next(take.name)) as file:
            file.writelines(bvh_lines(rig_of(take.fit()), repeats, _frame_seconds(take)))
        summary.files += 1


def bvh_lines(
    rig: Rig, repeats: np.ndarray | None = None, frame_seconds: float = FRAME_SECONDS
) -> Iterable[str]:
    """The lines of a BVH file.

    Args:
        rig: a hand in T poses.
        repeats: (T,) for how many frames each pose is held; None means one.
        frame_seconds: time between frames.
    """
    yield "HIERARCHY\n"
    order: list[int] = []
    yield from _bone(rig, 0, 0, order)
    turns = rig.turns[:, order]
    angles = Rotation.from_matrix(turns.reshape(-1, 3, 3)).as_euler("ZXY", degrees=True)
    rows = np.concatenate([rig.places, angles.reshape(len(turns), -1)], axis=1)
    rows = rows if repeats is None else np.repeat(rows, repeats, axis=0)
    yield f"MOTION\nFrames: {len(rows)}\nFrame Time: {frame_seconds:.8f}\n"
    for row in rows:
        yield " ".join(f"{value + 0.0:.4f}" for value in row) + "\n"


def _bone(rig: Rig, bone: int, depth: int, order: list[int]) -> Iterable[str]:
    """The lines of a bone and those below it; `order` gets the bones as they come."""
    pad, parent = "  " * depth, rig.parents[bone]
    order.append(bone)
    channels = "Zrotation Xrotation Yrotation"
    if parent < 0:
        yield f"ROOT {BONE_NAMES[bone]}\n{{\n"
        yield f"  OFFSET 0 0 0\n  CHANNELS 6 Xposition Yposition Zposition {channels}\n"
    else:
        yield f"{pad}JOINT {BONE_NAMES[bone]}\n{pad}{{\n"
        yield f"{pad}  OFFSET {_numbers(rig.heads[bone] - rig.heads[parent])}\n"
        yield f"{pad}  CHANNELS 3 {channels}\n"
    children = np.flatnonzero(rig.parents == bone)
    for child in children:
        yield from _bone(rig, int(child), depth + 1, order)
    if not len(children):
        ends = [last for last in range(len(rig.parents)) if last not in rig.parents]
        end = rig.tips[ends.index(bone)] - rig.heads[bone]
        yield f"{pad}  End Site\n{pad}  {{\n{pad}    OFFSET {_numbers(end)}\n{pad}  }}\n"
    yield f"{pad}}}\n"


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value + 0.0:.6f}" for value in values)


def _repeats(take: Take) -> np.ndarray:
    """For how many frames each picture's pose is held, so that none is missing in between."""
    steps = np.maximum(np.diff(take.indices, append=take.indices[-1] + 1), 1)
    if steps.sum() > MOST_FRAMES:
        raise ValueError(f"{take.name}: {steps.sum()} frames from its first picture to its last; too many")
    return steps


def _frame_seconds(take: Take) -> float:
    frames = take.indices[-1] - take.indices[0]
    seconds = take.seconds()
    return float(seconds[-1] - seconds[0]) / frames if frames > 0 else FRAME_SECONDS
