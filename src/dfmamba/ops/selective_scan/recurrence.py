"""The first-order recurrence under the scan, in place over contiguous steps."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

# Below this many elements a step costs more to call than to compute (measured, float32), if there are enough
# steps to cut into pieces.
SMALL_STEP_ELEMENTS = 4096
SHORTEST_CUT = 48


def piece_length(steps: int) -> int:
    """Length T of the pieces for which 2 T + steps // T + steps % T, the number of calls, is smallest."""
    root = math.isqrt(steps)
    around = range(max(1, root // 2), root + 2)
    return min(around, key=lambda t: 2 * t + steps // t + steps % t)


def recur(a: Tensor, h: Tensor, first: Tensor, scratch: Tensor, reverse: bool = False) -> None:
    """Solve ``h[t] += a[t] * h[t - 1]`` in place along the first axis.

    Args:
        a: decays, (steps, ...), all in [0, 1] for a stable recurrence.
        h: on entry what each step adds, (steps, ...); on return the states.
        first: state that enters the first step, (...).
        scratch: overwritten, (steps, ...).
        reverse: run ``h[t] += a[t] * h[t + 1]`` from the last step to the first instead.
    """
    steps = h.shape[0]
    done, rest = first, slice(0, steps)
    if first.numel() < SMALL_STEP_ELEMENTS and steps >= SHORTEST_CUT:
        piece = piece_length(steps)
        covered = steps - steps % piece
        start = steps - covered if reverse else 0
        body = slice(start, start + covered)
        _recur_in_pieces(a[body], h[body], first, scratch[body], piece, reverse)
        done = h[start] if reverse else h[covered - 1]
        rest = slice(0, start) if reverse else slice(covered, steps)
    remaining = tuple(zip(a[rest].unbind(0), h[rest].unbind(0), strict=True))
    for decay, state in reversed(remaining) if reverse else remaining:
        done = state.addcmul_(decay, done)


def _recur_in_pieces(a: Tensor, h: Tensor, first: Tensor, scratch: Tensor, piece: int, reverse: bool) -> None:
    """`recur` for a whole number of pieces of `piece` steps, which advance together.

    Every piece starts from zero and keeps the running product of its decays; then the states are carried from
    piece to piece, and what enters a piece is added to all its steps, times the running product. The products
    stay in [0, 1], unlike the exponentials of cumulated sums, which overflow.
    """
    count = h.shape[0] // piece
    grouped, running = h.unflatten(0, (count, piece)), scratch.unflatten(0, (count, piece))
    decays = a.unflatten(0, (count, piece)).unbind(1)
    states, products = grouped.unbind(1), running.unbind(1)
    order = range(piece - 1, -1, -1) if reverse else range(piece)
    before = order[0]
    products[before].copy_(decays[before])
    for t in order[1:]:
        states[t].addcmul_(decays[t], states[before])
        torch.mul(decays[t], products[before], out=products[t])
        before = t
    ends, end_products = states[before].unbind(0), products[before].unbind(0)
    entering = torch.empty_like(states[before])
    rows = entering.unbind(0)
    turn = range(count - 1, -1, -1) if reverse else range(count)
    rows[turn[0]].copy_(first)
    for s, following in pairwise(turn):
        torch.addcmul(ends[s], end_products[s], rows[s], out=rows[following])
    grouped.addcmul_(running, entering.unsqueeze(1))
