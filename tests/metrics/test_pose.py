"""Alignment and mean errors against closed forms and independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from dfmamba.metrics import (
    handedness_accuracy,
    interhand_mpjpe,
    joint_errors,
    mean_error,
    mpjpe,
    mrrpe,
    pa_mpjpe,
    procrustes_aligned,
    root_aligned,
    root_scale_aligned,
)

QUICK = settings(deadline=None, max_examples=25)

SEEDS = st.integers(0, 2**32 - 1)


def hands(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 40, (*shape, 21, 3))


def similar(joints: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed % 2**31).as_matrix()
    return rng.uniform(0.3, 3) * joints @ rotation.T + rng.normal(0, 100, 3)


@QUICK
@given(SEEDS)
def test_invariances(seed: int) -> None:
    gt = hands(seed, 3)
    assert float(mpjpe(gt + 17.0, gt)) < 1e-9
    assert float(joint_errors(root_scale_aligned(2.5 * gt - 3, gt), gt).max()) < 1e-9
    assert float(joint_errors(root_scale_aligned(2.5 * gt - 3, gt, bone=(0, 9)), gt).max()) < 1e-9
    assert float(pa_mpjpe(similar(gt, seed), gt)) < 1e-8
    pred = gt + hands(seed + 1, 3) / 5
    assert float(pa_mpjpe(pred, gt)) == pytest.approx(float(pa_mpjpe(similar(pred, seed), gt)), abs=1e-7)


@QUICK
@given(SEEDS)
def test_procrustes_against_scipy(seed: int) -> None:
    """scipy allows reflections, so compare on hands whose best fit has none."""
    gt = hands(seed)
    pred = similar(gt + hands(seed + 1) / 8, seed)
    aligned = procrustes_aligned(pred, gt).numpy()
    _, _, disparity = procrustes(gt, pred)
    centred = gt - gt.mean(0)
    assert ((aligned - gt) ** 2).sum() / (centred**2).sum() == pytest.approx(disparity, rel=1e-6)


@QUICK
@given(SEEDS)
def test_procrustes_is_the_optimum_over_rotations(seed: int) -> None:
    """No other rotation with its best scale does better, also where a reflection would."""
    gt, pred = hands(seed), hands(seed + 1)
    p, g = pred - pred.mean(0), gt - gt.mean(0)
    best = float(((procrustes_aligned(pred, gt).numpy() - gt) ** 2).sum())
    turned = np.einsum("rij,nj->rni", Rotation.random(2000, random_state=1).as_matrix(), p)
    scale = (turned * g).sum((1, 2)) / (p**2).sum()
    others = ((np.maximum(scale, 0)[:, None, None] * turned - g) ** 2).sum((1, 2))
    assert best <= others.min() + 1e-6


@QUICK
@given(SEEDS)
def test_mirrored_hand_does_not_score_zero(seed: int) -> None:
    gt = hands(seed)
    mirrored = gt * (-1, 1, 1)
    assert float(pa_mpjpe(mirrored, gt)) > 1.0
    assert float(joint_errors(root_scale_aligned(-gt, gt), gt).mean()) > 1.0


@QUICK
@given(SEEDS)
def test_masked_joints_do_not_matter(seed: int) -> None:
    gt, pred = hands(seed, 4), hands(seed + 1, 4)
    valid = np.random.default_rng(seed).random((4, 21)) < 0.7
    valid[:, 0] = True
    junk = pred.copy()
    junk[~valid] = np.nan
    for function in (mpjpe, pa_mpjpe):
        assert float(function(pred, gt, valid)) == float(function(junk, gt, valid))
    keep = valid[0]
    expected = procrustes_aligned(pred[0][keep], gt[0][keep])
    np.testing.assert_allclose(procrustes_aligned(pred, gt, valid)[0][keep], expected, atol=1e-8)
    scaled = root_scale_aligned(pred[0][keep], gt[0][keep])
    np.testing.assert_allclose(root_scale_aligned(pred, gt, valid)[0][keep], scaled, atol=1e-8)


@QUICK
@given(SEEDS)
def test_least_squares_scale(seed: int) -> None:
    gt = hands(seed)
    pred = gt * 0.7 + hands(seed + 1) / 10
    p, g = (pred - pred[0]).ravel(), (gt - gt[0]).ravel()
    scale = np.linalg.lstsq(p[:, None], g, rcond=None)[0][0]
    np.testing.assert_allclose(root_scale_aligned(pred, gt), scale * (pred - pred[0]) + gt[0], atol=1e-8)


def test_closed_forms() -> None:
    gt = np.zeros((2, 21, 3))
    pred = gt.copy()
    pred[0, 1:] = (3, 4, 0)
    assert float(mpjpe(pred, gt)) == pytest.approx(5 * 20 / 42)
    assert float(mpjpe(pred, gt, include_root=False)) == pytest.approx(2.5)
    assert float(mpjpe(pred + 1, gt, root=None)) == pytest.approx((20 * np.sqrt(42) + 22 * np.sqrt(3)) / 42)
    assert float(mpjpe(pred[..., :2], gt[..., :2], include_root=False)) == pytest.approx(2.5)
    np.testing.assert_array_equal(root_aligned(pred + 7, pred), pred)
    # A hand without a valid root does not count at all.
    valid = np.ones((2, 21), bool)
    valid[1, 0] = False
    assert float(mpjpe(pred, gt, valid, include_root=False)) == pytest.approx(5.0)
    assert np.isnan(float(mpjpe(pred, gt, np.zeros((2, 21), bool))))
    assert np.isnan(float(mean_error(np.ones((2, 3)), np.zeros((2, 3)), per_joint_first=True)))


def test_joint_means_first() -> None:
    errors = np.array([[1.0, 10.0], [3.0, 0.0]])
    valid = np.array([[True, True], [True, False]])
    assert float(mean_error(errors, valid)) == pytest.approx(14 / 3)
    assert float(mean_error(errors, valid, per_joint_first=True)) == pytest.approx((2 + 10) / 2)


@QUICK
@given(SEEDS)
def test_interhand_convention(seed: int) -> None:
    """The loop of the public evaluation: per joint over samples, then over 42 joints, wrists in as 0."""
    gt, pred = hands(seed, 5, 2), hands(seed + 1, 5, 2)
    valid = np.random.default_rng(seed).random((5, 2, 21)) < 0.8
    means = []
    for hand in range(2):
        for joint in range(21):
            errors = [
                np.linalg.norm(
                    (pred[n, hand, joint] - pred[n, hand, 0]) - (gt[n, hand, joint] - gt[n, hand, 0])
                )
                for n in range(5)
                if valid[n, hand, joint] and valid[n, hand, 0]
            ]
            if errors:
                means.append(np.mean(errors))
    assert float(interhand_mpjpe(pred, gt, valid)) == pytest.approx(np.mean(means))
    full = np.ones_like(valid)
    ratio = float(mpjpe(pred, gt, full, include_root=False)) / float(interhand_mpjpe(pred, gt, full))
    assert ratio == pytest.approx(42 / 40)


def test_mrrpe() -> None:
    gt = hands(0, 3, 2)
    pred = gt.copy()
    pred[0, 1] += (0, 0, 10)
    pred[1] += 100
    assert float(mrrpe(pred, gt)) == pytest.approx(10 / 3)
    valid = np.ones((3, 2, 21), bool)
    valid[2, 1, 0] = False
    assert float(mrrpe(pred, gt, valid)) == pytest.approx(5)
    assert np.isnan(float(mrrpe(pred, gt, np.zeros_like(valid))))


def test_handedness() -> None:
    gt = np.array([[True, False], [False, True], [True, True]])
    pred = np.array([[0.9, 0.1], [0.9, 0.9], [0.5, 0.8]])
    assert float(handedness_accuracy(pred, gt)) == pytest.approx(2 / 3)
    assert float(handedness_accuracy(torch.tensor(gt), gt)) == 1.0


def test_torch_numpy_and_float32_agree() -> None:
    gt, pred = hands(0, 2), hands(1, 2)
    assert float(pa_mpjpe(torch.from_numpy(pred), gt)) == float(pa_mpjpe(pred, torch.from_numpy(gt)))
    assert float(pa_mpjpe(pred.astype(np.float32), gt)) == pytest.approx(float(pa_mpjpe(pred, gt)), rel=1e-5)


def test_degenerate_predictions_are_finite() -> None:
    gt = hands(0, 2)
    zero = np.zeros_like(gt)
    for aligned in (procrustes_aligned(zero, gt), root_scale_aligned(zero, gt), procrustes_aligned(gt, zero)):
        assert torch.isfinite(aligned).all()
    assert torch.isfinite(procrustes_aligned(gt, gt, np.zeros((2, 21), bool))).all()


@pytest.mark.parametrize("function", [mpjpe, pa_mpjpe, joint_errors, root_aligned, root_scale_aligned])
def test_wrong_shapes(function) -> None:
    with pytest.raises(ValueError, match=r"prediction \(21, 3\) and truth \(20, 3\)"):
        function(np.zeros((21, 3)), np.zeros((20, 3)))
    with pytest.raises(ValueError, match="expected twice"):
        function(np.zeros((21, 4)), np.zeros((21, 4)))


def test_more_wrong_shapes() -> None:
    zeros = np.zeros((4, 21, 3))
    with pytest.raises(ValueError, match=r"valid has shape \(21,\); expected \(4, 21\)"):
        mpjpe(zeros, zeros, np.ones(21))
    with pytest.raises(ValueError, match="two hands"):
        mrrpe(zeros, zeros)
    with pytest.raises(ValueError, match="N, 2, 21, 3"):
        interhand_mpjpe(zeros, zeros)
    with pytest.raises(ValueError, match="right, left"):
        handedness_accuracy(np.zeros(3), np.zeros(3))
