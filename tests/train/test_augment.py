"""Augmentation moves picture, joints and handedness together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dfmamba.hands.upright import CLOSE_FACTOR
from dfmamba.train.augment import (
    AugmentConfig,
    Foregrounds,
    aimed_crops,
    box_sides,
    colour_matrices,
    join,
    lay_over,
    make_batch,
    move_joints,
    paste_patches,
    photograph,
    pose_target,
    random_crops,
    swap_mirrored,
    warp,
)

STILL = AugmentConfig(
    rotation_deg=0, spin=0, scale=0, zoom_out=0, shift=0, flip=0, colour=0, blur=0, noise=0, occlude=0,
    upright=0, close=0, wrong_side=0,
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_is_the_identity() -> None:
    x = torch.rand(3, 4, 16, 16)
    crops = random_crops(3, 16, STILL, generator())
    torch.testing.assert_close(warp(x, crops, 16), x)


@pytest.mark.parametrize("seed", range(8))
def test_joints_follow_the_picture(seed: int) -> None:
    """A bright dot at a joint is found, after the warp, where the joint has gone."""
    size = 48
    config = AugmentConfig(rotation_deg=60, scale=0.2, shift=0.1, flip=0.5, spin=0.3, zoom_out=0.3)
    crops = random_crops(6, size, config, generator(seed))
    joints = torch.zeros(6, 2, 21, 3)
    joints[:, 0, :, :2] = torch.tensor([20.0, 29.0])
    joints[:, 1, :, :2] = torch.tensor([26.0, 22.0])
    yy, xx = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    for hand, point in ((0, (20.0, 29.0)), (1, (26.0, 22.0))):
        dot = torch.exp(-((xx - point[0]) ** 2 + (yy - point[1]) ** 2) / 8.0)
        out = warp(dot.expand(6, 1, size, size), crops, size)[:, 0]
        moved = move_joints(joints, crops)
        mirrored = torch.linalg.det(crops[:, :, :2]) < 0
        for i in range(6):
            slot = hand if not mirrored[i] else 1 - hand
            u, v = moved[i, slot, 0, :2].tolist()
            if 3 < u < size - 4 and 3 < v < size - 4:
                mass = out[i] / out[i].sum()
                assert math.isclose(float((mass * xx).sum()), u, abs_tol=0.35)
                assert math.isclose(float((mass * yy).sum()), v, abs_tol=0.35)


def hands_of(n: int, present: list[list[bool]], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    joints = 40 + 50 * torch.rand(n, 2, 21, 3, generator=generator(seed))
    valid = torch.tensor(present)[:, :, None].expand(n, 2, 21)
    return joints, valid


def test_aimed_crops_without_an_aim_are_random_crops() -> None:
    joints, valid = hands_of(3, [[True, False], [True, True], [False, False]])
    crops = aimed_crops(joints[..., :2], valid, 144, STILL, generator())
    torch.testing.assert_close(crops, torch.eye(2, 3).expand(3, 2, 3))


def test_close_crops_hold_all_hands() -> None:
    joints, valid = hands_of(3, [[True, False], [False, True], [True, True]])
    joints[:, 1] += 30
    crops = aimed_crops(joints[..., :2], valid, 144, replace(STILL, close=1.0), generator())
    moved = move_joints(joints, crops)
    for i in range(3):
        points = moved[i][valid[i]][:, :2]
        low, high = points.amin(0), points.amax(0)
        torch.testing.assert_close(low + high, torch.full((2,), 143.0), rtol=0, atol=1e-2)
        assert math.isclose(float((high - low).max()), 144 / CLOSE_FACTOR, rel_tol=1e-4)


def test_upright_crops_show_right_hands_with_fingers_up() -> None:
    present = [[True, False], [False, True], [True, True], [False, False]] * 8
    joints, valid = hands_of(32, present)
    crops = aimed_crops(joints[..., :2], valid, 144, replace(STILL, upright=1.0), generator())
    moved, there = move_joints(joints, crops), swap_mirrored(valid, crops)
    for i in range(32):
        if not any(present[i]):
            torch.testing.assert_close(crops[i], torch.eye(2, 3))
            continue
        assert there[i, 0].all()
        up = moved[i, 0, [5, 9, 13, 17], :2].mean(0) - moved[i, 0, 0, :2]
        assert up[1] < 0
        assert abs(float(up[0])) < 1e-2
    aimed_at = torch.linalg.det(crops[:, :, :2])[2::4] < 0
    assert 0 < int(aimed_at.sum()) < len(aimed_at)  # of two hands now one, now the other


def test_the_wrong_side_is_shown_in_its_share() -> None:
    joints, valid = hands_of(400, [[True, False]] * 400)
    config = replace(STILL, upright=1.0, wrong_side=0.25)
    crops = aimed_crops(joints[..., :2], valid, 144, config, generator())
    wrong = (torch.linalg.det(crops[:, :, :2]) < 0).float().mean()
    assert 0.17 < float(wrong) < 0.33


def test_depth_scales_with_the_zoom() -> None:
    crops = random_crops(64, 32, AugmentConfig(rotation_deg=40, scale=0.3), generator())
    joints = torch.rand(64, 2, 21, 3, generator=generator()) * 20
    moved = move_joints(joints, crops)
    back = swap_mirrored(moved, crops)
    zoom = torch.linalg.det(crops[:, :, :2]).abs().sqrt()
    torch.testing.assert_close(back[..., 2] * zoom[:, None, None], joints[..., 2])
    length = (joints[:, :, 0, :2] - joints[:, :, 5, :2]).norm(dim=-1)
    moved_length = (back[:, :, 0, :2] - back[:, :, 5, :2]).norm(dim=-1)
    torch.testing.assert_close(moved_length * zoom[:, None], length, rtol=1e-4, atol=1e-3)


def test_mirrored_crops_swap_the_hands() -> None:
    crops = random_crops(200, 32, AugmentConfig(), generator())
    mirrored = torch.linalg.det(crops[:, :, :2]) < 0
    assert 0.35 < float(mirrored.float().mean()) < 0.65
    values = torch.zeros(200, 2, dtype=torch.bool)
    values[:, 0] = True
    swapped = swap_mirrored(values, crops)
    assert torch.equal(swapped[:, 1], mirrored)


def foregrounds(n: int = 4, side: int = 40, seed: int = 0, **changes) -> Foregrounds:
    random = generator(seed)
    joints = torch.rand(n, 2, 21, 3, generator=random) * side
    values = {
        "rows": torch.arange(n),
        "images": torch.randint(0, 255, (n, side, side, 4), dtype=torch.uint8, generator=random),
        "joints_25d": joints,
        "valid": torch.ones(n, 2, 21, dtype=torch.bool),
        "valid_z": torch.ones(n, 2, 21, dtype=torch.bool),
        "known": torch.ones(n, 2, dtype=torch.bool),
        "is_depth": torch.zeros(n, dtype=torch.bool),
    }
    return Foregrounds(**{**values, **changes})


def backgrounds(n: int = 4, side: int = 40) -> torch.Tensor:
    return torch.randint(0, 255, (n, side, side, 3), dtype=torch.uint8, generator=generator())


def test_same_generator_same_batch_and_other_seeds_differ() -> None:
    part = foregrounds(is_depth=torch.tensor([False, False, False, True]))

    def run(seed: int):
        return make_batch([part], backgrounds(), 32, AugmentConfig(), generator(seed))

    (xa, ta), (xb, tb), (xc, _) = run(1), run(1), run(2)
    assert torch.equal(xa, xb)
    assert all(torch.equal(ta[k], tb[k]) for k in ta)
    assert not torch.equal(xa, xc)
    assert xa.shape == (4, 3, 32, 32)
    assert 0 <= float(xa.min()) <= float(xa.max()) <= 1


def test_parts_of_other_sizes_keep_their_places() -> None:
    """Two parts, the second of images twice as large, give what each gives alone in its rows."""
    small = foregrounds(2, 32, 1, rows=torch.tensor([0, 3]))
    large = foregrounds(2, 64, 2, rows=torch.tensor([2, 1]))
    small.images[..., 3], large.images[..., 3] = 255, 255
    behind = backgrounds(4, 32)
    x, target = make_batch([small, large], behind, 32, STILL, generator())
    for part, rows in ((small, [0, 3]), (large, [2, 1])):
        alone = Foregrounds(**{**part.__dict__, "rows": torch.arange(2)})
        want, labels = make_batch([alone], behind[rows], 32, STILL, generator())
        torch.testing.assert_close(x[rows], want)
        for name in ("joints_25d", "valid", "valid_z", "present"):
            assert torch.equal(target[name][rows], labels[name]), name


def test_joints_without_depth_and_hands_without_labels() -> None:
    part = foregrounds(3, 32)
    part.valid_z[0, 0, 4:] = False
    part.valid[1:, 1] = False
    part.known[1, 1] = False
    _, target = make_batch([part], backgrounds(3, 32), 32, STILL, generator())
    assert target["valid_z"][0].sum(-1).tolist() == [4, 21]
    # A hand that is there without labels is neither absent nor lent another one's joints.
    assert target["present_known"].tolist() == [[True, True], [True, False], [True, True]]
    assert target["valid"][:, 1].any(-1).tolist() == [True, False, True]


def test_uncovered_pixels_show_the_background() -> None:
    front = torch.zeros(1, 4, 16, 16)
    front[:, :3] = 0.2
    front[:, 3, :8] = 1
    back = torch.full((1, 3, 16, 16), 0.9)
    crops = random_crops(1, 16, STILL, generator())
    x = lay_over(front, back, crops, crops, 16, torch.ones(1, 3))
    torch.testing.assert_close(x[:, :, :7], torch.full((1, 3, 7, 16), 0.2))
    torch.testing.assert_close(x[:, :, 9:], torch.full((1, 3, 7, 16), 0.9))


def test_effects_keep_pictures_in_range_and_can_be_off() -> None:
    x = torch.rand(16, 3, 24, 24)
    y = photograph(x.clone(), AugmentConfig(blur=0.9), generator())
    assert 0 <= float(y.min()) <= float(y.max()) <= 1
    torch.testing.assert_close(photograph(x.clone(), STILL, generator()), x)
    torch.testing.assert_close(paste_patches(x.clone(), STILL, generator()), x)
    assert not torch.equal(paste_patches(x.clone(), AugmentConfig(occlude=1.0), generator()), x)


def test_colour_matrices_keep_grey_grey_without_strength() -> None:
    matrix, offset = colour_matrices(3, 0.0, generator())
    torch.testing.assert_close(matrix, torch.eye(3).expand(3, 3, 3))
    torch.testing.assert_close(offset, torch.zeros(3, 3, 1))


def test_join_applies_the_inner_map_first() -> None:
    a = random_crops(5, 20, AugmentConfig(), generator(1))
    b = random_crops(5, 20, AugmentConfig(), generator(2))
    p = torch.rand(5, 2, 1, generator=generator())
    inner = b[:, :, :2] @ p + b[:, :, 2:]
    want = a[:, :, :2] @ inner + a[:, :, 2:]
    both = join(a, b)
    torch.testing.assert_close(both[:, :, :2] @ p + both[:, :, 2:], want)


def test_box_sides_ignore_invalid_joints() -> None:
    joints = torch.zeros(1, 2, 21, 3)
    joints[0, 0, 3, 0], joints[0, 0, 4, 1] = 10.0, 500.0
    valid = torch.zeros(1, 2, 21, dtype=torch.bool)
    valid[0, 0, :4] = True
    assert box_sides(joints, valid).tolist() == [[10.0, 0.0]]


def test_target_marks_hands_that_left_the_picture() -> None:
    joints = torch.full((1, 2, 21, 3), 10.0)
    joints[0, 1, :, 0] = 90.0
    _, target = make_batch(
        [foregrounds(1, 32, joints_25d=joints)], backgrounds(1, 32), 32, STILL, generator()
    )
    assert target["present"].tolist() == [[True, False]]
    assert bool(target["valid"][0].all())
    torch.testing.assert_close(target["joints_25d"][0, 1], target["joints_25d"][0, 0])


def test_an_absent_hand_borrows_the_joints_of_the_other() -> None:
    joints = torch.rand(4, 2, 21, 3, generator=generator())
    present = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    valid = present[..., None].expand(-1, -1, 21)
    target = pose_target(joints, valid, present)
    lent = target["joints_25d"]
    assert torch.equal(lent[0, 1], joints[0, 0])
    assert torch.equal(lent[1, 0], joints[1, 1])
    assert torch.equal(lent[2], joints[2])
    assert target["valid"].all(-1).all(-1).tolist() == [True, True, True, False]
