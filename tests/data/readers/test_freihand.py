"""FreiHAND: the fixture's round trip, versions, broken copies, and what the real samples can show."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfmamba.data.readers.freihand import VERSIONS, FreiHAND, picture_number
from dfmamba.data.registry import open_dataset
from dfmamba.data.sample import HandSample
from dfmamba.fixtures import write_fixture
from dfmamba.fixtures.freihand import scenes
from dfmamba.hands.skeleton import FINGERS, convert_joints
from dfmamba.io.images import load_image

COUNT, SEED = 12, 4
POSES = COUNT // len(VERSIONS)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("warp")
    root = tmp_path_factory.mktemp("freihand") / "FreiHAND_pub_v2"
    write_fixture("freihand", root, COUNT, SEED)
    return root


@pytest.fixture(scope="module")
def truth(pristine: Path) -> list[tuple[HandSample, list[np.ndarray]]]:
    return list(scenes("training", COUNT, SEED))


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def change_json(root: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = root / name
    content = json.loads(path.read_text(encoding="utf-8"))
    changed = change(content)
    path.write_text(json.dumps(content if changed is None else changed), encoding="utf-8")


def test_round_trip(pristine: Path, truth: list[tuple[HandSample, list[np.ndarray]]]) -> None:
    data = open_dataset("freihand", pristine, "training")
    assert data.report.lines == [f"{COUNT} samples"]
    assert [sample.id for sample in data] == [f"training/rgb/{i:08d}.jpg" for i in range(COUNT)]
    assert [data.index[i].group for i in range(COUNT)] == [v for v in VERSIONS for _ in range(POSES)]
    for i, sample in enumerate(data):
        true, pictures = truth[i % POSES]
        assert sample.kind == "real"
        assert sample.present.tolist() == true.present.tolist() == [True, False]
        assert (sample.valid == true.valid).all()
        np.testing.assert_allclose(sample.joints_cam_mm, true.joints_cam_mm, atol=1e-3)
        np.testing.assert_allclose(sample.joints_2d_px, true.joints_2d_px, atol=1e-3)
        np.testing.assert_allclose(sample.box_xyxy, true.box_xyxy, atol=1e-3)
        assert sample.camera == true.camera
        inside = ((true.joints_2d_px[0] >= -0.5) & (true.joints_2d_px[0] <= 223.5)).all(-1)
        assert (sample.visible[0] == inside).all()
        assert sample.image is not None
        difference = sample.image.astype(int) - pictures[i // POSES]
        assert np.abs(difference).mean() < 4  # JPEG


def test_versions(pristine: Path) -> None:
    for at, version in enumerate(VERSIONS):
        data = FreiHAND(pristine, "training", versions=version)
        numbers = [picture_number(i, at, POSES) for i in range(POSES)]
        assert [sample.id for sample in data] == [f"training/rgb/{n:08d}.jpg" for n in numbers]
    green = FreiHAND(pristine, "training", versions="gs")[0].image
    assert np.ptp(green[:4], axis=(0, 1)).max() < 20
    with pytest.raises(ValueError, match="versions is 'green'; expected all or one of gs"):
        FreiHAND(pristine, versions="green")


def test_evaluation(pristine: Path) -> None:
    data = FreiHAND(pristine.parent, "evaluation")
    assert [sample.id for sample in data] == [f"evaluation/rgb/{i:08d}.jpg" for i in range(8)]
    assert all(sample.present.tolist() == [True, False] for sample in data)
    assert data.index[0].group == ""
    with pytest.raises(ValueError, match="split is 'test'"):
        FreiHAND(pristine, "test")


def test_scale_file_is_the_length_of_the_reference_bone(pristine: Path) -> None:
    """The one file beside the labels that the fixture can make; readers don't need it."""
    scales = json.loads((pristine / "training_scale.json").read_text(encoding="utf-8"))
    data = FreiHAND(pristine, "training", versions="gs")
    for scale, sample in zip(scales, data, strict=True):
        bone = np.linalg.norm(sample.joints_cam_mm[0, 10] - sample.joints_cam_mm[0, 9])
        assert bone == pytest.approx(1000 * scale, rel=1e-5)


def _entry(name: str, value: Any) -> Callable[[Path], None]:
    """Replaces what a file says of pose 1."""

    def change(root: Path) -> None:
        change_json(root, f"training_{name}.json", lambda poses: poses.__setitem__(1, value))

    return change


def _numbers(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """Changes the numbers of pose 1."""

    def edit(poses: list[Any]) -> None:
        array = np.array(poses[1])
        change(array)
        poses[1] = array.tolist()

    return lambda root: change_json(root, f"training_{name}.json", edit)


def _put(index: Any, value: Any) -> Callable[[np.ndarray], Any]:
    return lambda array: array.__setitem__(index, value)


NO_CAMERA = "K is not the matrix of a pinhole camera"
NOT_FINITE = "a joint is not finite or absurdly far"
BROKEN = {
    "NaN": (_numbers("xyz", _put(3, np.nan)), NOT_FINITE),
    "infinite": (_numbers("xyz", _put(3, np.inf)), NOT_FINITE),
    "overflow": (_numbers("xyz", _put((3, 0), 1e308)), NOT_FINITE),
    "behind": (_numbers("xyz", _put((3, 2), -0.5)), "a joint lies behind the camera"),
    "box": (_numbers("xyz", lambda xyz: _put(slice(None), xyz[9].copy())(xyz)), "the box has no area"),
    "20 joints": (_entry("xyz", [[0, 0, 1]] * 20), "xyz is not 21 x 3 numbers"),
    "ragged": (_entry("xyz", [[0, 0, 1]] * 20 + [[0, 0]]), "xyz is not 21 x 3 numbers"),
    "texts": (_entry("xyz", [["0", "0", "1"]] * 21), "xyz is not 21 x 3 numbers"),
    "null": (_entry("xyz", None), "xyz is not 21 x 3 numbers"),
    "K for another picture": (
        _numbers("K", lambda k: k.__imul__([[4], [4], [1]])),
        "most joints lie outside of the picture: wrong intrinsics",
    ),
    "K flat": (_entry("K", [600, 600, 112, 112]), NO_CAMERA),
    "K zero": (_numbers("K", _put(0, 0)), NO_CAMERA),
    "K NaN": (_numbers("K", _put((0, 0), np.nan)), NO_CAMERA),
    "K huge": (_numbers("K", _put((0, 0), 1e300)), NO_CAMERA),
    "K empty": (_entry("K", []), NO_CAMERA),
    "K null": (_entry("K", None), NO_CAMERA),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_labels_are_counted_and_left_out(copy: Path, case: str) -> None:
    change, reason = BROKEN[case]
    change(copy)
    data = FreiHAND(copy, "training")
    assert len(data) == data.report.kept == COUNT - len(VERSIONS)
    assert data.report.left_out == {reason: len(VERSIONS)}
    assert data.report.examples[reason][0] == "training/rgb/00000001.jpg"


def test_missing_and_empty_pictures(copy: Path) -> None:
    (copy / "training/rgb/00000001.jpg").unlink()
    (copy / "training/rgb/00000007.jpg").write_bytes(b"")
    data = FreiHAND(copy, "training")
    assert len(data) == COUNT - 2
    assert data.report.left_out == {"picture missing": 2}


def test_damaged_picture_is_named(copy: Path) -> None:
    path = copy / "training/rgb/00000002.jpg"
    path.write_bytes(path.read_bytes()[:500])
    data = FreiHAND(copy, "training")
    with pytest.raises(ValueError, match=r"00000002\.jpg: damaged"):
        data[2]


def _halve(name: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])

    return change


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (_halve("training_xyz.json"), ValueError, r"training_xyz\.json: not valid JSON"),
        (_halve("training_K.json"), ValueError, r"training_K\.json: not valid JSON"),
        (lambda root: (root / "training_K.json").write_bytes(b"[" * 99_999), ValueError, "not valid JSON"),
        (lambda root: (root / "training_K.json").write_bytes(b"\xff\xfe"), ValueError, "not valid JSON"),
        (lambda root: (root / "training_K.json").write_bytes(b"{}"), ValueError, "expected a list"),
        (lambda root: (root / "training_K.json").write_bytes(b"[]"), ValueError, "expected a list"),
        (lambda root: change_json(root, "training_K.json", lambda x: x[1:]), ValueError, "3 poses, but 2 in"),
        (lambda root: (root / "training_xyz.json").unlink(), OSError, r"training_xyz\.json: missing"),
        (lambda root: shutil.rmtree(root / "training"), OSError, "rgb: missing"),
        (
            lambda root: [p.unlink() for p in (root / "training/rgb").iterdir()],
            ValueError,
            "no usable sample",
        ),
    ],
)
def test_unusable_copies_are_refused(copy: Path, change: Any, kind: type[Exception], reason: str) -> None:
    change(copy)
    with pytest.raises(kind, match=reason) as caught:
        FreiHAND(copy, "training")
    assert str(copy) in str(caught.value)


def test_cut_labels_never_meet_the_wrong_pictures(copy: Path) -> None:
    """Both files cut to one pose less would give each version the pictures of another pose."""
    for name in ("K", "xyz"):
        change_json(copy, f"training_{name}.json", lambda poses: poses[:-1])
    with pytest.raises(ValueError, match=r"4 pictures are numbered 8 or more.*don't belong together"):
        FreiHAND(copy, "training")


def test_index_is_kept_and_renewed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    rows = FreiHAND.rows

    def counted(self: FreiHAND, report: Any) -> Any:
        made.append(self.split)
        return rows(self, report)

    monkeypatch.setattr(FreiHAND, "rows", counted)
    for _ in range(2):
        assert len(FreiHAND(copy, "training")) == COUNT
    assert made == ["training"]
    _numbers("xyz", lambda array: array.__iadd__(0.001))(copy)
    FreiHAND(copy, "training")
    (copy / "training/rgb/00000000.jpg").unlink()
    assert len(FreiHAND(copy, "training")) == COUNT - 1
    assert len(made) == 3


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["K", "xyz"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    length=st.none() | st.integers(0, 10**6),
)
def test_mutated_labels(
    pristine: Path, tmp_path: Path, name: str, changes: list[tuple[int, int]], length: int | None
) -> None:
    root = tmp_path / "mutated"
    if not root.exists():
        root.mkdir()
        os.symlink(pristine / "training", root / "training")
    for file in ("training_K.json", "training_xyz.json"):
        shutil.copy(pristine / file, root)
    path = root / f"training_{name}.json"
    data = bytearray(path.read_bytes())
    for at, byte in changes:
        data[at % len(data)] = byte
    path.write_bytes(data if length is None else data[: length % len(data)])
    try:
        dataset = FreiHAND(root, "training")
    except (ValueError, OSError) as error:
        assert str(root) in str(error)
    else:
        assert len(dataset) + sum(dataset.report.left_out.values()) == COUNT
        for i in range(len(dataset)):
            assert dataset.labels(i).valid.any()


def test_real_evaluation_pictures_without_labels(samples_dir: Path, tmp_path: Path) -> None:
    """The first download holds pictures and intrinsics, not joints."""
    source = samples_dir / "freihand/evaluation"
    content = json.loads((source / "K_and_scale.json").read_text(encoding="utf-8"))
    root = tmp_path / "FreiHAND_pub_v2"
    shutil.copytree(source / "rgb", root / "evaluation/rgb")
    matrices = [content[name]["K"] for name in sorted(content)]
    (root / "evaluation_K.json").write_text(json.dumps(matrices), encoding="utf-8")
    with pytest.raises(
        OSError, match=r"evaluation_xyz\.json: missing; the labels .* are a separate download"
    ):
        FreiHAND(root, "evaluation")
    for path in sorted((root / "evaluation/rgb").iterdir()):
        assert load_image(path).shape == (224, 224, 3)


def test_real_training_pictures(samples_dir: Path) -> None:
    """One pose in its four versions: numbers, and the order of the joints as far as pixels show it."""
    content = json.loads((samples_dir / "freihand/freihand.json").read_text(encoding="utf-8"))
    numbers = [image["id"] for image in content["images"]]
    assert numbers == [picture_number(17_620, at, 32_560) for at in range(len(VERSIONS))]
    labels = np.array([entry["keypoints"] for entry in content["annotations"]]).reshape(4, 21, 3)[..., :2]
    assert (labels == labels[0]).all()
    pictures = [load_image(samples_dir / "freihand" / image["file_name"]) for image in content["images"]]
    at = np.rint(labels[0]).astype(int)
    for picture in pictures[1:]:
        # The hand stays what it is, the background does not.
        difference = np.abs(picture.astype(int) - pictures[0]).mean(-1)
        assert np.median(difference[at[:, 1], at[:, 0]]) < np.median(difference) / 2
    joints = convert_joints(labels[0], "freihand", "openpose")
    for finger in FINGERS.values():
        steps = np.linalg.norm(np.diff(joints[[0, *finger]], axis=0), axis=1)
        # Along a finger each joint is nearer to the next than to the one after that.
        skips = np.linalg.norm(joints[list(finger[1:])] - joints[[0, *finger[:2]]], axis=1)
        assert (skips > steps[:-1]).all()
    # The thumb leaves the wrist at once, the fingers at the far end of the palm.
    bases = np.linalg.norm(joints[[finger[0] for finger in FINGERS.values()]] - joints[0], axis=1)
    assert bases[0] < bases[1:].min() / 2
    # Knuckles follow each other across the palm.
    across = (joints[[5, 9, 13, 17]] - joints[5]) @ (joints[17] - joints[5])
    assert (np.diff(across) > 0).all()
