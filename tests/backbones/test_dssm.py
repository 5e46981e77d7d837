"""The state-space layer's switches that no backbone test covers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dfmamba.backbones.dfmamba import DSSM, DeformableSampler, DSSMConfig
from dfmamba.models import count_macs


def layer(config: DSSMConfig) -> DSSM:
    torch.manual_seed(0)
    return DSSM(6, config).double()


@pytest.mark.parametrize("deformable", [False, True])
def test_directions_are_the_mean_of_single_scans(deformable: bool) -> None:
    config = DSSMConfig(deformable=deformable, norm=False, d_state=3)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    there, back = layer(config), layer(replace(config, reverse=True))
    both = layer(replace(config, directions=2))
    torch.testing.assert_close(both(x), (there(x) + back(x)) / 2)


def test_columns_are_rows_of_the_transposed_map() -> None:
    config = DSSMConfig(deformable=False)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    all_four, two = layer(replace(config, directions=4)), layer(replace(config, directions=2))
    turned = two(x.transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(all_four(x), (two(x) + turned) / 2)
    torch.testing.assert_close(all_four(x.transpose(2, 3)).transpose(2, 3), all_four(x))


def test_an_unknown_number_of_directions_is_an_error() -> None:
    with pytest.raises(ValueError, match="directions"):
        DSSMConfig(directions=3)  # type: ignore[arg-type]


def test_scans_and_sampling_can_be_counted() -> None:
    config = DSSMConfig(d_state=4, num_anchors=9)
    model, shape = DSSM(6, config), (2, 6, 3, 5)
    numbers = 2 * 6 * 3 * 5
    extra = count_macs(model, shape, scans=True) - count_macs(model, shape)
    assert extra == numbers * 9 * 4 // 2 + numbers * 45


def test_modulated_weights_start_alike_and_stay_bounded() -> None:
    sampler = DeformableSampler(4, DSSMConfig(weights="modulated"))
    x = torch.randn(2, 4, 5, 3)
    offsets, weights = sampler.fields(x)
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 9))
    assert not offsets.any()
    with torch.no_grad():
        sampler.branch[-1].weight.normal_(std=100.0)
    weights = sampler.fields(x)[1].detach()
    assert 0.0 <= float(weights.min()) < 0.01 < 0.21 < float(weights.max()) <= 2 / 9 + 1e-6


def test_the_gain_scales_the_offsets_before_their_bound() -> None:
    found = []
    for gain in (1.0, 0.1):
        torch.manual_seed(0)
        sampler = DeformableSampler(4, DSSMConfig(offset_gain=gain, offset_reach=None))
        with torch.no_grad():
            sampler.branch[-1].weight.normal_()
        found.append(sampler.fields(torch.ones(1, 4, 3, 3))[0])
    torch.testing.assert_close(found[1], 0.1 * found[0])
    assert found[0].any()
    with pytest.raises(ValueError, match="offset_gain"):
        DSSMConfig(offset_gain=0.0)
