"""Losses against hand-made values and their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dfmamba.heads import HandPoseOutput, LayerOutput, LossConfig, pose_loss
from dfmamba.heads.losses import smooth_l1, vote_loss


def make_output(
    joints: Tensor, anchors: Tensor | None = None, logits: Tensor | None = None, present: Tensor | None = None
) -> HandPoseOutput:
    layer = LayerOutput(joints, joints if anchors is None else anchors)
    return HandPoseOutput(
        joints_25d=joints,
        joint_logits=torch.zeros(joints.shape[:3]) if logits is None else logits,
        present_logits=torch.zeros(joints.shape[:2]) if present is None else present,
        layers=(layer,),
    )


def make_target(joints: Tensor, **changes: Tensor) -> dict[str, Tensor]:
    target = {
        "joints_25d": joints,
        "valid": torch.ones(joints.shape[:3], dtype=torch.bool),
        "present": torch.ones(joints.shape[:2], dtype=torch.bool),
        "box_size_px": torch.full(joints.shape[:2], 100.0),
    }
    return {**target, **changes}


def scalar(losses: dict[str, Tensor], name: str) -> float:
    return losses[name].item()


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_smooth_l1_formula(tau: float) -> None:
    values = torch.linspace(-5, 5, 101, dtype=torch.float64)
    expected = [
        value * value / (2 * tau) if abs(value) < tau else abs(value) - tau / 2 for value in values.tolist()
    ]
    torch.testing.assert_close(smooth_l1(values, tau), torch.tensor(expected, dtype=torch.float64))


def test_hand_made_values() -> None:
    """Two samples: one with two labelled joints, one with one; off by known amounts."""
    truth = torch.zeros(2, 1, 2, 3)
    joints, anchors = torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 2, 3)
    valid = torch.tensor([[[True, True]], [[True, False]]])
    joints[0, 0, 0] = torch.tensor([4.0, 0.5, 6.0])
    joints[0, 0, 1] = torch.tensor([0.0, -2.0, 1.5])
    joints[1, 0, 0] = torch.tensor([0.0, 0.0, -4.5])
    joints[1, 0, 1] = 1e6
    anchors[0, 0, 0] = torch.tensor([10.0, 0.0, -1.5])
    anchors[1, 0, 0] = torch.tensor([0.0, 0.6, 9.0])
    anchors[1, 0, 1] = 1e6
    losses = pose_loss(make_output(joints, anchors), make_target(truth, valid=valid))
    first = 0.5 * (3.5 + 0.125) + 4.5 + 0.5 * 1.5 + 0.375
    second = 3.0
    assert scalar(losses, "joint") == pytest.approx((first / 6 + second / 3) / 2)
    surrounding = ((9.5 + 0.375) / 6 + (0.18 + 7.5) / 3) / 2
    assert scalar(losses, "anchor") == pytest.approx(surrounding)
    assert scalar(losses, "confidence") == pytest.approx(math.log(2))
    assert scalar(losses, "presence") == pytest.approx(math.log(2))
    total = 3 * losses["joint"] + losses["anchor"] + losses["confidence"] + losses["presence"]
    assert scalar(losses, "total") == pytest.approx(total.item())

    released = pose_loss(
        make_output(joints, anchors), make_target(truth, valid=valid), LossConfig(anchor_tau_z=1.0)
    )
    assert scalar(released, "anchor") == pytest.approx(((9.5 + 1.0) / 6 + (0.18 + 8.5) / 3) / 2)
    flat = pose_loss(
        make_output(joints, anchors), make_target(truth, valid=valid), LossConfig(z=0, anchor_z=0)
    )
    assert scalar(flat, "joint") == pytest.approx(0.5 * (3.5 + 0.125 + 1.5) / 6 / 2)
    assert scalar(flat, "anchor") == pytest.approx((9.5 / 6 + 0.18 / 3) / 2)


def test_mean_over_layers() -> None:
    truth = torch.zeros(1, 2, 3, 3)
    near, far = LayerOutput(truth + 2, truth), LayerOutput(truth + 5, truth)
    output = HandPoseOutput(near.joints_25d, torch.zeros(1, 2, 3), torch.zeros(1, 2), (far, near))
    both = scalar(pose_loss(output, make_target(truth)), "joint")
    single = [
        scalar(pose_loss(output._replace(layers=(layer,)), make_target(truth)), "joint")
        for layer in (near, far)
    ]
    assert both == pytest.approx(sum(single) / 2)


def test_anchor_target() -> None:
    truth = torch.zeros(1, 2, 3, 3)
    output = make_output(truth + 7, truth + 7)
    assert scalar(pose_loss(output, make_target(truth)), "anchor") > 1
    config = LossConfig(anchor_target="prediction")
    assert scalar(pose_loss(output, make_target(truth), config), "anchor") == 0


def test_size_of_the_crop_does_not_matter() -> None:
    torch.manual_seed(0)
    truth, joints, anchors = (torch.rand(2, 2, 21, 3) * 256 for _ in range(3))
    full = pose_loss(make_output(joints, anchors), make_target(truth))
    half = pose_loss(
        make_output(joints / 2, anchors / 2),
        make_target(truth / 2, box_size_px=torch.full((2, 2), 50.0)),
        LossConfig(image_size=128),
    )
    for name in full:
        torch.testing.assert_close(half[name], full[name])
    to_mm = torch.tensor([1.0, 1.0, 400 / 256])
    metric = pose_loss(
        make_output(joints * to_mm, anchors * to_mm),
        make_target(truth * to_mm),
        LossConfig(depth_range=400.0),
    )
    for name in full:
        torch.testing.assert_close(metric[name], full[name])


def test_unlabelled_joints_have_no_gradient() -> None:
    torch.manual_seed(0)
    joints = (torch.rand(2, 2, 21, 3) * 100).requires_grad_()
    anchors = (torch.rand(2, 2, 21, 3) * 100).requires_grad_()
    logits = torch.randn(2, 2, 21, requires_grad=True)
    valid = torch.rand(2, 2, 21) > 0.5
    truth = torch.where(valid[..., None], torch.rand(2, 2, 21, 3) * 100, torch.nan)
    losses = pose_loss(make_output(joints, anchors, logits), make_target(truth, valid=valid))
    losses["total"].backward()
    assert torch.isfinite(losses["total"])
    for tensor in (joints, anchors, logits):
        assert tensor.grad is not None
        assert (tensor.grad[~valid] == 0).all()
        assert (tensor.grad[valid] != 0).all()


def test_depth_labels_may_be_missing() -> None:
    truth = torch.zeros(1, 1, 2, 3)
    joints = (truth + 5).requires_grad_()
    valid_z = torch.tensor([[[True, False]]])
    pose_loss(make_output(joints), make_target(truth, valid_z=valid_z))["joint"].backward()
    assert joints.grad is not None
    assert (joints.grad != 0).tolist() == [[[[True, True, True], [True, True, False]]]]


def test_no_labels_give_zero() -> None:
    joints = torch.rand(2, 2, 21, 3, requires_grad=True)
    logits = torch.zeros(2, 2, 21, requires_grad=True)
    target = make_target(
        torch.zeros(2, 2, 21, 3),
        valid=torch.zeros(2, 2, 21, dtype=torch.bool),
        present=torch.zeros(2, 2, dtype=torch.bool),
        box_size_px=torch.zeros(2, 2),
    )
    losses = pose_loss(make_output(joints, logits=logits), target)
    assert [scalar(losses, name) for name in ("joint", "anchor", "confidence")] == [0.0, 0.0, 0.0]
    losses["total"].backward()
    assert joints.grad is not None
    assert joints.grad.abs().sum() == 0


def test_confidence_rewards_knowing_the_ten_per_cent() -> None:
    truth = torch.zeros(1, 1, 2, 3)
    joints = truth.clone()
    joints[0, 0, 0, :2] = torch.tensor([6.0, 7.9])  # 9.92 px away: found, for a box of 100 px
    joints[0, 0, 1, :2] = torch.tensor([6.0, 8.1])  # 10.08 px away: not found
    joints.requires_grad_()
    right = make_output(joints, logits=torch.tensor([[[9.0, -9.0]]]))
    wrong = make_output(joints, logits=torch.tensor([[[-9.0, 9.0]]]))
    assert scalar(pose_loss(right, make_target(truth)), "confidence") < 1e-3
    assert scalar(pose_loss(wrong, make_target(truth)), "confidence") > 8.9
    config = LossConfig(joint=0, anchor=0)
    assert (
        torch.autograd.grad(pose_loss(wrong, make_target(truth), config)["total"], joints)[0].abs().sum() == 0
    )


def test_presence() -> None:
    joints = torch.zeros(1, 2, 21, 3)
    output = make_output(joints, present=torch.tensor([[9.0, -9.0]]))
    one = make_target(joints, present=torch.tensor([[True, False]]))
    assert scalar(pose_loss(output, one), "presence") < 1e-3


def test_bad_input_is_refused() -> None:
    joints = torch.zeros(1, 2, 21, 3)
    target = make_target(joints)
    with pytest.raises(ValueError, match=r"'valid' has shape \(1, 2, 20\)"):
        pose_loss(make_output(joints), {**target, "valid": target["valid"][..., :20]})
    del target["present"]
    with pytest.raises(ValueError, match="lacks 'present'"):
        pose_loss(make_output(joints), target)
    for values in ({"tau_z": 0.0}, {"joint": -1.0}, {"depth_range": -1.0}, {"anchor_target": "label"}):
        with pytest.raises(ValueError, match=next(iter(values))):
            LossConfig(**values)


def test_vote_loss_is_the_cross_entropy_to_a_gaussian() -> None:
    grid = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    target = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    wanted = torch.tensor([math.exp(-(1 + 4) / 8), math.exp(-(9 + 4) / 8)] * 2)
    wanted = wanted / wanted.sum()
    logits = torch.tensor([0.3, -0.2, 0.1, 0.5])
    found = vote_loss(logits.log_softmax(0).view(1, 1, 1, 4), grid, target, valid, 2.0)
    torch.testing.assert_close(found, -(wanted * logits.log_softmax(0)).sum())
    best = vote_loss(wanted.log().view(1, 1, 1, 4), grid, target, valid, 2.0)
    assert best < found


def test_vote_loss_ignores_joints_without_a_label() -> None:
    grid = torch.rand(6, 2)
    logits = torch.zeros(1, 1, 2, 6, requires_grad=True)
    target = torch.tensor([[0.2, 0.3], [float("nan"), 0.0]]).view(1, 1, 2, 2)
    valid = torch.tensor([True, False]).view(1, 1, 2)
    vote_loss(logits.log_softmax(-1), grid, target, valid, 1.0).backward()
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad[0, 0, 1].abs().sum()) == 0
    nothing = vote_loss(logits.log_softmax(-1), grid, target, torch.zeros_like(valid), 1.0)
    assert float(nothing.detach()) == 0
