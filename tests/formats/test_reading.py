"""Prediction files are read back, whoever wrote them, or refused by name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfmamba.bulk.parts import COLUMNS, MANIFEST, write_part
from dfmamba.bulk.worker import _rows
from dfmamba.cli.results import save_list
from dfmamba.formats import Summary, read_records
from dfmamba.predict import Prediction
from dfmamba.video.film import FilmHeader

SUMMARY = "pictures could not be predicted and are left out"


def film_lines(prediction: Prediction, indices: list[int]) -> str:
    """A film with the same hands in each frame."""
    header = FilmHeader("nano", "none", prediction.image_size, 25.0, camera=prediction.camera)
    hands = [hand.to_dict() for hand in prediction.hands]
    frames = [{"index": index, "time_s": index / 25, "hands": hands} for index in indices]
    return "".join(json.dumps(values) + "\n" for values in [header.to_dict(), *frames])


def same(a: Prediction, b: Prediction, image: str | None) -> None:
    assert (a.image_size, a.camera, a.image) == (b.image_size, b.camera, image)
    assert [hand.side for hand in a.hands] == [hand.side for hand in b.hands]
    for one, other in zip(a.hands, b.hands, strict=True):
        np.testing.assert_allclose(one.joints_3d_mm, other.joints_3d_mm, atol=0.006)
        np.testing.assert_allclose(one.joints_2d_px, other.joints_2d_px, atol=0.006)


def test_single_files_lists_and_folders(two_hands: Prediction, tmp_path: Path) -> None:
    two_hands.save_json(tmp_path / "in" / "b.json")
    other = replace(two_hands, image="photos/sub/a.jpg")
    save_list(tmp_path / "in" / "a.json", [other], [("bad.jpg", "why")])
    (tmp_path / "in" / "picture.png").write_bytes(b"")
    summary = Summary()
    records = list(read_records([tmp_path / "in"], summary))
    assert [Path(record.source).name for record in records] == ["a.json", "b.json"]
    assert summary.notes == {SUMMARY: 1}
    records[0] = replace(records[0], prediction=replace(records[0].prediction, image="photos/a.jpg"))
    for record in records:
        same(record.prediction, two_hands, "photos/a.jpg")
        assert (record.index, record.name) == (None, "a")


def test_a_picture_that_two_files_hold_is_read_once(two_hands: Prediction, tmp_path: Path) -> None:
    """As after `dfmamba predict DIR --out OUT --json OUT/all.json`, with other JSON in the folder, too."""
    two_hands.save_json(tmp_path / "in" / "b.json")
    other_model = replace(two_hands, model="other")
    save_list(tmp_path / "in" / "all.json", [two_hands, other_model], [])
    replace(two_hands, hands=()).save_json(tmp_path / "in" / "c.json")
    (tmp_path / "in" / "freihand.json").write_text("[[], []]")
    summary = Summary()
    records = list(read_records([tmp_path / "in"], summary))
    assert [(Path(one.source).name, one.prediction.model) for one in records] == [
        ("all.json", two_hands.model),
        ("all.json", "other"),
    ]
    assert {text.split(",")[0]: count for text, count in summary.notes.items()} == {
        "predictions stand in a second file": 1,
        "pictures have other hands in a second file": 1,
        "JSON files of a folder hold no predictions and are left out": 1,
    }
    assert len(list(read_records([tmp_path / "in" / "b.json"] * 2))) == 1
    with pytest.raises(ValueError, match=r"freihand\.json: not a usable prediction file"):
        list(read_records([tmp_path / "in" / "freihand.json"]))


def test_films_are_read_line_by_line(two_hands: Prediction, tmp_path: Path) -> None:
    path = tmp_path / "clip.jsonl"
    path.write_text(film_lines(two_hands, [0, 1, 5]) + "{cut off")
    records = list(read_records([path]))
    assert [(record.index, record.time_s) for record in records] == [(0, 0.0), (1, 0.04), (5, 0.2)]
    assert records[2].name == "clip_000000000005"
    same(records[2].prediction, two_hands, None)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_bulk_parts(two_hands: Prediction, prediction: Callable, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    empty = prediction()
    rows = [
        *_rows(0, "p/one.jpg", two_hands),
        *_rows(1, "two.jpg", empty),
        *_rows(2, "three.jpg", OSError("x")),
    ]
    write_part(tmp_path / f"part-000000{suffix}", rows)
    camera = {"fx": 500.0, "fy": 520.0, "cx": 320.0, "cy": 240.0}
    manifest = {"schema": "dfmamba.bulk/1", "model": "nano 12", "camera": camera, "mirrored": False}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    summary = Summary()
    records = list(read_records([tmp_path], summary))
    assert summary.notes == {SUMMARY: 1}
    assert [record.name for record in records] == ["one", "two"]
    same(records[0].prediction, two_hands, "p/one.jpg")
    assert records[0].prediction.model == "nano 12"
    assert records[1].prediction.hands == ()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", "[1]", "expected a JSON object, got list"),
        ("a.json", '{"schema": "other"}', "expected the schema dfmamba.prediction/1"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", '{"schema": "dfmamba.predictions/1", "predictions": [{}]}', "picture 0: prediction"),
        ("a.jsonl", "{}", "expected the head of a film"),
        ("a.jsonl", '{"picture": 0}', "a row of bulk prediction has the columns"),
        ("a.jsonl", '{"schema": "dfmamba.film/1"}', "film: expected the keys"),
        ("a.parquet", "PAR1", "not a usable prediction file"),
        ("a.txt", "", "expected a prediction file"),
        (".hidden.json", None, "no prediction files in this folder"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, name: str, content: str | None, reason: str) -> None:
    path = tmp_path / name
    path.write_text(content or "")
    if name == "a.parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match="^" + str(path if content is not None else tmp_path)) as caught:
        list(read_records([path if content is not None else tmp_path]))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        list(read_records([tmp_path / "absent.json"]))


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.just(10**400),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([[1, 2], [3]]),
)


def _places(value: Any, at: tuple = ()) -> list[tuple]:
    found = [at] if at else []
    if isinstance(value, dict):
        for key in value:
            found += _places(value[key], (*at, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 2)):
            found += _places(value[i], (*at, i))
    return found


def _changed(data: st.DataObject, value: Any) -> Any:
    """A copy in which one value is another, or gone."""
    value = json.loads(json.dumps(value))
    place = data.draw(st.sampled_from(_places(value)))
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[place[-1]] = data.draw(ATOMS)
    else:
        del inner[place[-1]]
    return value


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_files_are_read_or_refused(
    two_hands: Prediction, tmp_path: Path, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["single", "list", "film", "bulk", "manifest"]))
    folder = tmp_path / kind
    folder.mkdir(exist_ok=True)
    path = folder / ("a.jsonl" if kind in ("film", "bulk", "manifest") else "a.json")
    if kind == "single":
        path.write_text(json.dumps(_changed(data, two_hands.to_dict())))
    elif kind == "list":
        whole = {"schema": "dfmamba.predictions/1", "predictions": [two_hands.to_dict()], "failed": []}
        path.write_text(json.dumps(_changed(data, whole)))
    elif kind == "film":
        lines = [json.loads(line) for line in film_lines(two_hands, [0, 1]).splitlines()]
        path.write_text("".join(json.dumps(line) + "\n" for line in _changed(data, lines)))
    else:
        rows = _rows(0, "a.jpg", two_hands)
        assert set(rows[0]) == set(COLUMNS)
        manifest = {"schema": "dfmamba.bulk/1", "model": "m", "camera": None, "mirrored": False}
        rows = _changed(data, rows) if kind == "bulk" else rows
        manifest = _changed(data, manifest) if kind == "manifest" else manifest
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / MANIFEST).write_text(json.dumps(manifest))
    try:
        records = list(read_records([path]))
    except ValueError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert all(np.isfinite(hand.joints_3d_mm).all() for one in records for hand in one.prediction.hands)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 3000), flip=st.integers(0, 3000), byte=st.integers(0, 255))
def test_damaged_bytes(two_hands: Prediction, tmp_path: Path, cut: int, flip: int, byte: int) -> None:
    pytest.importorskip("pyarrow")
    write_part(tmp_path / "whole.parquet", _rows(0, "a.jpg", two_hands))
    content = bytearray((tmp_path / "whole.parquet").read_bytes())
    content[flip % len(content)] = byte
    path = tmp_path / "damaged.parquet"
    path.write_bytes(content[: len(content) - cut % len(content)] if cut % 2 else content)
    with contextlib.suppress(ValueError):
        for record in read_records([path]):
            assert record.prediction.image_size[0] > 0
