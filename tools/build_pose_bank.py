"""Builds the pose banks: poses without self-penetration, by gradient descent, and finger contacts.

    PYTHONPATH=src python tools/build_pose_bank.py src/dfmamba/synth/assets/poses.npz
    PYTHONPATH=src python tools/build_pose_bank.py src/dfmamba/synth/assets/signs.npz \\
        --signs --count 8500

About three minutes for 22,000 poses on two cores. Deterministic by seed for one version of torch and numpy.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfmamba.hands.model import (
    CONVERGENCE_DEG,
    CUP,
    CUPPING_DEG,
    FINGER_BONES,
    HIGH,
    LOW,
    METACARPALS,
    NUM_HAND_ANGLES,
    THUMB,
    THUMB_BONES,
    HandModel,
    clamp,
)
from dfmamba.synth.grasp import SELF_FIRST, SELF_RADII, SELF_SECOND, SELF_SEGMENTS, self_clearance
from dfmamba.synth.pose import PosePrior

CONTACT_SHARE = 0.24
CONTACTS = {
    "pinch:index": ((0,), 0.30),
    "pinch:middle": ((1,), 0.12),
    "pinch:ring": ((2,), 0.08),
    "pinch:little": ((3,), 0.08),
    "pinch:tripod": ((0, 1), 0.22),
    "pinch:quad": ((0, 1, 2), 0.08),
    "pinch:all": ((0, 1, 2, 3), 0.12),
}
CONTACT_THUMB = np.array([18.0, 32.0, 22.0, 20.0, 25.0])
FOLDED: dict[tuple[int, ...], float] = {
    (): 0.25, (0,): 0.05, (1,): 0.06, (2,): 0.07, (3,): 0.08, (2, 3): 0.16, (1, 2): 0.09, (0, 1): 0.03,
    (1, 3): 0.02, (0, 3): 0.01, (0, 2): 0.01, (1, 2, 3): 0.18, (0, 1, 2): 0.07, (0, 2, 3): 0.03,
    (0, 1, 3): 0.02, (0, 1, 2, 3): 0.12,
}  # fmt: skip
"""How often which fingers (index 0 to little 3) are folded under the thumb; none is a stretched hand."""
FREE_THUMBS = np.array(
    [
        [-14.0, 4.0, 0.0, 0.0, -6.0],
        [12.0, -5.0, 0.0, 6.0, 4.0],
        [4.0, 14.0, 5.0, 6.0, 4.0],
        [33.0, 20.0, 18.0, 38.0, 40.0],
    ]
)
"""Thumbs of a stretched hand: out, along the palm, loose, across the palm."""
NEAR_THUMB = np.array([18.0, 36.0, 24.0, 18.0, 25.0])
FAR_THUMB = np.array([36.0, 40.0, 34.0, 28.0, 28.0])
MAX_OVERLAP_MM = 4.5


class TorchHand:
    """Anatomic key points of the mean hand as a differentiable function of angles (N, 22) in degrees."""

    def __init__(self) -> None:
        model = HandModel.load()
        shape = model.shape()
        self.bones = torch.tensor(shape.bones, dtype=torch.float32)
        self.frames = torch.tensor(model.frames, dtype=torch.float32)
        self.rest_flexion = torch.tensor(model.rest_flexion_deg, dtype=torch.float32)
        self.tips = torch.tensor(shape.vertices[model.tips].mean(axis=1), dtype=torch.float32)
        self.section = torch.tensor(shape.scale * model.section_offset, dtype=torch.float32)

    def _delta(self, bone: int, local: Tensor) -> Tensor:
        frame = self.frames[bone]
        return frame @ local @ frame.T

    def _step(self, turn: Tensor, move: Tensor, bone: int, local: Tensor) -> tuple[Tensor, Tensor]:
        here = turn @ self._delta(bone, local)
        return here, move + ((turn - here) @ self.bones[bone])

    def joints(self, angles: Tensor) -> Tensor:
        """Key points (N, 21, 3)."""
        count = len(angles)
        radians = torch.deg2rad(angles)
        rest = torch.deg2rad(self.rest_flexion)
        eye, zero = torch.eye(3).expand(count, 3, 3), torch.zeros(count, 3)
        points = [self.section[0].expand(count, 3) + self.bones[2]]
        for finger in range(5):
            turn, move = eye, zero
            if finger and CUPPING_DEG[finger - 1]:
                cup = np.radians(CUPPING_DEG[finger - 1]) * angles[:, CUP]
                turn, move = self._step(turn, move, METACARPALS[finger - 1], _about(0, cup))
            chain = THUMB_BONES if finger == 0 else FINGER_BONES[finger - 1]
            for level, bone in enumerate(chain):
                if finger == 0:
                    local = (
                        _about(0, radians[:, 0]) @ _about(2, -radians[:, 1]) @ _about(1, radians[:, 2])
                        if level == 0
                        else _about(0, radians[:, 2 + level] - rest[bone])
                    )
                else:
                    first = 5 + 4 * (finger - 1)
                    local = _about(0, radians[:, first + (0, 2, 3)[level]] - rest[bone])
                    if level == 0:
                        local = _about(2, -radians[:, first + 1]) @ local
                below, place = self._step(turn, move, bone, local)
                point = self.bones[bone] + self.section[1 + 4 * finger + level]
                points.append(0.5 * (turn @ point + move + below @ point + place))
                turn, move = below, place
            points.append(turn @ self.tips[finger] + move)
        return torch.stack(points, dim=1)


def _about(axis: int, radians: Tensor) -> Tensor:
    c, s, one, zero = (
        torch.cos(radians),
        torch.sin(radians),
        torch.ones_like(radians),
        torch.zeros_like(radians),
    )
    rows = {
        0: (one, zero, zero, zero, c, -s, zero, s, c),
        1: (c, zero, s, zero, one, zero, -s, zero, c),
        2: (c, -s, zero, s, c, zero, zero, zero, one),
    }[axis]
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def clearance(joints: Tensor) -> Tensor:
    """Gaps (N, pairs) in mm between the capsules of the hand; the torch twin of `capsules.self_clearance`."""
    start, stop = joints[:, SELF_SEGMENTS[:, 0]], joints[:, SELF_SEGMENTS[:, 1]]
    p1, d1 = start[:, SELF_FIRST], (stop - start)[:, SELF_FIRST]
    p2, d2 = start[:, SELF_SECOND], (stop - start)[:, SELF_SECOND]
    r = p1 - p2
    a, e, b = (d1 * d1).sum(-1), (d2 * d2).sum(-1), (d1 * d2).sum(-1)
    c, f = (d1 * r).sum(-1), (d2 * r).sum(-1)
    det = a * e - b * b
    s = torch.where(det > 1e-6, ((b * f - c * e) / det.clamp_min(1e-6)).clamp(0, 1), torch.zeros_like(det))
    t = (b * s + f) / e
    s = torch.where(t < 0, -c / a, torch.where(t > 1, (b - c) / a, s)).clamp(0, 1)
    gap = r + d1 * s[..., None] - d2 * t.clamp(0, 1)[..., None]
    radii = torch.tensor(SELF_RADII[SELF_FIRST] + SELF_RADII[SELF_SECOND], dtype=torch.float32)
    return (gap * gap).sum(-1).clamp_min(1e-6).sqrt() - radii


@dataclass(frozen=True)
class Start:
    """Poses to begin with.

    Attributes:
        angles: (N, 22) degrees.
        names: of each pose.
        meets: (N, 4) bool, which fingers the thumb's tip meets.
        distance_mm: (N,) from the thumb's tip to the place it meets.
        place: (N,) where on the finger that is, from the last knuckle (0) to the tip (1).
    """

    angles: np.ndarray
    names: list[str]
    meets: np.ndarray
    distance_mm: np.ndarray
    place: np.ndarray


def draw(count: int, seed: int) -> Start:
    """Poses of the prior, a part of them on the way to a pinch."""
    rng = np.random.default_rng(seed)
    prior = PosePrior()
    angles, names = np.zeros((count, NUM_HAND_ANGLES)), []
    meets, distance = np.zeros((count, 4), dtype=bool), np.zeros(count)
    kinds = list(CONTACTS)
    shares = np.array([share for _, share in CONTACTS.values()])
    for k in range(count):
        angles[k], name = prior.sample(rng)
        if rng.random() < CONTACT_SHARE:
            name = str(rng.choice(kinds, p=shares / shares.sum()))
            fingers = list(CONTACTS[name][0])
            meets[k, fingers] = True
            # From touching pads to a small thing between the fingers; sometimes on the way to the pinch.
            distance[k] = rng.uniform(10.0, 16.0) + (rng.uniform(0.0, 40.0) if rng.random() < 0.35 else 0.0)
            angles[k, THUMB] = CONTACT_THUMB + 4.0 * rng.normal(size=5)
            bend = rng.normal(size=2) * 10.0
            for finger in fingers:
                mcp, pip = 45.0 + bend[0] + 3.0 * rng.normal(), 48.0 + bend[1] + 4.0 * rng.normal()
                angles[k, 5 + 4 * finger : 9 + 4 * finger] = (
                    mcp,
                    CONVERGENCE_DEG[finger] * 0.5,
                    pip,
                    0.5 * pip,
                )
        names.append(name)
    return Start(clamp(angles), names, meets, distance, np.ones(count))


def draw_signs(count: int, seed: int) -> Start:
    """Hands whose thumb lies on folded fingers while the others are straight, and stretched hands."""
    rng = np.random.default_rng(seed)
    angles, names = np.zeros((count, NUM_HAND_ANGLES)), []
    meets, distance = np.zeros((count, 4), dtype=bool), np.zeros(count)
    sets = list(FOLDED)
    shares = np.array(list(FOLDED.values()))
    for k in range(count):
        folded = sets[int(rng.choice(len(sets), p=shares / shares.sum()))]
        if folded:
            held = int(rng.choice(folded))
            meets[k, held] = True
            distance[k] = rng.uniform(14.0, 20.0) + (rng.uniform(0.0, 25.0) if rng.random() < 0.2 else 0.0)
            # From a thumb towards the index to one that crosses to the little finger.
            reach = np.clip(held / 3.0 + 0.1 * rng.normal(), 0.0, 1.0)
            thumb = NEAR_THUMB + reach * (FAR_THUMB - NEAR_THUMB)
        else:
            first, second = FREE_THUMBS[rng.integers(len(FREE_THUMBS), size=2)]
            thumb = first + rng.random() * (second - first)
        angles[k, THUMB] = thumb + 4.0 * rng.normal(size=5)
        spread = rng.uniform(-0.6, 1.6) * np.array([8.0, 2.0, -4.0, -10.0]) + 2.0 * rng.normal(size=4)
        mcp, pip, dip = rng.uniform(35.0, 88.0), rng.uniform(55.0, 108.0), rng.uniform(0.2, 0.75)
        for finger in range(4):
            if finger in folded:
                bent = mcp + 6.0 * rng.normal(), pip + 7.0 * rng.normal()
                one = (bent[0], CONVERGENCE_DEG[finger], bent[1], dip * bent[1])
            else:
                straight = np.abs(rng.normal(size=2)) * (4.0, 3.0)
                one = (6.0 * rng.normal() - 2.0, spread[finger], straight[0], straight[1])
            angles[k, 5 + 4 * finger : 9 + 4 * finger] = one
        angles[k, CUP] = np.clip(angles[k, 5:21:4].mean() / 80.0, 0.0, 1.0) * rng.uniform(0.4, 1.0)
        names.append("sign:" + "".join(map(str, folded)))
    return Start(clamp(angles), names, meets, distance, rng.choice([0.0, 0.3, 0.6, 1.0], size=count))


def solve(start: Start, part: slice, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Poses (N, 22) near a part of `start`, free of penetration; errors (N,) of the contacts, mm."""
    hand = TorchHand()
    base = torch.tensor(start.angles[part], dtype=torch.float32)
    angles = base.clone().requires_grad_()
    optimiser = torch.optim.Adam([angles], lr=1.5)
    softness = torch.tensor([12.0] * 5 + [14.0, 5.0, 14.0, 10.0] * 4 + [1e-3])
    low, high = (torch.tensor(limit[:NUM_HAND_ANGLES], dtype=torch.float32) for limit in (LOW, HIGH))
    wanted, gap, place = (
        torch.tensor(one[part], dtype=torch.float32) for one in (start.meets, start.distance_mm, start.place)
    )

    def off(joints: Tensor) -> Tensor:
        touched = torch.lerp(joints[:, 7::4], joints[:, 8::4], place[:, None, None])
        return (touched - joints[:, 4:5]).norm(dim=-1) - gap[:, None]

    for _ in range(steps):
        joints = hand.joints(angles)
        overlap = (torch.relu(-2.0 - clearance(joints)) ** 2).sum() * 0.04
        contact = (off(joints) ** 2 * wanted).sum() * 0.02
        stay = (((angles - base) / softness) ** 2).sum() * 0.1
        optimiser.zero_grad()
        (overlap + contact + stay).backward()
        optimiser.step()
        with torch.no_grad():
            angles.clamp_(low, high)
            angles[:, CUP] = base[:, CUP]
    with torch.no_grad():
        solved = clamp(angles.numpy().astype(np.float64)).astype(np.float16)
        miss = off(hand.joints(torch.tensor(solved.astype(np.float32)))).abs() * wanted
    return solved, miss.amax(dim=1).numpy()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=22_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument(
        "--signs", action="store_true", help="hands whose thumb holds folded fingers, and stretched ones"
    )
    options = parser.parse_args()
    model = HandModel.load()
    shape = model.shape()
    start = (draw_signs if options.signs else draw)(options.count, options.seed)
    pieces = [slice(k, k + 2000) for k in range(0, options.count, 2000)]
    parts = [solve(start, p, options.steps) for p in pieces]
    solved, miss = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def overlap(poses: np.ndarray) -> np.ndarray:
        whole = np.concatenate([poses.astype(np.float64), np.zeros((len(poses), 3))], axis=1)
        gaps = [
            self_clearance(model.joints(shape, whole[p], convention="anatomic"), shape.scale) for p in pieces
        ]
        return -np.concatenate(gaps).min(axis=1)

    before, after = overlap(start.angles), overlap(solved)
    keep = (after < MAX_OVERLAP_MM) & (miss < 4.0)
    rates = (f"{(part > 3).mean():.1%}" for part in (before, after))
    print("overlap > 3 mm: prior {}, solved {};".format(*rates), f"kept {keep.mean():.1%}")
    touching = start.meets.any(axis=1)
    print(f"contacts: {touching.mean():.1%} of the poses, median error {np.median(miss[touching]):.2f} mm")
    table = sorted(set(start.names))
    labels = np.array([table.index(name) for name in start.names], dtype=np.uint8)
    np.savez_compressed(options.output, angles=solved[keep], labels=labels[keep], names=np.array(table))
    print(f"wrote {keep.sum()} poses to {options.output}: {options.output.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
