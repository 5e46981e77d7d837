"""From 21 joints to a posed hand: damped Gauss-Newton through the kinematic chain, in batches, on a CPU.

What is minimised, for a hand x of 22 angles, a rotation, a place, a size and a few components of shape:

    sum_j w_j |p_j(x) - joint_j|^2 / noise^2  +  (f + q) log(1 + m(x) / f),
    m(x) = (x - mean)' precision (x - mean),

joints p with weights w = score^2 against a Student-t prior of f degrees of freedom over q angles, whose mean
and covariance are those of the renderer's pose bank. The noise is not given but estimated from what is left,
so that exact joints are met and noisy ones are pulled towards poses that hands have. Angles stay within their
limits (`LOW`, `HIGH`) by an active set: what is at its limit and wants beyond stays there for the step.
The Jacobian is analytic; tests compare it with finite differences.

A start from nothing takes the best of 256 prototypes of the bank, as a whole for the place and finger by
finger for the pose; a film's next frame starts where the last one ended.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dfmamba.hands.camera import Intrinsics, bone_lengths, from_25d
from dfmamba.hands.model import (
    ASSETS,
    CHAINS,
    CUP,
    CUPPING_DEG,
    FINGER_BONES,
    HIGH,
    LOW,
    METACARPALS,
    NUM_ANGLES,
    NUM_HAND_ANGLES,
    REFERENCE_PALM_MM,
    WRIST_BONE,
    HandModel,
    PosedHands,
    finite,
    read_asset,
    side_signs,
)
from dfmamba.hands.skeleton import NUM_JOINTS, REFERENCE_BONES_MM

# Columns of the unknowns x: angles, rotation (a step only), place, size, shape.
_ROTATION = slice(NUM_HAND_ANGLES, NUM_HAND_ANGLES + 3)
_PLACE = slice(NUM_HAND_ANGLES + 3, NUM_HAND_ANGLES + 6)
_SIZE = NUM_HAND_ANGLES + 6
_SHAPE = slice(_SIZE + 1, None)

SMALLEST, LARGEST = 0.3, 3.0
"""Sizes of a fitted hand, relative to the mean hand."""
SIZE_DEVIATION = 0.15
MOST_SHAPE = 4.0
"""Components of shape stay within this many standard deviations."""
FREEDOM_SHARE = 0.54
"""Share of the 63 coordinates that the unknowns of a pose leave over: the noise is estimated from it."""
MOST_NOISE_MM = 12.0
FEWEST_JOINTS = 4

_RADIANS = math.pi / 180.0
_PALM_WEIGHT = np.where(np.isin(np.arange(NUM_JOINTS), (0, 1, 5, 9, 13, 17)), 4.0, 1.0)
"""A start is aligned by the palm, whose shape depends little on the pose."""

# Six rotations of a finger's chain, by the level of their bone (0: metacarpal), and which of the finger's
# four joints they move: as a whole, or (at their own level) only the share that belongs to the bone itself.
_LEVEL = np.array([0, 1, 1, 1, 2, 3])
_WHOLE = (_LEVEL[:, None] < np.arange(1, 5)).astype(float)[..., None]
_OWN = (_LEVEL[:, None] == np.arange(1, 5)).astype(float)[..., None]
_THUMB_COLUMNS = ([1, 2, 3, 4, 5], [0, 1, 2, 3, 4])
_FINGER_COLUMNS = [([0, 1, 2, 4, 5], [CUP, 6 + 4 * f, 5 + 4 * f, 7 + 4 * f, 8 + 4 * f]) for f in range(4)]
_COLUMNS = (_THUMB_COLUMNS, *_FINGER_COLUMNS)
_CUPPING = np.array([0.0, *CUPPING_DEG])


@dataclass(frozen=True)
class FitConfig:
    """How hands are fitted.

    Attributes:
        shapes: components of shape that are fitted, besides the size.
        least_noise_mm: joints are never taken to be more exact.
        prior: weight of the pose prior.
        prior_freedom: of its Student-t distribution; small ones let rare poses be.
        iterations: at most.
        tolerance_mm: a hand is done when no joint moves further in a step.

    Raises:
        ValueError: a value is not usable.
    """

    shapes: int = 10
    least_noise_mm: float = 0.3
    prior: float = 0.5
    prior_freedom: float = 10.0
    iterations: int = 40
    tolerance_mm: float = 0.05

    def __post_init__(self) -> None:
        if self.shapes < 0 or self.iterations < 1:
            raise ValueError(f"shapes {self.shapes}, iterations {self.iterations}: expected >= 0 and >= 1")
        for name in ("least_noise_mm", "prior", "prior_freedom", "tolerance_mm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number, got {value}")


@dataclass(frozen=True, eq=False)
class HandFit:
    """One fitted hand without its side, as it stands in results; attributes as those of `FittedHands`.

    Raises:
        ValueError: a value has another shape or is not finite.
    """

    pose_deg: np.ndarray
    shape: np.ndarray
    size: float
    rotation: np.ndarray
    place_mm: np.ndarray
    residual_mm: float

    def __post_init__(self) -> None:
        for name, (shape, _) in _FIT_FIELDS.items():
            value = finite(name, getattr(self, name), shape)
            value.setflags(write=False)
            object.__setattr__(self, name, value if shape else float(value))
        if self.size <= 0 or self.residual_mm < 0:
            raise ValueError(f"size {self.size}, residual_mm {self.residual_mm}: expected > 0 and >= 0")

    def posed(self, side: str) -> PosedHands:
        """The hand of that side with its surface, a batch of one."""
        return HandModel.load()(
            self.pose_deg[None],
            self.shape,
            side,
            size=self.size,
            rotation=self.rotation,
            place_mm=self.place_mm,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, rounded to hundredths of a degree and of a millimetre."""
        return {
            name: (np.round(getattr(self, name), decimals) + 0.0).tolist()
            for name, (_, decimals) in _FIT_FIELDS.items()
        }

    @classmethod
    def from_dict(cls, data: Any) -> HandFit:
        """The inverse of `to_dict`.

        Raises:
            ValueError: keys are missing or unknown, or a value is not usable.
        """
        if not isinstance(data, Mapping) or set(data) != set(_FIT_FIELDS):
            raise ValueError(f"fit: expected an object with the keys {', '.join(_FIT_FIELDS)}")
        try:
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"fit: a value is not usable ({error})") from None


_FIT_FIELDS: dict[str, tuple[tuple[int | None, ...], int]] = {
    "pose_deg": ((NUM_ANGLES,), 2),
    "shape": ((None,), 3),
    "size": ((), 4),
    "rotation": ((3, 3), 6),
    "place_mm": ((3,), 2),
    "residual_mm": ((), 2),
}
"""Fields of a `HandFit`: their shape, and the decimals that results keep."""


@dataclass(frozen=True, eq=False)
class FittedHands:
    """B fitted hands: what `HandModel` needs to pose them, and how well they fit.

    Attributes:
        sides: of each.
        pose_deg: (B, 25) angles (`dfmamba.hands.model.DEGREES_OF_FREEDOM`); the forearm's are 0.
        shape: (B, n) components of shape.
        size: (B,) relative to the mean hand.
        rotation: (B, 3, 3) from the canonical frame to that of the joints.
        place_mm: (B, 3) of the wrist bone.
        joints: (B, 21, 3) mm of the fitted hands.
        residual_mm: (B,) weighted root mean square distance to the given joints. A hand of the other side, or
            joints that no hand can have, leave a large one.
        converged: (B,) whether the last step was smaller than the tolerance.
        iterations: (B,) steps that were tried.
    """

    sides: tuple[str, ...]
    pose_deg: np.ndarray
    shape: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    place_mm: np.ndarray
    joints: np.ndarray
    residual_mm: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, number: int) -> HandFit:
        """One of the hands."""
        return HandFit(
            self.pose_deg[number],
            self.shape[number],
            float(self.size[number]),
            self.rotation[number],
            self.place_mm[number],
            float(self.residual_mm[number]),
        )

    def posed(self, model: HandModel | None = None) -> PosedHands:
        """The hands with their surface."""
        model = HandModel.load() if model is None else model
        return model(
            self.pose_deg,
            self.shape,
            self.sides,
            size=self.size,
            rotation=self.rotation,
            place_mm=self.place_mm,
        )


def fit_hand(
    joints_mm: np.ndarray,
    side: str | Sequence[str],
    scores: np.ndarray | None = None,
    *,
    start: FittedHands | None = None,
    shape: np.ndarray | None = None,
    size: np.ndarray | float | None = None,
    config: FitConfig | None = None,
) -> FittedHands:
    """Pose, shape and place of hands whose joints are known.

    Args:
        joints_mm: (B, 21, 3) or (21, 3) mm, OpenPose order, as photo data sets have them; x right, y down, z
            forward, any origin. What has score 0 may be anything, NaN too.
        side: "right" or "left", of all or of each.
        scores: (B, 21) or (21,) confidences 0..1, whose squares weigh the joints; None counts all alike.
        start: hands to begin with, those of a film's last frame.
        shape: (n,) or (B, n) components to keep instead of fitting them; n as in `config`.
        size: to keep likewise.
        config: how.

    Raises:
        ValueError: shapes disagree; a joint with a score is not finite; fewer than four joints of a hand have
            a score, or all of them are in one place.
    """
    config = FitConfig() if config is None else config
    joints = np.asarray(joints_mm, dtype=np.float64)
    joints = joints[None] if joints.ndim == 2 else joints
    if joints.shape[1:] != (NUM_JOINTS, 3):
        raise ValueError(f"joints: got shape {joints.shape}, expected (any, {NUM_JOINTS}, 3)")
    count = len(joints)
    signs = side_signs(side, count)
    sides = tuple("right" if sign > 0 else "left" for sign in signs)
    weights = _weights(scores, count)
    joints = _checked(joints, weights)
    mirror = np.stack([signs, np.ones(count), np.ones(count)], axis=1)
    fitter = _fitter(config)
    right = joints * mirror[:, None]
    if start is None:
        x, turn = fitter.start(right, weights)
    else:
        x, turn = fitter.unpack(start, mirror)
        if len(x) != count:
            raise ValueError(f"start: {len(x)} hands, expected {count}")
    low, high = (np.repeat(bound[None], count, axis=0) for bound in (fitter.low, fitter.high))
    if shape is not None:
        x[:, _SHAPE] = low[:, _SHAPE] = high[:, _SHAPE] = np.broadcast_to(shape, (count, config.shapes))
    if size is not None:
        x[:, _SIZE] = low[:, _SIZE] = high[:, _SIZE] = size
    x, turn, points, squares, converged, iterations = fitter.solve(right, weights, x, turn, low, high)
    pose = np.zeros((count, NUM_ANGLES))
    pose[:, :NUM_HAND_ANGLES] = x[:, :NUM_HAND_ANGLES]
    return FittedHands(
        sides=sides,
        pose_deg=pose,
        shape=x[:, _SHAPE],
        size=x[:, _SIZE],
        rotation=mirror[:, :, None] * turn * mirror[:, None, :],
        place_mm=x[:, _PLACE] * mirror,
        joints=points * mirror[:, None],
        residual_mm=np.sqrt(squares / weights.sum(axis=1)),
        converged=converged,
        iterations=iterations,
    )


def fit_hand_25d(
    joints_25d: np.ndarray,
    side: str | Sequence[str],
    scores: np.ndarray | None = None,
    camera: Intrinsics | None = None,
    config: FitConfig | None = None,
) -> FittedHands:
    """`fit_hand` for 2.5D joints (`dfmamba.hands.camera`), at the size of the reference hand.

    Args:
        joints_25d: (B, 21, 3) or (21, 3) u, v, d in pixels of one picture.
        side: "right" or "left", of all or of each.
        scores: (B, 21) or (21,) confidences 0..1; None counts all alike.
        camera: intrinsics of the picture. Hands are then in the camera frame, else relative to their wrist.
        config: how.

    Raises:
        ValueError: as `fit_hand`.
    """
    joints = np.asarray(joints_25d, dtype=np.float64)
    joints = joints[None] if joints.ndim == 2 else joints
    if joints.shape[1:] != (NUM_JOINTS, 3):
        raise ValueError(f"joints: got shape {joints.shape}, expected (any, {NUM_JOINTS}, 3)")
    weights = _weights(scores, len(joints))
    known = np.where((weights > 0)[..., None], _checked(joints, weights), np.nan)
    unit = known if camera is None else from_25d(known, camera, 1.0)
    lengths = bone_lengths(unit)
    if not (lengths > 0).any(axis=1).all():
        raise ValueError("joints: no bone of a hand has both of its ends, or a length")
    scale = np.nanmedian(np.where(lengths > 0, REFERENCE_BONES_MM / lengths, np.nan), axis=1)
    fitted = fit_hand(unit * scale[:, None, None], side, scores, config=config)
    if camera is not None:
        return fitted
    wrist = fitted.joints[:, 0]
    return dataclasses.replace(
        fitted, joints=fitted.joints - wrist[:, None], place_mm=fitted.place_mm - wrist
    )


def fit_track(
    joints_mm: np.ndarray,
    side: str,
    scores: np.ndarray | None = None,
    times_s: np.ndarray | None = None,
    smooth_s: float = 0.05,
    config: FitConfig | None = None,
) -> FittedHands:
    """One hand of a film: one shape and size throughout, poses smoothed over time.

    The shape is the mean of what the frames say one by one, each by how well it fits; then poses are fitted
    again with it. Angles, rotation and place are averaged over the frames around, in Gaussian weights of
    this width times the same trust; joints are those of the smoothed hands.

    Args:
        joints_mm: (T, 21, 3) mm.
        side: "right" or "left".
        scores: (T, 21) confidences 0..1; None counts all alike.
        times_s: (T,) seconds, rising; None means 30 frames a second.
        smooth_s: width in seconds; 0 does not smooth.
        config: how.

    Raises:
        ValueError: as `fit_hand`, or times do not rise.
    """
    config = FitConfig() if config is None else config
    first = fit_hand(joints_mm, side, scores, config=config)
    count = len(first)
    times = np.arange(count) / 30.0 if times_s is None else finite("times_s", times_s, (count,))
    if (np.diff(times) <= 0).any():
        raise ValueError("times_s: expected to rise")
    trust = _weights(scores, count).mean(axis=1) / (1.0 + first.residual_mm**2)
    share = trust / trust.sum()
    shape, size = share @ first.shape, float(share @ first.size)
    fitted = fit_hand(joints_mm, side, scores, start=first, shape=shape, size=size, config=config)
    if smooth_s <= 0 or count == 1:
        return fitted
    pose, turn, place = np.empty((count, NUM_ANGLES)), np.empty((count, 3, 3)), np.empty((count, 3))
    for i, time_s in enumerate(times):
        near = slice(*np.searchsorted(times, (time_s - 3 * smooth_s, time_s + 3 * smooth_s)))
        weight = trust[near] * np.exp(-0.5 * ((times[near] - time_s) / smooth_s) ** 2)
        weight /= weight.sum()
        pose[i] = weight @ fitted.pose_deg[near]
        place[i] = weight @ fitted.place_mm[near]
        turn[i] = np.tensordot(weight, fitted.rotation[near], 1)
    left, _, right = np.linalg.svd(turn)
    left[..., 2] *= np.linalg.det(left @ right)[:, None]
    fitted = dataclasses.replace(fitted, pose_deg=pose, rotation=left @ right, place_mm=place)
    mirror = np.array([side_signs(side, 1)[0], 1.0, 1.0])
    fitter = _fitter(config)
    points, _ = fitter.chains.joints(*fitter.unpack(fitted, np.repeat(mirror[None], count, 0)))
    joints = points * mirror
    weights = _weights(scores, count)
    given = np.where((weights > 0)[..., None], np.asarray(joints_mm, dtype=np.float64), joints)
    squares = (weights * ((joints - given) ** 2).sum(-1)).sum(-1)
    return dataclasses.replace(fitted, joints=joints, residual_mm=np.sqrt(squares / weights.sum(axis=1)))


def _weights(scores: np.ndarray | None, count: int) -> np.ndarray:
    """(B, 21) weights of the joints.

    Raises:
        ValueError: scores are no probabilities, or hardly a joint of a hand has one.
    """
    if scores is None:
        return np.ones((count, NUM_JOINTS))
    given = np.asarray(scores, dtype=np.float64)
    given = finite("scores", given[None] if given.ndim == 1 else given, (count, NUM_JOINTS))
    if given.size and (given.min() < 0 or given.max() > 1):
        raise ValueError("scores: expected values from 0 to 1")
    few = (given > 0).sum(axis=1) < FEWEST_JOINTS
    if few.any():
        raise ValueError(f"hand {few.argmax()}: fewer than {FEWEST_JOINTS} joints have a score above 0")
    return given**2


def _checked(joints: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Joints with zeros where they don't count.

    Raises:
        ValueError: one that counts is not finite, or a hand has no extent.
    """
    seen = weights > 0
    bad = seen & ~np.isfinite(joints).all(axis=-1)
    if bad.any():
        hand, joint = np.argwhere(bad)[0]
        raise ValueError(
            f"hand {hand}, joint {joint}: got {joints[hand, joint].tolist()}, expected finite numbers; "
            "what is not known has score 0"
        )
    joints = np.where(seen[..., None], joints, 0.0)
    for number, (points, here) in enumerate(zip(joints, seen, strict=True)):
        if np.ptp(points[here], axis=0).max() < 1e-6:
            raise ValueError(f"hand {number}: all joints are in one place, {points[here][0].tolist()}")
    return joints


@lru_cache(maxsize=4)
def _fitter(config: FitConfig) -> _Fitter:
    return _Fitter(HandModel.load(), read_asset(str(ASSETS / "prior.npz"), "hand prior"), config)


class _Fitter:
    """Fits right hands.

    Args:
        model: of the hand.
        prior: `mean` (22,) and `covariance` (22, 22) of poses, and `prototypes` (P, 22) to start from.
        config: how.
    """

    def __init__(self, model: HandModel, prior: dict[str, np.ndarray], config: FitConfig) -> None:
        self.config = config
        self.chains = _Chains(model, config.shapes)
        size = _SIZE + 1 + config.shapes
        self.prototypes = prior["prototypes"].astype(np.float64)
        table = np.zeros((len(self.prototypes), size))
        table[:, :NUM_HAND_ANGLES] = self.prototypes
        table[:, _SIZE] = 1.0
        self.table = self.chains.joints(table, np.broadcast_to(np.eye(3), (len(table), 3, 3)))[0]
        self.coarse = np.arange(0, len(table), 5)
        self.precision = np.zeros((size, size))
        angles = slice(NUM_HAND_ANGLES)
        self.precision[angles, angles] = config.prior * np.linalg.inv(prior["covariance"])
        self.precision[_SIZE, _SIZE] = SIZE_DEVIATION**-2
        self.precision[_SHAPE, _SHAPE] = np.eye(config.shapes)
        self.mean = np.zeros(size)
        self.mean[angles], self.mean[_SIZE] = prior["mean"], 1.0
        self.low, self.high = np.full(size, -np.inf), np.full(size, np.inf)
        self.low[angles], self.high[angles] = LOW[angles], HIGH[angles]
        self.low[_SIZE], self.high[_SIZE] = SMALLEST, LARGEST
        self.low[_SHAPE], self.high[_SHAPE] = -MOST_SHAPE, MOST_SHAPE

    def start(self, joints: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unknowns (B, D) and rotations (B, 3, 3) near joints (B, 21, 3)."""
        coarse = self.table[self.coarse]
        scale, turn, shift = _similarity(coarse, joints[:, None], (weights * _PALM_WEIGHT)[:, None])
        moved = scale[..., None, None] * (coarse @ np.swapaxes(turn, -1, -2)) + shift[..., None, :]
        error = (weights[:, None] * ((moved - joints[:, None]) ** 2).sum(-1)).sum(-1)
        rows, best = np.arange(len(joints)), error.argmin(axis=1)
        scale, turn, shift = scale[rows, best], turn[rows, best], shift[rows, best]
        x = np.repeat(self.mean[None], len(joints), axis=0)
        x[:, _SIZE] = np.clip(scale, SMALLEST, LARGEST)
        x[:, _PLACE] = shift
        x[:, :NUM_HAND_ANGLES] = self.prototypes[self.coarse[best]]
        own = ((joints - shift[:, None]) @ turn) / np.maximum(scale, SMALLEST)[:, None, None]
        apart = ((self.table[:, 1:] - own[:, None, 1:]) ** 2).sum(-1) * weights[:, None, 1:]
        closest = apart.reshape(len(joints), len(self.table), 5, 4).sum(-1).argmin(axis=1)
        for finger in range(5):
            columns = slice(0, 5) if finger == 0 else slice(1 + 4 * finger, 5 + 4 * finger)
            x[:, columns] = self.prototypes[closest[:, finger], columns]
        return x, turn

    def unpack(self, hands: FittedHands, mirror: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unknowns and rotations of hands that were fitted before; `mirror` (B, 3) makes them right ones."""
        x = np.zeros((len(hands), len(self.mean)))
        x[:, :NUM_HAND_ANGLES] = hands.pose_deg[:, :NUM_HAND_ANGLES]
        x[:, _PLACE] = hands.place_mm * mirror
        x[:, _SIZE] = hands.size
        known = min(self.config.shapes, hands.shape.shape[1])
        x[:, _SIZE + 1 : _SIZE + 1 + known] = hands.shape[:, :known]
        return x, mirror[:, :, None] * hands.rotation * mirror[:, None, :]

    def solve(
        self,
        joints: np.ndarray,
        weights: np.ndarray,
        x: np.ndarray,
        turn: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """Levenberg-Marquardt steps until every hand is done.

        Args:
            joints: (B, 21, 3).
            weights: (B, 21).
            x: (B, D) unknowns to begin with.
            turn: (B, 3, 3) rotations to begin with.
            low, high: (B, D) limits.

        Returns:
            x, turn, joints (B, 21, 3), weighted squares (B,), whether it converged (B,), steps (B,).
        """
        config, count, size = self.config, len(x), len(self.mean)
        x, turn = np.clip(x, low, high), turn.copy()
        root = np.sqrt(weights)[..., None]
        coordinates = FREEDOM_SHARE * 3.0 * weights.sum(axis=1)
        points, jacobian = self.chains.joints(x, turn, jacobian=True)
        residual = root * (points - joints)
        squares = (residual**2).sum((1, 2))
        off, penalty, pull = self._prior(x)
        damping = np.full(count, 1e-3)
        done, steps = np.zeros(count, bool), np.zeros(count, int)
        diagonal = np.arange(size)
        for _ in range(config.iterations):
            on = np.flatnonzero(~done)
            if not len(on):
                break
            steps[on] += 1
            noise = np.clip(squares[on] / coordinates[on], config.least_noise_mm**2, MOST_NOISE_MM**2)
            scaled = (root[on, :, :, None] * jacobian[on]).reshape(len(on), -1, size)
            transposed = np.swapaxes(scaled, 1, 2)
            normal = (transposed @ scaled) / noise[:, None, None] + pull[on, None, None] * self.precision
            slope = (transposed @ residual[on].reshape(len(on), -1, 1))[..., 0] / noise[:, None]
            slope += pull[on, None] * (off[on] @ self.precision)
            stuck = ((x[on] <= low[on]) & (slope >= 0)) | ((x[on] >= high[on]) & (slope <= 0))
            if stuck.any():
                normal[stuck[:, :, None] | stuck[:, None, :]] = 0.0
                slope[stuck] = 0.0
            steep = normal[:, diagonal, diagonal] * (1 + damping[on, None]) + 1e-9
            normal[:, diagonal, diagonal] = np.where(stuck, 1.0, steep)
            step = -np.linalg.solve(normal, slope[..., None])[..., 0]
            spin = np.clip(step[:, _ROTATION], -1.0, 1.0)
            step[:, _ROTATION] = 0.0
            new = np.clip(x[on] + step, low[on], high[on])
            new_turn = _rotation(spin) @ turn[on]
            new_points, new_jacobian = self.chains.joints(new, new_turn, jacobian=True)
            new_residual = root[on] * (new_points - joints[on])
            new_squares = (new_residual**2).sum((1, 2))
            new_off, new_penalty, new_pull = self._prior(new)
            gain = (squares[on] - new_squares) / noise + penalty[on] - new_penalty
            better = gain >= 0
            still = np.abs(new_points - points[on]).max((1, 2)) < config.tolerance_mm
            done[on] = still | (~better & (damping[on] > 1e6))
            damping[on] = np.where(better, np.maximum(0.2 * damping[on], 1e-7), 8.0 * damping[on])
            went = on[better]
            x[went], turn[went] = new[better], new_turn[better]
            points[went], jacobian[went] = new_points[better], new_jacobian[better]
            residual[went], squares[went] = new_residual[better], new_squares[better]
            off[went], penalty[went], pull[went] = new_off[better], new_penalty[better], new_pull[better]
        return x, turn, points, squares, done, steps

    def _prior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance from the mean (B, D), what it costs (B,), and how hard it pulls back (B,)."""
        off = x - self.mean
        distance = ((off @ self.precision) * off).sum(-1)
        freedom = self.config.prior_freedom
        total = freedom + NUM_HAND_ANGLES
        return off, total * np.log1p(distance / freedom), total / (freedom + distance)


class _Chains:
    """The five fingers' kinematic chains side by side: joints and their derivatives, without the surface.

    It is the model's `transforms` and `key_points` in the "photo" convention, written for five chains of a
    metacarpal (the thumb's never moves) and three phalanges, each in its bone's own frame. Rest offsets are
    linear in the shape; the first row is the mean hand.
    """

    def __init__(self, model: HandModel, shapes: int) -> None:
        if shapes > model.num_shapes:
            raise ValueError(f"shapes: {shapes}, expected at most {model.num_shapes}")
        heads = np.concatenate([model.mean_bones[None], model.bone_basis[:shapes]])
        surface = np.concatenate(
            [model.mean_vertices.ravel()[None], model.vertex_basis[:shapes]], dtype=np.float64
        )
        tips = surface.reshape(1 + shapes, -1, 3)[:, model.tips].mean(axis=2)
        frames = np.zeros((5, 5, 3, 3))  # of the palm, the metacarpal and the phalanges
        frames[:, 0] = np.eye(3)
        places = np.zeros((1 + shapes, 5, 6, 3))
        for finger, chain in enumerate(CHAINS):
            bones = (METACARPALS[finger - 1] if finger else WRIST_BONE, *chain)
            places[:, finger, 0] = heads[:, WRIST_BONE]
            for level, bone in enumerate(bones, 1):
                frames[finger, level] = np.eye(3) if bone == WRIST_BONE else model.frames[bone]
                places[:, finger, level] = heads[:, bone]
            places[:, finger, 5] = tips[:, finger]
        offsets = np.einsum("flji,kflj->flik", frames, np.diff(places, axis=2))
        self.offset, self.offset_basis = offsets[..., 0], np.ascontiguousarray(offsets[..., 1:])
        self.offset_rows = np.ascontiguousarray(self.offset_basis.reshape(75, shapes).T)
        self.between = np.swapaxes(frames[:, :-1], -1, -2) @ frames[:, 1:]
        point = np.arange(1, NUM_JOINTS).reshape(5, 4)
        own = 0.5 * model.section_offset + model.photo_offset
        above = 0.5 * model.section_offset + model.base_offset
        self.own_frame, self.above_frame = [2, 3, 4, 4], [1, 2, 3, 4]
        self.own = np.einsum("fkji,fkj->fki", frames[:, self.own_frame], own[point])
        self.above = np.einsum("fkji,fkj->fki", frames[:, self.above_frame], above[point])
        self.wrist = model.photo_offset[0]
        self.palm = heads[:, FINGER_BONES[1][0]] - heads[:, WRIST_BONE]
        self.rest_deg = np.array([[model.rest_flexion_deg[bone] for bone in chain] for chain in CHAINS])

    def joints(
        self, x: np.ndarray, turn: np.ndarray, jacobian: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Joints (B, 21, 3) of unknowns (B, D) and rotations (B, 3, 3), and their derivatives.

        The derivatives (B, 21, 3, D) are per degree, per radian of a rotation that follows `turn`, per mm,
        and per unit of size and shape; empty unless wanted.
        """
        count = len(x)
        size, shape, place = x[:, _SIZE], x[:, _SHAPE], x[:, _PLACE]
        frame, before, flexed = self._frames(x, turn)
        offset = self.offset + (shape @ self.offset_rows).reshape(count, 5, 5, 3)
        offset *= size[:, None, None, None]
        heads = np.cumsum((frame @ offset[..., None])[..., 0], axis=2) + place[:, None, None]
        palm = self.palm[0] + shape @ self.palm[1:]
        length = np.sqrt((palm**2).sum(-1))
        scale = size * length / REFERENCE_PALM_MM
        own = (frame[:, :, self.own_frame] @ self.own[..., None])[..., 0]
        flesh = own + (frame[:, :, self.above_frame] @ self.above[..., None])[..., 0]
        wrist = turn @ self.wrist
        fingers = heads[:, :, 1:] + scale[:, None, None, None] * flesh
        points = np.empty((count, NUM_JOINTS, 3))
        points[:, 0] = place + scale[:, None] * wrist
        points[:, 1:] = fingers.reshape(count, NUM_JOINTS - 1, 3)
        if not jacobian:
            return points, np.empty(0)

        axes = np.zeros((count, 5, 6, 3))
        axes[:, :, 0] = frame[:, :, 1, :, 0] * _CUPPING[:, None]
        axes[:, 1:, 1] = -before[:, 1:, :, 2]
        axes[:, 1:, 2] = frame[:, 1:, 2, :, 0]
        axes[:, 0, 1] = before[:, 0, :, 0]
        axes[:, 0, 2] = -(before[:, 0] @ flexed)[..., 2]
        axes[:, 0, 3] = frame[:, 0, 2, :, 1]
        axes[:, :, 4:] = frame[:, :, 3:, :, 0]
        arm = _WHOLE * (fingers[:, :, None] - heads[:, :, _LEVEL][:, :, :, None])
        arm += _OWN * (scale[:, None, None, None] * own)[:, :, None]
        moved = _cross(_RADIANS * axes[:, :, :, None], arm)
        out = np.zeros((count, NUM_JOINTS, 3, x.shape[1]))
        inner = out[:, 1:].reshape(count, 5, 4, 3, x.shape[1])
        for finger, (turns, columns) in enumerate(_COLUMNS):
            inner[:, finger, :, :, columns] = moved[:, finger, turns].swapaxes(0, 1)
        relative = points - place[:, None]
        spin = out[..., _ROTATION]
        spin[:, :, 0, 1], spin[:, :, 0, 2] = relative[..., 2], -relative[..., 1]
        spin[:, :, 1, 0], spin[:, :, 1, 2] = -relative[..., 2], relative[..., 0]
        spin[:, :, 2, 0], spin[:, :, 2, 1] = relative[..., 1], -relative[..., 0]
        out[..., _PLACE] = np.eye(3)
        out[..., _SIZE] = relative / size[:, None, None]
        if shape.shape[1]:
            grown = np.cumsum(frame @ self.offset_basis, axis=2)[:, :, 1:] * size[:, None, None, None, None]
            thicker = (size / length / REFERENCE_PALM_MM)[:, None] * (palm @ self.palm[1:].T)
            inner[..., _SHAPE] = grown + flesh[..., None] * thicker[:, None, None, None]
            out[:, 0, :, _SHAPE] = wrist[..., None] * thicker[:, None]
        return points, out

    def _frames(self, x: np.ndarray, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bone frames (B, 5, 5, 3, 3); those at the base joints before they turn (B, 5, 3, 3); the flexion of
        the thumb's base (B, 3, 3)."""
        count = len(x)
        angles = x[:, 5:21].reshape(count, 4, 4)
        bend = np.empty((count, 5, 4))
        bend[:, :, 0] = x[:, CUP, None] * _CUPPING
        bend[:, 0, 1:] = x[:, [0, 3, 4]]
        bend[:, 1:, 1:] = angles[:, :, [0, 2, 3]]
        bend[:, :, 1:] -= self.rest_deg
        local = _about_x(_RADIANS * bend)
        side = np.empty((count, 5))
        side[:, 0], side[:, 1:] = x[:, 1], angles[:, :, 1]
        across = _about_z(-_RADIANS * side)
        flexed = local[:, 0, 1].copy()
        local[:, 1:, 1] = across[:, 1:] @ local[:, 1:, 1]
        local[:, 0, 1] = flexed @ across[:, 0] @ _about_y(_RADIANS * x[:, 2])
        step = self.between @ local
        frame = np.empty((count, 5, 5, 3, 3))
        frame[:, :, 0] = turn[:, None]
        for level in range(4):
            np.matmul(frame[:, :, level], step[:, :, level], out=frame[:, :, level + 1])
        return frame, frame[:, :, 1] @ self.between[:, 1], flexed


def _about_x(radians: np.ndarray) -> np.ndarray:
    out = np.zeros((*radians.shape, 3, 3))
    out[..., 0, 0] = 1.0
    out[..., 1, 1] = out[..., 2, 2] = np.cos(radians)
    out[..., 2, 1] = np.sin(radians)
    out[..., 1, 2] = -out[..., 2, 1]
    return out


def _about_y(radians: np.ndarray) -> np.ndarray:
    return _about_x(radians)[..., [2, 0, 1], :][..., [2, 0, 1]]


def _about_z(radians: np.ndarray) -> np.ndarray:
    return _about_x(radians)[..., [1, 2, 0], :][..., [1, 2, 0]]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`np.cross` of (..., 3), several times as fast on small arrays."""
    one, two = [1, 2, 0], [2, 0, 1]
    return a[..., one] * b[..., two] - a[..., two] * b[..., one]


def _rotation(vectors: np.ndarray) -> np.ndarray:
    """Rotations (B, 3, 3) about vectors (B, 3) by their lengths in radians (Rodrigues)."""
    angle = np.sqrt((vectors**2).sum(-1))[:, None, None]
    cross = np.zeros((len(vectors), 3, 3))
    x, y, z = vectors.T
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -z, y, -x
    cross[:, 1, 0], cross[:, 2, 0], cross[:, 2, 1] = z, -y, x
    safe = np.maximum(angle, 1e-12)
    return np.eye(3) + np.sin(safe) / safe * cross + (1.0 - np.cos(safe)) / safe**2 * (cross @ cross)


def _similarity(
    source: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scales (...), rotations (..., 3, 3) and shifts (..., 3) from points (..., N, 3) to others (Umeyama)."""
    share = (weights / weights.sum(-1, keepdims=True))[..., None]
    middle, goal = (share * source).sum(-2), (share * target).sum(-2)
    a, b = source - middle[..., None, :], target - goal[..., None, :]
    left, stretch, right = np.linalg.svd(np.swapaxes(share * b, -1, -2) @ a)
    sign = np.sign(np.linalg.det(left @ right))
    left[..., 2] *= sign[..., None]
    stretch[..., 2] *= sign
    turn = left @ right
    scale = stretch.sum(-1) / np.maximum((share * a**2).sum((-1, -2)), 1e-12)
    return scale, turn, goal - scale[..., None] * (turn @ middle[..., None])[..., 0]
