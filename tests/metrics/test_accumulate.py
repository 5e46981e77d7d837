"""HandMetrics gives the same numbers as the plain functions over all samples at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dfmamba.metrics import (
    PROTOCOLS,
    HandMetrics,
    auc,
    handedness_accuracy,
    interhand_mpjpe,
    joint_errors,
    mean_error,
    mpjpe,
    mrrpe,
    pa_mpjpe,
    root_aligned,
    root_scale_aligned,
)


def data(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gt = rng.normal(0, 50, (*shape, 21, 3))
    valid = rng.random((*shape, 21)) < 0.85
    valid[0, ..., 0] = True
    return gt + rng.normal(0, 15, gt.shape), gt, valid, rng.random((*shape, 21)) < 0.5


def similar_errors(pred: np.ndarray, gt: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Per hand as the public code of FreiHAND does it: centred, of unit size, any orthogonal matrix."""
    errors = np.full(valid.shape, 1e9)
    for place in np.ndindex(*valid.shape[:-1]):
        keep = valid[place]
        if keep.any():
            g, p = gt[place][keep], pred[place][keep]
            middle = g.mean(0)
            g, p = g - middle, p - p.mean(0)
            size = np.linalg.norm(g)
            u, s, vt = np.linalg.svd((g / max(size, 1e-12)).T @ (p / max(np.linalg.norm(p), 1e-12)))
            p = p / max(np.linalg.norm(p), 1e-12) @ (u @ vt).T * s.sum() * size
            errors[place][keep] = np.linalg.norm(p - g, axis=-1)
    return errors


def test_batches_of_two_hands() -> None:
    pred, gt, valid, visible = data(0, 40, 2)
    valid[:10, 0] = False
    present = valid.any(-1)
    guess = np.random.default_rng(1).random((40, 2))
    metrics = HandMetrics()
    for part in (slice(0, 7), slice(7, 7), slice(7, 40)):
        metrics.update(pred[part], gt[part], valid[part], visible[part], guess[part], present[part])
    values = metrics.compute()
    assert set(values) == set(PROTOCOLS)

    rooted = valid & valid[..., :1]
    root = joint_errors(root_aligned(pred, gt), gt)
    bone = rooted & rooted[..., 9:10]
    scaled = joint_errors(root_scale_aligned(pred, gt, bone=(0, 9)), gt)
    similar = similar_errors(pred, gt, valid)
    no_wrist = rooted.copy()
    no_wrist[..., 0] = False
    expected = {
        "mpjpe_mm": mpjpe(pred, gt, valid, include_root=False),
        "mpjpe_interhand_mm": interhand_mpjpe(pred, gt, valid),
        "mpjpe_single_mm": interhand_mpjpe(
            pred[~present.all(1)], gt[~present.all(1)], valid[~present.all(1)]
        ),
        "mpjpe_two_mm": interhand_mpjpe(pred[present.all(1)], gt[present.all(1)], valid[present.all(1)]),
        "mpjpe_visible_mm": mean_error(root, no_wrist & visible),
        "mpjpe_occluded_mm": mean_error(root, no_wrist & ~visible),
        "mpjpe_absolute_mm": mpjpe(pred, gt, valid, root=None),
        "mpjpe_scaled_mm": mean_error(joint_errors(root_scale_aligned(pred, gt, valid), gt), no_wrist),
        "pa_mpjpe_mm": pa_mpjpe(pred, gt, valid),
        "mpjpe_bone_scaled_mm": mean_error(scaled, bone, per_joint_first=True),
        "epe_mm": mean_error(root, rooted, per_joint_first=True),
        "epe_absolute_mm": mean_error(joint_errors(pred, gt), valid, per_joint_first=True),
        "epe_pa_mm": mean_error(similar, valid, per_joint_first=True),
        "auc_0_50": auc(root, rooted),
        "auc_20_50": auc(root, rooted, 20, 50, 15),
        "auc_absolute_0_50": auc(joint_errors(pred, gt), valid),
        "auc_pa_0_50": auc(similar, valid),
        "auc_bone_scaled_20_50": auc(scaled, bone, 20, 50, 15),
        "mrrpe_mm": mrrpe(pred, gt, valid),
        "handedness_accuracy": handedness_accuracy(guess, present),
        "samples": 40,
    }
    assert set(expected) == set(PROTOCOLS)
    for key, value in expected.items():
        assert values[key] == pytest.approx(float(value), rel=1e-9), key
    assert metrics.per_joint_mm().shape == (2, 21)
    assert metrics.per_joint_mm()[:, 0].tolist() == [0, 0]
    json.dumps(values)


def test_one_hand() -> None:
    pred, gt, valid, _ = data(2, 12)
    metrics = HandMetrics()
    metrics.update(pred, gt, valid)
    values = metrics.compute()
    assert values["mpjpe_interhand_mm"] == pytest.approx(float(mpjpe(pred, gt, valid, per_joint_first=True)))
    for key in ("mrrpe_mm", "mpjpe_two_mm", "mpjpe_visible_mm", "handedness_accuracy"):
        assert key not in values
    assert metrics.per_joint_mm().shape == (1, 21)


def test_nothing_valid() -> None:
    metrics = HandMetrics()
    assert metrics.compute() == {"samples": 0.0}
    assert metrics.per_joint_mm().isnan().all()
    pred, gt, valid, _ = data(3, 4, 2)
    metrics.update(pred, gt, np.zeros_like(valid))
    assert metrics.compute() == {"samples": 4.0}


def test_errors() -> None:
    pred, gt, valid, _ = data(4, 4, 2)
    metrics = HandMetrics()
    metrics.update(pred, gt, valid)
    with pytest.raises(ValueError, match="use two HandMetrics"):
        metrics.update(pred[:, 0], gt[:, 0])
    with pytest.raises(ValueError, match="expected"):
        metrics.update(pred[0, 0], gt[0, 0])
    with pytest.raises(ValueError, match="go together"):
        metrics.update(pred, gt, pred_present=np.ones((4, 2)))
    with pytest.raises(ValueError, match="valid has shape"):
        metrics.update(pred, gt, valid[:2])
    assert metrics.compute()["samples"] == 4.0


def test_mirrored_hands_are_similar_only_where_the_toolkits_say_so() -> None:
    _, gt, _, _ = data(5, 6)
    metrics = HandMetrics()
    metrics.update(gt * np.array([-2.0, 2.0, 2.0]) + 7, gt)
    values = metrics.compute()
    assert values["epe_pa_mm"] == pytest.approx(0, abs=1e-9)
    assert values["auc_pa_0_50"] > 0.99
    assert values["pa_mpjpe_mm"] > 10
    metrics.update(gt, gt)
    assert metrics.compute()["epe_pa_mm"] == pytest.approx(0, abs=1e-9)


def test_the_labelled_hand_type_decides_what_counts_as_two_hands() -> None:
    pred, gt, valid, _ = data(6, 3, 2)
    valid[:] = True
    valid[1, 0] = False
    named, found = HandMetrics(), HandMetrics()
    named.update(pred, gt, valid, interacting=np.array([True, True, False]))
    found.update(pred, gt, valid)
    two, single = named.compute()["mpjpe_two_mm"], named.compute()["mpjpe_single_mm"]
    assert two == pytest.approx(float(interhand_mpjpe(pred[:2], gt[:2], valid[:2])))
    assert single == pytest.approx(float(interhand_mpjpe(pred[2:], gt[2:], valid[2:])))
    assert found.compute()["mpjpe_single_mm"] != pytest.approx(single)
    with pytest.raises(ValueError, match=r"expected \(N,\)"):
        HandMetrics().update(pred[:, 0], gt[:, 0], interacting=np.ones(3, bool))
    with pytest.raises(ValueError, match="interacting has shape"):
        HandMetrics().update(pred, gt, interacting=np.ones(2, bool))


def test_mrrpe_counts_the_samples_that_are_labelled_as_two_hands() -> None:
    """InterHand2.6M's evaluate() counts it where the hand type is "interacting"."""
    truth = np.random.default_rng(0).normal(0, 40, (3, 2, 21, 3)) + np.array([0, 0, 600])
    pred = truth.copy()
    pred[0, 1, :, 0] += 10.0
    pred[1, 1, :, 0] += 50.0  # labelled as a single hand, though both have joints
    pred[2, 1, :, 0] += 90.0  # two hands, one wrist unknown
    valid = np.ones((3, 2, 21), bool)
    valid[2, 0, 0] = False
    metrics = HandMetrics()
    metrics.update(pred, truth, valid, interacting=np.array([True, False, True]))
    assert metrics.compute()["mrrpe_mm"] == pytest.approx(10.0)
    everything = HandMetrics()
    everything.update(pred, truth, valid)
    assert everything.compute()["mrrpe_mm"] == pytest.approx(30.0)
