"""Joint limits, gestures, the prior and the pose bank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.hands.model import FINGERS, HIGH, LOW, NUM_ANGLES, NUM_HAND_ANGLES, HandModel, clamp
from dfmamba.synth.grasp import self_clearance
from dfmamba.synth.pose import (
    GESTURES,
    SIGNS,
    PoseBank,
    PosePrior,
    draw_wrist,
)

MODEL, BANK, SIGN_BANK = HandModel.load(), PoseBank.load(), PoseBank.load(SIGNS)
BANKS = pytest.mark.parametrize("bank", [BANK, SIGN_BANK], ids=["poses", "signs"])


def assert_within_limits(angles: np.ndarray, slack: float = 0.0) -> None:
    count = angles.shape[-1]
    assert (angles >= LOW[:count] - slack).all()
    assert (angles <= HIGH[:count] + slack).all() or _only_convergence_above(angles, count)
    fingers = angles[..., FINGERS].reshape(*angles.shape[:-1], 4, 4)
    assert (fingers[..., 3] <= 0.85 * np.maximum(fingers[..., 2], 0) + 12.0 + slack + 1e-6).all()


def _only_convergence_above(angles: np.ndarray, count: int) -> bool:
    above = angles - HIGH[:count]
    above[..., FINGERS.start + 1 : FINGERS.stop : 4] -= 9.0
    return bool((above <= 1e-6).all())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000))
def test_prior_respects_limits(seed):
    angles, name = PosePrior().sample(np.random.default_rng(seed))
    assert angles.shape == (NUM_HAND_ANGLES,)
    assert name
    assert_within_limits(angles)


@BANKS
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_bank_samples_respect_limits(bank, seed):
    angles, name = bank.sample(np.random.default_rng(seed))
    assert angles.shape == (NUM_ANGLES,)
    assert name in bank.names
    assert_within_limits(angles)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-200, 200), min_size=NUM_HAND_ANGLES, max_size=NUM_HAND_ANGLES))
def test_clamp_is_idempotent(values):
    once = clamp(np.array(values))
    np.testing.assert_allclose(clamp(once), once, atol=1e-9)


@pytest.mark.parametrize("name", sorted(GESTURES))
def test_gestures_are_close_to_what_hands_can_do(name):
    angles = GESTURES[name].angles
    assert np.abs(clamp(angles) - angles).max() < 12.0
    sample, drawn = PosePrior().sample(np.random.default_rng(0), name)
    assert drawn == name
    assert np.abs(sample - angles)[:21].mean() < 15.0


def test_unknown_gesture_is_named():
    with pytest.raises(ValueError, match="nosuch"):
        PosePrior().sample(np.random.default_rng(0), "nosuch")


@BANKS
def test_bank_is_free_of_penetration(bank):
    shape = MODEL.shape()
    rows = np.random.default_rng(0).choice(len(bank), 1500, replace=False)
    angles = np.concatenate([bank.angles[rows], np.zeros((len(rows), 3))], axis=1)
    overlap = -self_clearance(MODEL.joints(shape, angles, convention="anatomic"), shape.scale).min(axis=1)
    assert (overlap > 3.0).mean() < 0.06
    assert overlap.max() < 5.5


def test_bank_covers_gestures_contacts_and_bends():
    assert len(BANK) > 15_000
    labels = {BANK.names[k] for k in np.unique(BANK.labels)}
    assert labels >= set(GESTURES)
    assert sum(name.startswith("pinch:") for name in labels) >= 6
    pip = BANK.angles[:, [7, 11, 15, 19]]
    spread = np.histogram(pip, bins=[-10, 15, 40, 65, 90, 115])[0] / pip.size
    assert spread.min() > 0.1
    # Many hands are neither open nor closed: fingers differ from each other.
    assert ((pip.max(axis=1) - pip.min(axis=1)) > 40).mean() > 0.25


def test_pinches_touch():
    shape = MODEL.shape()
    rows = np.nonzero(BANK.labels == BANK.names.index("pinch:index"))[0]
    angles = np.concatenate([BANK.angles[rows], np.zeros((len(rows), 3))], axis=1)
    joints = MODEL.joints(shape, angles, convention="anatomic")
    reach = np.linalg.norm(joints[:, 4] - joints[:, 8], axis=1)
    assert np.median(reach) < 25.0
    assert (reach < 60.0).all()


def test_signs_fold_some_fingers_and_stretch_the_others():
    folded = _folded()
    assert len(np.unique(folded, axis=0)) == 16  # every set of fingers, none among them
    bends = SIGN_BANK.angles[:, 5:21].reshape(-1, 4, 4)[:, :, [0, 2]].sum(axis=2)
    assert np.quantile(bends[folded], 0.02) > 70.0
    assert np.quantile(bends[~folded], 0.98) < 35.0


def test_thumbs_of_signs_lie_on_a_folded_finger():
    folded = _folded()
    holding = folded.any(axis=1)
    folded, angles = folded[holding], SIGN_BANK.angles[holding]
    angles = np.concatenate([angles, np.zeros((len(angles), 3))], axis=1)
    joints = MODEL.joints(MODEL.shape(), angles, convention="anatomic")
    fingers, thumb = joints[:, 5:].reshape(-1, 4, 4, 3), joints[:, 4]
    shares = np.array([0.0, 0.3, 0.6, 1.0])[:, None]
    places = fingers[:, :, 2, None] + shares * (fingers[:, :, 3] - fingers[:, :, 2])[:, :, None]
    reach = np.linalg.norm(places - thumb[:, None, None], axis=-1)
    reach[~folded] = np.inf
    nearest = reach.reshape(len(reach), -1).argmin(axis=1)
    rows, finger = np.arange(len(joints)), nearest // len(shares)
    near = reach.reshape(len(reach), -1)[rows, nearest]
    assert np.quantile(near, 0.75) < 21.0
    assert near.max() < 50.0

    # Mostly on its back: the side to which the first phalanx points from the later ones.
    knuckle, middle, _, tip = fingers[rows, finger].transpose(1, 0, 2)
    along = (tip - middle) / np.linalg.norm(tip - middle, axis=1, keepdims=True)
    back = (middle - knuckle) - ((middle - knuckle) * along).sum(axis=1, keepdims=True) * along
    offset = thumb - places[rows, finger, nearest % len(shares)]
    assert ((offset * back).sum(axis=1) > 0).mean() > 0.8


def _folded() -> np.ndarray:
    names = [SIGN_BANK.names[k].removeprefix("sign:") for k in SIGN_BANK.labels]
    return np.array([[str(finger) in name for finger in range(4)] for name in names])


def test_wrist_stays_in_range():
    rng = np.random.default_rng(0)
    draws = np.stack([draw_wrist(rng) for _ in range(500)])
    assert (draws >= LOW[22:]).all()
    assert (draws <= HIGH[22:]).all()
    assert draws.std(axis=0) == pytest.approx([24, 9, 25], rel=0.2)


def test_missing_bank_says_how_to_build_it(tmp_path):
    with pytest.raises(OSError, match="build_pose_bank"):
        PoseBank.load(tmp_path / "none.npz")
