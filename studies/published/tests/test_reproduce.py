"""Published tables, the files of runs, and what may stand beside what."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from dfmamba.backbones import list_backbones
from dfmamba.data.registry import DATASETS
from dfmamba.frameworks.base import FRAMEWORKS
from dfmamba.metrics.protocols import DATASET_PROTOCOLS
from studies.published import TABLES, RunResult, fill, read_results
from studies.published import __main__ as reproduce
from studies.published.published import BACKBONES, SOURCES, Group
from studies.published.results import read_result
from studies.published.table import Filled, commands, overview, text_tables

INTERHAND: dict[str, Any] = {
    "schema": "dfmamba.eval/1",
    "dataset": "interhand26m",
    "split": "test",
    "model": "a run",
    "backbone": "dfmamba_tiny",
    "framework": {"name": "a2j"},
    "given": {"mpjpe_interhand_mm": "labelled box; wrist depth"},
    "figures": {"mpjpe_single_mm": 8.0, "mpjpe_two_mm": 10.4, "mpjpe_interhand_mm": 9.5, "by_joint": [1, 2]},
    "samples": 849_160,
    "left_out": {"picture missing": 2},
    "weights": "runs/a/last",
    "dfmamba": "0.1.0",
}


def write(folder: Path, name: str, **changes: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(INTERHAND | changes))
    return path


def filled(folder: Path, table: str = "interhand26m") -> Filled:
    results, damaged = read_results(folder)
    assert damaged == []
    return fill(TABLES[table], results)


def joined(found: Filled) -> list[tuple[str, str, RunResult]]:
    """Group, backbone of the row ("" for none) and run of everything that is put beside published figures."""
    placed = []
    for group in found.groups:
        for row, runs in zip(group.group.rows, group.beside, strict=True):
            placed += [(group.group.title, row.backbone, run.run) for run in runs]
        placed += [(group.group.title, "", run.run) for run in group.further]
    return placed


def run_verb(*words: str) -> int:
    parser = ArgumentParser(exit_on_error=False)
    reproduce.add_arguments(parser)
    return reproduce.run(parser.parse_args(list(words)))


def group_of(table: str, row: str) -> Group:
    return next(group for group in TABLES[table].groups for line in group.rows if line.method == row)


def test_the_tables_are_in_order() -> None:
    for name, table in TABLES.items():
        assert table.name == name
        assert table.dataset in ("", *DATASETS)
        assert table.framework in ("", *FRAMEWORKS)
        cells = [group for group in table.groups if group.cells]
        assert len(cells) == (1 if table.framework else 0)
        for group in table.groups:
            named = [row.backbone for row in group.rows if row.backbone]
            assert named == (list(BACKBONES) if group.cells else [])
            if group.protocol:
                protocol = DATASET_PROTOCOLS[table.dataset].protocol(group.protocol)
                assert group.figures == protocol.figures
                assert set(group.splits) <= set(protocol.splits)
            else:
                assert group.splits == ()
            for row in group.rows:
                assert len(row.values) == len(group.figures)
                assert set(row.source.split()) <= set(SOURCES)
                assert row.source or set(row.values) == {None}
        if cells:
            assert table.framework in DATASET_PROTOCOLS[table.dataset].protocol(cells[0].protocol).frameworks


def test_the_figures_of_the_paper() -> None:
    published = {
        (name, row.backbone): row.values
        for name, table in TABLES.items()
        for group in table.groups
        if group.cells
        for row in group.rows
    }
    assert published["interhand26m", "dfmamba_tiny"] == (7.94, 10.53, 9.32)
    assert published["interhand26m", "resnet50"] == (8.10, 10.96, 9.63)
    assert published["rhp", "dfmamba_tiny"] == (None,)
    assert published["rhp", "resnet50"] == (17.75,)
    assert published["nyu", "dfmamba_tiny"][0] == 7.96
    assert published["nyu", "resnet50"][0] == 8.43
    assert published["dexycb", "dfmamba_tiny"] == (17.80, 87.31)
    assert published["assemblyhands", "dfmamba_tiny"] == (18.78, 86.12)
    for name in ("convnext_tiny", "vit_small", "swin_tiny", "vmamba_tiny", "spatial_mamba_tiny"):
        assert set(published["interhand26m", name]) == {None}


def test_published_predictions_score_as_tabled(samples_dir: Path) -> None:
    methods = json.loads((samples_dir / "nyu" / "expected_metrics.json").read_text())["methods"]
    rows = {row.method: row.values[0] for row in group_of("nyu", "DeepPrior++").rows}
    for method, facts in methods.items():
        assert round(facts["mean_error_mm"], 2) == rows[method]


def test_the_two_dexycb_protocols_share_no_group() -> None:
    ours, theirs = group_of("dexycb", "DF-Mamba"), group_of("dexycb-toolkit", "Spurr + ResNet50")
    assert not {figure.key for figure in ours.figures} & {figure.key for figure in theirs.figures}


def test_a_run_stands_beside_its_backbone_with_the_difference(tmp_path: Path) -> None:
    write(tmp_path, "a/test.json")
    write(tmp_path, "b/again.json", figures={"mpjpe_interhand_mm": 9.3})
    write(tmp_path, "c/nano.json", backbone="dfmamba_nano")
    found = filled(tmp_path)
    assert found.apart == ()
    assert [(row, run.backbone) for _, row, run in joined(found)] == [
        ("dfmamba_tiny", "dfmamba_tiny"),
        ("dfmamba_tiny", "dfmamba_tiny"),
        ("", "dfmamba_nano"),
    ]
    first, second = found.groups[0].beside[0]
    differences = [cell.difference for cell in first.cells if cell is not None]
    assert differences == pytest.approx([0.06, -0.13, 0.18])
    assert second.cells[:2] == (None, None)
    assert [cell.difference for cell in found.groups[0].further[0].cells if cell is not None] == [None] * 3
    lines = "\n".join(" ".join(row) for table in text_tables(found) for row in table.rows)
    assert "8.00 (+0.06) 10.40 (-0.13) 9.50 (+0.18)" in lines
    assert "849,160 samples; 2 left out" in lines
    notes = [note for table in text_tables(found) for note in table.notes]
    assert any(note.endswith("test.json: given labelled box; wrist depth") for note in notes)
    headline = overview(found)
    assert headline.rows[0][:3] == ("dfmamba_tiny", "9.32", "9.50 (+0.18), 9.30 (-0.02)")
    assert headline.rows[1][2] == "not run"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"fixture": True}, "fixture"),
        ({"samples": 849_160 // 2}, "849,160 published"),
        ({"available": 849_161}, "of 849,161 samples"),
        ({"framework": {"name": "detnet"}}, "framework detnet"),
        ({"framework": {}}, "framework none"),
        ({"split": "val", "samples": 380_125}, "split val"),
        ({"options": {"fps": 30}}, "option fps"),
        ({"figures": {"mpjpe_mm": 3.0}}, "lacks its figures"),
    ],
)
def test_what_is_never_put_beside_published_figures(tmp_path: Path, changes: dict, why: str) -> None:
    write(tmp_path, "test.json", **changes)
    found = filled(tmp_path)
    assert joined(found) == []
    ((run, reason),) = found.apart
    assert why in reason
    assert run.path == tmp_path / "test.json"
    apart = next(table for table in text_tables(found) if "not comparable" in table.title)
    assert why in apart.rows[0][-1]
    assert "1 further runs are not comparable" in " ".join(overview(found).notes)


def test_runs_join_only_the_protocol_that_they_obey(tmp_path: Path) -> None:
    detnet = {"mpjpe_bone_scaled_mm": 17.5, "auc_bone_scaled_20_50": 0.88, "epe_mm": 18.0}
    facts = {"dataset": "dexycb", "split": "s0_test", "framework": {"name": "detnet"}, "figures": detnet}
    write(tmp_path, "kept.json", **facts, options={"detnet_filter": True}, samples=1000)
    write(tmp_path, "all.json", **facts, samples=1000)
    found = filled(tmp_path, "dexycb")
    ((_, backbone, run),) = joined(found)
    assert (backbone, run.path.name) == ("dfmamba_tiny", "kept.json")
    cells = [cell for cell in found.groups[0].beside[0][0].cells if cell is not None]
    assert [cell.value for cell in cells] == pytest.approx([17.5, 88])
    assert [cell.difference for cell in cells] == pytest.approx([-0.3, 0.69])
    assert [run.path.name for run, _ in found.apart] == ["all.json"]
    toolkit = filled(tmp_path, "dexycb-toolkit")
    assert joined(toolkit) == []
    assert len(toolkit.apart) == 2


def test_nyu_needs_estimated_centres_and_shows_success(tmp_path: Path) -> None:
    curve = [t / 100 for t in range(85)]
    figures = {"mean_error_mm": 8.0, "fraction_of_frames_with_max_error_le_threshold": curve}
    facts = {"dataset": "nyu", "framework": {"name": "a2j_depth"}, "figures": figures, "samples": 8252}
    write(tmp_path, "estimated.json", **facts, options={"centres": "centres.txt"})
    write(tmp_path, "true.json", **facts)
    found = filled(tmp_path, "nyu")
    ((_, _, run),) = joined(found)
    assert run.path.name == "estimated.json"
    cells = found.groups[0].beside[0][0].cells
    assert [cell and cell.value for cell in cells] == pytest.approx([8.0, 20.0, 30.0, 40.0])


def test_other_files_are_ignored_and_damaged_ones_named(tmp_path: Path) -> None:
    good = write(tmp_path, "a/good.json")
    (tmp_path / "config.json").write_text('{"steps": 3}')
    (tmp_path / "broken_but_not_ours.json").write_text("{")
    (tmp_path / "folder.json").mkdir()
    write(tmp_path, "synthetic.json", results={"single": {}})
    (tmp_path / "half.json").write_bytes(good.read_bytes()[:100])
    for name, changes in {
        "nan": {"figures": {"mpjpe_mm": float("nan")}},
        "negative": {"figures": {"mpjpe_mm": -1.0}},
        "huge": {"figures": {"mpjpe_mm": 10**400}},
        "boolean": {"figures": {"mpjpe_mm": True}},
        "samples": {"samples": 0},
        "no-backbone": {"backbone": None},
        "given": {"given": {"mpjpe_mm": 3}},
        "left-out": {"left_out": {"picture missing": "2"}},
        "fixture": {"fixture": 1},
    }.items():
        write(tmp_path, f"damaged-{name}.json", **changes)
    results, complaints = read_results(tmp_path)
    assert [result.path for result in results] == [good]
    assert len(complaints) == 10
    for line in complaints:
        assert re.search(r"(damaged-|half).*\.json: ", line)
        assert "\n" not in line
    assert read_results(tmp_path / "nowhere") == ([], [])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_files_are_read_or_refused_by_name(data: st.DataObject) -> None:
    content = bytearray(json.dumps(INTERHAND).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        path.write_bytes(bytes(content))
        try:
            result = read_result(path)
        except (ValueError, OSError) as error:
            assert "figures.json" in str(error)
        else:
            if result is not None and result.dataset in DATASETS:
                assert text_tables(fill(TABLES["interhand26m"], [result]))


def test_commands_name_known_things() -> None:
    known = set(list_backbones())
    for table in TABLES.values():
        for backbone in BACKBONES:
            lines = commands(table, backbone)
            if not table.framework:
                assert lines == ()
                continue
            train, evaluate = lines
            assert train.startswith(f"dfmamba train {table.dataset} --data PATH --backbone {backbone}")
            assert evaluate.startswith(f"dfmamba eval {table.dataset} --data PATH --model runs/")
            assert "--json runs/" in evaluate
    assert "--option centres=FILE" in commands(TABLES["nyu"], "resnet50")[1]
    assert all("--option detnet_filter=true" in line for line in commands(TABLES["dexycb"], "resnet50"))
    assert set(BACKBONES) <= known


def test_the_overview(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "runs/test.json")
    markdown, report = tmp_path / "out" / "cells.md", tmp_path / "out" / "cells.json"
    words = ["--results", str(tmp_path / "runs"), "--markdown", str(markdown), "--json", str(report)]
    assert run_verb(*words) == 0
    out = capsys.readouterr().out
    for name, table in TABLES.items():
        assert name in out
        if table.framework:
            assert f"dfmamba train {name} --data PATH --backbone dfmamba_tiny" in out
            assert DATASETS[name].title in out
    assert "not known here" in out
    assert "9.50 (+0.18)" in out
    assert "| dfmamba_tiny | 9.32 | 9.50 (+0.18) |" in markdown.read_text()
    facts = json.loads(report.read_text())
    assert [table["name"] for table in facts["tables"]] == list(TABLES)
    cells = facts["tables"][0]["groups"][0]["rows"]
    assert cells[0]["values"] == [7.94, 10.53, 9.32]
    assert cells[0]["runs"][0]["differences"][2] == pytest.approx(0.18)
    assert cells[1]["runs"] == []
    assert read_results(tmp_path / "out") == ([], [])


@pytest.mark.parametrize("name", list(TABLES))
def test_each_table_in_full(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "fixture.json", fixture=True)
    assert run_verb(name, "--results", str(tmp_path), "--markdown", str(tmp_path / "table.md")) == 0
    out = capsys.readouterr().out
    for group in TABLES[name].groups:
        assert group.title in out
        assert all(row.method in out for row in group.rows)
    assert ("synthetic data of a fixture" in out) == (name == "interhand26m")
    assert (tmp_path / "table.md").read_text().startswith(f"# {TABLES[name].title}")


def test_what_goes_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="unknown table 'x'; known: interhand26m"):
        run_verb("x")
    with pytest.raises(OSError, match="no such folder"):
        run_verb("--results", str(tmp_path / "nowhere"))
    write(tmp_path, "bad.json", samples="many")
    assert run_verb("rhp", "--results", str(tmp_path)) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"python -m studies.published: left out: {tmp_path / 'bad.json'}: samples is str; expected int"
    ]
