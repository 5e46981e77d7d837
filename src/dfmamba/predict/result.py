"""What is predicted for one picture, and its JSON form."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dfmamba.draw.sheet import draw_prediction
from dfmamba.hands.camera import Camera
from dfmamba.hands.fit import HandFit
from dfmamba.hands.skeleton import JOINT_NAMES, NUM_JOINTS
from dfmamba.io.files import write_atomic
from dfmamba.io.images import as_picture, load_image
from dfmamba.text import format_json

SCHEMA = "dfmamba.prediction/1"
LIST_SCHEMA = "dfmamba.predictions/1"
"""Of a file with the predictions of many pictures, `dfmamba predict --json`."""

SIDES = ("right", "left")
ROOTS = ("wrist", "camera")
SCALE = "reference hand"
"""The only scale there is: millimetres are right for a hand of mean adult size."""

_DECIMALS = {"score": 4, "joint_scores": 4, "box_xyxy": 2, "joints_2d_px": 2, "joints_3d_mm": 2}
_SHAPES: dict[str, tuple[int, ...]] = {
    "box_xyxy": (4,),
    "joints_2d_px": (NUM_JOINTS, 2),
    "joints_3d_mm": (NUM_JOINTS, 3),
    "joint_scores": (NUM_JOINTS,),
}
_HAND_KEYS = (
    *("side", "score", "track", "box_xyxy", "joints_2d_px", "joints_3d_mm"),
    *("root", "scale", "joint_scores"),
)
_KEYS = ("schema", "model", "image", "size", "camera", "mirrored", "scale", "joint_names", "hands")


@dataclass(frozen=True, eq=False)
class Hand:
    """One hand. Joints are in OpenPose order (`dfmamba.hands.skeleton.JOINT_NAMES`).

    Attributes:
        side: "right" or "left", anatomical.
        score: probability that the hand is there, 0..1.
        box_xyxy: (4,) pixels, the joints' box with a margin, clipped to the picture.
        joints_2d_px: (21, 2) pixels of the picture, pixel centres at integers; may lie outside of it.
        joints_3d_mm: (21, 3) mm, x right, y down, z forward. Origin: `root`.
        joint_scores: (21,) probability that a joint's 2D error is below 10 % of the hand's box, 0..1.
        root: "wrist" (3D joints relative to the wrist; no camera was given) or "camera" (camera frame).
        scale: "reference hand": the bones have the size of a mean adult hand, whatever the true size is.
        track: number of the hand in a film, the same in all its pictures; None for single pictures.
        fit: angles, shape and place of the hand model that fits the 3D joints; None where nobody asked for it
            (`dfmamba.predict.surface`).

    Raises:
        ValueError: if a value has another shape, is not finite or out of its range.
    """

    side: str
    score: float
    box_xyxy: np.ndarray
    joints_2d_px: np.ndarray
    joints_3d_mm: np.ndarray
    joint_scores: np.ndarray
    root: str = "wrist"
    scale: str = SCALE
    track: int | None = None
    fit: HandFit | None = None

    def __post_init__(self) -> None:
        if not (self.track is None or (type(self.track) is int and self.track >= 0)):
            raise ValueError(f"track: expected a whole number from 0 or None, got {self.track!r}")
        _one_of("side", self.side, SIDES)
        _one_of("root", self.root, ROOTS)
        _one_of("scale", self.scale, (SCALE,))
        object.__setattr__(self, "score", _probability("score", self.score))
        for name, shape in _SHAPES.items():
            object.__setattr__(self, name, _numbers(name, getattr(self, name), shape))
        if self.joint_scores.min() < 0 or self.joint_scores.max() > 1:
            raise ValueError("joint_scores: expected values from 0 to 1")
        x0, y0, x1, y1 = self.box_xyxy
        if x1 < x0 or y1 < y0:
            raise ValueError(f"box_xyxy: expected x0 <= x1 and y0 <= y1, got {self.box_xyxy.tolist()}")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, rounded to 0.01 pixel and 0.01 mm."""
        values = {name: getattr(self, name) for name in _HAND_KEYS}
        for name, decimals in _DECIMALS.items():
            # Adding 0.0 turns -0.0 into 0.0.
            values[name] = (np.round(np.asarray(values[name], dtype=np.float64), decimals) + 0.0).tolist()
        return values if self.fit is None else values | {"fit": self.fit.to_dict()}

    def vertices_mm(self) -> np.ndarray:
        """The hand's surface, (V, 3) mm in the frame of `joints_3d_mm`; its faces are the hand model's.

        Raises:
            ValueError: the hand has no fit.
        """
        if self.fit is None:
            raise ValueError("vertices_mm: the hand has no fit; see dfmamba.predict.surface.with_surface")
        return self.fit.posed(self.side).vertices[0]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Hand:
        """The inverse of `to_dict`.

        Raises:
            ValueError: if keys are missing or unknown, or a value is not usable.
        """
        _check_keys("hand", data, _HAND_KEYS, optional=("fit",))
        fit = HandFit.from_dict(data["fit"]) if "fit" in data else None
        return cls(**{name: data[name] for name in _HAND_KEYS}, fit=fit)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The hands found in one picture.

    Attributes:
        hands: right hands first, then left ones, each by falling score.
        image_size: width and height of the picture in pixels.
        camera: the intrinsics that were given, those of the picture as it was given; None without.
        model: name of the model.
        image: the picture's path; None for a picture that came from memory.
        seconds: time the prediction took, reading the picture included; None where unknown. Not in the JSON.
        mirrored: whether the picture was declared a mirror image (a selfie camera's). Then `joints_2d_px`
            and `box_xyxy` lie on the picture as given, while `side` and `joints_3d_mm` are those of the real
            hand, as the unmirrored picture shows it.
    """

    hands: tuple[Hand, ...]
    image_size: tuple[int, int]
    camera: Camera | None = None
    model: str = ""
    image: str | None = None
    seconds: float | None = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hands", tuple(self.hands))
        width, height = self.image_size
        if width < 1 or height < 1:
            raise ValueError(f"image_size: expected width and height of at least 1, got {self.image_size}")
        if self.image is not None:
            object.__setattr__(self, "image", os.fspath(self.image))

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file: plain lists and numbers, rounded to 0.01 pixel and 0.01 mm."""
        camera = self.camera
        return {
            "schema": SCHEMA,
            "model": self.model,
            "image": self.image,
            "size": list(self.image_size),
            "camera": None if camera is None else dataclasses.asdict(camera),
            "mirrored": self.mirrored,
            "scale": SCALE,
            "joint_names": list(JOINT_NAMES),
            "hands": [hand.to_dict() for hand in self.hands],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON, one joint a line."""
        return format_json(self.to_dict())

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to a file, whole or not at all.

        Raises:
            OSError: if it cannot be written.
        """
        write_atomic(path, self.to_json().encode())

    def plot(self, picture: str | os.PathLike[str] | Image.Image | np.ndarray | None = None) -> Image.Image:
        """The picture with its hands drawn over it, and views of them in space beside it.

        Args:
            picture: what was predicted, as it was given; None reads it from where `image` says.

        Returns:
            An RGB picture.

        Raises:
            OSError: the picture can't be read.
            ValueError: it is not usable, or of another size; or it is None and came from memory.
        """
        picture = self.image if picture is None else picture
        if picture is None:
            raise ValueError("plot: the prediction knows no file of its picture; give the picture")
        pixels = load_image(picture) if isinstance(picture, str | os.PathLike) else as_picture(picture)
        return draw_prediction(pixels, self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prediction:
        """The inverse of `to_dict`.

        Raises:
            ValueError: if the schema is another one, keys are missing or unknown, or a value is not usable.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            schema = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise ValueError(f"prediction: expected the schema {SCHEMA!r}, got {schema!r}")
        _check_keys("prediction", data, _KEYS)
        _one_of("scale", data["scale"], (SCALE,))
        if data["joint_names"] != list(JOINT_NAMES):
            raise ValueError(
                "joint_names: expected the names and order of dfmamba.hands.skeleton.JOINT_NAMES"
            )
        if not isinstance(data["hands"], list):
            raise ValueError("hands: expected a list")
        size = data["size"]
        if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
            raise ValueError(f"size: expected [width, height] in pixels, got {size!r}")
        for name, kinds in (("model", str), ("image", (str, type(None))), ("mirrored", bool)):
            if not isinstance(data[name], kinds):
                raise ValueError(f"{name}: unexpected value {data[name]!r}")
        return cls(
            hands=tuple(Hand.from_dict(hand) for hand in data["hands"]),
            image_size=(size[0], size[1]),
            camera=_camera(data["camera"]),
            model=data["model"],
            image=data["image"],
            mirrored=data["mirrored"],
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Prediction:
        """The inverse of `to_json`.

        Raises:
            ValueError: if the text is no JSON, or not that of a prediction.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"prediction: not JSON ({error})") from None
        return cls.from_dict(data)

    @classmethod
    def load_json(cls, path: str | os.PathLike[str]) -> Prediction:
        """Read a file that `save_json` wrote.

        Raises:
            OSError: if the file cannot be read.
            ValueError: if its content is not a prediction; the message names the file.
        """
        content = Path(path).read_bytes()
        try:
            return cls.from_json(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, known))}, got {value!r}")


def _check_keys(what: str, data: Any, known: Sequence[str], optional: Sequence[str] = ()) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{what}: expected an object, got {type(data).__name__}")
    missing, unknown = set(known) - set(data), set(data) - {*known, *optional}
    if missing or unknown:
        raise ValueError(f"{what}: missing keys {sorted(missing)}, unknown keys {sorted(map(str, unknown))}")


def _numbers(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.array(values)
    except ValueError:  # a ragged list
        array = np.array(None)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected an array of numbers of shape {shape}")
    array = array.astype(np.float64)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: values must be finite")
    array.setflags(write=False)
    return array


def _probability(name: str, value: Any) -> float:
    number = float(_numbers(name, value, ()))
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a value from 0 to 1, got {number}")
    return number


def _camera(data: Any) -> Camera | None:
    if data is None:
        return None
    _check_keys("camera", data, ("fx", "fy", "cx", "cy"))
    return Camera(**{name: float(_numbers(f"camera {name}", value, ())) for name, value in data.items()})
