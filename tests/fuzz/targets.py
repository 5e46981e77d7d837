"""Every reader of the package with small whole files to damage.

A target is made in a folder of its own and gives seeds with what reads a damaged copy of each. That may raise
`EXPECTED`; anything else is a finding.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dfmamba.hands.skeleton import convert_joints

EXPECTED = (ValueError, OSError)


@dataclass(frozen=True)
class Seed:
    """A whole file.

    Attributes:
        content: its bytes.
        kind: "bytes", "text" or "json", how it is damaged.
        read: reads a damaged copy.
        whole: whether it can be read as it is.
    """

    content: bytes
    kind: str
    read: Callable[[bytes], Any]
    whole: bool = True


Target = Callable[[Path], Sequence[Seed]]


def _picture(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 3 % 256, y * 5 % 256, (x + y) % 256], -1).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    memory = io.BytesIO()
    image.save(memory, kind, **options)
    return memory.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _hand(z: float = 600.0) -> np.ndarray:
    """(21, 3) mm, in front of a camera of focal length 200 in the middle of 64 x 48 pixels."""
    return np.random.default_rng(0).normal(0, 20, (21, 3)) + np.array([0, 0, z])


CAMERA = {"fx": 200.0, "fy": 200.0, "cx": 31.5, "cy": 23.5}


def _of_file(path: Path, read: Callable[[Path], Any], content: bytes, kind: str) -> Seed:
    """A file that is read by its path; it is whole again afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

    def damaged(copy: bytes) -> Any:
        path.write_bytes(copy)
        try:
            return read(path)
        finally:
            path.write_bytes(content)

    return Seed(content, kind, damaged)


def _all_of(open_dataset: Callable[[], Any], cache: Path) -> Callable[[Path], None]:
    """Opens a data set anew and reads all its samples, each of which may be unusable."""

    def read(_: Path) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        dataset = open_dataset()
        for i in range(min(len(dataset), 4)):
            with contextlib.suppress(*EXPECTED):
                dataset[i]

    return read


def images(folder: Path) -> Iterator[Seed]:
    from dfmamba.io import load_image

    exif = Image.Exif()
    exif[0x0112] = 6
    contents = [
        _encoded(_picture(), "JPEG", exif=exif),
        _encoded(_picture(), "JPEG", progressive=True),
        _encoded(_picture(), "PNG"),
        _encoded(_picture(mode="P"), "PNG"),
        _encoded(_picture(), "WEBP"),
        _encoded(_picture(), "BMP"),
        _encoded(_picture(), "TIFF"),
        _encoded(_picture(), "TIFF", compression="tiff_lzw"),
        _encoded(_picture(), "GIF"),
        Path(__file__).with_name("small.heic").read_bytes(),
    ]
    for content in contents:
        yield _of_file(folder / "a.jpg", load_image, content, "bytes")


def depth_maps(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.sample import encode_depth_png, load_depth_png

    depth = np.linspace(300, 900, 48 * 64).reshape(48, 64)
    yield _of_file(folder / "d.png", lambda path: load_depth_png(path, 0.1), encode_depth_png(depth), "bytes")


def matlab(folder: Path) -> Iterator[Seed]:
    from scipy.io import savemat

    from dfmamba.io.mat_file import read_mat

    names = np.array([["PALM_1", "TH_KNU3_A", "wrist"]], dtype=object)
    values = {"joint_names": names, "joint_uvd": np.arange(3 * 2 * 36 * 3.0).reshape(3, 2, 36, 3)}
    for packed in (False, True):
        memory = io.BytesIO()
        savemat(memory, values, do_compression=packed)
        yield _of_file(
            folder / "a.mat", lambda path: read_mat(path, list(values)), memory.getvalue(), "bytes"
        )


def pickles(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.readers.rhd import RenderedHands
    from dfmamba.io.array_pickle import read_array_pickle

    xyz = np.concatenate([_hand(), _hand()]) / 1000.0
    matrix = np.array([[200.0, 0, 160], [0, 200, 160], [0, 0, 1]])
    seen = np.concatenate([xyz[:, :2] / xyz[:, 2:] * 200 + 160, np.ones((42, 1))], -1)
    entries = {0: {"xyz": xyz.astype(np.float32), "uv_vis": seen, "K": matrix}, 1: {"K": matrix}}
    root = folder / "RHD_published_v2"
    for name in ("color", "mask"):
        (root / "evaluation" / name).mkdir(parents=True)
        Image.fromarray(np.full((320, 320, 3), 9, np.uint8)).save(root / "evaluation" / name / "00000.png")
    read = _all_of(lambda: RenderedHands(root, "evaluation"), folder / "cache")
    for protocol in (0, 2, 4):
        content = pickle.dumps(entries, protocol=protocol)
        yield _of_file(folder / "a.pickle", read_array_pickle, content, "bytes")
        yield _of_file(root / "evaluation" / "anno_evaluation.pickle", read, content, "bytes")


def dexycb(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.readers.dexycb import SERIALS, SUBJECTS, DexYCB, read_intrinsics, read_labels, read_meta

    root = folder / "dexycb"
    for i in range(5):
        (root / SUBJECTS[2] / f"20200813_00000{i}").mkdir(parents=True)
    sequence = root / SUBJECTS[2] / "20200813_000004"
    meta = b"num_frames: 1\nmano_sides: [right]\nserials: ['836212060125']\nycb_ids: [2, 3]\n"
    camera = b"color: {fx: 600.0, fy: 600.0, ppx: 320.0, ppy: 240.0}\ndepth: {fx: 1.0, fy: 2.0}\n"
    for serial in SERIALS:
        path = root / "calibration" / "intrinsics" / f"{serial}_640x480.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(camera)
    frame = sequence / SERIALS[0]
    frame.mkdir()
    _picture(640, 480).save(frame / "color_000000.jpg")
    hand = _hand()
    memory = io.BytesIO()
    np.savez_compressed(
        memory,
        joint_3d=(hand / 1000.0).astype(np.float32)[None],
        joint_2d=(hand[:, :2] / hand[:, 2:] * 600 + (320, 240)).astype(np.float32)[None],
        seg=np.zeros((480, 640), np.uint8),
    )
    labels = memory.getvalue()
    (sequence / "meta.yml").write_bytes(meta)
    read = _all_of(lambda: DexYCB(root, "s0_test", partial=True, mask=True), folder / "cache")
    yield _of_file(frame / "labels_000000.npz", read, labels, "bytes")
    yield _of_file(sequence / "meta.yml", read, meta, "text")
    yield _of_file(root / "calibration" / "intrinsics" / f"{SERIALS[0]}_640x480.yml", read, camera, "text")
    yield _of_file(folder / "meta.yml", read_meta, meta, "text")
    yield _of_file(folder / "camera.yml", read_intrinsics, camera, "text")
    yield _of_file(
        folder / "labels.npz", lambda path: read_labels(path, ("joint_3d", "joint_2d")), labels, "bytes"
    )


def _own_entry() -> dict[str, Any]:
    hand = {"side": "right", "joints_cam": _hand().tolist(), "valid": [True] * 21}
    return {
        "id": "a",
        "picture": "a.png",
        "size": [64, 48],
        "camera": list(CAMERA.values()),
        "box": [10, 10, 50, 40],
        "hands": [hand],
    }


def own_data(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.own_format import header
    from dfmamba.data.readers.own import OwnData

    _picture().save(folder / "a.png")
    content = _json(header() | {"samples": [_own_entry(), _own_entry() | {"id": "b"}]})
    read = _all_of(lambda: OwnData(folder, "train"), folder / "cache")
    yield _of_file(folder / "train.json", read, content, "json")


def shards(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.own_format import header
    from dfmamba.data.readers.shards import ShardedDataset

    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = {key: value for key, value in _own_entry().items() if key not in ("id", "picture")}
        for name in ("00", "01"):
            for suffix, content in (
                (".png", _encoded(_picture(), "PNG")),
                (".json", _json(header() | entry)),
            ):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    read = _all_of(lambda: ShardedDataset(folder, "train"), folder / "cache")
    yield _of_file(folder / "train" / "000000.tar", read, memory.getvalue(), "bytes")
    yield _of_file(folder / "train" / "000000.tar", read, memory.getvalue(), "text")


def freihand(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.readers.freihand import FreiHAND

    (folder / "evaluation" / "rgb").mkdir(parents=True)
    _picture(224, 224).save(folder / "evaluation" / "rgb" / "00000000.jpg")
    matrix = [[200.0, 0, 111.5], [0, 200.0, 111.5], [0, 0, 1.0]]
    contents = {"K": _json([matrix]), "xyz": _json([(_hand() / 1000).tolist()])}
    for name, content in contents.items():
        (folder / f"evaluation_{name}.json").write_bytes(content)
    read = _all_of(lambda: FreiHAND(folder, "evaluation"), folder / "cache")
    for name, content in contents.items():
        yield _of_file(folder / f"evaluation_{name}.json", read, content, "json")


def _both_hands() -> list[list[float]]:
    hands = np.stack([_hand(), _hand()])
    return convert_joints(hands, "openpose", "interhand").reshape(42, 3).tolist()


def interhand(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.readers.interhand import InterHand26M

    name = "Capture0/ROM01/cam400262/image1.jpg"
    path = folder / "images" / "test" / name
    path.parent.mkdir(parents=True)
    _picture().save(path)
    picture = {"id": 0, "file_name": name, "width": 64, "height": 48, "capture": 0, "seq_name": "ROM01"}
    picture |= {"camera": "400262", "frame_idx": 1}
    label = {"id": 5, "image_id": 0, "bbox": [10, 10, 40, 30], "joint_valid": [1] * 42}
    label |= {"hand_type": "interacting", "hand_type_valid": 1}
    eye, camera = np.eye(3).tolist(), "400262"
    contents = {
        "data": {"images": [picture], "annotations": [label]},
        "camera": {
            "0": {
                "campos": {camera: [0, 0, 0]},
                "camrot": {camera: eye},
                "focal": {camera: [200, 200]},
                "princpt": {camera: [31.5, 23.5]},
            }
        },
        "joint_3d": {"0": {"1": {"world_coord": _both_hands(), "joint_valid": [[1]] * 42}}},
    }
    base = folder / "annotations" / "test"
    base.mkdir(parents=True)
    files = {base / f"InterHand2.6M_test_{key}.json": _json(value) for key, value in contents.items()}
    for file, content in files.items():
        file.write_bytes(content)
    read = _all_of(lambda: InterHand26M(folder, "test"), folder / "cache")
    for file, content in files.items():
        yield _of_file(file, read, content, "json")
    yield _of_file(base / "aid_human_annot_test.txt", read, b"5\n", "text")


def assemblyhands(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.readers.assemblyhands import AssemblyHands

    name = "ego_images_rectified/val/seq/HMC_1_mono10bit/000001.jpg"
    (folder / "images" / name).parent.mkdir(parents=True)
    _picture(mode="L").save(folder / "images" / name)
    picture = {"id": 0, "file_name": name, "width": 64, "height": 48, "seq_name": "seq", "camera": "HMC_1"}
    picture |= {"frame_idx": 1}
    label = {"id": 5, "image_id": 0, "joint_valid": [1] * 42}
    label |= {"bbox": {"right": [10, 10, 50, 40], "left": [10, 10, 50, 40]}}
    matrix = [[200.0, 0, 31.5], [0, 200.0, 23.5], [0, 0, 1]]
    lens, pose = "HMC_1_mono10bit", np.eye(3, 4).tolist()
    contents = {
        "ego_data": {"images": [picture], "annotations": [label]},
        "ego_calib": {
            "calibration": {"seq": {"intrinsics": {lens: matrix}, "extrinsics": {"000001": {lens: pose}}}}
        },
        "joint_3d": {
            "annotations": {"seq": {"000001": {"world_coord": _both_hands(), "joint_valid": [1] * 42}}}
        },
    }
    base = folder / "annotations" / "val"
    base.mkdir(parents=True)
    files = {base / f"assemblyhands_val_{key}_v1-1.json": _json(value) for key, value in contents.items()}
    for file, content in files.items():
        file.write_bytes(content)
    read = _all_of(lambda: AssemblyHands(folder, "val"), folder / "cache")
    for file, content in files.items():
        yield _of_file(file, read, content, "json")


def snap(folder: Path) -> Iterator[Seed]:
    from dfmamba.data.snap import SnapRealWorld

    _picture().save(folder / "a.jpg")
    hand = _hand()
    entry = {"file": "a.jpg", "hand": "left", "joint_cam_cm": (hand / 10).tolist()}
    entry |= {"keypoints_uv": [[1.0, 3.0]] * 21}
    entry |= {"K_fx_fy_cx_cy_of_this_256x256_crop": [300.0, 300.0, 128.0, 128.0]}
    read = _all_of(lambda: SnapRealWorld(folder), folder / "cache")
    yield _of_file(folder / "annotations.json", read, _json({"annotations": [entry]}), "json")


def boxes(folder: Path) -> Iterator[Seed]:
    from dfmamba.detect.given import GivenBoxes

    content = {"a.jpg": [[1, 2, 30, 40], {"box_xyxy": [5, 6, 7, 8], "score": 0.5, "side": "left"}]}
    content |= {"images\\b.jpg": [], "é.jpg": [[0, 0, 1, 1]]}

    def read(path: Path) -> None:
        found = GivenBoxes(path)
        for name in ("a.jpg", "x/a.jpg", "images/b.jpg", *found.boxes):
            with contextlib.suppress(ValueError):
                found.of(name)
        found.require(["a.jpg"])

    yield _of_file(folder / "boxes.json", read, _json(content), "json")


def predictions(folder: Path) -> Iterator[Seed]:
    from dfmamba.bulk.parts import COLUMNS, write_part
    from dfmamba.formats import read_records
    from dfmamba.hands.camera import Camera
    from dfmamba.predict import Hand, Prediction
    from dfmamba.video.film import FilmHeader

    joints = _hand()
    hand = Hand("right", 0.9, np.array([1.0, 2, 30, 40]), joints[:, :2], joints, np.full(21, 0.5))
    one = Prediction((hand,), (64, 48), Camera(**CAMERA), "nano", "photos/a.jpg")
    listed = {"schema": "dfmamba.predictions/1", "predictions": [one.to_dict()], "failed": [], "left_out": []}
    frame = {"index": 0, "time_s": 0.5, "hands": [hand.to_dict()]}
    film = [FilmHeader("nano", "none", (64, 48), 30.0).to_dict(), frame]
    values = hand.to_dict()
    row = dict.fromkeys(COLUMNS) | {"picture": 0, "path": "a.jpg", "width": 64, "height": 48}
    row |= {name: values[name] for name in COLUMNS if name in values}
    write_part(folder / "p.parquet", [row])

    def read(path: Path) -> None:
        for record in read_records([path]):
            assert record.name
            assert record.prediction.to_json()

    lines = b"".join(_json(value) + b"\n" for value in film)
    yield _of_file(folder / "a.json", read, one.to_json().encode(), "json")
    yield _of_file(folder / "all.json", read, _json(listed), "json")
    yield _of_file(folder / "film.jsonl", read, lines, "json")
    yield _of_file(folder / "part.jsonl", read, _json(row) + b"\n", "json")
    yield _of_file(folder / "p.parquet", read, (folder / "p.parquet").read_bytes(), "bytes")
    yield _of_file(folder / "one.json", Prediction.load_json, one.to_json().encode(), "json")


def joint_texts(folder: Path) -> Iterator[Seed]:
    from dfmamba.io.joint_files import read_joint_file

    content = b"\n".join(b"1.5 2 3, 4 5 6" for _ in range(3)) + b"\n"
    yield _of_file(folder / "a.txt", lambda path: read_joint_file(path, 2), content, "text")


def rendered_shards(folder: Path) -> Iterator[Seed]:
    from dfmamba.synth import SyntheticConfig
    from dfmamba.synth.shards import PeopleConfig, PeopleShards, ShardedHands

    def array(value: np.ndarray) -> bytes:
        memory = io.BytesIO()
        np.save(memory, value)
        return memory.getvalue()

    def arrays(**values: np.ndarray) -> bytes:
        memory = io.BytesIO()
        np.savez(memory, **values)  # type: ignore[arg-type]
        return memory.getvalue()

    pixels = array(np.zeros((2, 16, 16, 4), np.uint8))
    people = {"joints_px": np.zeros((2, 6, 21, 2), "f4"), "side": np.zeros((2, 6), "u1")}
    people |= {"visible": np.zeros((2, 6), "f4"), "shot": np.zeros(2, "u1"), "index": np.arange(2)}
    sets: dict[str, tuple[Callable[[Path], Any], dict[str, bytes]]] = {
        "hands": (
            ShardedHands,
            {
                "config.json": _json({"config": SyntheticConfig(size=16).to_dict(), "layers": ["hand"]}),
                "shard-000000000/hand.npy": pixels,
                "shard-000000000/labels.npz": arrays(kind=np.zeros(2, "u1"), index=np.arange(2)),
            },
        ),
        "people": (
            PeopleShards,
            {
                "config.json": _json({"people": asdict(PeopleConfig())}),
                "shard-000000000/rgba.npy": pixels,
                "shard-000000000/labels.npz": arrays(**people),
            },
        ),
    }
    for name, (kind, files) in sets.items():
        for file, content in files.items():
            (folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / file).write_bytes(content)

        def read(_: Path, kind: Callable[[Path], Any] = kind, base: Path = folder / name) -> None:
            found = kind(base)
            assert len(found) >= 0
            if isinstance(found, ShardedHands):
                found[0]
            else:
                found.rgba(0)

        for file, content in files.items():
            how = "json" if file.endswith("json") else "bytes"
            yield _of_file(folder / name / file, read, content, how)


def models(folder: Path) -> Iterator[Seed]:
    import torch

    from dfmamba.models import MODELS, HandPoseModel, load

    torch.manual_seed(0)
    base = folder / "model"
    HandPoseModel(MODELS["test"]).save(base)
    for name, kind in (("config.json", "json"), ("model.safetensors", "bytes")):
        yield _of_file(base / name, lambda _: load(base), (base / name).read_bytes(), kind)


def train_settings(folder: Path) -> Iterator[Seed]:
    from dfmamba.cli.main import main

    content = b"model: test\nsteps: 10\nbatch_size: 4\nout: run\nseed: 1\nlr: 0.001\n"
    content += b"data: {ahead: 1, kinds: {single: 1.0}}\n"

    def read(path: Path) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(["train", "--config", str(path), "--print-config"])
        if "error: unexpected" in said.getvalue():
            raise AssertionError(said.getvalue())
        if code:
            raise ValueError(said.getvalue().rstrip("\n"))

    yield _of_file(folder / "config.yaml", read, content, "text")


def run_files(folder: Path) -> Iterator[Seed]:
    from dfmamba.train.curves import read_log
    from dfmamba.train.run_folder import read_starts

    starts = {"schema": "dfmamba.environment/1", "starts": [{"step": 0, "device": "cpu"}]}
    log = b"".join(_json({"step": step, "loss": 1.5}) + b"\n" for step in range(3))
    yield _of_file(folder / "environment.json", read_starts, _json(starts), "json")
    yield _of_file(folder / "log.jsonl", read_log, log, "json")


def film_names(folder: Path) -> Iterator[Seed]:
    from dfmamba.text import one_line
    from dfmamba.video.frames import is_film, read_frames

    def read(copy: bytes) -> None:
        """As the command, which writes a name so that a terminal can show it."""
        name = copy.decode("utf-8", "surrogateescape")
        try:
            is_film(name)
            read_frames(name, fps=None).close()
        except (ImportError, *EXPECTED) as error:
            raise ValueError(one_line(error)) from None

    for name in (b"camera:0", b"a/b.mp4", b"rtsp://host:554/stream", b"camera:99", b"../film.mov"):
        yield Seed(name, "text", read, whole=False)


def app_bodies(folder: Path) -> Iterator[Seed]:
    from fastapi.testclient import TestClient

    from dfmamba.app.config import AppConfig
    from dfmamba.app.server import make_app

    client = TestClient(
        make_app(AppConfig(detector="none", device="cpu", max_upload_mb=3.0)), base_url="http://localhost"
    )
    client.__enter__()  # ends with the process

    def send(path: str, kind: str) -> Callable[[bytes], None]:
        def read(copy: bytes) -> None:
            answer = client.post(path, content=copy, headers={"content-type": kind})
            if answer.status_code >= 500:
                raise AssertionError(f"{path}: {answer.status_code} {answer.text[:200]}")
            if answer.status_code >= 400:
                raise ValueError(" ".join(map(str, answer.json().values())))

        return read

    photo = _encoded(_picture(), "JPEG")
    fields = {"threshold": "0.5", "mirrored": "false", "camera": "200,200,31.5,23.5", "box": "5,5,50,40"}
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
        for k, v in fields.items()
    ]
    head = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n'
    head += b"Content-Type: image/jpeg\r\n\r\n"
    body = b"".join(parts) + head + photo + b"\r\n--x--\r\n"
    multipart = "multipart/form-data; boundary=x"
    yield Seed(body, "bytes", send("/api/predict", multipart))
    yield Seed(body, "text", send("/api/predict", multipart))
    film = head.replace(b"picture", b"film") + b"not a film" + b"\r\n--x--\r\n"
    yield Seed(film, "text", send("/api/film", multipart), whole=False)
    answer = client.post("/api/predict", content=body, headers={"content-type": multipart})
    assert answer.status_code == 200, answer.text
    yield Seed(answer.content, "json", send("/api/convert", "application/json"))


TARGETS: dict[str, Target] = {
    "images": images,
    "depth_maps": depth_maps,
    "matlab": matlab,
    "pickles": pickles,
    "dexycb": dexycb,
    "own_data": own_data,
    "shards": shards,
    "freihand": freihand,
    "interhand": interhand,
    "assemblyhands": assemblyhands,
    "snap": snap,
    "boxes": boxes,
    "predictions": predictions,
    "joint_texts": joint_texts,
    "rendered_shards": rendered_shards,
    "models": models,
    "train_settings": train_settings,
    "run_files": run_files,
    "film_names": film_names,
    "app_bodies": app_bodies,
}
