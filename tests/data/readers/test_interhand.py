"""InterHand2.6M: the fixture comes back as it was made, real samples fit, broken copies are named."""

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

from dfmamba.data.readers.interhand import InterHand26M
from dfmamba.data.registry import open_dataset
from dfmamba.fixtures import write_fixture
from dfmamba.fixtures.interhand import Shot, shots, write_split
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.skeleton import FINGERS, JOINT_NAMES

COUNT, SEED = 8, 3


@pytest.fixture(scope="module")
def truth() -> dict[str, list[Shot]]:
    pytest.importorskip("warp")
    return {split: shots(split, COUNT, SEED) for split in ("train", "test")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("warp")
    root = tmp_path_factory.mktemp("interhand") / "copy"
    write_fixture("interhand26m", root, COUNT, SEED)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of the test split alone, to be broken."""
    root = tmp_path / "broken"
    for part in ("images", "annotations"):
        shutil.copytree(whole / part / "test", root / part / "test")
    return root


def labels_of(root: Path, content: str, split: str = "test") -> Path:
    return root / "annotations" / split / f"InterHand2.6M_{split}_{content}.json"


def change(root: Path, content: str, edit: Callable[[Any], Any]) -> None:
    path = labels_of(root, content)
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("split", ["train", "test"])
def test_fixture_comes_back(whole: Path, truth: dict[str, list[Shot]], split: str) -> None:
    data = open_dataset("interhand26m", whole, split)
    assert len(data) == COUNT
    assert data.report.left_out == {}
    for i, (sample, shot) in enumerate(zip(data, truth[split], strict=True)):
        want = shot.sample
        assert (sample.valid == want.valid).all()
        assert (sample.present == want.present).all()
        seen = want.valid
        np.testing.assert_allclose(sample.joints_cam_mm[seen], want.joints_cam_mm[seen], atol=1e-3)
        np.testing.assert_allclose(sample.joints_2d_px[seen], want.joints_2d_px[seen], atol=1e-2)
        assert sample.camera is not None
        assert want.camera is not None
        np.testing.assert_allclose(sample.camera.matrix, want.camera.matrix)
        assert sample.size == want.size
        assert sample.image is not None
        if shot.grey:
            assert (np.ptp(sample.image, axis=2) == 0).all()
        else:
            off = np.abs(sample.image.astype(float) - np.asarray(want.image)).mean()
            assert off < 8
        tight = box_of_points(want.joints_2d_px, seen)
        side = tight[2:] - tight[:2]
        np.testing.assert_allclose(sample.box_xyxy[:2], tight[:2] - 0.1 * side, atol=0.02)
        np.testing.assert_allclose(sample.box_xyxy[2:], tight[2:] + 0.1 * side, atol=0.02)
        row = data.index[i]
        assert row.group == f"Capture{shot.capture}/{shot.sequence}"
        assert ("right", "left", "interacting")[int(row.extra[0])] == shot.hand_type


def test_fixture_holds_what_the_real_one_does(truth: dict[str, list[Shot]]) -> None:
    pictures = truth["train"]
    assert {shot.sample.size for shot in pictures} == {(334, 512), (512, 334)}
    assert len({shot.capture for shot in pictures}) == 3
    assert "interacting" in {shot.hand_type for shot in pictures}
    assert any(shot.grey for shot in pictures)
    assert len({shot.frame for shot in pictures}) < len(pictures)


def test_val_and_official_files(whole: Path) -> None:
    assert len(InterHand26M(whole, "val")) == 8
    for name in ("skeleton.txt", "subject.txt", "val/aid_machine_annot_val.txt"):
        assert (whole / "annotations" / name).is_file()
    lines = [line.split() for line in (whole / "annotations/skeleton.txt").read_text().splitlines()[1:]]
    assert [int(index) for _, index, _ in lines] == list(range(42))
    assert lines[0] == ["r_thumb4", "0", "1"]
    assert lines[40] == ["l_pinky1", "40", "41"]


def test_joint_not_found_in_3d_is_not_valid(copy: Path, truth: dict[str, list[Shot]]) -> None:
    shot = truth["test"][1]

    def edit(value: Any) -> None:
        frame = value[str(shot.capture)][str(shot.frame)]
        frame["joint_valid"][20] = [0]
        frame["world_coord"][20] = [1.0, 1.0, 1.0]

    change(copy, "joint_3d", edit)
    sample = InterHand26M(copy, "test").labels(1)
    assert not sample.valid[0, JOINT_NAMES.index("wrist")]
    assert sample.valid[0, 1:].sum() == shot.sample.valid[0, 1:].sum(), "the other joints keep their labels"


@pytest.mark.parametrize(
    ("maker", "expected"), [("all", range(8)), ("human", range(0, 8, 2)), ("machine", [0, 1, 3, 5, 7])]
)
def test_who_annotated(whole: Path, maker: str, expected: Any) -> None:
    every = InterHand26M(whole, "test")
    data = InterHand26M(whole, "test", annotations=maker)
    assert [data.labels(i).id for i in range(len(data))] == [every.labels(i).id for i in expected]
    extra = dict(zip(InterHand26M.EXTRA, every.index[0].extra, strict=True))
    assert (extra["human"], extra["machine"]) == (1, 1)
    assert every.index[2].extra[2:4] == (1, 0)


def test_unknown_makers_are_nan_and_a_missing_list_is_named(copy: Path) -> None:
    for path in (copy / "annotations/test").glob("aid_*"):
        path.unlink()
    assert np.isnan(InterHand26M(copy, "test").index.column("extra")[:, 2:4]).all()
    with pytest.raises(OSError, match=r"aid_human_annot_test\.txt: missing.*annotations='all'"):
        InterHand26M(copy, "test", annotations="human")


@pytest.mark.parametrize(("line", "message"), [("999999", "999999 is not in"), ("abc", "'abc' is no id")])
def test_ids_of_another_variant_are_refused(copy: Path, line: str, message: str) -> None:
    path = copy / "annotations/test/aid_human_annot_test.txt"
    path.write_text(f"326750\n{line}\n")
    with pytest.raises(ValueError, match=rf"aid_human_annot_test\.txt: .*{message}"):
        InterHand26M(copy, "test")


def test_both_frame_rates_side_by_side(copy: Path, tmp_path: Path, truth: dict[str, list[Shot]]) -> None:
    slow, fast = tmp_path / "both/InterHand2.6M_5fps_batch1", tmp_path / "both/InterHand2.6M_30fps_batch1"
    shutil.copytree(copy, slow)
    write_split(fast, "test", truth["test"][:3], 5)
    assert len(InterHand26M(tmp_path / "both", "test")) == COUNT
    assert len(InterHand26M(tmp_path / "both", "test", fps=30)) == 3
    assert len(InterHand26M(fast, "test", fps=30)) == 3
    with pytest.raises(ValueError, match="pass fps=30"):
        InterHand26M(fast, "test")


def test_version_0(copy: Path) -> None:
    labels = copy / "annotations"
    shutil.copytree(labels / "test", labels / "all")
    (labels / "test").rename(labels / "human_annot")
    data = InterHand26M(copy, "test")
    assert (data.version, len(data)) == ("0.0", COUNT)
    assert np.isnan(data.index.column("extra")[:, 2:4]).all()
    made = InterHand26M(copy, "test", annotations="human").index.column("extra")[:, 2]
    assert (made == 1).all()
    with pytest.raises(OSError, match=r"_test_data\.json: missing"):
        InterHand26M(copy, "test", version="1.0")


@pytest.mark.parametrize(("option", "value"), [("fps", 10), ("annotations", "x"), ("version", "2")])
def test_unknown_options(whole: Path, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{option} is {value!r}; expected"):
        InterHand26M(whole, "test", **{option: value})


def _nan_joint(value: Any) -> None:
    for joint in (5, 26):
        value["0"]["11461"]["world_coord"][joint] = [float("nan")] * 3


def _behind(value: Any) -> None:
    position, rotation = (np.array(_first_camera(value, part)) for part in ("campos", "camrot"))
    value["0"]["campos"][next(iter(value["0"]["campos"]))] = (position + rotation.T @ [0, 0, 1e4]).tolist()


def _first_camera(value: Any, part: str) -> Any:
    return value["0"][part][next(iter(value["0"][part]))]


def _drop_first_camera(value: Any) -> None:
    for part in value["0"].values():
        del part[next(iter(part))]


def _first_label(value: Any) -> Any:
    return value["annotations"][0]


WRONG_CAMERA = "wrong intrinsics or pose in the camera file"
OUTSIDE = "most joints lie outside of the box: wrong intrinsics"
WRONG_TYPE = "hand_type is neither right, left nor interacting"
ORPHAN = "annotation of a picture that is not listed"
FEW_JOINTS, FEW_FLAGS = (
    f"wrong number of joints in the {name}" for name in ("joint file", "list of pictures")
)
OUTER_PATH = "file name is no path within the data set"
BROKEN: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "nan": ("joint_3d", _nan_joint, "a joint is not finite or absurdly far"),
    "41 joints": ("joint_3d", lambda v: v["0"]["11461"]["world_coord"].pop(), FEW_JOINTS),
    "41 flags": ("data", lambda v: _first_label(v)["joint_valid"].pop(), FEW_FLAGS),
    "no frame": ("joint_3d", lambda v: v["0"].pop("11461"), "frame missing in the joint file"),
    "behind": ("camera", _behind, "a joint lies behind the camera"),
    "focal": ("camera", lambda v: _first_camera(v, "focal").__setitem__(0, 0), WRONG_CAMERA),
    "centre": ("camera", lambda v: _first_camera(v, "princpt").__setitem__(0, 3000), OUTSIDE),
    "rotation": ("camera", lambda v: _first_camera(v, "camrot").__setitem__(0, [1, 1, 1]), WRONG_CAMERA),
    "no camera": ("camera", _drop_first_camera, "camera missing in the camera file"),
    "box": ("data", lambda v: _first_label(v)["bbox"].__setitem__(2, 0), "the box has no area"),
    "no box": ("data", lambda v: _first_label(v).pop("bbox"), "the box is not four numbers"),
    "type": ("data", lambda v: _first_label(v).update(hand_type="foot"), WRONG_TYPE),
    "orphan": ("data", lambda v: _first_label(v).update(image_id=1), ORPHAN),
    "path": ("data", lambda v: v["images"][0].update(file_name="../../x.jpg"), OUTER_PATH),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_entries_are_left_out_and_counted(copy: Path, name: str) -> None:
    content, edit, reason = BROKEN[name]
    change(copy, content, edit)
    data = InterHand26M(copy, "test")
    assert set(data.report.left_out) == {reason}
    count = data.report.left_out[reason]
    assert count >= 1
    assert len(data) == COUNT - count
    assert reason in "\n".join(data.report.lines)


def test_captures_missing_in_either_file(copy: Path) -> None:
    change(copy, "camera", lambda v: v.pop("1"))
    assert InterHand26M(copy, "test").report.left_out == {"capture missing in the camera file": 4}
    change(copy, "joint_3d", lambda v: v.pop("0"))
    with pytest.raises(ValueError, match=r"no usable sample.*left out 4: capture missing in the joint file"):
        InterHand26M(copy, "test")


def test_wrong_size_is_told_on_access(copy: Path) -> None:
    change(copy, "data", lambda v: v["images"][0].update(width=400))
    data = InterHand26M(copy, "test")
    with pytest.raises(ValueError, match=r"image11461\.jpg: 334 x 512 pixels; the labels say 400 x 512"):
        data[0]


@pytest.mark.parametrize("content", ["data", "camera", "joint_3d"])
def test_cut_off_and_missing_files(copy: Path, content: str) -> None:
    path = labels_of(copy, content)
    whole_text = path.read_bytes()
    path.write_bytes(whole_text[: len(whole_text) // 2])
    with pytest.raises(
        ValueError, match=rf"_{content}\.json: not valid JSON, the file is damaged or cut off"
    ):
        InterHand26M(copy, "test")
    path.write_text("[]")
    with pytest.raises(ValueError, match=rf"_{content}\.json: holds list"):
        InterHand26M(copy, "test")
    path.unlink()
    with pytest.raises(OSError, match=rf"_{content}\.json: missing"):
        InterHand26M(copy, "test")


def test_half_finished_download(copy: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    (copy / "images/test/Capture1").rename(away)
    data = InterHand26M(copy, "test")
    assert data.report.left_out == {"picture missing": 4}
    assert all("Capture1/" in name for name in data.report.examples["picture missing"])
    assert len(data) == 4
    away.rename(copy / "images/test/Capture1")
    assert len(InterHand26M(copy, "test")) == COUNT, "the index is made anew once they have come"
    shutil.rmtree(copy / "images")
    with pytest.raises(OSError, match="images/test: missing"):
        InterHand26M(copy, "test")


def test_a_single_late_picture_is_noticed(copy: Path) -> None:
    late = copy / InterHand26M(copy, "test").index[3].picture
    content = late.read_bytes()
    late.unlink()
    change(copy, "data", lambda v: v["images"].append({}))
    assert InterHand26M(copy, "test").report.left_out == {"picture missing": 1}
    late.write_bytes(content)
    assert InterHand26M(copy, "test").report.left_out == {}


def test_index_is_kept_until_a_file_changes(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = InterHand26M(copy, "test")
    with monkeypatch.context() as patch:
        patch.setattr(InterHand26M, "rows", lambda self, report: pytest.fail("read again"))
        assert len(InterHand26M(copy, "test")) == COUNT
    change(copy, "data", lambda v: [v["images"].pop(0), v["annotations"].reverse()])
    data = InterHand26M(copy, "test")
    assert [s.id for s in data] == [s.id for s in first][:0:-1], "in the order of the annotations"
    assert data.report.left_out == {"annotation of a picture that is not listed": 1}


MARKS = [b"", b"0", b"-", b"9", b"e", b"[", b"]", b'"', b"}", b"null", b"NaN", b"\xff", b"{}", b"1e400"]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(data=st.data())
def test_mutated_bytes_give_a_result_or_an_error_that_names_the_copy(copy: Path, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(["data", "camera", "joint_3d"]))
    path = labels_of(copy, content)
    intact = path.read_bytes()
    broken = bytearray(intact)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1))
        mark = data.draw(st.sampled_from(MARKS) | st.binary(min_size=1, max_size=2))
        broken[at : at + data.draw(st.integers(0, 3))] = mark
    path.write_bytes(bytes(broken))
    try:
        opened = InterHand26M(copy, "test")
    except (ValueError, OSError) as error:
        assert str(copy) in str(error)
    else:
        for i in range(len(opened)):
            sample = opened.labels(i)
            assert (sample.joints_cam_mm[sample.valid][:, 2] > 0).all()
        assert 0 < len(opened) <= COUNT
    finally:
        path.write_bytes(intact)


@pytest.fixture
def real(samples_dir: Path, tmp_path: Path) -> InterHand26M:
    """The two real pictures, laid out as in the full set."""
    source, root = samples_dir / "interhand2.6m", tmp_path / "real"
    content = json.loads((source / "interhand2.6m_data.json").read_text())
    for image in content["images"]:
        folder = f"Capture{image['capture']}/{image['seq_name']}/cam{image['camera']}"
        target = root / "images/train" / folder / image["file_name"]
        target.parent.mkdir(parents=True)
        shutil.copyfile(source / image["file_name"], target)
        image["file_name"] = f"{folder}/{image['file_name']}"
    labels = labels_of(root, "data", "train")
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps(content))
    for name in ("camera", "joint_3d"):
        shutil.copyfile(source / f"interhand2.6m_{name}.json", labels_of(root, name, "train"))
    return InterHand26M(root, "train")


def test_real_samples(real: InterHand26M) -> None:
    assert real.report.left_out == {}
    two, one = real
    assert (two.size, one.size) == ((334, 512), (512, 334))
    assert two.present.tolist() == [True, True]
    assert one.present.tolist() == [True, False]
    assert two.valid.all()
    assert one.valid.all(1).tolist() == one.valid.any(1).tolist() == [True, False]
    for sample in (two, one):
        box = sample.box_xyxy.astype(float)
        tight = box_of_points(sample.joints_2d_px, sample.valid).astype(float)
        centre, half = (tight[:2] + tight[2:]) / 2, (tight[2:] - tight[:2]) / 2
        np.testing.assert_allclose(box, [*(centre - 1.2 * half), *(centre + 1.2 * half)], atol=0.01)
    assert real.index[1].extra[0] == 0
    assert real.index[0].extra[:2] == (2, 1)


def test_real_right_hand_has_its_fingers_in_order(real: InterHand26M) -> None:
    """A thumb that points up in the picture, above the index; the little finger is lowest."""
    sample = real[1]
    pixels = sample.joints_2d_px[0]
    assert pixels[:, 1].argmin() == FINGERS["thumb"][3]
    knuckles = [FINGERS[name][0] for name in ("index", "middle", "ring", "little")]
    assert (np.diff(pixels[knuckles, 1]) > 0).all()


def test_real_hands_curl_as_their_sides_do(real: InterHand26M) -> None:
    """Seen onto a right palm with the fingers up, the index is to the right of the little finger."""
    for sample, sides in ((real[0], (1, -1)), (real[1], (1,))):
        for joints, side in zip(sample.joints_cam_mm, sides, strict=False):
            index, middle, little = (FINGERS[name] for name in ("index", "middle", "little"))
            across, along = joints[index[0]] - joints[little[0]], joints[middle[0]] - joints[0]
            curl = joints[middle[3]] - joints[middle[0]]
            assert side * np.dot(np.cross(across, along), curl) > 0
