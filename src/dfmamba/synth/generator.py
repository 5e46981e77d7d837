"""Synthetic hands with exact labels, one sample per index, made on the fly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.data.kinds import SYNTHETIC_KINDS
from dfmamba.data.sample import HandSample, encode_depth
from dfmamba.hands.affine import box_of_points
from dfmamba.synth import post, raster
from dfmamba.synth.appearance import SKIN_RAMP_SRGB, sample_lights, sample_palettes
from dfmamba.synth.background import sample_background
from dfmamba.synth.mesh import SKIN, SceneGeometry
from dfmamba.synth.post import visible_joints

_CHOICE, _APPEARANCE, _LIGHT, _BACKGROUND, _POST, _DEPTH, _TEXTURE = range(100, 107)
_DEPTH_SCENES = ("single", "two", "object")

Compose = Callable[[int, int, str, int], SceneGeometry]
Backdrop = Callable[[np.random.Generator, int], np.ndarray]
"""Draws (size, size, 3) uint8 sRGB to put behind a scene."""


@dataclass(frozen=True)
class SyntheticConfig:
    """What to generate.

    Attributes:
        size: side of the square pictures in pixels.
        seed: of everything; a sample depends on the seed, its index and the rest of this configuration
        only.
        kinds: weight of each kind of scene: "single", "two", "object", "ego", "depth" (a depth camera's
            view of a single, two or object scene), "sign" (one hand whose thumb holds folded fingers, as in
            counting and finger spelling, or that is stretched).
        supersample: rendered sub-pixels per pixel side.
        backgrounds: folder of photos used behind half of the scenes; None for drawn backgrounds only.
        effects: camera and compression effects on the picture.
        depth_noise: sensor noise, holes and a surface behind in "depth" samples.
        depth_image: "depth" samples keep their picture.

    Raises:
        ValueError: a size or supersample below 1, an unknown kind, or no positive weight.
    """

    size: int = 128
    seed: int = 0
    kinds: Mapping[str, float] = field(
        default_factory=lambda: {"single": 0.6, "two": 0.2, "object": 0.15, "ego": 0.05}
    )
    supersample: int = 2
    backgrounds: str | None = None
    effects: bool = True
    depth_noise: bool = True
    depth_image: bool = False

    def __post_init__(self) -> None:
        if self.size < 16 or self.supersample < 1:
            raise ValueError(
                f"got size {self.size} and supersample {self.supersample}; expected >= 16 and >= 1"
            )
        unknown = sorted(set(self.kinds) - set(SYNTHETIC_KINDS))
        if unknown:
            raise ValueError(f"unknown kinds {unknown}; expected some of {list(SYNTHETIC_KINDS)}")
        if any(weight < 0 for weight in self.kinds.values()) or sum(self.kinds.values()) <= 0:
            raise ValueError(f"got kinds {dict(self.kinds)}; expected weights of at least 0 and one above 0")
        if self.backgrounds is not None and not Path(self.backgrounds).is_dir():
            raise ValueError(
                f"backgrounds is {self.backgrounds!r}, which is no folder; give a folder of photos"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a JSON file."""
        return {**dataclasses.asdict(self), "kinds": {k: float(v) for k, v in self.kinds.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SyntheticConfig:
        """The configuration of `to_dict`.

        Raises:
            ValueError: unknown keys.
        """
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown keys {unknown} in a synthetic configuration; remove them")
        return cls(**values)


@dataclass(frozen=True)
class Layers:
    """A sample and the foreground it was composed from.

    Attributes:
        sample: the finished sample.
        foreground: (S, S, 4) uint8, sRGB and coverage, exposed, before any effect; of a "depth" sample the
            encoded depth map (`dfmamba.data.sample.encode_depth`), covered everywhere.
    """

    sample: HandSample
    foreground: np.ndarray


class SyntheticHands:
    """Generator of labelled pictures of hands.

    Geometry, appearance, light, background and effects draw from separate random streams, so that changing
    one leaves the others as they were. Rendering runs on the CPU in the calling process; use worker
    processes for more cores.
    """

    def __init__(
        self,
        config: SyntheticConfig | None = None,
        compose: Compose | None = None,
        backdrop: Backdrop | None = None,
        device: str = "cpu",
    ) -> None:
        """Prepares the generator.

        Args:
            config: what to generate.
            compose: makes the geometry from (seed, index, kind, size); by default
                `dfmamba.synth.scenes.compose`.
            backdrop: draws what is behind; by default `dfmamba.synth.background.sample_background`.
            device: of Warp, "cpu" or one such as "cuda:0"; there pictures differ in rounding.

        Raises:
            ImportError: Warp is not installed.
        """
        self.config = config or SyntheticConfig()
        if compose is None:
            from dfmamba.synth import scenes

            compose = scenes.compose
        self._compose: Compose = compose
        self._backdrop, self._device = backdrop, device
        raster.load_kernels()

    def __getitem__(self, index: int) -> HandSample:
        return self.sample(index)

    def sample(self, index: int) -> HandSample:
        """The sample of an index (any integer from 0 on)."""
        return self.layers(index).sample

    def kind_of(self, index: int) -> str:
        """Kind of the sample of an index, without rendering it."""
        kinds = self.config.kinds
        weights = np.array(list(kinds.values()), dtype=np.float64)
        return str(self._rng(index, _CHOICE).choice(list(kinds), p=weights / weights.sum()))

    def layers(self, index: int, picture: bool = True) -> Layers:
        """The sample of an index together with its foreground.

        Args:
            index: which sample.
            picture: compose the finished picture; without it the sample's image is None, which saves time.

        Raises:
            ValueError: a negative index.
        """
        if index < 0:
            raise ValueError(f"index is {index}; expected at least 0")
        config = self.config
        kind = self.kind_of(index)
        scene_kind = kind
        if kind == "depth":
            scene_kind = str(self._rng(index, _DEPTH, 1).choice(_DEPTH_SCENES))
        scene = self._compose(config.seed, index, scene_kind, config.size)
        palettes = sample_palettes(scene.parts, (config.seed, index, _APPEARANCE))
        rendering = raster.render(
            scene.parts,
            scene.camera,
            config.size,
            sample_lights(self._rng(index, _LIGHT)),
            palettes,
            int(self._rng(index, _TEXTURE).integers(2**31 - 1)),
            config.supersample,
            self._device,
        )
        rng = self._rng(index, _POST)
        foreground = post.expose(rendering, rng)
        image = None
        if picture and (kind != "depth" or config.depth_image):
            tones = [
                p.colours[0] for part, p in zip(scene.parts, palettes, strict=True) if part.material == SKIN
            ]
            tone = post.encode_srgb(tones[0]) if tones else SKIN_RAMP_SRGB[3]
            behind_rng = self._rng(index, _BACKGROUND)
            if self._backdrop is None:
                behind = sample_background(behind_rng, config.size, config.backgrounds, tone)
            else:
                behind = self._backdrop(behind_rng, config.size)
            image = post.recompose(foreground, behind)
            if config.effects:
                image = post.finish(image, rng)
        depth = rendering.depth_mm
        if kind == "depth" and config.depth_noise:
            depth = post.sense_depth(depth, self._rng(index, _DEPTH))
        if kind == "depth":
            foreground = np.dstack((encode_depth(depth), np.full(depth.shape, 255, np.uint8)))
        return Layers(self._label(index, kind, scene, rendering, image, depth), foreground)

    def _rng(self, index: int, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, index, *stream])

    def _label(
        self,
        index: int,
        kind: str,
        scene: SceneGeometry,
        rendering: raster.Rendering,
        picture: np.ndarray | None,
        depth: np.ndarray,
    ) -> HandSample:
        present = np.asarray(scene.present, dtype=bool)
        joints = np.asarray(scene.joints_cam_mm, dtype=np.float32)
        pixels = np.zeros((2, 21, 2), dtype=np.float32)
        pixels[present] = scene.camera.project(joints[present].astype(np.float64))
        valid = np.repeat(present[:, None], 21, axis=1)
        return HandSample(
            image=picture,
            joints_2d_px=pixels,
            joints_cam_mm=joints,
            valid=valid,
            visible=visible_joints(pixels, joints, present, rendering.depth_mm, rendering.instance),
            present=present,
            camera=scene.camera,
            box_xyxy=box_of_points(pixels.reshape(-1, 2), valid.reshape(-1)),
            mask=rendering.instance,
            depth_mm=depth,
            id=f"{self.config.seed}-{index}",
            kind=kind,
        )
