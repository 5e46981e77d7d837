"""Writes `assets/prior.npz` of the hand model: the poses of the renderer's banks as a Gaussian and 256 means.

python tools/fit_pose_prior.py src/dfmamba/hands/assets/prior.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.cluster.vq import kmeans2

from dfmamba.hands.model import CUP
from dfmamba.synth.pose import SIGNS, PoseBank

PROTOTYPES = 256
CUP_DEG = 15.0
"""Cupping is a share; its largest angle makes it comparable with the others."""
BLUR_DEG = 1.0
"""Standard deviation that is added to every angle: no pose of the bank is that exact."""


def pose_prior() -> dict[str, np.ndarray]:
    """Mean (22,), covariance (22, 22) and prototypes (256, 22) of all poses of the banks."""
    poses = np.concatenate([PoseBank.load().angles, PoseBank.load(SIGNS).angles]).astype(np.float64)
    unit = np.ones(poses.shape[1])
    unit[CUP] = CUP_DEG
    prototypes, _ = kmeans2(poses * unit, PROTOTYPES, iter=12, minit="points", seed=0)
    return {
        "mean": poses.mean(axis=0),
        "covariance": np.cov(poses.T) + np.diag((BLUR_DEG / unit) ** 2),
        "prototypes": (prototypes / unit).astype(np.float32),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    np.savez_compressed(parser.parse_args().output, **pose_prior())
