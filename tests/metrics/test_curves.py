"""PCK and its area."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.metrics import auc, pck

QUICK = settings(deadline=None, max_examples=25)


def test_pck_closed_form() -> None:
    errors = np.array([[10.0, 20.0], [30.0, 40.0]])
    assert pck(errors, [9, 10, 25, 40]).tolist() == [0, 0.25, 0.5, 1]
    valid = np.array([[True, True], [True, False]])
    assert pck(errors, [20], valid).tolist() == [(0.5 + 1) / 2]
    assert pck(errors, [20], valid, per_joint_first=False).tolist() == [pytest.approx(2 / 3)]


def test_auc_closed_forms() -> None:
    assert float(auc(np.zeros((5, 21)))) == 1.0
    assert float(auc(np.full((5, 21), 60.0))) == 0.0
    even = np.linspace(0, 50, 20001)[:, None]
    assert float(auc(even)) == pytest.approx(0.5, abs=1e-4)
    assert float(auc(even, low_mm=20, steps=15)) == pytest.approx(0.7, abs=1e-4)
    assert np.isnan(float(auc(np.zeros((2, 3)), np.zeros((2, 3), bool))))


@QUICK
@given(st.integers(0, 2**32 - 1), st.sampled_from([(0, 50, 100), (20, 50, 15), (0, 50, 20)]))
def test_auc_against_a_plain_loop(seed: int, span: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.gamma(2, 9, (30, 21))
    valid = rng.random((30, 21)) < 0.8
    thresholds = np.linspace(*span)
    areas = []
    for joint in range(21):
        mine = errors[valid[:, joint], joint]
        curve = np.array([(mine <= t).mean() for t in thresholds])
        areas.append(np.trapezoid(curve, thresholds) / (span[1] - span[0]))
    assert float(auc(errors, valid, *span)) == pytest.approx(np.mean(areas), rel=1e-9)


def test_errors() -> None:
    with pytest.raises(ValueError, match="low < high"):
        auc(np.zeros((2, 3)), low_mm=50, high_mm=20)
    with pytest.raises(ValueError, match="2 steps"):
        auc(np.zeros((2, 3)), steps=1)
    with pytest.raises(ValueError, match="expected"):
        pck(np.zeros((2, 3)), [])
    with pytest.raises(ValueError, match="valid"):
        pck(np.zeros((2, 3)), [1.0], np.ones(3))
