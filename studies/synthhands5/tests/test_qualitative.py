"""Errors, choice of pictures and projection behind the qualitative figure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dfmamba.draw.view3d import VIEWS
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.qualitative import (
    PERCENTILES,
    Choice,
    choose_pictures,
    joint_errors_mm,
    qualitative_sheet,
)
from studies.synthhands5.qualitative_panels import Space, largest_error, overlay, projected
from studies.synthhands5.results import measure
from studies.synthhands5.tests.made_up import made_up_pictures, small_model


def one_handed(pictures: Pictures) -> Pictures:
    """Without the left hand."""
    keep = torch.tensor([True, False])[None, :, None]
    return replace(
        pictures,
        joints_mm=pictures.joints_mm * keep[..., None],
        joints_2d_px=pictures.joints_2d_px * keep[..., None],
        valid=pictures.valid & keep,
        visible=pictures.visible & keep,
    )


def test_projection_of_truth_equals_labels() -> None:
    pictures = made_up_pictures(2)
    for i in range(2):
        seen = projected(pictures.joints_mm[i].numpy(), pictures.camera[i].tolist())
        np.testing.assert_allclose(seen, pictures.joints_2d_px[i].numpy(), atol=1e-3)
    absent = projected(one_handed(pictures).joints_mm[0].numpy(), pictures.camera[0].tolist())
    assert np.isnan(absent[1]).all()
    assert np.isfinite(absent[0]).all()


def test_errors_are_those_of_the_results() -> None:
    pictures = one_handed(made_up_pictures(3))
    pictures.valid[1, 0, 7] = False
    found = pictures.joints_mm + torch.randn(3, 2, 21, 3, generator=torch.Generator().manual_seed(0)) * 20
    errors = joint_errors_mm(found, pictures)
    assert bool(errors[:, :, 0].isnan().all())
    assert bool(errors[:, 1].isnan().all())
    assert bool(errors[1, 0, 7].isnan())
    expected = measure(found, pictures)["picture_mm"]
    assert errors.flatten(1).nanmean(1).tolist() == pytest.approx(expected, abs=0.006)


def test_errors_ignore_a_shift_of_the_whole_hand() -> None:
    pictures = made_up_pictures(1)
    errors = joint_errors_mm(pictures.joints_mm + torch.tensor([5.0, -9.0, 30.0]), pictures)
    assert float(errors.nan_to_num(0.0).max()) < 1e-4


def test_largest_error_skips_what_does_not_count() -> None:
    errors = torch.full((2, 21), torch.nan)
    errors[0, 3], errors[1, 8] = 12.0, 31.6
    worst = largest_error(errors)
    assert (worst.hand, worst.joint) == (1, 8)
    assert worst.text == "32 mm (left index tip)"


def test_pictures_are_chosen_by_rule() -> None:
    first = np.arange(101.0)
    second = first.copy()
    second[60], first[20], second[5] = 75.0, 41.0, np.nan
    chosen = choose_pictures(first, second, ("A", "B"))
    assert len(chosen) == len(PERCENTILES) + 2
    mean = (first + second) / 2
    ranked = np.sort(mean[np.isfinite(mean)])
    for choice, percent in zip(chosen, PERCENTILES, strict=False):
        assert mean[choice.picture] == ranked[round(percent / 100 * 99)]
        assert str(percent) in choice.reason
    assert chosen[-2] == Choice(60, "largest difference in favour of A")  # A is 15 mm better
    assert chosen[-1] == Choice(20, "largest difference in favour of B")
    with pytest.raises(ValueError, match="no picture"):
        choose_pictures(np.full(3, np.nan), np.ones(3), ("A", "B"))


def test_sheet_is_the_same_twice_and_takes_single_hands() -> None:
    pictures = one_handed(made_up_pictures(2))
    models = {"DF-Mamba": small_model(), "Mamba": small_model(deformable=False)}
    first, second = (qualitative_sheet(models, pictures) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert 1000 <= first.image.width <= 1600
    assert "percentiles 10, 50, 90" in first.caption
    two = qualitative_sheet(models, made_up_pictures(2), [Choice(1, "asked for")])
    assert "chosen by rule" not in two.caption
    assert two.image.height < first.image.height


def test_sheet_says_what_it_needs() -> None:
    models = {"one": small_model(), "other": small_model()}
    pictures = made_up_pictures(1)
    with pytest.raises(ValueError, match="expected two models"):
        qualitative_sheet({"one": models["one"]}, pictures)
    with pytest.raises(ValueError, match="no picture to show"):
        qualitative_sheet(models, pictures, [])
    empty = replace(pictures, valid=torch.zeros_like(pictures.valid))
    with pytest.raises(ValueError, match="no labelled joints"):
        qualitative_sheet(models, empty, [Choice(0, "asked for")])


def test_one_wrong_joint_is_found_and_drawn_in_its_hand_alone() -> None:
    """Moving one predicted joint changes the panel of its hand only."""
    pictures = made_up_pictures(1)
    truth, valid = pictures.joints_mm[0].numpy(), pictures.valid[0].numpy()
    wrong = truth.copy()
    wrong[0, 4] += (0.0, 0.0, 60.0)
    errors = joint_errors_mm(torch.from_numpy(wrong)[None], pictures)[0]
    worst = largest_error(errors)
    assert (worst.hand, worst.joint) == (0, 4)
    assert worst.error_mm == pytest.approx(60.0, abs=1e-3)
    space = Space.around(truth, [truth, wrong], valid)
    panels = {
        (hand, name): np.asarray(space.draw(hand, VIEWS[1], joints[hand], worst, (200, 200)))
        for hand in (0, 1)
        for name, joints in (("truth", truth), ("wrong", wrong))
    }
    assert (panels[0, "truth"] != panels[0, "wrong"]).any()
    assert (panels[1, "truth"] == panels[1, "wrong"]).all()
    drawn = np.asarray(overlay(pictures, 0, torch.from_numpy(wrong), worst, 200))
    assert drawn.shape == (200, 200, 3)


def test_space_holds_all_that_is_shown() -> None:
    pictures = one_handed(made_up_pictures(1))
    truth, valid = pictures.joints_mm[0].numpy(), pictures.valid[0].numpy()
    far = truth.copy()
    far[0, 4] += 300.0
    space = Space.around(truth, [far], valid)
    assert np.linalg.norm(far[0] - space.centres[0], axis=-1).max() == pytest.approx(space.radius, rel=1e-6)
    assert (space.centres[1] == 0).all()
