"""Figures of a model on labelled samples, each with what it was given."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np

from dfmamba.data.kinds import SYNTHETIC_KINDS, VALIDATION_SEED
from dfmamba.data.sample import HandSample, encode_depth
from dfmamba.hands.affine import picture_square, square_box
from dfmamba.hands.camera import from_25d, scale_to_reference
from dfmamba.hands.skeleton import REFERENCE_BONES_MM
from dfmamba.hands.upright import CLOSE_FACTOR
from dfmamba.metrics import PROTOCOLS, HandMetrics
from dfmamba.models import HandPoseModel
from dfmamba.predict.looking import CropNetwork, View, sure_of_side
from dfmamba.train.meter import draw_validation

PCK_FRACTION = 0.1

T = TypeVar("T")

Box = Literal["joints", "picture"]


def first_square(sample: HandSample, box: Box = "joints") -> np.ndarray:
    """The square region x0, y0, x1, y1 of a sample that a model sees first.

    Args:
        sample: with a picture or a depth map.
        box: "joints" is the box of the labelled joints, `CLOSE_FACTOR` times as large; "picture" is the whole
            picture.
    """
    if box == "joints":
        return square_box(sample.box_xyxy, CLOSE_FACTOR)
    assert sample.size is not None
    return picture_square(sample.size)


def look_at_samples(
    model: HandPoseModel, samples: Iterable[HandSample], box: Box, refine: bool, batch: int
) -> Iterator[tuple[HandSample, View, View]]:
    """Each sample with the first look of a model at it, and with the last one, by side.

    How many hands there are is taken from the labels: a single hand is the likelier one of the first look.
    """
    network = CropNetwork(model, model.config.image_size, batch, model.config.name)
    for chunk in batched(samples, batch):
        pictures = [_picture(sample) for sample in chunk]
        squares = [first_square(sample, box) for sample in chunk]
        first = network.see_squares(pictures, squares)
        if refine and box == "picture":
            first = network.see_closer(pictures, first, squares, 0.0)
        kept = [
            look if sample.present.sum() > 1 else _likelier(look)
            for sample, look in zip(chunk, first, strict=True)
        ]
        sure = [sure_of_side(look) for look in first]
        last = network.see_upright(pictures, kept, sure) if refine else kept
        yield from zip(chunk, first, last, strict=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def _picture(sample: HandSample) -> np.ndarray:
    if sample.image is not None:
        return sample.image
    assert sample.depth_mm is not None
    return encode_depth(sample.depth_mm)


def _likelier(look: View) -> View:
    side = max(look, key=lambda side: look[side].score)
    return {side: look[side]}


def evaluate(
    model: HandPoseModel,
    samples: Iterable[HandSample],
    box: Box = "joints",
    batch: int = 32,
    refine: bool = True,
) -> dict[str, float]:
    """Errors of a model.

    A sample with one hand is scored with the hand that the model finds most likely, right or wrong side; a
    sample with two hands slot by slot.

    Args:
        model: in evaluation mode.
        samples: with cameras and 3D labels.
        box: see `first_square`.
        batch: crops per forward pass.
        refine: look at each hand again, upright, as the predictor does; False measures a single pass.

    Returns:
        The values of `dfmamba.metrics.PROTOCOLS` with the wrist's depth given; `reference_*` the same without
        it, from the size of the reference hand; `error_2d_box` and `pck_2d_10`, the mean 2D error relative to
        the side of a hand's box and the share of joints within a tenth of it; `side_accuracy`, the share of
        single hands whose side is right.

    Raises:
        ValueError: there are no samples, or one has no camera.
    """
    given, reference = HandMetrics(), HandMetrics()
    errors_2d: list[np.ndarray] = []
    sides: list[bool] = []
    for sample, first, last in look_at_samples(model, samples, box, refine, batch):
        sample.require_mm("this measure")
        if sample.camera is None:
            raise ValueError(f"sample {sample.id!r} has no camera; 3D errors need one")
        alone = sample.present.sum() == 1
        if alone:
            (guess,) = last
            sides.append(bool(sample.present[guess]))
        joints = np.stack([last[guess if alone else side].joints_25d for side in range(2)])
        likely = np.array([(last if side in last else first)[side].score for side in range(2)])
        if alone and refine:
            likely[1 - guess] = min(likely[1 - guess], 1 - likely[guess])
        valid = sample.valid & sample.present[:, None]
        depth = np.where(sample.present, sample.joints_cam_mm[:, 0, 2].astype(np.float64), 1.0)
        seen = valid[None]
        truth_mm = sample.joints_cam_mm[None].astype(np.float64)
        presence = {"pred_present": likely[None] > 0.5, "gt_present": sample.present[None]}
        given.update(
            from_25d(joints, sample.camera, depth)[None],
            truth_mm,
            seen,
            sample.visible[None] & seen,
            **presence,
        )
        unit = from_25d(joints, sample.camera, np.ones(2))
        sized = unit * scale_to_reference(unit, REFERENCE_BONES_MM)[:, None, None]
        reference.update(sized[None], truth_mm, seen)
        for hand in np.flatnonzero(sample.present):
            x0, y0, x1, y1 = sample.box_of(int(hand))
            side = max(float(x1 - x0), float(y1 - y0), 1e-6)
            off = np.linalg.norm(joints[hand, :, :2] - sample.joints_2d_px[hand], axis=-1) / side
            errors_2d.append(off[sample.valid[hand]])
    if not given.samples:
        raise ValueError("nothing to evaluate: there are no samples")
    figures = given.compute()
    for name in ("mpjpe_mm", "mpjpe_absolute_mm"):
        figures[f"reference_{name}"] = reference.compute()[name]
    flat = np.concatenate(errors_2d)
    figures["error_2d_box"] = float(flat.mean())
    figures["pck_2d_10"] = float((flat < PCK_FRACTION).mean())
    if sides:
        figures["side_accuracy"] = float(np.mean(sides))
    return figures


FIGURES: dict[str, str] = {
    **{f"{k}": f"{v} [given: box, intrinsics, wrist depth]" for k, v in PROTOCOLS.items()},
    "reference_mpjpe_mm": "mpjpe_mm with the size of the reference hand [given: box, intrinsics]",
    "reference_mpjpe_absolute_mm": "mpjpe_absolute_mm, likewise [given: box, intrinsics]",
    "error_2d_box": "mean 2D error relative to the longer side of the hand's box [given: box]",
    "pck_2d_10": "share of joints with a 2D error below a tenth of that side [given: box]",
    "side_accuracy": "share of single hands whose side, right or left, is right [given: box]",
}
"""What each figure of `evaluate` is, and what the model was given for it."""


def synthetic_samples(kind: str, count: int, seed: int = VALIDATION_SEED) -> Iterator[Any]:
    """The first `count` validation samples of a kind.

    Raises:
        ValueError: `count` is below 1.
    """
    from dfmamba.synth import SyntheticConfig, SyntheticHands

    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1")
    hands = SyntheticHands(SyntheticConfig(size=144, seed=seed, kinds={kind: 1.0}))
    for i in range(count):
        if sys.stderr.isatty():
            print(f"\r{kind} {i + 1}/{count} ", end="", file=sys.stderr, flush=True)
        yield hands.sample(i)
    if sys.stderr.isatty():
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr)


class SyntheticValidation:
    """Figures of the averaged model on unseen synthetic pictures.

    Args:
        config: the run.
        board: a logger that is shown a picture of each kind with its joints.
    """

    def __init__(self, config: Any, board: Any = None) -> None:
        self.config, self.board = config, board
        self.samples: dict[str, list[Any]] = {}

    def __call__(self, model: Any) -> dict[str, float]:
        """Per kind of scene the root-relative error; "score" is their mean."""
        figures: dict[str, float] = {}
        for kind in SYNTHETIC_KINDS:
            if kind not in self.samples:
                self.samples[kind] = list(synthetic_samples(kind, self.config.validation))
            found = evaluate(model, self.samples[kind])
            figures[f"{kind}_mpjpe_mm"] = round(found["mpjpe_mm"], 3)
            figures[f"{kind}_pa_mpjpe_mm"] = round(found["pa_mpjpe_mm"], 3)
            figures[f"{kind}_error_2d_box"] = round(found["error_2d_box"], 4)
        figures["score"] = sum(figures[f"{kind}_mpjpe_mm"] for kind in SYNTHETIC_KINDS) / len(SYNTHETIC_KINDS)
        if self.board is not None:
            self.board.picture("validation/hands", self._sheet(model))
        return figures

    def _sheet(self, model: Any) -> Any:
        shown, joints = [], []
        chosen = [samples[0] for samples in self.samples.values()]
        for sample, _, last in look_at_samples(model, chosen, "joints", True, len(chosen)):
            sides = (0, 1) if sample.present.sum() > 1 else tuple(last) * 2
            shown.append(sample)
            joints.append(np.stack([last[side].joints_25d[:, :2] for side in sides]))
        return draw_validation(shown, joints)
