"""The PyTorch twin of the hand model against the NumPy one, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dfmamba.hands.model import HIGH, LOW, HandModel
from dfmamba.hands.torch_model import TorchHandModel

MODEL = HandModel.load()


def random_input(count: int, shapes: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    return {
        "pose_deg": rng.uniform(LOW, HIGH, (count, 25)),
        "shape": rng.normal(size=(count, shapes)),
        "size": rng.uniform(0.7, 1.2, count),
        "rotation": rotation * np.sign(np.linalg.det(rotation))[:, None, None],
        "place_mm": 200.0 * rng.normal(size=(count, 3)),
    }


@pytest.mark.parametrize(("count", "shapes"), [(1, 24), (7, 10), (3, 0)])
def test_equals_numpy(count, shapes):
    given = random_input(count, shapes, count)
    sides = ["left", "right"] * count
    expected = MODEL(side=sides[:count], **given)
    twin = TorchHandModel().double()
    got = twin(side=sides[:count], **{name: torch.tensor(value) for name, value in given.items()})
    for name in ("vertices", "joints", "anatomic_joints"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), atol=1e-3, rtol=0)


def test_single_precision_is_as_good():
    given = random_input(4, 10, 0)
    expected = MODEL(**given)
    got = TorchHandModel()(**{name: torch.tensor(value).float() for name, value in given.items()})
    np.testing.assert_allclose(got.vertices, expected.vertices, atol=1e-3, rtol=0)
    np.testing.assert_allclose(got.joints, expected.joints, atol=1e-3, rtol=0)


def test_gradients_are_those_of_finite_differences():
    given = {name: torch.tensor(value) for name, value in random_input(2, 3, 5).items()}
    twin = TorchHandModel().double()
    for value in given.values():
        value.requires_grad_()
    names = list(given)

    def some_points(*values):
        hands = twin(side=["left", "right"], **dict(zip(names, values, strict=True)))
        return hands.joints[:, ::3], hands.vertices[:, ::400]

    assert torch.autograd.gradcheck(some_points, tuple(given.values()), eps=1e-4, atol=1e-4)


def test_wrong_input_is_told():
    twin = TorchHandModel()
    with pytest.raises(ValueError, match=r"pose_deg: got shape \(2, 22\)"):
        twin(torch.zeros(2, 22))
    with pytest.raises(ValueError, match="shape: 25 components"):
        twin(torch.zeros(2, 25), torch.zeros(2, 25))
    with pytest.raises(ValueError, match="side"):
        twin(torch.zeros(2, 25), side="both")
