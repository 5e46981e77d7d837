"""The hand model in PyTorch: batched, differentiable, on any device; the twin of `dfmamba.hands.model`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dfmamba.hands.model import (
    CUP,
    CUPPING_DEG,
    FINGER_BONES,
    FOREARM_BONES,
    METACARPALS,
    NUM_ANGLES,
    REFERENCE_PALM_MM,
    THUMB_BONES,
    WRIST,
    WRIST_BONE,
    HandModel,
    side_signs,
)


class TorchHands(NamedTuple):
    """B hands of V vertices in millimetres, as `dfmamba.hands.model.PosedHands`."""

    vertices: Tensor
    joints: Tensor
    anatomic_joints: Tensor


class TorchHandModel(nn.Module):
    """Hands from angles, shapes, sizes and places; gradients reach all of them.

    Buffers have the default type; `.double()` and `.to(device)` move them.

    Args:
        model: the model whose twin this is; the packaged one by default.

    Examples:
        hands = TorchHandModel()(pose_deg, shape, "left")
    """

    mean_vertices: Tensor
    mean_bones: Tensor
    vertex_basis: Tensor
    bone_basis: Tensor
    weights: Tensor
    frames: Tensor
    section_offset: Tensor
    photo_offset: Tensor
    base_offset: Tensor
    tips: Tensor
    point_bone: Tensor
    point_above: Tensor

    def __init__(self, model: HandModel | None = None) -> None:
        super().__init__()
        model = HandModel.load() if model is None else model
        self.parents = model.parents.tolist()
        arrays = {
            "mean_vertices": model.mean_vertices,
            "mean_bones": model.mean_bones,
            "vertex_basis": model.vertex_basis.reshape(model.num_shapes, -1, 3),
            "bone_basis": model.bone_basis,
            "weights": model.weights,
            "frames": model.frames,
            "section_offset": model.section_offset,
            "photo_offset": model.photo_offset,
            "base_offset": model.base_offset,
            **_angle_maps(model),
        }
        for name, array in arrays.items():
            tensor = torch.tensor(array, dtype=torch.get_default_dtype())
            self.register_buffer(name, tensor, persistent=False)
        for name, index in (
            ("tips", model.tips),
            ("point_bone", model.point_bone),
            ("point_above", model.point_above),
        ):
            self.register_buffer(name, torch.tensor(index), persistent=False)

    def forward(
        self,
        pose_deg: Tensor,
        shape: Tensor | None = None,
        side: str | Sequence[str] = "right",
        *,
        size: Tensor | float = 1.0,
        rotation: Tensor | None = None,
        place_mm: Tensor | None = None,
    ) -> TorchHands:
        """Hands of these angles; arguments as those of `dfmamba.hands.model.HandModel.__call__`.

        Raises:
            ValueError: shapes disagree or a side is unknown.
        """
        if pose_deg.ndim != 2 or pose_deg.shape[1] != NUM_ANGLES:
            raise ValueError(f"pose_deg: got shape {tuple(pose_deg.shape)}, expected (any, {NUM_ANGLES})")
        count = len(pose_deg)
        like = self.mean_bones
        mirror = torch.ones(count, 3, dtype=like.dtype, device=like.device)
        mirror[:, 0] = torch.as_tensor(side_signs(side, count))
        size = torch.as_tensor(size, dtype=like.dtype, device=like.device).expand(count)
        vertices, bones = self._rest(shape, size)
        palm = (bones[:, FINGER_BONES[1][0]] - bones[:, WRIST_BONE]).norm(dim=-1)
        scale = (palm / REFERENCE_PALM_MM)[:, None, None]
        root = torch.eye(3, dtype=like.dtype, device=like.device) if rotation is None else rotation
        # A left hand is the mirror image of a right one that stands mirrored.
        root = mirror[:, :, None] * root * mirror[:, None, :]
        place = like.new_zeros(3) if place_mm is None else place_mm
        turn, move = self._transforms(bones, pose_deg, root, mirror * place)
        table = torch.cat([turn.flatten(2), move], dim=2)
        blended = torch.matmul(self.weights, table)
        skinned = (blended[..., :9].unflatten(-1, (3, 3)) @ vertices[..., None])[..., 0] + blended[..., 9:]

        own, above = turn[:, self.point_bone], turn[:, self.point_above]
        rest = bones[:, self.point_bone].clone()
        rest[:, 4::4] = vertices[:, self.tips].mean(dim=2)
        rest = rest + scale * self.section_offset
        places = move[:, self.point_bone] + move[:, self.point_above]
        anatomic = 0.5 * (_apply(own + above, rest) + places)
        joints = anatomic + _apply(own, scale * self.photo_offset) + _apply(above, scale * self.base_offset)
        sign = mirror[:, None]
        return TorchHands(skinned * sign, joints * sign, anatomic * sign)

    def _rest(self, shape: Tensor | None, size: Tensor) -> tuple[Tensor, Tensor]:
        vertices, bones = self.mean_vertices, self.mean_bones
        if shape is not None:
            shape = shape.expand(len(size), -1)
            known = shape.shape[1]
            if known > len(self.bone_basis):
                raise ValueError(f"shape: {known} components, expected at most {len(self.bone_basis)}")
            vertices = vertices + torch.einsum("bk,kvi->bvi", shape, self.vertex_basis[:known])
            bones = bones + torch.einsum("bk,kvi->bvi", shape, self.bone_basis[:known])
        return vertices * size[:, None, None], bones * size[:, None, None]

    def _transforms(
        self, bones: Tensor, pose_deg: Tensor, root: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        first, bend, second, twist = (
            torch.deg2rad(pose_deg @ getattr(self, f"{name}_map") + getattr(self, f"{name}_rest"))
            for name in ("first", "bend", "second", "twist")
        )
        local = _about(2, first) @ _about(0, bend) @ _about(2, second) @ _about(1, twist)
        delta = self.frames @ local @ self.frames.mT
        turn: list[Tensor] = [root] * len(self.parents)
        move: list[Tensor] = [place - _apply(root, bones[:, WRIST_BONE])] * len(self.parents)
        for bone, parent in enumerate(self.parents):
            if bone > WRIST_BONE:
                turn[bone] = turn[parent] @ delta[:, bone]
                move[bone] = move[parent] + _apply(turn[parent] - turn[bone], bones[:, bone])
        wrist = torch.deg2rad(pose_deg[:, WRIST])
        tilt = root @ _about(2, -wrist[:, 0]) @ _about(0, -wrist[:, 1])
        for bone in FOREARM_BONES:
            turn[bone] = tilt @ delta[:, bone]
            move[bone] = place - _apply(turn[bone], bones[:, WRIST_BONE])
        return torch.stack(turn, dim=1), torch.stack(move, dim=1)


def _angle_maps(model: HandModel) -> dict[str, np.ndarray]:
    """Every bone's rotation is Rz(first) Rx(bend) Rz(second) Ry(twist), each linear in the angles.

    Matrices (25, 22) and what is added, (22,), in degrees.
    """
    count = len(model.parents)
    maps = {f"{name}_map": np.zeros((NUM_ANGLES, count)) for name in ("first", "bend", "second", "twist")}
    rests = {f"{name}_rest": np.zeros(count) for name in ("first", "bend", "second", "twist")}
    rests["bend_rest"] = -model.rest_flexion_deg
    for finger, chain in enumerate(FINGER_BONES):
        column = 5 + 4 * finger
        maps["bend_map"][column, chain[0]] = 1.0
        maps["first_map"][column + 1, chain[0]] = -1.0
        maps["bend_map"][column + 2, chain[1]] = 1.0
        maps["bend_map"][column + 3, chain[2]] = 1.0
        maps["bend_map"][CUP, METACARPALS[finger]] = CUPPING_DEG[finger]
    for column, bone in zip((0, 3, 4), THUMB_BONES, strict=True):
        maps["bend_map"][column, bone] = 1.0
    maps["second_map"][1, THUMB_BONES[0]] = -1.0
    maps["twist_map"][2, THUMB_BONES[0]] = 1.0
    # Pronation turns the far end of the forearm; the end at the wrist goes with the hand.
    maps["twist_map"][24, list(FOREARM_BONES)] = (1.0, 0.35)
    return maps | rests


def _about(axis: int, radians: Tensor) -> Tensor:
    """Rotations (..., 3, 3) about a coordinate axis by `radians` (...)."""
    c, s = torch.cos(radians), torch.sin(radians)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = {
        0: (one, zero, zero, zero, c, -s, zero, s, c),
        1: (c, zero, s, zero, one, zero, -s, zero, c),
        2: (c, -s, zero, s, c, zero, zero, zero, one),
    }[axis]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    return (matrices @ vectors[..., None])[..., 0]
