"""RHD: the fixture's round trip, the rules that choose a hand, broken copies, and real samples."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dfmamba.data.readers.rhd import RenderedHands, hand_pixels, load_mask
from dfmamba.data.registry import open_dataset
from dfmamba.data.sample import LEFT, HandSample
from dfmamba.fixtures import write_fixture
from dfmamba.fixtures.rhd import scenes
from dfmamba.hands.affine import box_of_points
from dfmamba.hands.camera import bone_lengths
from dfmamba.hands.skeleton import REFERENCE_BONES_MM
from dfmamba.io.array_pickle import read_array_pickle

COUNT, SEED = 6, 5
ANNO = "training/anno_training.pickle"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("warp")
    root = tmp_path_factory.mktemp("rhd") / "RHD_published_v2"
    write_fixture("rhp", root, COUNT, SEED)
    return root


@pytest.fixture(scope="module")
def truth(pristine: Path) -> list[HandSample]:
    return list(scenes("training", COUNT, SEED))


@pytest.fixture
def copy(pristine: Path, tmp_path: Path) -> Path:
    root = tmp_path / "copy"
    shutil.copytree(pristine / "training", root / "training")
    return root


def entries(root: Path) -> dict[int, dict[str, np.ndarray]]:
    read = read_array_pickle(root / ANNO)
    return {number: {name: array.copy() for name, array in entry.items()} for number, entry in read.items()}


def save(root: Path, content: Any) -> None:
    (root / ANNO).write_bytes(pickle.dumps(content, protocol=2))


def agree(sample: HandSample, truth: HandSample, hands: np.ndarray) -> None:
    assert sample.present.tolist() == hands.tolist()
    assert (sample.valid == hands[:, None]).all()
    here = hands[:, None, None]
    np.testing.assert_allclose(sample.joints_cam_mm, np.where(here, truth.joints_cam_mm, 0), atol=1e-3)
    np.testing.assert_allclose(sample.joints_2d_px, np.where(here, truth.joints_2d_px, 0), atol=1e-3)
    assert (sample.visible == truth.visible & hands[:, None]).all()
    np.testing.assert_allclose(sample.box_xyxy, box_of_points(truth.joints_2d_px, sample.valid), atol=1e-3)
    assert sample.camera is not None
    assert truth.camera is not None
    np.testing.assert_allclose(sample.camera.matrix, truth.camera.matrix, rtol=1e-6)


def test_round_trip_of_both_hands(pristine: Path, truth: list[HandSample]) -> None:
    data = open_dataset("rhp", pristine, "training", hand="both", depth=True)
    assert data.report.lines == [f"{COUNT} samples"]
    for i, (sample, true) in enumerate(zip(data, truth, strict=True)):
        assert sample.id == f"training/color/{i:05d}.png"
        assert sample.kind == "real"
        agree(sample, true, true.visible.any(1))
        assert (sample.image == true.image).all()
        np.testing.assert_allclose(sample.depth_mm, true.depth_mm, atol=5000 / 65535)
    assert sum(sample.present.all() for sample in data) == COUNT // 2


def test_rule_mask(pristine: Path, truth: list[HandSample]) -> None:
    data = RenderedHands(pristine, "training")
    for i, true in enumerate(truth):
        assert true.mask is not None
        right, left = (true.mask == 1).sum(), (true.mask == 2).sum()
        assert hand_pixels(load_mask(pristine / f"training/mask/{i:05d}.png")).tolist() == [right, left]
        agree(data.labels(i), true, np.array([right >= left, left > right]))


def test_rule_visible(pristine: Path, truth: list[HandSample]) -> None:
    data = RenderedHands(pristine, "training", hand="visible")
    for i, true in enumerate(truth):
        right, left = true.visible.sum(1)
        agree(data.labels(i), true, np.array([right >= left, left > right]))


def test_ties_go_to_the_right_hand(copy: Path) -> None:
    content = entries(copy)
    content[1]["uv_vis"][:, 2] = 1  # a picture with two hands
    save(copy, content)
    Image.fromarray(np.full((320, 320), 1, np.uint8)).save(copy / "training/mask/00001.png")
    for rule in ("mask", "visible"):
        assert RenderedHands(copy, "training", hand=rule).labels(1).present.tolist() == [True, False]


def test_mask_labels() -> None:
    for label, expected in ((1, (0, 0)), (2, (0, 4)), (17, (0, 4)), (18, (4, 0)), (33, (4, 0)), (34, (0, 0))):
        assert hand_pixels(np.full((2, 2), label, np.uint8)).tolist() == list(expected)


def test_outer_folder_and_evaluation(pristine: Path) -> None:
    data = RenderedHands(pristine.parent, "evaluation")
    assert len(data) == 8
    assert data[0].image.shape == (320, 320, 3)


def test_bad_arguments(pristine: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hand is 'left'; expected one of mask, visible, both"):
        RenderedHands(pristine, hand="left")
    with pytest.raises(ValueError, match="split is 'test'"):
        RenderedHands(pristine, "test")
    with pytest.raises(OSError, match="no such folder"):
        RenderedHands(tmp_path / "nowhere")


def _write(path: str, content: bytes) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).write_bytes(content)

    return change


def _halve(path: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        data = (root / path).read_bytes()
        (root / path).write_bytes(data[: len(data) // 2])

    return change


def _remove(path: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).unlink()

    return change


def _entry(change_entry: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Changes entry 2, which shows one hand."""

    def change(root: Path) -> None:
        content = entries(root)
        change_entry(content[2])
        save(root, content)

    return change


def _set(name: str, index: Any, value: float) -> Callable[[Path], None]:
    def change(entry: dict[str, Any]) -> None:
        entry[name][index] = value

    return _entry(change)


def _small_mask(root: Path) -> None:
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(root / "training/mask/00002.png")


def _shrink(entry: dict[str, Any]) -> None:
    entry["xyz"][:] = entry["xyz"][0]
    entry["uv_vis"][:] = entry["uv_vis"][0]


BROKEN = {
    "picture missing": (_remove("training/color/00002.png"), "file in color is missing or empty"),
    "picture empty": (_write("training/color/00002.png", b""), "file in color is missing or empty"),
    "mask missing": (_remove("training/mask/00002.png"), "file in mask is missing or empty"),
    "mask truncated": (_halve("training/mask/00002.png"), "mask is damaged or of another size"),
    "mask small": (_small_mask, "mask is damaged or of another size"),
    "NaN": (_set("xyz", [3, 24], np.nan), "a joint is not finite or absurdly far"),
    "NaN of both": (_set("xyz", slice(None), np.nan), "a joint is not finite or absurdly far"),
    "infinite": (_set("xyz", slice(None), np.inf), "a joint is not finite or absurdly far"),
    "NaN pixel": (_set("uv_vis", slice(None), np.nan), "a pixel is not finite or absurdly far"),
    "behind": (_set("xyz", (slice(None), 2), -0.5), "a joint lies behind the camera"),
    "K for another size": (_entry(lambda e: e["K"].__imul__([[2], [2], [1]])), "3D joints don't fall on"),
    "K zero": (_set("K", 0, 0), "K is not the matrix of a pinhole camera"),
    "K NaN": (_set("K", (0, 0), np.nan), "K is not the matrix of a pinhole camera"),
    "K huge": (_set("K", (0, 0), 1e30), "K is not the matrix of a pinhole camera"),
    "K in short": (_entry(lambda e: e.update(K=np.eye(2))), "K is not the matrix of a pinhole camera"),
    "box": (_entry(_shrink), "the box has no area"),
    "41 joints": (_entry(lambda e: e.update(xyz=e["xyz"][1:])), "wrong number of joints"),
    "no K": (_entry(lambda e: e.pop("K")), "entry lacks an array xyz, uv_vis or K"),
    "xyz a list": (_entry(lambda e: e.update(xyz=[1, 2])), "entry lacks an array xyz, uv_vis or K"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_entries_are_counted_and_left_out(copy: Path, case: str) -> None:
    change, reason = BROKEN[case]
    change(copy)
    data = RenderedHands(copy, "training")
    assert len(data) == data.report.kept == COUNT - 1
    assert list(data.report.left_out.values()) == [1]
    assert next(iter(data.report.left_out)).startswith(reason)
    assert "00002.png" in data.report.lines[1]
    assert all("00002" not in sample.id for sample in data)


def test_the_hand_that_is_not_used_may_be_broken(copy: Path, truth: list[HandSample]) -> None:
    unused = slice(0, 21) if RenderedHands(copy, "training").labels(2).present[0] else slice(21, 42)
    _set("xyz", unused, np.nan)(copy)
    data = RenderedHands(copy, "training")
    assert data.report.left_out == {}
    agree(data.labels(2), truth[2], truth[2].present)


def test_missing_depth_counts_only_where_it_is_wanted(copy: Path) -> None:
    (copy / "training/depth/00002.png").unlink()
    assert len(RenderedHands(copy, "training")) == COUNT
    data = RenderedHands(copy, "training", depth=True)
    assert data.report.left_out == {"file in depth is missing or empty": 1}


def test_neither_hand_seen(copy: Path) -> None:
    _set("uv_vis", (slice(None), 2), 0)(copy)
    data = RenderedHands(copy, "training", hand="both")
    assert data.report.left_out == {"no joint of either hand is seen": 1}


def test_damaged_picture_is_named(copy: Path) -> None:
    _halve("training/color/00000.png")(copy)
    _halve("training/depth/00001.png")(copy)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(copy / "training/color/00002.png")
    data = RenderedHands(copy, "training", depth=True)
    for i, reason in enumerate(
        ("color/00000.png: damaged", "depth/00001.png: damaged", "00002.png: 64 x 64")
    ):
        with pytest.raises(ValueError, match=reason):
            data[i]
    (copy / "training/color/00003.png").unlink()
    with pytest.raises(OSError, match=r"00003\.png"):
        data[3]


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (_halve(ANNO), ValueError, "truncated"),
        (_write(ANNO, b""), ValueError, "truncated"),
        (_write(ANNO, pickle.dumps([1, 2], protocol=2)), ValueError, "expected a dict of entries"),
        (_write(ANNO, pickle.dumps({"a": {}}, protocol=2)), ValueError, "expected a dict of entries"),
        (_write(ANNO, b"cos\nsystem\n(S'true'\ntR."), ValueError, r"os\.system"),
        (_remove(ANNO), OSError, "missing"),
        (lambda root: shutil.rmtree(root / "training/mask"), OSError, "mask: missing"),
    ],
)
def test_unusable_copies_are_refused(copy: Path, change: Any, kind: type[Exception], reason: str) -> None:
    change(copy)
    with pytest.raises(kind, match=reason) as caught:
        RenderedHands(copy, "training")
    assert str(copy) in str(caught.value)


def test_index_is_kept_and_renewed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    rows = RenderedHands.rows

    def counted(self: RenderedHands, report: Any) -> Any:
        made.append(self.options["hand"])
        return rows(self, report)

    monkeypatch.setattr(RenderedHands, "rows", counted)
    for _ in range(2):
        assert len(RenderedHands(copy, "training")) == COUNT
    assert made == ["mask"]
    content = entries(copy)
    del content[0]
    save(copy, content)
    assert len(RenderedHands(copy, "training")) == COUNT - 1
    (copy / "training/color/00004.png").unlink()
    assert len(RenderedHands(copy, "training")) == COUNT - 2
    RenderedHands(copy, "training", hand="visible")
    assert made == ["mask", "mask", "mask", "visible"]


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_annotation(pristine: Path, tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    root = tmp_path / "mutated"
    if not root.exists():
        (root / "training").mkdir(parents=True)
        os.symlink(pristine / "training/color", root / "training/color")
    data = bytearray((pristine / ANNO).read_bytes())
    for at, byte in changes:
        data[at % len(data)] = byte
    (root / ANNO).write_bytes(data)
    try:
        dataset = RenderedHands(root, "training", hand="visible")
    except (ValueError, OSError) as error:
        assert str(root) in str(error)
    else:
        assert len(dataset) + sum(dataset.report.left_out.values()) <= COUNT
        for i in range(len(dataset)):
            assert dataset.labels(i).valid.any()


@pytest.fixture
def real(samples_dir: Path, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The two real samples, both left hands, in the official layout; the right hand's rows hold zeros."""
    label = json.loads((samples_dir / "rhd/rhd.json").read_text(encoding="utf-8"))
    root = tmp_path / "real"
    (root / "training/color").mkdir(parents=True)
    content = {}
    for image, hand in zip(label["images"], label["annotations"], strict=True):
        shutil.copy(samples_dir / "rhd" / image["file_name"], root / "training/color")
        assert hand["hand_type"] == "left"
        xyz, uv_vis, matrix = np.zeros((42, 3)), np.zeros((42, 3)), np.eye(3)
        xyz[:21] = np.array(hand["joint_cam"]) / 1000
        uv_vis[:21] = hand["keypoints"]
        camera = image["cam_param"]
        matrix[[0, 1], [0, 1]], matrix[:2, 2] = camera["focal"], camera["princpt"]
        content[image["id"]] = {"xyz": xyz, "uv_vis": uv_vis, "K": matrix}
    save(root, content)
    return root, label["annotations"]


def _proportions(joints_mm: np.ndarray) -> np.ndarray:
    ratio = bone_lengths(joints_mm) / REFERENCE_BONES_MM
    return ratio / np.median(ratio)


def test_real_samples(real: tuple[Path, list[dict[str, Any]]]) -> None:
    root, labels = real
    data = RenderedHands(root, "training", hand="visible")
    assert [sample.id for sample in data] == ["training/color/00111.png", "training/color/01111.png"]
    assert data.report.left_out == {}
    for sample, label in zip(data, labels, strict=True):
        assert sample.image.shape == (320, 320, 3)
        assert sample.present.tolist() == [False, True]
        joints = sample.joints_cam_mm[LEFT]
        projected = sample.camera.project(joints.astype(np.float64))
        assert np.linalg.norm(projected - sample.joints_2d_px[LEFT], axis=-1).max() < 0.1
        # Wrist and thumb by their place in the source: 0, and 4 to 1 from base to tip.
        source = np.array(label["keypoints"])[:, :2]
        np.testing.assert_allclose(sample.joints_2d_px[LEFT, :5], source[[0, 4, 3, 2, 1]], atol=1e-3)
        shares = _proportions(joints)
        assert shares.min() > 0.65
        assert shares.max() < 1.35
        # The same fingers from tip to base are no hand.
        swapped = joints[[0, *(4 * f + i for f in range(5) for i in (4, 3, 2, 1))]]
        assert _proportions(swapped).max() > 2
        # Left fingers bend towards (index to little knuckle) x (wrist to middle knuckle).
        normal = np.cross(joints[17] - joints[5], joints[9] - joints[0])
        bent = joints[[8, 12, 16, 20]].mean(0) - joints[[5, 9, 13, 17]].mean(0)
        assert normal @ bent / np.linalg.norm(normal) > 20
        x, y, w, h = label["bbox"]  # what mmpose made of the joints, a quarter larger than their box
        assert (sample.box_xyxy[:2] >= [x, y]).all()
        assert (sample.box_xyxy[2:] <= [x + w, y + h]).all()


def test_real_samples_need_masks_by_default(real: tuple[Path, list[dict[str, Any]]]) -> None:
    with pytest.raises(OSError, match="mask: missing"):
        RenderedHands(real[0], "training")
