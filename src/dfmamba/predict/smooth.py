"""The one-euro filter: steady where a hand rests, quick where it moves.

Casiez, Roussel and Vogel, "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive
Systems", CHI 2012.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from dfmamba.hands.skeleton import REFERENCE_BONES_MM
from dfmamba.predict.lift import hand_box
from dfmamba.predict.result import Hand

GAP_S = 0.5
"""A hand that was out of sight for longer is not drawn towards where it was."""

HAND_MM = float(2 * max(REFERENCE_BONES_MM))
"""About the length of a hand: speeds are measured in hands a second."""


@dataclass(frozen=True)
class SmoothConfig:
    """How much is smoothed.

    A signal of speed v is low-passed at `min_cutoff_hz` + `beta` v. Speeds are in hand sizes a second, so
    that hands near and far are treated alike.

    Attributes:
        min_cutoff_hz: cut-off at rest; lower is steadier and slower.
        beta: its growth with speed; higher follows quick motion sooner.
        speed_cutoff_hz: of the low-pass of the speed itself.

    Raises:
        ValueError: a value is not usable.
    """

    min_cutoff_hz: float = 1.5
    beta: float = 4.0
    speed_cutoff_hz: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("min_cutoff_hz", 0.0), ("beta", -1e-300), ("speed_cutoff_hz", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > least):
                raise ValueError(f"{name}: expected a positive number, got {value}")


class OneEuro:
    """The filter for an array of signals at any times.

    Args:
        config: cut-offs.
    """

    def __init__(self, config: SmoothConfig) -> None:
        self.config = config
        self._value: np.ndarray | None = None
        self._raw = self._speed = np.zeros(0)
        self._time = 0.0

    def __call__(self, values: np.ndarray, time_s: float, unit: float = 1.0) -> np.ndarray:
        """The smoothed values.

        Args:
            values: of one shape at all calls.
            time_s: when they were measured, later than at the last call.
            unit: length that counts as 1 for speeds.

        Raises:
            ValueError: if time does not go on or the shape changes.
        """
        values = np.asarray(values, dtype=np.float64)
        if self._value is None:
            self._value, self._raw, self._speed = values, values, np.zeros_like(values)
            self._time = time_s
            return values
        step = time_s - self._time
        if not step > 0 or values.shape != self._value.shape:
            raise ValueError(
                "one-euro filter: expected a later time and the same shape, "
                f"got {step:g} s on and {values.shape}"
            )
        speed = (values - self._raw) / (step * unit)
        self._speed = self._speed + _weight(self.config.speed_cutoff_hz, step) * (speed - self._speed)
        cutoff = self.config.min_cutoff_hz + self.config.beta * np.abs(self._speed)
        self._value = self._value + _weight(cutoff, step) * (values - self._value)
        self._raw, self._time = values, time_s
        return self._value


class HandSmoother:
    """Smooths the joints of one hand of a film, in pixels and in millimetres.

    Args:
        config: how much.
        size: width and height of the frames, for the hand's box.
    """

    def __init__(self, config: SmoothConfig, size: tuple[int, int]) -> None:
        self.config, self.size = config, size
        self._last = -math.inf
        self._pixels = self._mm = OneEuro(config)

    def __call__(self, hand: Hand, time_s: float) -> Hand:
        """The hand with smoothed joints, and the box that belongs to them."""
        if time_s - self._last > GAP_S:
            self._pixels, self._mm = OneEuro(self.config), OneEuro(self.config)
        self._last = time_s
        unit = max(float(np.ptp(hand.joints_2d_px, axis=0).max()), 1.0)
        pixels = self._pixels(hand.joints_2d_px, time_s, unit)
        return dataclasses.replace(
            hand,
            joints_2d_px=pixels,
            joints_3d_mm=self._mm(hand.joints_3d_mm, time_s, HAND_MM),
            box_xyxy=hand_box(pixels, self.size),
        )


def _weight(cutoff_hz: np.ndarray | float, step_s: float) -> np.ndarray | float:
    """Share of the new value in a first-order low-pass."""
    return 1.0 / (1.0 + 1.0 / (2 * math.pi * cutoff_hz * step_s))
