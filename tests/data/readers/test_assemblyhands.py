"""AssemblyHands: the fixture comes back as it was made, hand by hand; broken copies are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("warp", reason="the renderer needs the extra 'synthetic'")

from dfmamba.data.readers.assemblyhands import MIN_JOINTS, AssemblyHands
from dfmamba.data.readers.coco import flags, is_inner_path
from dfmamba.data.registry import open_dataset
from dfmamba.fixtures import write_fixture
from dfmamba.fixtures.assemblyhands import HEADSETS, SIZE, Shot, shots
from dfmamba.hands.affine import box_of_points
from dfmamba.io.untrusted import numbers

COUNT, SEED = 9, 2


@pytest.fixture(scope="module")
def truth() -> dict[str, list[Shot]]:
    return {"train": shots("train", COUNT, SEED), "val": shots("val", 8, SEED)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("assemblyhands") / "copy"
    write_fixture("assemblyhands", root, COUNT, SEED)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of the val split alone, to be broken."""
    root = tmp_path / "broken"
    for part in ("images/ego_images_rectified", "annotations"):
        shutil.copytree(whole / part / "val", root / part / "val")
    return root


def labels_of(root: Path, content: str) -> Path:
    return root / "annotations/val" / f"assemblyhands_val_{content}_v1-1.json"


def change(root: Path, content: str, edit: Callable[[Any], Any]) -> None:
    path = labels_of(root, content)
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def hands_of(pictures: list[Shot]) -> list[tuple[Shot, int]]:
    """The samples that a split must have: a hand each with enough joints."""
    return [(s, hand) for s in pictures for hand in (0, 1) if s.sample.valid[hand].sum() >= MIN_JOINTS]


@pytest.mark.parametrize("split", ["train", "val"])
def test_fixture_comes_back(whole: Path, truth: dict[str, list[Shot]], split: str) -> None:
    data = open_dataset("assemblyhands", whole, split)
    expected = hands_of(truth[split])
    assert len(data) == len(expected)
    for i, (sample, (shot, hand)) in enumerate(zip(data, expected, strict=True)):
        want = shot.sample
        assert (sample.valid[hand] == want.valid[hand]).all()
        assert not sample.valid[1 - hand].any()
        assert sample.present.tolist() == [hand == 0, hand == 1]
        seen = sample.valid
        np.testing.assert_allclose(sample.joints_cam_mm[seen], want.joints_cam_mm[seen], atol=1e-3)
        np.testing.assert_allclose(sample.joints_2d_px[seen], want.joints_2d_px[seen], atol=1e-2)
        assert sample.camera is not None
        assert want.camera is not None
        np.testing.assert_allclose(sample.camera.matrix, want.camera.matrix)
        assert sample.image is not None
        assert sample.size == SIZE
        assert (np.ptp(sample.image, axis=2) == 0).all()
        brightness = np.asarray(want.image) @ [0.299, 0.587, 0.114]
        assert np.abs(sample.image[..., 0] - brightness).mean() < 5
        tight = box_of_points(want.joints_2d_px[hand], want.valid[hand])
        assert (sample.box_xyxy[:2] < tight[:2]).all()
        assert (sample.box_xyxy[2:] > tight[2:]).all()
        row = data.index[i]
        assert row.group == shot.sequence
        assert row.id.endswith(f"{shot.camera}_mono10bit/{shot.frame:06d}.jpg,{hand}")
        assert row.extra[0] == hand


def test_fixture_holds_what_the_real_one_does(whole: Path, truth: dict[str, list[Shot]]) -> None:
    pictures = truth["train"] + truth["val"]
    assert {shot.headset for shot in pictures} == {0, 1}
    assert {shot.camera for shot in pictures} == {name for names in HEADSETS for name in names}
    assert any(shot.sample.present.all() for shot in pictures)
    calibration = json.loads(
        (whole / "annotations/train/assemblyhands_train_ego_calib_v1-1.json").read_text()
    )["calibration"]
    poses = calibration[pictures[0].sequence]["extrinsics"]
    assert len(poses) == 4
    assert all(len(cameras) == 4 for cameras in poses.values())
    first, second = (np.array(poses[moment]["HMC_84346135_mono10bit"]) for moment in ("001410", "001412"))
    assert not np.allclose(first, second), "the headset moves"
    assert (whole / "annotations/skeleton.txt").is_file()


def test_hands_with_few_joints_are_left_out(copy: Path, truth: dict[str, list[Shot]]) -> None:
    side = "right" if truth["val"][0].sample.valid[0].any() else "left"
    first = 0 if side == "right" else 21

    def edit(value: Any) -> None:
        entry = value["annotations"][0]
        for joint in range(first, first + 12):
            entry["joint_valid"][joint] = [0]

    before = AssemblyHands(copy, "val")
    change(copy, "ego_data", edit)
    data = AssemblyHands(copy, "val")
    reason = "fewer than 10 valid joints"
    assert data.report.left_out[reason] == before.report.left_out.get(reason, 0) + 1
    assert len(data) == len(before) - 1


def test_the_toolkits_list_of_invalid_crops(copy: Path) -> None:
    before = AssemblyHands(copy, "val")
    named = [before.labels(i).id for i in (0, 3)]
    (copy / "annotations/val/invalid_val_ego.txt").write_text("\n".join(named) + "\n")
    data = AssemblyHands(copy, "val")
    assert data.report.left_out["listed as invalid by the toolkit"] == 2
    assert {s.id for s in before} - {s.id for s in data} == set(named)


def test_a_hand_without_box_is_no_sample(copy: Path) -> None:
    before = len(AssemblyHands(copy, "val"))
    boxes = json.loads(labels_of(copy, "ego_data").read_text())["annotations"][0]["bbox"]
    change(copy, "ego_data", lambda v: v["annotations"][0].update(bbox={"right": None, "left": None}))
    data = AssemblyHands(copy, "val")
    assert data.report.left_out["no hand has a box"] == 1
    assert len(data) == before - sum(box is not None for box in boxes.values())


def _poses(value: Any) -> list[list[list[float]]]:
    """Poses of the first picture's camera, in all frames."""
    entry = next(iter(value["calibration"].values()))
    lens = next(iter(entry["intrinsics"]))
    return [cameras[lens] for cameras in entry["extrinsics"].values()]


def _lens(value: Any) -> list[list[float]]:
    return next(iter(next(iter(value["calibration"].values()))["intrinsics"].values()))


def _frame(value: Any) -> Any:
    return next(iter(next(iter(value["annotations"].values())).values()))


def _first(value: dict[str, Any]) -> dict[str, Any]:
    return next(iter(value.values()))


def _behind(value: Any) -> None:
    for pose in _poses(value):
        pose[2][3] -= 1e4


def _nan_joints(value: Any) -> None:
    for joint in (5, 26):
        _frame(value)["world_coord"][joint] = [float("nan")] * 3


def _flat_boxes(value: Any) -> None:
    for box in value["annotations"][0]["bbox"].values():
        if box is not None:
            box[3] = box[1]


def _pop_first(value: dict[str, Any]) -> None:
    value.pop(next(iter(value)))


WRONG_CAMERA = "wrong intrinsics or pose in the calibration file"
BROKEN: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "nan": ("joint_3d", _nan_joints, "a joint is not finite or absurdly far"),
    "41 joints": (
        "joint_3d",
        lambda v: _frame(v)["world_coord"].pop(),
        "wrong number of joints in the joint file",
    ),
    "41 flags": (
        "ego_data",
        lambda v: v["annotations"][0]["joint_valid"].pop(),
        "wrong number of joints in the list of pictures",
    ),
    "no sequence of joints": (
        "joint_3d",
        lambda v: _pop_first(v["annotations"]),
        "sequence missing in the joint file",
    ),
    "no frame": (
        "joint_3d",
        lambda v: _pop_first(_first(v["annotations"])),
        "frame missing in the joint file",
    ),
    "behind": ("ego_calib", _behind, "a joint lies behind the camera"),
    "focal": ("ego_calib", lambda v: _lens(v)[0].__setitem__(0, 0), WRONG_CAMERA),
    "skew": ("ego_calib", lambda v: _lens(v)[0].__setitem__(1, 40), WRONG_CAMERA),
    "centre": (
        "ego_calib",
        lambda v: _lens(v)[0].__setitem__(2, 3000),
        "most joints lie outside of the box: wrong intrinsics",
    ),
    "rotation": (
        "ego_calib",
        lambda v: [p[0].__setitem__(0, 7) for p in _poses(v)],
        WRONG_CAMERA,
    ),
    "no camera": (
        "ego_calib",
        lambda v: _pop_first(_first(v["calibration"])["intrinsics"]),
        "camera missing in the calibration file",
    ),
    "no pose": (
        "ego_calib",
        lambda v: _pop_first(_first(v["calibration"])["extrinsics"]),
        "frame missing in the calibration file",
    ),
    "no sequence": (
        "ego_calib",
        lambda v: _pop_first(v["calibration"]),
        "sequence missing in the calibration file",
    ),
    "box": ("ego_data", _flat_boxes, "the box has no area"),
    "frame number": (
        "ego_data",
        lambda v: v["images"][0].update(frame_idx="x"),
        "frame_idx is not a whole number",
    ),
    "no id": ("ego_data", lambda v: v["annotations"][0].pop("id"), "annotation without id"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_entries_are_left_out_and_counted(copy: Path, name: str) -> None:
    content, edit, reason = BROKEN[name]
    before = AssemblyHands(copy, "val")
    change(copy, content, edit)
    data = AssemblyHands(copy, "val")
    assert set(data.report.left_out) - set(before.report.left_out) == {reason}
    assert 0 < len(data) < len(before)


@pytest.mark.parametrize("content", ["ego_data", "ego_calib", "joint_3d"])
def test_cut_off_and_missing_files(copy: Path, content: str) -> None:
    path = labels_of(copy, content)
    intact = path.read_bytes()
    path.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(ValueError, match=rf"_{content}_v1-1\.json: not valid JSON"):
        AssemblyHands(copy, "val")
    path.write_text("{}")
    with pytest.raises(ValueError, match=rf"_{content}_v1-1\.json: .* is NoneType; expected"):
        AssemblyHands(copy, "val")
    path.unlink()
    with pytest.raises(OSError, match=rf"_{content}_v1-1\.json: missing"):
        AssemblyHands(copy, "val")


def test_half_finished_download(copy: Path) -> None:
    before = AssemblyHands(copy, "val")
    picture = copy / before.index[0].picture
    lens = picture.parent
    lens.rename(lens.with_name("later"))
    change(copy, "ego_data", lambda v: v["images"].append({}))
    data = AssemblyHands(copy, "val")
    missing = data.report.left_out["picture missing"]
    assert len(data) == len(before) - missing
    assert data.report.examples["picture missing"][0] == picture.relative_to(copy).as_posix()
    lens.with_name("later").rename(lens)
    assert len(AssemblyHands(copy, "val")) == len(before)


def test_index_is_kept_until_a_file_changes(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = AssemblyHands(copy, "val")
    with monkeypatch.context() as patch:
        patch.setattr(AssemblyHands, "rows", lambda self, report: pytest.fail("read again"))
        assert len(AssemblyHands(copy, "val")) == len(first)
    change(copy, "joint_3d", lambda v: _frame(v)["world_coord"].__setitem__(slice(None), [[0, 0, 0]] * 42))
    assert len(AssemblyHands(copy, "val")) < len(first)


@pytest.mark.parametrize("version", ["1.1", "v1-1/../x", 3])
def test_unknown_version(copy: Path, version: Any) -> None:
    with pytest.raises(ValueError, match=r"version is .*; expected one such as 'v1-1'"):
        AssemblyHands(copy, "val", version=version)
    with pytest.raises(OSError, match=r"ego_data_v1-3\.json: missing"):
        AssemblyHands(copy, "val", version="v1-3")


MARKS = [b"", b"0", b"-", b"9", b"e", b"[", b"]", b'"', b"}", b"null", b"NaN", b"\xff", b"{}", b"1e400"]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_mutated_bytes_give_a_result_or_an_error_that_names_the_copy(copy: Path, data: st.DataObject) -> None:
    path = labels_of(copy, data.draw(st.sampled_from(["ego_data", "ego_calib", "joint_3d"])))
    intact = path.read_bytes()
    broken = bytearray(intact)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1))
        mark = data.draw(st.sampled_from(MARKS) | st.binary(min_size=1, max_size=2))
        broken[at : at + data.draw(st.integers(0, 3))] = mark
    path.write_bytes(bytes(broken))
    try:
        opened = AssemblyHands(copy, "val")
    except (ValueError, OSError) as error:
        assert str(copy) in str(error)
    else:
        for i in range(len(opened)):
            sample = opened.labels(i)
            assert (sample.joints_cam_mm[sample.valid][:, 2] > 0).all()
            assert sample.valid.sum() >= MIN_JOINTS
    finally:
        path.write_bytes(intact)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(value=JSON)
def test_any_json_value_is_numbers_of_the_shape_or_nothing(value: Any) -> None:
    found = numbers(value, (4,))
    assert found is None or (found.shape == (4,) and found.dtype == np.float64)
    assert flags(value) is None, "there are never 42 entries in these"
    assert not is_inner_path(value) or isinstance(value, str)


@pytest.mark.parametrize(
    "path", ["", "/a.jpg", "../a.jpg", "a/../../b.jpg", "a/", "a\0.jpg", "a/.", "\ud800.jpg"]
)
def test_paths_out_of_the_copy_are_refused(path: str) -> None:
    assert not is_inner_path(path)
    assert is_inner_path("a/b.jpg")
