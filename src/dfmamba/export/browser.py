"""A folder with a page that finds hands in the browser: static files, nothing is sent anywhere.

The page's modules are in `web/`, one for each Python module that they follow; what both need is handed over
as `settings.json`.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dfmamba.detect import decode, network, suppress
from dfmamba.detect.build import BUILT_IN, NONE
from dfmamba.draw.canvas import SIDE_COLORS
from dfmamba.export.formats import ExportConfig
from dfmamba.export.subject import Subject
from dfmamba.export.write import Report, export
from dfmamba.hands.skeleton import BONES, FINGER_COLORS_RGB, FINGERS, JOINT_NAMES, REFERENCE_BONES_MM
from dfmamba.hands.upright import CLOSE_FACTOR
from dfmamba.io.files import write_atomic
from dfmamba.layers import fuse
from dfmamba.models import HandPoseModel, load
from dfmamba.models.onnx_model import SCHEMA
from dfmamba.predict import lift, looking, result, track

WEB = Path(__file__).parent / "web"
VIEW = Path(__file__).parents[1] / "app" / "static" / "view3d.js"
"""The 3D view, which the app's page has, too."""

EXAMPLES = Path(__file__).parents[1] / "app" / "static" / "examples"
"""Pictures to try, which the app's page has, too."""

POSE_FILE, DETECTOR_FILE, SETTINGS_FILE, RUNTIME_FOLDER = "pose.onnx", "detector.onnx", "settings.json", "ort"

RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What the page needs of onnxruntime-web's `dist`: the CPU build with SIMD and threads."""

GET_RUNTIME = "npm install onnxruntime-web, then --runtime node_modules/onnxruntime-web/dist"

FIND_AGAIN_S, FIND_SHARE, SEARCH_S = 1.0, 0.2, 0.1
"""A film's hands are looked for anew after so many seconds, but in no more than this share of the time;
between, each is followed by one upright view. While one is missing, seconds between two searches."""

LOOKING = (
    *("FIRST_LOOK", "OWN_IOU", "UNION_IOU", "NEAR_ENOUGH", "AIM_FACTOR", "SAME_HAND"),
    *("SURE_SIDE", "EXCHANGE"),
)
"""Constants of `dfmamba.predict.looking` that `web/looking.js` uses."""

BATCH_SIZE = 16
RUNTIME_LICENSE = """\
The files in this folder are of onnxruntime-web {version}, which is under the following licence.

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


class _MapTensor(nn.Module):
    """A detector with a plain tuple as output."""

    def __init__(self, model: HandPoseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.model(image),)


def find_detector(name: str | None) -> HandPoseModel | None:
    """The detector of `--detector`: "built-in" (also for None), "none", or a folder.

    Raises:
        ValueError, OSError: see `dfmamba.models.load`.
    """
    if name == NONE:
        return None
    return load(network.NAME if name is None or name == BUILT_IN else name)


def detector_subject(model: HandPoseModel) -> Subject:
    """A detector of hands; its output is the map of `dfmamba.heads.detector.DetectorHead`.

    Raises:
        ValueError: the model is none.
    """
    config = model.config
    if not config.detects or config.in_chans != 3:
        raise ValueError(f"--detector {config.name}: is no detector of hands in colour pictures")
    original = _MapTensor(model.eval())
    metadata = {
        "schema": SCHEMA,
        "model": config.name,
        "kind": "hand detector",
        "image_size": str(config.image_size),
        "license": config.license,
        "config": json.dumps(config.to_dict()),
    }
    size, channels = config.image_size, config.in_chans
    return Subject(config.name, fuse(original), original, size, channels, ("map",), metadata)


def detector_settings(model: HandPoseModel) -> dict[str, Any]:
    """What `web/detect.js` needs to know of a detector."""
    return {
        "file": DETECTOR_FILE,
        "size": model.config.image_size,
        "stride": int(model.head.stride),  # type: ignore[arg-type]
        "least": decode.LEAST_SCORE,
        "most": decode.MOST,
        "most_sure": decode.MOST_SURE,
        "iou": inspect.signature(suppress).parameters["most_iou"].default,
        "worth": network.WORTH,
        "most_again": network.MOST_AGAIN,
        "again_factor": network.AGAIN_FACTOR,
        "same": network.SAME,
        "unseen": network.UNSEEN,
    }


def settings(subject: Subject) -> dict[str, Any]:
    """What the page's modules need to know of the Python code: names, bones, thresholds.

    Args:
        subject: a pose model of RGB pictures.

    Raises:
        ValueError: if the subject is not such a model.
    """
    if subject.pose is None or subject.in_chans != 3:
        raise ValueError(f"{subject.name}: the browser's page needs a pose model for colour pictures")
    colors = FINGER_COLORS_RGB
    joint_colors = [colors["wrist"], *(colors[finger] for finger in FINGERS for _ in range(4))]
    return {
        "schema": result.SCHEMA,
        "scale": result.SCALE,
        "model": subject.name,
        "license": subject.metadata["license"],
        "image_size": subject.size,
        "batch_size": BATCH_SIZE,
        "pose": {"file": POSE_FILE},
        "detector": None,
        "joint_names": list(JOINT_NAMES),
        "bones": [list(bone) for bone in BONES],
        "reference_bones_mm": REFERENCE_BONES_MM.tolist(),
        "joint_colors": [_hex(color) for color in joint_colors],
        "side_colors": {side: _hex(color) for side, color in SIDE_COLORS.items()},
        **{name: getattr(looking, name) for name in LOOKING},
        "CLOSE_FACTOR": CLOSE_FACTOR,
        "HAND_MARGIN": lift.HAND_MARGIN,
        "COLLAPSED": track.COLLAPSED,
        "NEAR": track.NEAR,
        "FIND_AGAIN_S": FIND_AGAIN_S,
        "FIND_SHARE": FIND_SHARE,
        "SEARCH_S": SEARCH_S,
    }


def check_runtime(runtime: str | Path | None) -> Path:
    """The folder of onnxruntime-web's files.

    Raises:
        ValueError: none was named.
        OSError: a file that the page needs is not there; the message says how to get it.
    """
    if runtime is None:
        raise ValueError(f"--runtime is missing: the browser's page needs onnxruntime-web; {GET_RUNTIME}")
    folder = Path(runtime)
    missing = [name for name in RUNTIME_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"--runtime {folder}: has no {', '.join(missing)}; {GET_RUNTIME}")
    return folder


def export_page(
    subject: Subject,
    folder: str | Path,
    runtime: str | Path | None,
    config: ExportConfig | None = None,
    pictures: list[str] | None = None,
    detector: HandPoseModel | None = None,
) -> Report:
    """Write the page and all that it needs into a folder, for any static web server.

    Args:
        subject: a pose model of RGB pictures.
        folder: made if missing; files of the same names are replaced.
        runtime: folder with onnxruntime-web's files, `dist` of the npm package.
        config: of the ONNX files; the batch size must be left open.
        pictures: for the check, see `dfmamba.export.export`.
        detector: finds the hands; without one the pose model looks at the whole picture.

    Returns:
        The folder, the bytes of all files and the pose model's differences to PyTorch.

    Raises:
        ImportError: a library of the extra `export` is missing.
        OSError: onnxruntime-web's files are not there, or something can't be read or written.
        ValueError: the subject is not a pose model for colour pictures, or its export differs too much.
    """
    source, folder, config = check_runtime(runtime), Path(folder), config or ExportConfig()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is a file, name a folder")
    if config.batch is not None:
        raise ValueError(f"--batch {config.batch}: the browser's page needs 'dynamic'")
    facts = settings(subject)
    report = export(subject, folder / POSE_FILE, config, pictures)
    facts["pose"]["bytes"] = report.size
    if detector is not None:
        found = export(detector_subject(detector), folder / DETECTOR_FILE, config, pictures)
        facts["detector"] = {**detector_settings(detector), "bytes": found.size}
    try:
        write_atomic(folder / SETTINGS_FILE, json.dumps(facts, indent=1).encode())
        for module in page_files():
            shutil.copyfile(module, folder / module.name)
        (folder / RUNTIME_FOLDER).mkdir(exist_ok=True)
        for name in RUNTIME_FILES:
            shutil.copyfile(source / name, folder / RUNTIME_FOLDER / name)
        (folder / EXAMPLES.name).mkdir(exist_ok=True)
        for picture in sorted(EXAMPLES.glob("*.jpg")):
            shutil.copyfile(picture, folder / EXAMPLES.name / picture.name)
        write_atomic(folder / "LICENSES.txt", licenses(subject, detector).encode())
        text = RUNTIME_LICENSE.format(version=_version(source))
        write_atomic(folder / RUNTIME_FOLDER / "LICENSE", text.encode())
    except OSError as error:
        raise OSError(f"{folder}: cannot write the page ({error.strerror or error})") from error
    written = [path for path in folder.rglob("*") if path.is_file()]
    return Report(folder, sum(path.stat().st_size for path in written), report.errors)


def licenses(subject: Subject, detector: HandPoseModel | None) -> str:
    """A line for each part of the page, as text."""
    parts = [
        ("the page (*.html, *.css, *.js)", "Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0"),
        (f"{POSE_FILE} (model {subject.name})", subject.metadata["license"] or "not stated"),
        ("examples/ (rendered by dfmamba)", "Apache-2.0"),
        (f"{RUNTIME_FOLDER}/ (onnxruntime-web)", f"MIT, see {RUNTIME_FOLDER}/LICENSE"),
    ]
    if detector is not None:
        config = detector.config
        parts.insert(2, (f"{DETECTOR_FILE} (model {config.name})", config.license or "not stated"))
    lines = [f"{part:<40}  {license}" for part, license in parts]
    return "\n".join(["The parts of this folder and their licences:", "", *lines, ""])


def page_files() -> list[Path]:
    """The page's own files, which are the same for all models."""
    return [*sorted(path for path in WEB.iterdir() if path.suffix in (".html", ".css", ".js")), VIEW]


def _hex(color: Sequence[int]) -> str:
    return "#" + bytes(color).hex()


def _version(runtime: Path) -> str:
    """Of the npm package whose `dist` the folder is; "of unknown version" where that can't be read."""
    try:
        return str(json.loads((runtime.parent / "package.json").read_text())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return "of unknown version"
