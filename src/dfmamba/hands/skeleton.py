"""The 21 joints of a hand, their bones, and the joint orders of other data sets.

Canonical order ("openpose"): wrist, then thumb, index, middle, ring and little finger, each from its base to
its tip. Two hands are (2, 21, ...), right then left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

WRIST = 0
"""Index of the wrist, the root of every hand."""

FINGER_NAMES: tuple[str, ...] = ("thumb", "index", "middle", "ring", "little")

_PARTS = {name: ("mcp", "pip", "dip", "tip") for name in FINGER_NAMES} | {
    "thumb": ("cmc", "mcp", "ip", "tip")
}

JOINT_NAMES: tuple[str, ...] = (
    "wrist",
    *(f"{name}_{part}" for name in FINGER_NAMES for part in _PARTS[name]),
)
"""The 21 joints in canonical order."""

NUM_JOINTS = len(JOINT_NAMES)

HAND_NAMES: tuple[str, str] = ("right", "left")
"""The order of two hands."""

PARENTS: tuple[int, ...] = (-1, *(0 if joint % 4 == 1 else joint - 1 for joint in range(1, 21)))
"""Parent of each joint; -1 for the wrist."""

FINGERS: dict[str, tuple[int, int, int, int]] = {
    name: (4 * i + 1, 4 * i + 2, 4 * i + 3, 4 * i + 4) for i, name in enumerate(FINGER_NAMES)
}
"""Finger name -> its four joints, base to tip."""

KNUCKLES: tuple[int, ...] = (5, 9, 13, 17)
"""Joints where the four fingers leave the palm (MCP)."""

TIPS: tuple[int, ...] = tuple(joints[-1] for joints in FINGERS.values())

BONES: tuple[tuple[int, int], ...] = tuple((PARENTS[joint], joint) for joint in range(1, 21))
"""The 20 bones (parent, child), ordered by child."""

BONE_NAMES: tuple[str, ...] = tuple(f"{JOINT_NAMES[parent]}-{JOINT_NAMES[child]}" for parent, child in BONES)

FINGER_COLORS_RGB: dict[str, tuple[int, int, int]] = {
    "wrist": (150, 150, 150),
    "thumb": (230, 75, 60),
    "index": (240, 165, 30),
    "middle": (70, 170, 80),
    "ring": (50, 140, 220),
    "little": (160, 90, 200),
}
"""Drawing colours per finger, and of the wrist."""

REFERENCE_BONES_MM: np.ndarray = np.array(
    [
        *(32.8, 32.2, 27.5, 23.5),
        *(80.9, 36.3, 21.4, 19.9),
        *(77.0, 39.8, 24.0, 20.5),
        *(73.5, 35.5, 21.5, 19.1),
        *(72.3, 26.5, 14.5, 13.9),
    ]
)
"""Bone lengths of a mean hand in mm, in the order of `BONES`: means of the baked hand over shapes, sizes and
poses, in the photo convention (`dfmamba.hands.model`)."""
REFERENCE_BONES_MM.setflags(write=False)


@dataclass(frozen=True)
class JointOrder:
    """How one data set numbers the joints.

    Attributes:
        name: what to call it in `convert_joints`.
        labels: the data set's own names of one hand's joints, in its order.
        joints: the canonical name for each of them, None where the canonical hand has no such point.
        hands: the order in which two hands follow each other along the joint axis; empty if that axis holds
            one hand (two hands are then two axes, (2, joints), right then left).
    """

    name: str
    labels: tuple[str, ...]
    joints: tuple[str | None, ...]
    hands: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Length of the joint axis."""
        return len(self.joints) * max(1, len(self.hands))

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Labels of the joints that have no canonical counterpart; a conversion drops them."""
        return tuple(label for label, joint in zip(self.labels, self.joints, strict=True) if joint is None)


def _tip_to_base() -> tuple[str, ...]:
    return tuple(JOINT_NAMES[joint] for joints in FINGERS.values() for joint in reversed(joints))


def _mano() -> tuple[str, ...]:
    """Wrist, three joints each of index, middle, little, ring and thumb, then the tips, thumb first."""
    order = ("index", "middle", "little", "ring", "thumb")
    inner = tuple(JOINT_NAMES[joint] for finger in order for joint in FINGERS[finger][:3])
    return ("wrist", *inner, *(JOINT_NAMES[tip] for tip in TIPS))


def _nyu() -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """The 36 NYU joints. F1 is the little finger, F4 the index finger; the palm has no wrist centre."""
    names = [*(f"F{finger}" for finger in (1, 2, 3, 4)), "TH"]
    ends = ("KNU3_A", "KNU3_B", "KNU2_A", "KNU2_B", "KNU1_A", "KNU1_B")
    labels = (*(f"{name}_{end}" for name in names for end in ends), *(f"PALM_{i}" for i in range(1, 7)))
    known = {"TH_KNU3_A": "thumb_tip", "TH_KNU3_B": "thumb_ip"}
    for name, finger in zip(names, ("little", "ring", "middle", "index"), strict=False):
        known |= {f"{name}_KNU3_A": f"{finger}_tip", f"{name}_KNU2_B": f"{finger}_pip"}
    return labels, tuple(known.get(label) for label in labels)


NYU_SUBSET: tuple[int, ...] = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)
"""The 14 of the 36 NYU joints that are evaluated."""


def _build_orders() -> dict[str, JointOrder]:
    orders = [
        JointOrder(name, JOINT_NAMES, JOINT_NAMES)
        for name in ("openpose", "freihand", "mediapipe", "onehand10k", "panoptic", "dexycb")
    ]
    tip_first = (*_tip_to_base(), "wrist")
    wrist_first = ("wrist", *_tip_to_base())
    orders += [
        JointOrder("interhand", tip_first, tip_first, ("right", "left")),
        JointOrder("interhand_hand", tip_first, tip_first),
        JointOrder("assemblyhands", tip_first, tip_first, ("right", "left")),
        JointOrder("assemblyhands_hand", tip_first, tip_first),
        JointOrder("rhd", wrist_first, wrist_first, ("left", "right")),
        JointOrder("rhd_hand", wrist_first, wrist_first),
        JointOrder("mano", _mano(), _mano()),
        JointOrder("mano16", _mano()[:16], _mano()[:16]),
    ]
    labels, joints = _nyu()
    subset = tuple(labels[i] for i in NYU_SUBSET), tuple(joints[i] for i in NYU_SUBSET)
    orders += [JointOrder("nyu", labels, joints), JointOrder("nyu14", *subset)]
    return {order.name: order for order in orders}


JOINT_ORDERS: Mapping[str, JointOrder] = _build_orders()
"""All known joint orders by name.

"interhand", "assemblyhands" and "rhd" hold two hands along one axis of 42; their "_hand" forms hold one. Of
the NYU joints only those are matched whose place the ground truth's bone lengths confirm: tips, the fingers'
PIP and the thumb's IP joint. The wrist is not among them (PALM_1 and PALM_2 are its two sides).
"""


def joint_order(name: str) -> JointOrder:
    """Look up a joint order.

    Raises:
        ValueError: if there is none of that name.
    """
    try:
        return JOINT_ORDERS[name]
    except (KeyError, TypeError):
        raise ValueError(
            f"joint order {name!r} is not known; expected one of {', '.join(JOINT_ORDERS)}"
        ) from None


def convert_joints(array: Any, source: str, target: str, axis: int = -2, return_valid: bool = False) -> Any:
    """Renumber joints from one data set's order to another's, by name.

    Args:
        array: numpy array or torch tensor of any dtype with the joints along `axis`. Where `source` holds two
            hands along one axis and `target` does not, that axis of 42 becomes two, (2, 21), right then left.
            In the other direction the axis before `axis` must be those two hands.
        source: order of `array`, a name in `JOINT_ORDERS`.
        target: order wanted.
        axis: the joint axis of `array`.
        return_valid: also say which joints of the target exist in the source. Without it a target joint that
            the source lacks is an error.

    Returns:
        A new array of the same kind, with zeros for joints that the source lacks; with `return_valid` a pair
        of it and a bool numpy array (target.size,).

    Raises:
        ValueError: on an unknown name, a wrong number of joints or hands, or target joints that the source
            lacks.
    """
    origin, wanted = joint_order(source), joint_order(target)
    if not isinstance(array, torch.Tensor):
        array = np.asarray(array)
    shape = tuple(array.shape)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} does not exist in an array of shape {shape}")
    at = axis % len(shape)
    if shape[at] != origin.size:
        raise ValueError(
            f"axis {axis} of an array of shape {shape} has {shape[at]} joints; {source} has {origin.size}"
        )

    if origin.hands:
        array = array.reshape(*shape[:at], 2, len(origin.joints), *shape[at + 1 :])
        at += 1
        array = _take(array, [origin.hands.index(hand) for hand in HAND_NAMES], at - 1)
    elif wanted.hands and (at == 0 or shape[at - 1] != 2):
        raise ValueError(
            f"{target} holds two hands: expected (2, {shape[at]}) joints, right then left; got {shape}"
        )

    missing = [i for i, name in enumerate(wanted.joints) if name not in origin.joints or name is None]
    if missing and not return_valid:
        names = ", ".join(wanted.labels[i] for i in missing)
        raise ValueError(
            f"{source} has no {names}; pass return_valid=True for a conversion with a validity mask"
        )
    out = _take(
        array, [0 if i in missing else origin.joints.index(name) for i, name in enumerate(wanted.joints)], at
    )
    if missing:
        out[(slice(None),) * at + (missing,)] = 0
    valid = np.array([i not in missing for i in range(len(wanted.joints))])

    if wanted.hands:
        out = _take(out, [HAND_NAMES.index(hand) for hand in wanted.hands], at - 1)
        out = out.reshape(*out.shape[: at - 1], wanted.size, *out.shape[at + 1 :])
        valid = np.tile(valid, 2)
    return (out, valid) if return_valid else out


def _take(array: Any, index: Sequence[int], axis: int) -> Any:
    """Pick entries along an axis; a copy, numpy or torch."""
    return array[(slice(None),) * axis + (list(index),)]
