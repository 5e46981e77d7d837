"""Recordings for Rerun (rerun.io): the picture with boxes and joints, and the hands in space.

Entities, millimetres, x right, y down, z forward ("RDF"):

* `camera/picture` with `boxes`, `bones` and `joints` below it: what is seen, with a pinhole at `camera` for
  predictions that had intrinsics;
* `hands/bones` and `hands/joints`: the hands in the camera frame; relative to their wrists, and moved apart,
  where no intrinsics were given; `hands/surface`: that of hands with a fit.

Time lines: `picture` (number) and, for films, `time`. Rerun counts pixel corners, so pixels are 0.5 larger
than ours. A mirrored picture is turned back, so that it shows the hands that are in space.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from dfmamba.draw.canvas import BONE_COLORS, SIDE_COLORS, joint_color
from dfmamba.draw.surface import HAND_COLORS
from dfmamba.extras import need
from dfmamba.formats.rig import side_by_side_mm, textured_faces
from dfmamba.hands.camera import Camera
from dfmamba.hands.model import vertex_normals
from dfmamba.hands.skeleton import BONES, NUM_JOINTS
from dfmamba.predict.lift import mirror_box, mirror_points
from dfmamba.predict.result import Prediction

APPLICATION = "dfmamba"
JPEG_QUALITY = 85
PLANE_MM = 150.0
"""Distance from the camera at which its picture is shown in space."""

BONE_MM, JOINT_MM = 2.5, 4.0
BONE_PX, JOINT_PX = 1.5, 3.0


class RerunViewer:
    """A recording.

    Args:
        path: of the file; None opens Rerun's window instead.

    Raises:
        ImportError: rerun-sdk isn't installed.
        OSError: the file can't be written, or the window can't be opened.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        (self.rr,) = need("viewer", "rerun")
        self.has_surface = False
        self.recording = self.rr.RecordingStream(APPLICATION)
        where = "its window" if path is None else str(path)
        try:
            if path is None:
                self.recording.spawn()
            else:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self.recording.save(str(path))
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise OSError(f"{where}: Rerun can't write there ({reason})") from None
        self.recording.log("/", self.rr.ViewCoordinates.RDF, static=True)

    def log(self, index: int, time_s: float | None, picture: np.ndarray, prediction: Prediction) -> None:
        """See `dfmamba.view.Viewer.log`."""
        rr, recording = self.rr, self.recording
        recording.set_time("picture", sequence=index)
        if time_s is not None:
            recording.set_time("time", duration=time_s)
        else:
            recording.disable_timeline("time")
        mirrored = prediction.mirrored
        shown = np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture
        self._log_camera(prediction)
        recording.log("camera/picture", rr.Image(shown).compress(jpeg_quality=JPEG_QUALITY))
        width = prediction.image_size[0]
        hands = prediction.hands
        pixels = [mirror_points(h.joints_2d_px, width) if mirrored else h.joints_2d_px for h in hands]
        boxes = [mirror_box(h.box_xyxy, width) if mirrored else h.box_xyxy for h in hands]
        labels = [
            f"{hand.side} {hand.score:.2f}" + ("" if hand.track is None else f" #{hand.track}")
            for hand in hands
        ]
        recording.log(
            "camera/picture/boxes",
            rr.Boxes2D(
                array=np.reshape(boxes, (-1, 4)) + 0.5,
                array_format=rr.Box2DFormat.XYXY,
                labels=labels,
                colors=[SIDE_COLORS[hand.side] for hand in hands],
            ),
        )
        corners = np.reshape(pixels, (-1, NUM_JOINTS, 2)) + 0.5
        places = side_by_side_mm(prediction)
        space = np.reshape([h.joints_3d_mm for h in hands], (-1, NUM_JOINTS, 3)) + places[:, None]
        self._log_hands("camera/picture", corners, rr.LineStrips2D, rr.Points2D, BONE_PX, JOINT_PX)
        self._log_hands("hands", space, rr.LineStrips3D, rr.Points3D, BONE_MM, JOINT_MM)
        self._log_surfaces(prediction, places)

    def close(self) -> None:
        """See `dfmamba.view.Viewer.close`."""
        self.recording.flush()
        self.recording.disconnect()

    def _log_camera(self, prediction: Prediction) -> None:
        """The pinhole of what is shown; none without intrinsics."""
        rr, camera = self.rr, prediction.camera
        if camera is None:
            self.recording.log("camera", rr.Clear(recursive=False))
            return
        width, height = prediction.image_size
        if prediction.mirrored:
            camera = Camera(camera.fx, camera.fy, width - 1 - camera.cx, camera.cy)
        pinhole = rr.Pinhole(
            focal_length=[camera.fx, camera.fy],
            principal_point=[camera.cx + 0.5, camera.cy + 0.5],
            width=width,
            height=height,
            camera_xyz=rr.ViewCoordinates.RDF,
            image_plane_distance=PLANE_MM,
        )
        self.recording.log("camera", pinhole)

    def _log_surfaces(self, prediction: Prediction, places: np.ndarray) -> None:
        """The surfaces of hands with a fit as one mesh; none clears what was there."""
        shown = [(h, place) for h, place in zip(prediction.hands, places, strict=True) if h.fit is not None]
        if not shown:
            if self.has_surface:
                self.recording.log("hands/surface", self.rr.Clear(recursive=False))
            self.has_surface = False
            return
        self.has_surface = True
        vertices: list[np.ndarray] = []
        faces, colors, normals = [], [], []
        for hand, place in shown:
            points, triangles = hand.vertices_mm() + place, textured_faces(hand.side)[0]
            faces.append(triangles + sum(len(before) for before in vertices))
            vertices.append(points)
            normals.append(vertex_normals(points, triangles))
            colors.append(np.tile(HAND_COLORS[hand.side], (len(points), 1)))
        mesh = self.rr.Mesh3D(
            vertex_positions=np.concatenate(vertices),
            triangle_indices=np.concatenate(faces),
            vertex_normals=np.concatenate(normals),
            vertex_colors=np.concatenate(colors).astype(np.uint8),
        )
        self.recording.log("hands/surface", mesh)

    def _log_hands(
        self, entity: str, joints: np.ndarray, lines: Any, points: Any, thin: float, thick: float
    ) -> None:
        """Joints (N, 21, 2) or (N, 21, 3) of all hands; none clears what was there."""
        parents, children = np.array(BONES).T
        strips = np.stack([joints[:, parents], joints[:, children]], axis=2)
        strips = strips.reshape(-1, 2, joints.shape[-1])
        colors = [joint_color(joint) for joint in range(NUM_JOINTS)] * len(joints)
        self.recording.log(
            f"{entity}/bones", lines(strips, colors=list(BONE_COLORS) * len(joints), radii=thin)
        )
        flat = joints.reshape(-1, joints.shape[-1])
        self.recording.log(f"{entity}/joints", points(flat, colors=colors, radii=thick))
