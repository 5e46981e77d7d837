"""Pictures are rendered once, the same everywhere, and read as they were labelled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dfmamba.data.sample import encode_depth
from dfmamba.hands.camera import Camera, to_25d
from dfmamba.synth.generator import SyntheticHands
from studies.synthhands5 import pictures as module
from studies.synthhands5.pictures import default_folder, load_pictures, render, renderer_config
from studies.synthhands5.scenes import scene_makers
from studies.synthhands5.settings import PICTURE, SETTINGS, VERSION


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_is_read_is_what_the_generator_makes(setting: str, load) -> None:
    """Of an index picked out of the series: a picture doesn't depend on those before it."""
    pictures, index = load(setting), 5
    sample = SyntheticHands(renderer_config(setting, "test"), *scene_makers(setting)).sample(index)
    assert sample.valid is not None
    if SETTINGS[setting].kind == "depth":
        middle = sample.joints_cam_mm[sample.valid][:, 2].mean()
        wanted = encode_depth(sample.depth_mm.astype(np.float16), float(middle))
    else:
        wanted = sample.image
    assert np.array_equal(pictures.pixels[index], wanted)
    for name, values in (
        ("joints_2d_px", sample.joints_2d_px),
        ("joints_mm", sample.joints_cam_mm),
        ("valid", sample.valid),
        ("visible", sample.visible),
    ):
        assert np.array_equal(getattr(pictures, name)[index], values), name


@pytest.mark.parametrize("setting", SETTINGS)
def test_labels_agree_with_each_other(setting: str, load) -> None:
    pictures = load(setting)
    assert pictures.pixels.shape == (len(pictures), PICTURE, PICTURE, 3)
    assert pictures.pixels.dtype == torch.uint8
    assert pictures.joints_mm.dtype == pictures.joints_2d_px.dtype == torch.float32
    assert not (pictures.visible & ~pictures.valid).any()
    assert torch.equal(pictures.valid.any(-1), pictures.valid.all(-1))
    assert not pictures.joints_mm[~pictures.valid].any()
    for i in range(len(pictures)):
        camera = Camera(*pictures.camera[i].tolist())
        joints = pictures.joints_mm[i].double()
        seen = pictures.valid[i]
        torch.testing.assert_close(
            camera.project(joints)[seen].float(), pictures.joints_2d_px[i][seen], atol=2e-3, rtol=0
        )
        torch.testing.assert_close(
            pictures.joints_25d[i][seen], to_25d(joints, camera)[seen].float(), atol=2e-3, rtol=0
        )
        assert not pictures.joints_25d[i][~seen].any()
        inside = pictures.joints_2d_px[i][seen]
        assert inside.min() > 0
        assert inside.max() < PICTURE - 1


def test_depth_is_grey_and_brighter_where_nearer(load) -> None:
    pictures = load("depth")
    assert torch.equal(pictures.pixels[..., 0], pictures.pixels[..., 2])
    near = pictures.pixels[..., 0].float()
    for i in range(len(pictures)):
        u, v = pictures.joints_2d_px[i, 0].round().long().T
        grey, seen = near[i, v, u], pictures.visible[i, 0]
        depth = pictures.joints_mm[i, 0, :, 2]
        measured = seen & (grey > 0)
        assert abs(float(grey[measured].mean()) - 128) < 30
        nearest, farthest = depth[measured].argmin(), depth[measured].argmax()
        if depth[measured].max() - depth[measured].min() > 40:
            assert grey[measured][nearest] > grey[measured][farthest]


def test_hidden_share_counts_the_hands_own_joints(blank) -> None:
    pictures = blank(2)
    pictures.valid[0] = True
    pictures.visible[0, 0] = True
    pictures.visible[0, 1, :14] = True
    pictures.valid[1, 1] = True
    torch.testing.assert_close(pictures.hidden_share, torch.tensor([[0.0, 1 / 3], [0.0, 1.0]]))


def test_workers_and_shards_change_nothing(
    tmp_path: Path, few: None, load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 3)
    where = render("two", "val", tmp_path, workers=2, progress=False)
    assert where == tmp_path / "two" / "val"
    assert len(list(where.glob("shard-*"))) == 2
    whole, parts = load("two", "val"), load_pictures("two", "val", tmp_path)
    for name in vars(whole):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name


def test_a_finished_split_is_left_alone(small_benchmark: Path, few: None, capsys) -> None:
    shards = list((small_benchmark / "two" / "val").glob("shard-*"))
    before = [shard.stat().st_mtime_ns for shard in shards]
    render("two", "val", small_benchmark, workers=0)
    assert [shard.stat().st_mtime_ns for shard in shards] == before
    assert capsys.readouterr() == ("", "")


def test_only_part_of_a_split_is_refused(small_benchmark: Path) -> None:
    """A benchmark with fewer pictures is another one: an interrupted rendering must not pass for it."""
    with pytest.raises(OSError, match=r"val.*5 pictures.*expected 500"):
        load_pictures("two", "val", small_benchmark)


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no finished shards"):
        load_pictures("two", "test", tmp_path)


def test_pictures_of_another_setting_are_refused(tmp_path: Path, small_benchmark: Path) -> None:
    (tmp_path / "ego").mkdir()
    (tmp_path / "ego" / "test").symlink_to(small_benchmark / "two" / "test")
    with pytest.raises(ValueError, match="use another folder"):
        render("ego", "test", tmp_path, workers=0, progress=False)


def test_the_default_folder_names_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder().is_relative_to(tmp_path)
    assert default_folder().name == f"synthhands5-v{VERSION}"


def test_absent_hands_have_no_25d(blank) -> None:
    pictures = replace(blank(1), joints_2d_px=torch.ones(1, 2, 21, 2))
    assert not pictures.joints_25d[..., 2].any()
    assert pictures.joints_25d.isfinite().all()
