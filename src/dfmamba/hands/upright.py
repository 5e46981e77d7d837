"""Upright crops: one hand, fingers up, always looking like a right hand.

A hand that is turned upright, centred and mirrored to one side varies far less than a hand as it comes, so a
small network learns its fingers from far fewer pictures. The joints that the crop is aimed by come from the
labels in training, and from a first look at the picture in prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dfmamba.hands.affine import Affine, extents, rotation
from dfmamba.hands.skeleton import KNUCKLES, WRIST

CLOSE_FACTOR = 1.4
"""Side of an unturned crop around hands over the longer side of their joints' box."""

UPRIGHT_FACTOR = 1.3
"""The same for an upright crop, whose box is the one of the turned joints."""


def upright_maps(
    joints_2d: Tensor, valid: Tensor, left: Tensor, size: int, factor: float = UPRIGHT_FACTOR
) -> Tensor:
    """Maps from upright crops to the pictures they are cut from.

    The direction from the wrist to the mean of the four knuckles (finger MCPs) points up in the crop; without
    both, the crop isn't turned.

    Args:
        joints_2d: (n, 21, 2) pixels of the picture, OpenPose order.
        valid: (n, 21) bool, the joints to count; at least one of each hand.
        left: (n,) bool, hands to mirror.
        size: side of the crops in pixels.
        factor: side of the crop over the longer side of the turned joints' box.

    Returns:
        (n, 2, 3) [A | t] from pixels of the crop to pixels of the picture.
    """
    knuckles = valid[:, KNUCKLES, None].to(joints_2d.dtype)
    middle = (joints_2d[:, KNUCKLES] * knuckles).sum(1) / knuckles.sum(1).clamp_min(1)
    known = (valid[:, WRIST] & (knuckles.sum((1, 2)) > 0))[:, None]
    up = joints_2d.new_tensor([0.0, -1.0])
    x, y = torch.where(known, middle - joints_2d[:, WRIST], up).unbind(-1)
    angle = torch.atan2(x, -y)
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2))

    turned = joints_2d @ turn  # the inverse turn, on rows
    low, high = extents(turned, valid)
    centre = (turn @ ((high + low) / 2)[..., None]).squeeze(-1)
    side = (high - low).amax(-1).clamp_min(1.0) * factor
    mirror = torch.stack((torch.where(left, -1.0, 1.0), torch.ones_like(side)), dim=-1)
    linear = turn * mirror.to(turn.dtype)[:, None, :] * (side / size)[:, None, None]
    offset = centre - linear.sum(-1) * ((size - 1) / 2)
    return torch.cat((linear, offset[..., None]), dim=-1)


def upright_affines(
    joints_2d: np.ndarray, left: bool, size: int, factors: Sequence[float] = (UPRIGHT_FACTOR,)
) -> list[Affine]:
    """The upright crops of one hand, as maps from the picture to the crop: the inverse of `upright_maps`.

    Args:
        joints_2d: (21, 2) pixels of the picture.
        left: mirror the hand.
        size: side of the crops in pixels.
        factors: side of each crop over the longer side of the turned joints' box.
    """
    joints = np.asarray(joints_2d, dtype=np.float64)
    x, y = joints[list(KNUCKLES)].mean(axis=0) - joints[WRIST]
    turn = rotation(math.atan2(x, -y))
    turned = joints @ turn
    low, high = turned.min(axis=0), turned.max(axis=0)
    centre = turn @ ((high + low) / 2)
    mirror = np.array([-1.0 if left else 1.0, 1.0])
    linear = (turn * mirror).T * (size / max(float((high - low).max()), 1.0))
    shift = (size - 1) / 2
    return [
        Affine(np.concatenate((linear / f, (shift - linear @ centre / f)[:, None]), axis=1)) for f in factors
    ]
