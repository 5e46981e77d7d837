"""Where deformable layers sample, drawn on test crops (DF-Mamba's Fig. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dfmamba.draw.canvas import BACKGROUND, INK, MUTED, WHITE, Canvas, Color, mix, text_width
from dfmamba.hands.skeleton import HAND_NAMES, JOINT_NAMES
from dfmamba.models import HandPoseModel
from dfmamba.train.augment import move_joints
from studies.synthhands5.drawing import GAP, TEXT, Figure, Panel, cross, ring, strip
from studies.synthhands5.insight import SampledLayer, evenly_spaced, sampled_layers
from studies.synthhands5.pictures import Pictures
from studies.synthhands5.training import HEAD, centre_crops, crops_of

_POSITIVE: Color = (216, 96, 0)
_NEGATIVE: Color = (0, 92, 175)
_QUERY: Color = (20, 20, 24)
_PALE = 0.65
_PANEL = 268
_LABELS = 116


@dataclass(frozen=True)
class Query:
    """A joint whose cell is asked what it samples.

    Attributes:
        picture: index.
        hand: 0 right, 1 left.
        joint: 0..20, OpenPose order.
    """

    picture: int
    hand: int
    joint: int


def joints_in_crops(pictures: Pictures) -> Tensor:
    """(n, 2, 21, 2) labelled pixels in the test crops."""
    return move_joints(pictures.joints_25d, centre_crops(len(pictures), HEAD.image_size))[..., :2]


def hidden_queries(pictures: Pictures, count: int = 5) -> list[Query]:
    """Evenly spaced among the pictures with a hidden joint (wrists left out): of each, the hidden joint that
    is nearest to the middle of the crop. Fewer where there are fewer."""
    joints = joints_in_crops(pictures)
    hidden = pictures.valid & ~pictures.visible
    hidden[:, :, 0] = False
    distance = (joints - (HEAD.image_size - 1) / 2).norm(dim=-1).masked_fill(~hidden, float("inf"))
    candidates = hidden.flatten(1).any(1).nonzero().flatten().tolist()
    queries = []
    for i in evenly_spaced(len(candidates), count):
        hand, joint = divmod(int(distance[candidates[i]].argmin()), distance.shape[-1])
        queries.append(Query(candidates[i], hand, joint))
    return queries


def sampling_positions(
    model: HandPoseModel, pictures: Pictures, queries: Sequence[Query] | None = None
) -> Figure:
    """Where the deformable layers sample for the cell under a joint: a row a layer, a column a picture.

    Args:
        model: with deformable layers.
        pictures: to choose from.
        queries: joints; None for `hidden_queries`.

    Returns:
        The figure, about 1300 pixels wide for five queries.

    Raises:
        ValueError: the model has no deformable layer, or there is nothing to ask.
    """
    chosen = hidden_queries(pictures) if queries is None else list(queries)
    if not chosen:
        raise ValueError("no query to draw: no picture has a hidden joint; pass queries")
    index = [query.picture for query in chosen]
    crops = crops_of(pictures, index)
    layers = sampled_layers(model, crops)
    all_joints = joints_in_crops(pictures)
    joints = torch.stack([all_joints[q.picture, q.hand, q.joint] for q in chosen])
    pixels = (crops.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()

    needed, size = 0.0, HEAD.image_size
    marks = []
    for layer in layers:
        found = [_marks(layer, i, point.tolist()) for i, point in enumerate(joints)]
        marks.append(found)
        places = np.concatenate([np.concatenate([m.sampled.reshape(-1, 2), m.regular]) for m in found])
        needed = max(needed, float(-places.min()), float(places.max()) - (size - 1))
    margin = float(np.clip(np.ceil(needed) + 3, 4, size // 3))
    panel = Panel(_PANEL / (size + 2 * margin), margin)
    side = panel.canvas(pixels[0]).size[0]
    head = [
        (
            f"picture {q.picture}, {HAND_NAMES[q.hand]} hand",
            f"{JOINT_NAMES[q.joint].replace('_', ' ')}, {_seen(pictures, q)}",
        )
        for q in chosen
    ]
    top = round(2.8 * TEXT) + GAP
    width = _LABELS + len(chosen) * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, top + len(layers) * (side + GAP) + 2 * TEXT + GAP), BACKGROUND)
    lost = 0
    for column, lines in enumerate(head):
        left = _LABELS + column * (side + GAP)
        sheet.paste(strip(side, lines), (left, GAP // 2))
        for row, layer in enumerate(layers):
            mark = marks[row][column]
            beyond = np.abs(mark.sampled - (size - 1) / 2) > size / 2 + margin
            lost += int(beyond.any(-1).sum())
            drawn = _draw_marks(panel, pixels[column], mark, joints[column].numpy(), layer)
            sheet.paste(drawn, (left, top + row * (side + GAP)))
    for row, layer in enumerate(layers):
        h, w = layer.offsets.shape[-2:]
        named = (layer.name, f"stride {layer.stride}", f"{h} x {w} cells")
        label = strip(_LABELS - 2 * GAP, named)
        sheet.paste(label, (GAP, top + row * (side + GAP) + (side - label.height) // 2))
    sheet.paste(_legend(width), (0, sheet.height - 2 * TEXT - GAP // 2))
    rule = (
        " The pictures are evenly spaced among the test pictures with a hidden joint; of each, the hidden"
        " joint nearest to the middle of the crop is taken."
    )
    missing = f" {lost} positions lie outside of what is shown." if lost else ""
    caption = (
        f"Positions that the deformable layers of {model.config.name} sample (one row a layer) for the cell "
        "whose centre is nearest to a joint. Hollow: the regular grid; filled: learned anchors plus the "
        "offsets predicted from the picture, area by |b_k| relative to the panel's largest, orange where b_k "
        "is positive, blue where it is negative. Small dots are the centres of the map's cells, the "
        "rectangle is the map's edge, beyond which it counts as zero; pale positions read nothing but zeros."
    )
    return Figure(sheet, caption + (rule if queries is None else "") + missing)


@dataclass(frozen=True)
class _Marks:
    """Of one panel, in pixels of the crop."""

    query: np.ndarray  # (2,)
    regular: np.ndarray  # (K, 2)
    sampled: np.ndarray  # (G, K, 2)
    weights: np.ndarray  # (G, K)
    zero: np.ndarray  # (G, K) bool: read nothing but zeros
    cells: np.ndarray  # (H W, 2)


def _marks(layer: SampledLayer, i: int, point_px: Sequence[float]) -> _Marks:
    row, column = layer.nearest_cell(point_px)
    h, w = layer.offsets.shape[-2:]
    cells = torch.cartesian_prod(torch.arange(h), torch.arange(w)).float()
    places = layer.positions[i, :, :, :, row, column]
    zero = (places <= -1) | (places >= places.new_tensor([h, w]))
    return _Marks(
        layer.in_pixels(torch.tensor([float(row), float(column)])).numpy(),
        layer.in_pixels(layer.regular[:, :, row, column]).numpy(),
        layer.in_pixels(places).numpy(),
        layer.weights[i, :, :, row, column].numpy(),
        zero.any(-1).numpy(),
        layer.in_pixels(cells).numpy(),
    )


def _draw_marks(
    panel: Panel, pixels: np.ndarray, marks: _Marks, joint: np.ndarray, layer: SampledLayer
) -> Image.Image:
    canvas = panel.canvas(pixels, fade=0.25)
    half = layer.stride / 2
    low, high = panel.place(marks.cells.min(0) - half), panel.place(marks.cells.max(0) + half)
    canvas.box((*low, *high), (*INK, 120), width=1.0)
    for cell in panel.place(marks.cells):
        canvas.disc(cell, 1.2, (*INK, 150))
    regular = panel.place(marks.regular)
    for group in panel.place(marks.sampled):
        for start, end in zip(regular, group, strict=True):
            canvas.line(start, end, (*WHITE, 200), 2.4)
            canvas.line(start, end, (*INK, 190), 1.0)
    for place in regular:
        ring(canvas, place, 4.6, WHITE, 2.8)
        ring(canvas, place, 4.6, INK, 1.2)
    sizes = np.sqrt(np.abs(marks.weights) / max(float(np.abs(marks.weights).max()), 1e-12))
    count = marks.weights.size
    for place, weight, share, zero in zip(
        panel.place(marks.sampled).reshape(count, 2).tolist(),
        marks.weights.flat,
        sizes.flat,
        marks.zero.flat,
        strict=True,
    ):
        radius = max(7.5 * float(share), 1.2)
        color = _POSITIVE if weight >= 0 else _NEGATIVE
        canvas.disc(place, radius + 1.0, WHITE)
        canvas.disc(place, radius, mix(color, WHITE, _PALE) if zero else color)
    cross(canvas, panel.place(marks.query), 5.0, _QUERY, 1.8)
    ring(canvas, panel.place(joint), 2.6, (214, 0, 110), 1.6)
    return canvas.finish()


def _seen(pictures: Pictures, query: Query) -> str:
    place = (query.picture, query.hand, query.joint)
    if not bool(pictures.valid[place]):
        return "not labelled"
    return "visible" if bool(pictures.visible[place]) else "hidden"


def _legend(width: int) -> Image.Image:
    canvas = Canvas(Image.new("RGB", (width, 2 * TEXT), BACKGROUND))
    y, x = float(TEXT), float(_LABELS)
    entries = (
        ("cell that asks", "cross"),
        ("its joint", "joint"),
        ("regular grid", "ring"),
        ("sampled, b > 0", "positive"),
        ("sampled, b < 0", "negative"),
        ("reads zeros", "pale"),
    )
    for text, kind in entries:
        if kind == "cross":
            cross(canvas, (x, y), 5.0, _QUERY, 1.8)
        elif kind == "joint":
            ring(canvas, (x, y), 2.6, (214, 0, 110), 1.6)
        elif kind == "ring":
            ring(canvas, (x, y), 4.6, INK, 1.2)
        elif kind == "pale":
            canvas.disc((x - 4, y), 6.5, mix(_POSITIVE, WHITE, _PALE))
            canvas.disc((x + 4, y), 6.5, mix(_NEGATIVE, WHITE, _PALE))
        else:
            canvas.disc((x, y), 7.5, _POSITIVE if kind == "positive" else _NEGATIVE)
        canvas.text((x + 13, y), text, INK, TEXT, anchor="lm")
        x += 13 + text_width(text, TEXT) + 24
    canvas.text((x, y), "area by |b|", MUTED, TEXT, anchor="lm")
    return canvas.finish()
