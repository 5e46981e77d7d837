"""Text files of joints, as the depth benchmarks exchange them: a frame a line, numbers only."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dfmamba.io.files import write_atomic
from dfmamba.text import quote


def read_joint_file(path: str | Path, joints: int) -> np.ndarray:
    """Joints of all frames.

    Numbers are separated by white space or commas; empty lines are skipped.

    Args:
        path: the file.
        joints: how many of them each line holds, three numbers each.

    Returns:
        (frames, joints, 3) float64.

    Raises:
        OSError: the file can't be read.
        ValueError: a line has another number of values, or one that is no finite number; the message names
            file and line.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file") from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read ({error.strerror or error})") from None
    frames = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            wrong = next(word for word in words if not _is_number(word))
            raise ValueError(f"{path}, line {number}: {quote(wrong)} is no number") from None
        if len(values) != 3 * joints:
            raise ValueError(
                f"{path}, line {number}: {len(values)} numbers, "
                f"expected {3 * joints} ({joints} joints x u, v, d)"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{path}, line {number}: a value is not finite")
        frames.append(values.reshape(joints, 3))
    if not frames:
        raise ValueError(f"{path}: no frames in it")
    return np.stack(frames)


def write_joint_file(path: str | Path, joints: np.ndarray) -> None:
    """Writes joints as `read_joint_file` reads them: numbers with three decimals, separated by spaces.

    Args:
        path: the file; replaced at once, or left as it was.
        joints: (frames, joints, 3), for the depth benchmarks u, v in pixels and d in mm.

    Raises:
        OSError: the file can't be written.
        ValueError: there are no joints, another shape, or a value that is not finite.
    """
    values = np.asarray(joints, dtype=np.float64)
    if values.ndim != 3 or values.shape[2] != 3 or not values.size:
        raise ValueError(f"joints have shape {values.shape}; expected (frames, joints, 3), at least one each")
    if not np.isfinite(values).all():
        frame = int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0])
        raise ValueError(f"joints of frame {frame} are not finite; expected numbers only")
    lines = [" ".join(f"{value:.3f}" for value in frame) for frame in values.reshape(len(values), -1)]
    write_atomic(Path(path), ("\n".join(lines) + "\n").encode())


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
