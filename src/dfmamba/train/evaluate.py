"""Figures of a model on labelled samples, each with what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch

from dfmamba.data.depth import encode_depth
from dfmamba.data.sample import HandSample
from dfmamba.hands.affine import square_box
from dfmamba.hands.camera import from_25d, scale_to_reference
from dfmamba.hands.crop import crop_sample
from dfmamba.hands.skeleton import REFERENCE_BONES_MM
from dfmamba.metrics import PROTOCOLS, HandMetrics
from dfmamba.models import HandPoseModel

BOX_FACTOR = 1.3
"""Side of the evaluation crop relative to the box of the labelled joints."""

PCK_FRACTION = 0.1

Box = Literal["joints", "picture"]


def evaluation_crop(sample: HandSample, size: int, box: Box = "joints") -> HandSample:
    """The crop that a model is measured on.

    Args:
        sample: with a picture or a depth map.
        size: side of the crop.
        box: "joints" cuts a square around the labelled joints, `BOX_FACTOR` times their box; "picture" takes
            the whole picture.
    """
    if sample.image is None:
        assert sample.depth_mm is not None
        sample = sample.replace(image=encode_depth(sample.depth_mm))
    assert sample.image is not None
    if box == "joints":
        square = square_box(sample.box_xyxy, BOX_FACTOR)
    else:
        height, width = sample.image.shape[:2]
        square = square_box(np.array([-0.5, -0.5, width - 0.5, height - 0.5]), 1.0)
    return crop_sample(sample, square, size)


def predict_crops(
    model: HandPoseModel, crops: Iterable[HandSample], batch: int = 32
) -> Iterator[dict[str, Any]]:
    """Runs the model and yields, for each crop, `crop`, `joints_25d` and `present`."""
    waiting: list[HandSample] = []

    def flush() -> Iterator[dict[str, Any]]:
        device = next(model.parameters()).device
        pictures = np.stack([c.image for c in waiting if c.image is not None])
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(255).to(device)
        with torch.inference_mode():
            out = model(x)
        joints = out.joints_25d.double().cpu().numpy()
        present = out.present_logits.sigmoid().double().cpu().numpy()
        for i, crop in enumerate(waiting):
            yield {"crop": crop, "joints_25d": joints[i], "present": present[i]}

    for crop in crops:
        waiting.append(crop)
        if len(waiting) == batch:
            yield from flush()
            waiting.clear()
    if waiting:
        yield from flush()


def evaluate(
    model: HandPoseModel, samples: Iterable[HandSample], box: Box = "joints", batch: int = 32
) -> dict[str, float]:
    """Errors of a model.

    A sample with one hand is scored with the hand that the model finds most likely, right or wrong side; a
    sample with two hands slot by slot.

    Args:
        model: in evaluation mode.
        samples: with cameras and 3D labels.
        box: see `evaluation_crop`.
        batch: crops per forward pass.

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
    size = model.config.image_size
    crops = (evaluation_crop(sample, size, box) for sample in samples)
    for item in predict_crops(model, crops, batch):
        crop, joints = item["crop"], item["joints_25d"]
        if crop.camera is None:
            raise ValueError(f"sample {crop.id!r} has no camera; 3D errors need one")
        if crop.present.sum() == 1:
            truth, guess = int(np.argmax(crop.present)), int(np.argmax(item["present"]))
            sides.append(truth == guess)
            joints = np.repeat(joints[guess][None], 2, axis=0)
        valid = crop.valid & crop.present[:, None]
        depth = np.where(crop.present, crop.joints_cam_mm[:, 0, 2].astype(np.float64), 1.0)
        seen = valid[None]
        truth_mm = crop.joints_cam_mm[None].astype(np.float64)
        presence = {"pred_present": item["present"][None] > 0.5, "gt_present": crop.present[None]}
        given.update(
            from_25d(joints, crop.camera, depth)[None], truth_mm, seen, crop.visible[None] & seen, **presence
        )
        unit = from_25d(joints, crop.camera, np.ones(2))
        sized = unit * scale_to_reference(unit, REFERENCE_BONES_MM)[:, None, None]
        reference.update(sized[None], truth_mm, seen)
        for hand in np.flatnonzero(crop.present):
            x0, y0, x1, y1 = crop.box_of(hand)
            side = max(float(x1 - x0), float(y1 - y0), 1e-6)
            off = np.linalg.norm(joints[hand, :, :2] - crop.joints_2d_px[hand], axis=-1) / side
            errors_2d.append(off[crop.valid[hand]])
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
