"""The scenes of the five settings: functions of (seed, index, kind, size), and what is behind them.

All are framed by the box of the labelled joints, as the data sets they mirror are cropped by labelled boxes.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from dfmamba.hands.camera import Camera
from dfmamba.synth import scenes
from dfmamba.synth.generator import Backdrop, Compose
from dfmamba.synth.mesh import SceneGeometry
from dfmamba.synth.scenes import Staged
from dfmamba.synth.staging import euler, frame, make_actor
from studies.synthhands5.settings import MARGIN, SETTINGS, known

VIEWS = {"front": 0.4, "up": 0.4, "ego": 0.2}
"""Shares of the views of single hands. Unlike the generator's own mixture it has no uniformly random
rotations: the data sets that are mirrored don't show hands upside down either."""
_STUDIO_TURN = np.array([0.25, 0.35, 0.2])
_FRONTAL = ("front", "up")


def _view(rng: np.random.Generator) -> str:
    return str(rng.choice(list(VIEWS), p=list(VIEWS.values())))


def _two(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    """Two interacting hands before cameras on the person's own side, forearms from below."""
    actors, notes = scenes.pair(geometry, clutter, scenes.PAIR_MODES)
    actors = scenes.turned_pair(view, actors, lambda rng: euler(*(_STUDIO_TURN * rng.normal(size=3))))
    actors, camera = frame(view, actors, size, (350.0, 1000.0))
    return actors, camera, [], notes


def _single(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    left = bool(geometry.random() < 0.5)
    actor, notes = scenes.viewed(view, make_actor(geometry, clutter), left, _view(view))
    actors, camera = frame(view, [actor], size, (250.0, 1000.0))
    return actors, camera, [], notes


def _depth(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    """A right hand before a depth camera, as NYU's are."""
    name = _FRONTAL[int(view.integers(len(_FRONTAL)))]
    actor, notes = scenes.viewed(view, make_actor(geometry, clutter), False, name)
    actors, camera = frame(view, [actor], size, (400.0, 1000.0))
    return actors, camera, [], notes


def _object(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    left = bool(geometry.random() < 0.5)
    actor, _ = scenes.hand_holding(geometry, clutter)
    actor, notes = scenes.viewed(view, actor, left, _view(view))
    actors, camera = frame(view, [actor], size, (250.0, 1000.0))
    return actors, camera, [], notes


def _ego(
    geometry: np.random.Generator, view: np.random.Generator, clutter: np.random.Generator, size: int
) -> Staged:
    """Two hands from above their owner's shoulders, one of which holds something."""
    actors, notes = scenes.pair(geometry, clutter, ("touch", "near", "apart"), True)
    actors = scenes.turned_pair(view, actors, scenes.ego_turn)
    actors, camera = frame(view, actors, size, (300.0, 650.0))
    return actors, camera, [], notes


_STAGES = {"two": _two, "distractors": _single, "depth": _depth, "object": _object, "ego": _ego}
_BODIES = {"two": 0.0, "distractors": 1.0, "depth": 0.25, "object": 0.25, "ego": 0.12}
"""How often there is a trunk, a head or an arm behind."""


def close_up(camera: Camera, joints_mm: np.ndarray, size: int, margin: float) -> Camera:
    """The camera of a square picture of the same view, centred on the joints.

    Args:
        camera: intrinsics.
        joints_mm: (N, 3) in the camera frame.
        size: side of the picture in pixels, before and after.
        margin: its side relative to the box of the joints.
    """
    pixels = camera.project(joints_mm)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    zoom = size / (margin * float((high - low).max()))
    middle = (size - 1) / 2
    u, v = (low + high) / 2
    return Camera(
        camera.fx * zoom, camera.fy * zoom, middle + zoom * (camera.cx - u), middle + zoom * (camera.cy - v)
    )


def _framed(
    name: str,
    geometry: np.random.Generator,
    view: np.random.Generator,
    clutter: np.random.Generator,
    size: int,
) -> Staged:
    actors, camera, extra, notes = _STAGES[name](geometry, view, clutter, size)
    joints = np.concatenate([actor.joints for actor in actors])
    return actors, close_up(camera, joints, size, MARGIN), extra, notes


def _compose(name: str, seed: int, index: int, kind: str, size: int) -> SceneGeometry:
    return scenes.staged(partial(_framed, name), _BODIES[name], seed, index, SETTINGS[name].kind, size)


def studio(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) uint8: an even, dim wall with a little noise, as in a capture studio."""
    colour = rng.uniform(10.0, 110.0) * (1.0 + 0.06 * rng.normal(size=3))
    wall = colour + 2.0 * rng.normal(size=(size, size, 1))
    return np.clip(np.rint(wall), 0, 255).astype(np.uint8)


def scene_makers(name: str) -> tuple[Compose, Backdrop | None]:
    """What the generator needs for a setting: geometry, and what is behind (None: its own backgrounds).

    Raises:
        ValueError: unknown setting.
    """
    known(name, SETTINGS, "setting")
    return partial(_compose, name), (studio if name == "two" else None)
