"""Scenes with people on disk: equal for any number of workers, resumable, readable."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dfmamba.synth.people import render_people
from dfmamba.synth.shards import PeopleConfig, PeopleShards, render_people_shards

pytest.importorskip("warp")
CONFIG = PeopleConfig(seed=3, size=32, supersample=1, shard_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_people_shards(CONFIG, 5, tmp_path_factory.mktemp("people"), workers=0)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.np?"))}


def test_bytes_do_not_depend_on_workers(folder: Path, tmp_path: Path) -> None:
    render_people_shards(CONFIG, 5, tmp_path, workers=2, progress=False)
    assert len(bytes_of(folder)) == 6
    assert bytes_of(tmp_path) == bytes_of(folder)


def test_an_interrupted_call_goes_on(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "shard-000000002")
    draft = copy / ".shard-000000002.part"
    draft.mkdir()
    (draft / "rgba.npy").write_bytes(b"half")
    kept = (copy / "shard-000000000" / "rgba.npy").stat().st_mtime_ns
    render_people_shards(CONFIG, 5, copy, workers=0)
    assert bytes_of(copy) == bytes_of(folder)
    assert (copy / "shard-000000000" / "rgba.npy").stat().st_mtime_ns == kept


def test_the_reader_gives_back_what_was_rendered(folder: Path) -> None:
    scenes = PeopleShards(folder)
    assert len(scenes) == 5
    assert scenes.config == CONFIG
    assert scenes.index.tolist() == list(range(5))
    for i in (0, 3, 4):
        made = render_people(3, i, 32, 1)
        count = len(made.side)
        assert np.array_equal(scenes.rgba(i), made.rgba)
        assert np.array_equal(scenes.joints_px[i, :count], made.joints_px)
        assert np.array_equal(scenes.side[i, :count], made.side)
        assert not scenes.side[i, count:].any()
        assert np.array_equal(scenes.visible[i, :count], made.visible)
    assert isinstance(scenes.rgba(0).base, np.memmap)
    with pytest.raises(IndexError):
        scenes.rgba(5)


def test_other_settings_want_another_folder(folder: Path) -> None:
    with pytest.raises(ValueError, match="another folder"):
        render_people_shards(PeopleConfig(seed=4, size=32, supersample=1, shard_size=2), 5, folder, workers=0)
    with pytest.raises(ValueError, match="smaller count"):
        render_people_shards(CONFIG, 6, folder, workers=0)


@pytest.mark.parametrize("values", [{"seed": -1}, {"size": 8}, {"supersample": 0}, {"shard_size": 0}])
def test_senseless_settings_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PeopleConfig(**values)


def test_senseless_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        render_people_shards(CONFIG, 0, tmp_path)


def test_damage_is_an_os_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no finished shards"):
        PeopleShards(tmp_path)
    for name, content in (("labels.npz", b"PK\x03\x04 cut off"), ("rgba.npy", b""), ("labels.npz", None)):
        copy = tmp_path / f"damaged-{name}-{content is None}"
        shutil.copytree(folder, copy)
        target = copy / "shard-000000002" / name
        if content is None:
            np.savez(target, side=np.zeros((2, 6)))
        else:
            target.write_bytes(content)
        with pytest.raises(OSError, match="render them again"):
            PeopleShards(copy)
    copy = tmp_path / "objects"
    shutil.copytree(folder, copy)
    np.save(copy / "shard-000000000" / "rgba.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(OSError, match="render them again"):
        PeopleShards(copy)
