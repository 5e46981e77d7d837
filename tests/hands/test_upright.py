"""Upright crops put every hand the same way round."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfmamba.hands.affine import Affine
from dfmamba.hands.skeleton import KNUCKLES, WRIST
from dfmamba.hands.upright import UPRIGHT_FACTOR, upright_affines, upright_maps


def joints(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(21, 2)) * rng.uniform(3, 60) + rng.uniform(-200, 900, 2)


@given(seed=st.integers(0, 10**6), left=st.booleans(), size=st.sampled_from([32, 96, 101]))
def test_fingers_point_up_in_the_middle(seed: int, left: bool, size: int) -> None:
    points = joints(seed)
    affine = upright_affines(points, left, size)[0]
    assert affine.mirrored == left
    crop = affine.apply(points)
    up = crop[list(KNUCKLES)].mean(axis=0) - crop[WRIST]
    assert up[1] < 0
    assert abs(up[0]) < 1e-4 * size
    extent = np.ptp(crop, axis=0)
    assert extent.max() == pytest.approx(size / UPRIGHT_FACTOR, rel=1e-5)
    middle = (crop.min(axis=0) + crop.max(axis=0)) / 2
    assert np.allclose(middle, (size - 1) / 2, atol=1e-3)


def test_left_and_right_mirror_each_other() -> None:
    points = joints(3)
    right = upright_affines(points, False, 64)[0].apply(points)
    left = upright_affines(points, True, 64)[0].apply(points)
    assert np.allclose(left[:, 0], 63 - right[:, 0], atol=1e-6)
    assert np.allclose(left[:, 1], right[:, 1], atol=1e-6)


@given(seed=st.integers(0, 10**6), left=st.booleans(), size=st.sampled_from([32, 51, 96]))
def test_one_hand_by_numpy_is_as_in_a_batch(seed: int, left: bool, size: int) -> None:
    points = torch.from_numpy(joints(seed))[None]
    every = torch.ones(1, 21, dtype=torch.bool)
    for factor, affine in zip((0.9, 1.7), upright_affines(joints(seed), left, size, (0.9, 1.7)), strict=True):
        wanted = upright_maps(points, every, torch.tensor([left]), size, factor)[0].numpy()
        np.testing.assert_allclose(affine.inverse().matrix, wanted, rtol=1e-6, atol=1e-6)


def test_a_batch_counts_valid_joints_only() -> None:
    points = torch.from_numpy(np.stack([joints(s) for s in range(5)]))
    valid = torch.rand(5, 21, generator=torch.Generator().manual_seed(0)) < 0.7
    valid[0] = False
    valid[0, 20] = True
    wild = torch.where(valid[..., None], points, torch.full_like(points, torch.nan))
    left = torch.tensor([False, True, False, True, False])
    maps = upright_maps(torch.nan_to_num(wild, nan=1e6), valid, left, 64)
    torch.testing.assert_close(maps, upright_maps(points, valid, left, 64))
    for i in range(1, 5):
        crop = Affine(maps[i].numpy()).inverse().apply(points[i][valid[i]].numpy())
        assert np.ptp(crop, axis=0).max() == pytest.approx(64 / UPRIGHT_FACTOR, rel=1e-5)


def test_without_knuckles_the_crop_is_not_turned() -> None:
    points = torch.from_numpy(joints(1))[None]
    valid = torch.ones(1, 21, dtype=torch.bool)
    valid[:, list(KNUCKLES)] = False
    maps = upright_maps(points, valid, torch.tensor([False]), 64)
    assert maps[0, 0, 1] == maps[0, 1, 0] == 0
    assert maps[0, 0, 0] > 0
