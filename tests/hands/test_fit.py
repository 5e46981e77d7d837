"""Hands from joints: the fit's own kinematics against the model, round trips, input that is not a hand."""

from __future__ import annotations

import numpy as np
import pytest

from dfmamba.hands import fit
from dfmamba.hands.camera import Camera, to_25d
from dfmamba.hands.fit import FitConfig, fit_hand, fit_hand_25d, fit_track
from dfmamba.hands.model import ASSETS, HIGH, LOW, HandModel, read_asset
from dfmamba.synth.pose import PoseBank

MODEL, BANK = HandModel.load(), PoseBank.load()
CAMERA = Camera(900.0, 900.0, 320.0, 240.0)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return rotation * np.sign(np.linalg.det(rotation))


def random_hands(poses: np.ndarray, seed: int) -> tuple[np.ndarray, list[str]]:
    """Joints (B, 21, 3) of hands of any shape, size, side and place in poses (B, 25)."""
    rng = np.random.default_rng(seed)
    sides = [("right", "left")[i % 2] for i in range(len(poses))]
    hands = MODEL(
        poses,
        MODEL.coefficients[rng.integers(len(MODEL.coefficients), size=len(poses))].astype(float),
        sides,
        size=rng.uniform(0.8, 1.05, len(poses)),
        rotation=np.stack([random_rotation(rng) for _ in poses]),
        place_mm=rng.normal(size=(len(poses), 3)) * 50 + [0, 0, 500],
    )
    return hands.joints, sides


def bank_poses(count: int, seed: int) -> np.ndarray:
    poses = np.zeros((count, 25))
    poses[:, :22] = BANK.angles[np.random.default_rng(seed).choice(len(BANK), count, replace=False)]
    return poses


def random_unknowns(count: int, shapes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = (
        rng.uniform(LOW[:22], HIGH[:22], (count, 22)),
        np.zeros((count, 3)),
        rng.normal(size=(count, 3)) * 100,
        rng.uniform(0.7, 1.3, (count, 1)),
        rng.normal(size=(count, shapes)),
    )
    return np.concatenate(parts, axis=1), np.stack([random_rotation(rng) for _ in range(count)])


@pytest.mark.parametrize("shapes", [0, 10])
def test_chains_are_the_models_kinematics(shapes):
    x, turn = random_unknowns(5, shapes, shapes)
    joints, _ = fit._Chains(MODEL, shapes).joints(x, turn)
    poses = np.concatenate([x[:, :22], np.zeros((5, 3))], axis=1)
    expected = MODEL(poses, x[:, 29:], size=x[:, 28], rotation=turn, place_mm=x[:, 25:28])
    np.testing.assert_allclose(joints, expected.joints, atol=1e-3)


def test_jacobian_is_that_of_finite_differences():
    chains = fit._Chains(MODEL, 4)
    x, turn = random_unknowns(3, 4, 1)
    _, jacobian = chains.joints(x, turn, jacobian=True)
    step = 1e-4
    for column in range(x.shape[1]):
        sides = []
        for sign in (step, -step):
            moved, turned = x.copy(), turn
            if 22 <= column < 25:
                turned = fit._rotation(sign * np.repeat(np.eye(3)[None, column - 22], 3, axis=0)) @ turn
            else:
                moved[:, column] += sign
            sides.append(chains.joints(moved, turned)[0])
        numeric = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(jacobian[..., column], numeric, atol=1e-5, err_msg=f"column {column}")


@pytest.mark.parametrize("kind", ["bank", "uniform"])
def test_exact_joints_come_back(kind):
    poses = bank_poses(60, 0)
    if kind == "uniform":
        poses = np.zeros((60, 25))
        poses[:, :22] = np.random.default_rng(1).uniform(LOW[:22], HIGH[:22], (60, 22))
    joints, sides = random_hands(poses, 2)
    fitted = fit_hand(joints, sides)
    error = np.linalg.norm(fitted.joints - joints, axis=-1)
    assert np.median(error) < 0.2
    assert np.percentile(error, 99) < 1.0
    assert fitted.converged.all()
    assert np.median(np.abs(fitted.pose_deg - poses)[:, 5:21]) < 1.0
    assert (fitted.pose_deg >= LOW).all()
    assert (fitted.pose_deg <= HIGH).all()
    np.testing.assert_allclose(fitted.posed().joints, fitted.joints, atol=1e-3)


def test_noise_is_not_taken_for_angles():
    poses = bank_poses(60, 3)
    joints, sides = random_hands(poses, 4)
    noisy = joints + 3.0 * np.random.default_rng(5).normal(size=joints.shape)
    fitted = fit_hand(noisy, sides)
    assert np.median(np.abs(fitted.pose_deg - poses)[:, 5:21]) < 4.0
    error, before = (np.linalg.norm(points - joints, axis=-1).mean() for points in (fitted.joints, noisy))
    assert error < 0.65 * before


def test_left_hand_is_fitted_like_its_mirror_image():
    joints, _ = random_hands(bank_poses(4, 6), 7)
    mirror = np.array([-1.0, 1.0, 1.0])
    right, left = fit_hand(joints, "right"), fit_hand(joints * mirror, "left")
    np.testing.assert_allclose(left.joints, right.joints * mirror, atol=1e-6)
    np.testing.assert_allclose(left.pose_deg, right.pose_deg, atol=1e-6)


def test_wrong_side_leaves_a_residual():
    poses = bank_poses(40, 8)
    joints, sides = random_hands(poses, 9)
    joints += 2.0 * np.random.default_rng(0).normal(size=joints.shape)
    other = ["left" if side == "right" else "right" for side in sides]
    right, wrong = fit_hand(joints, sides).residual_mm, fit_hand(joints, other).residual_mm
    assert (wrong > right).mean() > 0.95
    assert np.median(wrong) > 1.8 * np.median(right)


def test_half_of_the_joints_come_from_the_prior():
    poses = bank_poses(30, 10)
    joints, sides = random_hands(poses, 11)
    scores = np.ones((30, 21))
    hidden = [3, 4, 7, 8, 11, 12, 15, 16, 19, 20]
    scores[:, hidden] = 0.0
    given = joints.copy()
    given[:, hidden] = np.nan
    fitted = fit_hand(given, sides, scores)
    error = np.linalg.norm(fitted.joints - joints, axis=-1)
    seen = scores[0] > 0
    assert np.median(error[:, seen]) < 0.5
    assert np.median(error[:, hidden]) < 12.0
    assert fitted.residual_mm.max() < 2.0


def test_a_warm_start_is_nearer():
    joints, sides = random_hands(bank_poses(20, 12), 13)
    joints += np.random.default_rng(1).normal(size=joints.shape)
    cold = fit_hand(joints, sides)
    moved = joints + 2.0
    warm = fit_hand(moved, sides, start=cold)
    assert warm.iterations.mean() < cold.iterations.mean()
    np.testing.assert_allclose(warm.joints, fit_hand(moved, sides).joints, atol=1.5)


@pytest.mark.parametrize("camera", [None, CAMERA])
def test_25d_joints(camera):
    poses = bank_poses(10, 14)
    joints, sides = random_hands(poses, 15)
    joints[..., 2] += 0.0 if camera else 20_000.0  # far away the projection is parallel
    fitted = fit_hand_25d(to_25d(joints, CAMERA), sides, camera=camera)
    if camera is not None:
        ratio = (fitted.joints / joints)[..., 2].mean(axis=1)[:, None, None]
        np.testing.assert_allclose(fitted.joints / ratio, joints, atol=3.0)
        return
    np.testing.assert_allclose(fitted.joints[:, 0], 0.0, atol=1e-9)
    assert np.median(np.abs(fitted.pose_deg - poses)[:, 5:21]) < 1.5


def test_a_track_has_one_shape_and_smooth_poses():
    rng = np.random.default_rng(16)
    ends = bank_poses(2, 16)
    share = np.linspace(0.0, 1.0, 40)[:, None]
    poses = ends[0] + share * (ends[1] - ends[0])
    shape = MODEL.coefficients[3].astype(float)
    truth = MODEL(poses, shape, "left", rotation=random_rotation(rng)).joints
    noisy = truth + 3.0 * rng.normal(size=truth.shape)
    track = fit_track(noisy, "left")
    assert np.ptp(track.shape, axis=0).max() == 0
    assert np.ptp(track.size) == 0
    alone = fit_hand(noisy, "left")
    error, each = (np.linalg.norm(hands.joints - truth, axis=-1).mean() for hands in (track, alone))
    assert error < 0.8 * each
    jerk, before = (np.abs(np.diff(hands.pose_deg[:, :21], 2, axis=0)).mean() for hands in (track, alone))
    assert jerk < 0.3 * before
    np.testing.assert_allclose(track.posed().joints, track.joints, atol=1e-3)


def test_no_hands_are_no_hands():
    fitted = fit_hand(np.zeros((0, 21, 3)), [])
    assert len(fitted) == 0
    assert fitted.posed().vertices.shape == (0, 1843, 3)


def test_impossible_joints_leave_a_residual():
    points = 40.0 * np.random.default_rng(17).normal(size=(21, 3))
    fitted = fit_hand(points, "right")
    assert np.isfinite(fitted.joints).all()
    assert fitted.residual_mm[0] > 15.0


def test_wrong_input_is_told():
    joints, _ = random_hands(bank_poses(1, 18), 18)
    bad = joints.copy()
    bad[0, 3] = np.nan
    with pytest.raises(ValueError, match=r"hand 0, joint 3: got \[nan"):
        fit_hand(bad, "right")
    with pytest.raises(ValueError, match="in one place"):
        fit_hand(np.ones((21, 3)), "right")
    with pytest.raises(ValueError, match="in one place"):
        fit_hand_25d(np.ones((21, 3)), "right")
    with pytest.raises(ValueError, match="fewer than 4"):
        fit_hand(joints, "right", np.zeros(21))
    with pytest.raises(ValueError, match=r"expected \(any, 21, 3\)"):
        fit_hand(np.zeros((20, 3)), "right")
    with pytest.raises(ValueError, match="side"):
        fit_hand(joints, ["right", "left"])
    with pytest.raises(ValueError, match="0 to 1"):
        fit_hand(joints, "right", np.full(21, 2.0))
    with pytest.raises(ValueError, match="expected a positive number"):
        FitConfig(prior=0.0)


def test_prior_is_that_of_the_pose_banks():
    """`tools/fit_pose_prior.py` has been run since the banks were built."""
    prior = read_asset(str(ASSETS / "prior.npz"), "hand prior")
    from dfmamba.synth.pose import SIGNS

    poses = np.concatenate([BANK.angles, PoseBank.load(SIGNS).angles]).astype(np.float64)
    np.testing.assert_allclose(prior["mean"], poses.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(prior["covariance"], np.cov(poses.T), atol=1.01)
    assert prior["prototypes"].shape == (256, 22)
