"""The part of `dfmamba eval` that scores prediction files of a depth benchmark, without any model."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

SCHEMA = "dfmamba.score/1"


def run(options: Namespace) -> int:
    """Scores a file of predictions and prints the figures; returns the exit code.

    Raises:
        ValueError: an option is missing, or a file is unusable.
        OSError: a file can't be read or written.
    """
    from dfmamba.io.files import write_atomic
    from dfmamba.io.joint_files import read_joint_file
    from dfmamba.metrics.depth_benchmarks import DEPTH_BENCHMARKS, score_depth
    from dfmamba.text import format_json

    benchmark = DEPTH_BENCHMARKS[options.dataset]
    for name in ("predictions", "groundtruth"):
        if getattr(options, name) is None:
            raise ValueError(f"{benchmark.name!r} needs --{name} FILE, a text file with a frame a line")
    joints = len(benchmark.joints)
    predicted = read_joint_file(options.predictions, joints)
    truth = read_joint_file(options.groundtruth, joints)
    if len(predicted) != len(truth):
        raise ValueError(
            f"{options.predictions} has {len(predicted)} frames, {options.groundtruth} {len(truth)}; "
            "expected as many"
        )
    figures = score_depth(benchmark, predicted, truth)
    print(f"{benchmark.name}: {figures['frames']} frames x {joints} joints, errors in mm, no alignment")
    print(f"mean_error_mm               {figures['mean_error_mm']:9.3f}")
    print(f"median_error_mm             {figures['median_error_mm']:9.3f}")
    print(f"mean_of_frame_max_error_mm  {figures['mean_of_frame_max_error_mm']:9.3f}")
    for joint, value in figures["per_joint_mean_error_mm"].items():
        print(f"  {joint:<26}{value:9.3f}")
    largest = figures["fraction_of_frames_with_max_error_le_threshold"]
    shares = ", ".join(f"{largest[t]:.3f} within {t}" for t in (10, 20, 30, 40, 50))
    print(f"share of frames with every joint: {shares} mm")
    if options.json is not None:
        facts = {
            "schema": SCHEMA,
            "dataset": benchmark.name,
            "protocol": "mean distance in the camera over frames and joints; no alignment",
            "camera": {key: getattr(benchmark, key) for key in ("fx", "fy", "u0", "v0")},
            **figures,
        }
        write_atomic(Path(options.json), format_json(facts).encode())
    return 0
