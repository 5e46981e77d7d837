"""The own format: what is read, converted, refused and left out."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dfmamba.data.own_format import write_own
from dfmamba.data.readers.own import OwnData
from dfmamba.data.sample import encode_depth_png
from dfmamba.hands.camera import Camera, to_25d
from dfmamba.hands.crop import crop_sample, flip_sample
from dfmamba.hands.skeleton import JOINT_NAMES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "train" / "own_data.md"
CAMERA = [300.0, 310.0, 31.5, 23.5]
JOINTS = np.random.default_rng(0).uniform([-25, -20, 350], [25, 20, 450], (21, 3)).round(3)

NOT_3D = "joints_cam is not three numbers for each of the joint names"
NOT_FLAGS = "is not true or false for each of the joint names"

Content = dict[str, Any]
Change = Callable[[Content], object]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def content_of(count: int = 2) -> Content:
    """Right hands, a picture each."""
    return {
        "format": "dfmamba-own",
        "version": 1,
        "units": "mm",
        "joint_names": list(JOINT_NAMES),
        "samples": [
            {
                "picture": f"pictures/{i}.png",
                "size": [64, 48],
                "camera": list(CAMERA),
                "hands": [{"side": "right", "joints_cam": JOINTS.tolist()}],
            }
            for i in range(count)
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "pictures").mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (64, 48), (10 * i, 20, 30)).save(root / "pictures" / f"{i}.png")
    return root


def opened(folder: Path, content: Content | bytes) -> OwnData:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "train.json").write_bytes(text)
    return OwnData(folder, "train")


def hand(content: Content) -> Any:
    return content["samples"][0]["hands"][0]


def entry(content: Content) -> Any:
    return content["samples"][0]


def test_plain(folder: Path) -> None:
    dataset = opened(folder, content_of())
    assert dataset.report.lines == ["2 samples"]
    sample = dataset[1]
    assert (sample.id, sample.kind, sample.order) == ("pictures/1.png", "real", "openpose")
    assert sample.image[0, 0].tolist() == [10, 20, 30]
    assert sample.camera == Camera(*CAMERA)
    assert sample.present.tolist() == [True, False]
    np.testing.assert_allclose(sample.joints_cam_mm[0], JOINTS, rtol=1e-6)
    expected = JOINTS[:, :2] / JOINTS[:, 2:] * CAMERA[:2] + CAMERA[2:]
    np.testing.assert_allclose(sample.joints_2d_px[0], expected, rtol=1e-5)
    inside = ((expected > -0.5) & (expected < [63.5, 47.5])).all(1)
    np.testing.assert_array_equal(sample.visible[0], inside)
    np.testing.assert_allclose(sample.box_xyxy, [*expected.min(0), *expected.max(0)], rtol=1e-5)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(21)), units=st.sampled_from([("mm", 1), ("cm", 10), ("m", 1000)]))
def test_joints_go_by_name_and_units(folder: Path, order: list[int], units: tuple[str, int]) -> None:
    content = content_of(1) | {"units": units[0], "joint_names": [JOINT_NAMES[i] for i in order]}
    hand(content)["joints_cam"] = (JOINTS[order] / units[1]).tolist()
    hand(content)["valid"] = [i != 4 for i in order]
    sample = opened(folder, content).labels(0)
    np.testing.assert_allclose(
        sample.joints_cam_mm[0], np.where(np.arange(21)[:, None] == 4, 0, JOINTS), 1e-5
    )
    assert np.flatnonzero(~sample.valid[0]).tolist() == [4]


def test_joints_that_are_not_named_are_not_valid(folder: Path) -> None:
    content = content_of(1) | {"joint_names": ["index_tip", "wrist"]}
    hand(content).update(joints_cam=JOINTS[:2].tolist(), visible=[True, False])
    sample = opened(folder, content).labels(0)
    assert np.flatnonzero(sample.valid[0]).tolist() == [0, 8]
    assert np.flatnonzero(sample.visible[0]).tolist() == [8]
    np.testing.assert_allclose(sample.joints_cam_mm[0, [8, 0]], JOINTS[:2], rtol=1e-6)


def test_two_hands_size_and_labels_without_a_camera(folder: Path) -> None:
    content = content_of(1)
    left = {
        "side": "left",
        "joints_cam": np.add(JOINTS, [5, 0, 9]).tolist(),
        "joints_2d_px": [[9.0, 8.0]] * 21,
    }
    entry(content).update(id="both", camera=None, size=None, box=[0, 1, 40, 41])
    entry(content)["hands"] = [left, hand(content) | {"joints_2d_px": [[20.0, 21.0]] * 21}]
    sample = opened(folder, content)[0]
    assert sample.present.all()
    assert sample.camera is None
    assert sample.size == (64, 48)
    assert sample.id == "both"
    np.testing.assert_allclose(sample.joints_cam_mm, np.stack([JOINTS, np.add(JOINTS, [5, 0, 9])]), rtol=1e-6)
    assert sample.joints_2d_px[:, 3].tolist() == [[20, 21], [9, 8]]
    assert sample.box_xyxy.tolist() == [0, 1, 40, 41]


def test_depth(folder: Path) -> None:
    depth = np.zeros((48, 64), np.float32)
    depth[5, 6] = 412.5
    (folder / "depth.png").write_bytes(encode_depth_png(depth, 0.5))
    content = content_of() | {"depth_unit_mm": 0.5}
    entry(content).update(depth="depth.png")
    content["samples"][1].update(depth="depth.png", picture=None, size=None)
    dataset = opened(folder, content)
    np.testing.assert_array_equal(dataset[0].depth_mm, depth)
    assert dataset[1].image is None
    assert dataset[1].size == (64, 48)
    (folder / "depth.png").write_bytes(encode_depth_png(depth[:, :9]))
    with pytest.raises(ValueError, match=r"depth\.png: 9 x 48 pixels; the labels say 64 x 48"):
        dataset[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(extra=1), "unknown key 'extra'"),
        (lambda c: entry(c).update(image="a.png"), "sample 0: unknown key 'image'"),
        (lambda c: hand(c).update(joints=[]), "sample 0, a hand: unknown key 'joints'"),
        (lambda c: c.pop("units"), "lacks 'units'"),
        (lambda c: c.update(units="inch"), "units are 'inch'"),
        (lambda c: c.update(version=2), "version 2; expected"),
        (lambda c: c.update(joint_names=[*JOINT_NAMES[:20], "pinky"]), "'pinky'"),
        (lambda c: c.update(joint_names=["wrist", "wrist"]), "'wrist', which is unknown or twice"),
        (lambda c: c.update(joint_names=[]), "joint_names"),
        (lambda c: c.update(depth_unit_mm=0), "depth_unit_mm is 0"),
        (lambda c: c.update(samples={}), "samples is dict"),
        (lambda c: c["samples"].append(3), "sample 2: is int; expected an object"),
        (lambda c: entry(c).pop("hands"), "sample 0: lacks 'hands'"),
        (lambda c: entry(c).pop("picture"), "neither picture nor depth"),
        (lambda c: entry(c).update(picture="../x.png"), "inside of the folder"),
        (lambda c: entry(c).update(picture="/x.png"), "inside of the folder"),
        (lambda c: entry(c).update(picture=3), "picture is int"),
        (lambda c: entry(c).update(id="\ud800"), "id is str"),
        (lambda c: entry(c).update(depth="d.png"), "no depth_unit_mm"),
        (lambda c: entry(c).update(size=[64, 0]), "size is"),
        (lambda c: entry(c).update(box=[1, 2, 3]), "box is list; expected a list of 4"),
        (lambda c: entry(c).update(camera="300"), "camera is str"),
        (lambda c: entry(c).update(hands=None), "hands is null"),
        (lambda c: hand(c).update(side="both"), "side is 'both'"),
    ],
)
def test_a_broken_format_is_refused(folder: Path, change: Change, message: str) -> None:
    content = content_of()
    change(content)
    with pytest.raises(ValueError, match=r"train\.json.*" + re.escape(message)):
        opened(folder, content)


def set_joint(content: Content, column: int, value: float) -> None:
    hand(content)["joints_cam"][3][column] = value


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: set_joint(c, 1, math.nan), "a joint is not finite or absurdly far"),
        (lambda c: set_joint(c, 1, math.inf), "a joint is not finite or absurdly far"),
        (lambda c: set_joint(c, 2, -3.0), "a joint lies behind the camera"),
        (lambda c: hand(c)["joints_cam"].pop(), NOT_3D),
        (lambda c: set_joint(c, 0, None), NOT_3D),
        (lambda c: hand(c).pop("joints_cam"), "neither joints_cam nor joints_2d_px"),
        (lambda c: entry(c).update(camera=None), "neither joints_2d_px nor a camera"),
        (lambda c: entry(c).update(camera=[300, 0, 1, 1]),
         "the camera is not four usable numbers: wrong intrinsics"),
        (lambda c: entry(c).update(camera=[300, "f", 1, 1]),
         "the camera is not four usable numbers: wrong intrinsics"),
        (lambda c: hand(c).update(joints_2d_px=[[60.0, 4.0]] * 21),
         "3D joints don't fall on their pixels: wrong intrinsics"),
        (lambda c: hand(c).update(joints_2d_px=[[60.0, 4.0]]),
         "joints_2d_px is not two numbers for each of the joint names"),
        (lambda c: hand(c).update(valid=[1] * 21), f"valid {NOT_FLAGS}"),
        (lambda c: hand(c).update(visible=[True]), f"visible {NOT_FLAGS}"),
        (lambda c: entry(c).update(box=[5, 5, 5, 9]), "the box has no area"),
        (lambda c: entry(c).update(box=[5, 5, math.nan, 9]), "the box is not four finite numbers"),
        (lambda c: entry(c).update(box=["a", 5, 8, 9]), "the box is not four finite numbers"),
        (lambda c: entry(c)["hands"].append(hand(c)), "two hands of one side"),
        (lambda c: entry(c).update(hands=[]), "no valid joint"),
        (lambda c: entry(c).update(picture="pictures/none.png"), "the picture is missing"),
        (lambda c: entry(c).update(picture="pictures"), "the picture is missing"),
    ],
)  # fmt: skip
def test_an_unusable_sample_is_left_out(folder: Path, change: Change, reason: str) -> None:
    content = copy.deepcopy(content_of())
    change(content)
    dataset = opened(folder, content)
    assert dataset.report.left_out == {reason: 1}
    assert [sample.id for sample in dataset] == ["pictures/1.png"]


def pixels_only(depth: list[float | None] | None) -> Content:
    """The first hand labelled in pixels, with the depths given; the second in millimetres."""
    content = copy.deepcopy(content_of())
    joints = hand(content).pop("joints_cam")
    hand(content)["joints_2d_px"] = Camera(*CAMERA).project(np.array(joints)).tolist()
    if depth is not None:
        hand(content)["depth_px"] = depth
    return content


def test_labels_in_pixels_only(folder: Path) -> None:
    depth = [0.25 * i if i != 7 else None for i in range(21)]
    dataset = opened(folder, pixels_only(depth))
    sample, other = dataset[0], dataset[1]
    assert sample.valid[0].all()
    assert not sample.joints_cam_mm.any()
    joints, known = sample.joints_25d
    np.testing.assert_allclose(joints[0, :, :2], sample.joints_2d_px[0])
    np.testing.assert_allclose(joints[0, :, 2], [d or 0.0 for d in depth])
    assert np.flatnonzero(~known[0]).tolist() == [7]
    with pytest.raises(ValueError, match="labelled in pixels only; framework a2j needs millimetres"):
        sample.require_mm("framework a2j")

    assert other.depth_px is None
    camera = Camera(*CAMERA)
    joints, known = other.joints_25d
    np.testing.assert_allclose(joints[0], to_25d(other.joints_cam_mm[0].astype(float), camera), atol=1e-3)
    assert known[0].all()
    assert not known[1].any()

    assert not opened(folder, pixels_only(None))[0].joints_25d[1].any()


def test_pixels_survive_export_mirroring_and_cropping(folder: Path, tmp_path: Path) -> None:
    dataset = opened(folder, pixels_only([0.5 * i for i in range(21)]))
    assert write_own(dataset, tmp_path / "copy", "train").kept == 2
    again = OwnData(tmp_path / "copy", "train")[0]
    np.testing.assert_array_equal(again.depth_px, dataset[0].depth_px)
    np.testing.assert_array_equal(again.joints_2d_px, dataset[0].joints_2d_px)
    mirrored = flip_sample(again)
    np.testing.assert_array_equal(mirrored.joints_25d[0][1, :, 2], again.joints_25d[0][0, :, 2])
    larger = crop_sample(again, (0, 0, 32, 32), 64)
    np.testing.assert_allclose(larger.joints_25d[0][0, :, 2], 2 * again.joints_25d[0][0, :, 2])


@pytest.mark.parametrize(
    ("depth", "reason"),
    [
        ([1.0] * 20, "depth_px is not a number or null for each of the joint names"),
        (["near"] * 21, "depth_px is not a number or null for each of the joint names"),
        ([math.inf] * 21, "a depth is absurdly large"),
    ],
)
def test_unusable_depths(folder: Path, depth: list, reason: str) -> None:
    assert opened(folder, pixels_only(depth)).report.left_out == {reason: 1}


def test_unusable_pictures(folder: Path) -> None:
    content = content_of()
    content["samples"][0].pop("size")
    picture = folder / "pictures" / "0.png"
    good = picture.read_bytes()
    picture.write_bytes(b"")
    assert opened(folder, content).report.left_out == {"the picture is empty": 1}
    picture.write_bytes(good[:60])
    assert opened(folder, content).report.left_out == {"the picture or depth map is damaged": 1}
    picture.write_bytes(good)
    dataset = opened(folder, content)
    assert len(dataset) == 2
    picture.unlink()
    with pytest.raises(OSError, match=r"0\.png"):
        dataset[0]


def test_index_is_renewed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(opened(folder, content_of())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(OwnData, "rows", lambda self, report: pytest.fail("indexed again"))
        assert len(OwnData(folder, "train")) == 2
    assert len(opened(folder, content_of(1))) == 1
    (folder / "pictures" / "1.png").unlink()
    assert opened(folder, content_of()).report.left_out == {"the picture is missing": 1}
    Image.new("RGB", (64, 48)).save(folder / "pictures" / "1.png")
    assert len(OwnData(folder, "train")) == 2


def test_nothing_to_read(folder: Path) -> None:
    with pytest.raises(OSError, match=r"val\.json"):
        OwnData(folder, "val")
    with pytest.raises(ValueError, match="split is 'validation'"):
        OwnData(folder, "validation")
    with pytest.raises(ValueError, match="no usable sample"):
        opened(folder, content_of(0))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes(folder: Path, data: st.DataObject) -> None:
    text = bytearray(json.dumps(content_of(1)).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.sampled_from(b'0189.-eE"[]{},: nxN') | st.integers(0, 255))
    end = data.draw(st.just(len(text)) | st.integers(0, len(text)))
    try:
        dataset = opened(folder, bytes(text[:end]))
    except (ValueError, OSError) as error:
        assert str(folder) in str(error)
    else:
        assert np.isfinite(dataset[0].joints_cam_mm).all()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place(folder: Path, data: st.DataObject) -> None:
    content = copy.deepcopy(content_of(1))
    spot = data.draw(st.sampled_from([content, entry(content), hand(content), hand(content)["joints_cam"]]))
    key = data.draw(st.sampled_from(sorted(spot)) if isinstance(spot, dict) else st.integers(0, 20))
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    spot[key] = data.draw(
        leaves | st.lists(leaves, max_size=4) | st.dictionaries(st.text(max_size=2), leaves)
    )
    try:
        dataset = opened(folder, content)
    except (ValueError, OSError) as error:
        assert str(folder) in str(error)
    else:
        assert np.isfinite(dataset.labels(0).joints_2d_px).all()


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert len(OwnData(tmp_path / "my_data", "train")) == 1
