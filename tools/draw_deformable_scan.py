"""Draws the figure of the deformable scan in the method page: order, sampling, recurrence.

    python tools/draw_deformable_scan.py docs/images/deformable_scan.png

The anchors are those of `dfmamba.ops.anchor_grid`; the offsets are made up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from dfmamba.ops import anchor_grid

SIZE, TOKEN = 7, (3, 2)
"""Side of the drawn map, and row and column of the token that is followed."""

INK, MUTED, SEEN, MOVED, NOW = "#2c2e34", "#b9bcc2", "#dfe8f3", "#c44e1e", "#1c60a8"
BOUNDS = (-0.8, SIZE - 0.2)


def draw(path: Path) -> None:
    """Writes the figure."""
    figure = Figure(figsize=(11.5, 4.1), layout="constrained")
    order, sampling, scan = figure.subplots(1, 3, width_ratios=(1.0, 1.0, 1.25))
    _draw_order(order)
    _draw_sampling(sampling)
    _draw_recurrence(scan)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _map(axes: Axes, title: str) -> None:
    """An empty map with the token in it."""
    row, column = TOKEN
    for y in range(SIZE):
        for x in range(SIZE):
            seen = y * SIZE + x <= row * SIZE + column
            axes.add_patch(
                Rectangle(
                    (x - 0.5, y - 0.5), 1, 1, fill=True, facecolor=SEEN if seen else "white", edgecolor=MUTED
                )
            )
    axes.add_patch(
        Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=NOW, linewidth=2.2, zorder=5)
    )
    axes.set(xlim=BOUNDS, ylim=BOUNDS[::-1], aspect="equal")
    axes.set_title(title, color=INK, fontsize=11)
    axes.axis("off")


def _draw_order(axes: Axes) -> None:
    _map(axes, "1  tokens in raster order")
    row, column = TOKEN
    for y in range(row + 1):
        last = column if y == row else SIZE - 1
        axes.plot([0, last], [y, y], color=INK, linewidth=1.1)
        axes.plot(np.arange(last + 1), np.full(last + 1, y), ".", color=INK, markersize=5)
        if y < row:
            axes.plot([SIZE - 1, 0], [y, y + 1], color=INK, linewidth=0.8, linestyle=":")
    axes.annotate("token t", TOKEN[::-1], (column + 1.3, row + 1.6), color=NOW, fontsize=10,
                  arrowprops={"arrowstyle": "-", "color": NOW})  # fmt: skip
    axes.text(
        3,
        SIZE + 0.05,
        "shaded: what came before, all that a plain scan knows",
        color=INK,
        fontsize=9,
        ha="center",
    )


def _draw_sampling(axes: Axes) -> None:
    _map(axes, "2  each token gathers at K anchors, moved")
    anchors = anchor_grid(9).numpy() + np.array(TOKEN)  # (9, 2) row, column
    offsets = np.array(
        [
            [-0.9, 0.5],
            [-1.1, 0.9],
            [-1.4, 1.7],
            [-0.2, -0.7],
            [0.0, 0.0],
            [-0.5, 1.6],
            [0.8, -0.4],
            [1.3, 0.6],
            [0.9, 1.9],
        ]
    )
    for anchor, offset in zip(anchors, offsets, strict=True):
        moved = anchor + offset
        axes.plot(*anchor[::-1], "o", color="white", markeredgecolor=INK, markersize=5, zorder=6)
        if np.any(offset):
            _arrow(axes, anchor[::-1], moved[::-1], MOVED)
        axes.plot(*moved[::-1], "o", color=MOVED, markersize=5.5, zorder=8)
    axes.text(
        3, SIZE + 0.05, "also from pixels that come later in the order", color=INK, fontsize=9, ha="center"
    )


def _draw_recurrence(axes: Axes) -> None:
    axes.set(xlim=(-1.2, 11.2), ylim=(-0.4, 7.6))
    axes.axis("off")
    axes.set_title("3  the selective scan runs over what was gathered", color=INK, fontsize=11)
    for x, index in ((0.5, "t-1"), (5.0, "t"), (9.5, "t+1")):
        now = index == "t"
        for y, symbol in ((1.1, "x̃"), (4.0, "h"), (6.9, "y")):
            face, edge = (SEEN, NOW) if now else ("white", MUTED)
            box = Rectangle((x - 0.95, y - 0.55), 1.9, 1.1, facecolor=face, edgecolor=edge, linewidth=1.6)
            axes.add_patch(box)
            axes.text(x, y, f"{symbol}$_{{{index}}}$", ha="center", va="center", fontsize=13, color=INK)
        for low, high in ((1.65, 3.45), (4.55, 6.35)):
            _arrow(axes, (x, low), (x, high), NOW if now else MUTED)
    for low, high in ((1.45, 4.05), (5.95, 8.55)):
        _arrow(axes, (low, 4.0), (high, 4.0), INK)
        axes.text((low + high) / 2, 4.25, "exp(Δ A)", ha="center", fontsize=10, color=INK)
    axes.text(5.15, 2.45, "Δ B", fontsize=10, color=INK)
    axes.text(5.15, 5.35, "C", fontsize=10, color=INK)
    gathered = "x̃$_t$ = Σ$_k$ b$_k$ X(p$_t$ + a$_k$ + o$_{k,t}$)"
    axes.text(5.0, -0.2, gathered, ha="center", fontsize=11, color=MOVED)


def _arrow(axes: Axes, start: Sequence[float], end: Sequence[float], color: str) -> None:
    axes.add_patch(
        FancyArrowPatch(
            tuple(start),
            tuple(end),
            arrowstyle="-|>",
            mutation_scale=10,
            color=color,
            shrinkA=2,
            shrinkB=3,
            zorder=7,
        )
    )


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
