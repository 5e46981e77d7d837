"""The one-euro filter against a plain one, and what it does to noise and to motion."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.predict.result import Hand
from dfmamba.predict.smooth import GAP_S, HandSmoother, OneEuro, SmoothConfig


def plain(signal: list[float], times: list[float], config: SmoothConfig) -> list[float]:
    """The filter as the paper's algorithm 1 has it, for one number."""

    def alpha(step: float, cutoff: float) -> float:
        tau = 1.0 / (2 * math.pi * cutoff)
        return 1.0 / (1.0 + tau / step)

    smoothed, speed, results = signal[0], 0.0, [signal[0]]
    for i in range(1, len(signal)):
        step = times[i] - times[i - 1]
        a = alpha(step, config.speed_cutoff_hz)
        speed = a * (signal[i] - signal[i - 1]) / step + (1 - a) * speed
        a = alpha(step, config.min_cutoff_hz + config.beta * abs(speed))
        smoothed = a * signal[i] + (1 - a) * smoothed
        results.append(smoothed)
    return results


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(0.001, 1.0)), min_size=2, max_size=20),
    st.floats(0.1, 10),
    st.floats(0, 10),
    st.floats(0.1, 5),
)
def test_equals_the_plain_one(samples, low: float, beta: float, speed: float) -> None:
    config = SmoothConfig(low, beta, speed)
    signal, times = [value for value, _ in samples], np.cumsum([step for _, step in samples]).tolist()
    one = OneEuro(config)
    values = [one(np.array([value, -value]), time) for value, time in zip(signal, times, strict=True)]
    expected = plain(signal, times, config)
    np.testing.assert_allclose([value[0] for value in values], expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose([value[1] for value in values], -np.array(expected), rtol=1e-9, atol=1e-9)


def filtered(signal: np.ndarray, fps: float) -> np.ndarray:
    one = OneEuro(SmoothConfig())
    return np.array([one(value, i / fps) for i, value in enumerate(signal)])


def second_difference(signal: np.ndarray) -> float:
    return float(np.abs(np.diff(signal, 2, axis=0)).mean())


def test_noise_at_rest_falls() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (200, 8))
    assert second_difference(filtered(noise, 25.0)) < 0.35 * second_difference(noise)


@pytest.mark.parametrize("fps", [15.0, 30.0, 60.0])
def test_motion_is_followed_at_any_frame_rate(fps: float) -> None:
    times = np.arange(0, 3, 1 / fps)
    steady = filtered(2.0 * times, fps)  # two hand sizes a second
    lag_s = (2.0 * times - steady)[-1] / 2.0
    assert 0 < lag_s < 0.04
    jump = filtered((times > 1.0).astype(float), fps)
    assert jump[times > 1.3].min() > 0.95
    wave = filtered(0.5 * np.sin(2 * np.pi * times), fps)
    assert np.abs(wave - 0.5 * np.sin(2 * np.pi * times)).max() < 0.12


def test_times_must_go_on() -> None:
    one = OneEuro(SmoothConfig())
    one(np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="later time"):
        one(np.zeros(3), 1.0)
    with pytest.raises(ValueError, match="same shape"):
        one(np.zeros(2), 2.0)


@pytest.mark.parametrize("name", ["min_cutoff_hz", "beta", "speed_cutoff_hz"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_unusable_settings(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        SmoothConfig(**{name: value})
    assert SmoothConfig(beta=0.0).beta == 0.0


def a_hand(offset: float) -> Hand:
    pixels = np.linspace(0, 50, 42).reshape(21, 2) + np.array([100 + offset, 60])
    mm = np.linspace(0, 150, 63).reshape(21, 3)
    return Hand("left", 0.7, np.array([100, 60, 150, 110]), pixels, mm + offset, np.full(21, 0.5), track=4)


def test_a_hand_is_smoothed_whole() -> None:
    smoother = HandSmoother(SmoothConfig(), (320, 240))
    first, second = smoother(a_hand(0), 0.0), smoother(a_hand(2), 0.04)
    assert np.array_equal(first.joints_2d_px, a_hand(0).joints_2d_px)
    for name in ("joints_2d_px", "joints_3d_mm"):
        moved = getattr(second, name) - getattr(first, name)
        assert 0.1 < np.abs(moved).max() < 1.9
    x0, y0, x1, y1 = second.box_xyxy
    inside = (second.joints_2d_px >= [x0, y0]) & (second.joints_2d_px <= [x1, y1])
    assert inside.all()
    kept = {one.name for one in dataclasses.fields(Hand)} - {"joints_2d_px", "joints_3d_mm", "box_xyxy"}
    for name in kept - {"joint_scores"}:
        assert getattr(second, name) == getattr(a_hand(2), name)


def test_after_a_gap_it_starts_anew() -> None:
    smoother = HandSmoother(SmoothConfig(), (320, 240))
    smoother(a_hand(0), 0.0)
    after = smoother(a_hand(30), 0.02 + GAP_S)
    assert np.array_equal(after.joints_2d_px, a_hand(30).joints_2d_px)
