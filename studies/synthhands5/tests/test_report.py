"""The page: numbers come from results, nothing from elsewhere, and nothing in it is taken for markup."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from studies.synthhands5 import report
from studies.synthhands5.compare import RATES, STEPS, TUNING_SEED, TUNING_STEPS
from studies.synthhands5.report import COSTS_COMMAND, Picture, write_report
from studies.synthhands5.results import Result
from studies.synthhands5.rows import PARAMETERS
from studies.synthhands5.settings import SETTINGS
from studies.synthhands5.tests.test_statistics import made_up, several

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ERRORS = {"dfmamba": [50.0, 51.0, 52.0], "resnet": [53.0, 54.1, 55.0], "off": [50.0, 54.0]}
COSTS = {"rows": {"dfmamba": {"latency_ms": 4.0}}, "machine": {"cpu": "a cpu"}, "command": "timed by this"}


class Reader(HTMLParser):
    """Checks that tags are closed, and gathers what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.cells: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.cells.append(0)
        if tag in ("td", "th"):
            self.cells[-1] += 1
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "setting_charts", lambda *_: [])


def page(out: Path) -> tuple[str, str]:
    return (out / "README.md").read_text(encoding="utf-8"), (out / "index.html").read_text(encoding="utf-8")


def test_the_whole_page(tmp_path: Path) -> None:
    results = several(ERRORS) + several({"dfmamba": [30.0]}, "ego")
    path = write_report(
        results, tmp_path, costs=COSTS, constants={"two": {"mpjpe_mm": 71.25, "pa_mpjpe_mm": 20.5}}
    )
    assert path == tmp_path / "index.html"
    markdown, web = page(tmp_path)
    for text in (markdown, web):
        assert "51.00 ± 1.00 (3)" in text
        assert "+3.03 [+2.89, +3.18]" in text
        assert "DF-Mamba is better than “ResNet” by 3.03 mm, beyond seed noise" in text
        assert "MPJPE 71.25 mm, PA-MPJPE 20.50 mm" in text
        assert "not run" in text
        assert "a cpu" in text
        assert COSTS_COMMAND + "` does it" not in text
    assert "Depth (`depth`): not run." in markdown
    assert "Egocentric, object (`ego`): not run." not in markdown
    named = re.findall(r"\]\((figures/[^)]+)\)", markdown)
    assert {f"figures/{name}" for name in ("two-error.png", "two-latency.png", "ego-error.png")} <= set(named)
    assert sorted(named) == sorted(f"figures/{file.name}" for file in (tmp_path / "figures").iterdir())
    reader = Reader()
    reader.feed(web)
    assert reader.open == []
    assert len(reader.links) == len(named)
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert "http" not in web
    assert "url(" not in web


@pytest.mark.usefixtures("no_charts")
def test_text_of_files_is_no_markup(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>"
    results = [
        made_up("vit", 0, 50.0, machine=nasty),
        replace(made_up("vit", 1, 50.0), entry=f"a|b\n{nasty}"),
    ]
    write_report(results, tmp_path, costs={"rows": {}, "machine": nasty, "command": f"`{nasty}`"})
    markdown, web = page(tmp_path)
    assert "<script" not in web
    assert "<script" not in re.sub(r"`[^`]*`", "", markdown)
    assert "a\\|b" in markdown
    reader = Reader()
    reader.feed(web)
    assert reader.open == []
    rows = [line for line in markdown.splitlines() if line.startswith("| two |")]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 5


@pytest.mark.usefixtures("no_charts")
def test_other_definitions_are_listed_and_not_mixed(tmp_path: Path) -> None:
    results = [*several({"dfmamba": [50.0]}), made_up("dfmamba", 1, 90.0, batch_size=3)]
    write_report(results, tmp_path)
    markdown, _ = page(tmp_path)
    assert "| two | dfmamba | 1 | batches of 3, not of 16 |" in markdown
    assert "| 50.00 (1) |" in markdown
    assert f"`{COSTS_COMMAND}` does it." in markdown
    assert "made this page from 1 result files" in markdown


@pytest.mark.usefixtures("no_charts")
def test_longer_runs_have_a_table_of_their_own(tmp_path: Path) -> None:
    usual = several({"dfmamba": [50.0, 52.0], "vit": [60.0, 61.0]})
    longer = [made_up(name, 1, error, steps=4 * STEPS) for name, error in (("dfmamba", 41.0), ("vit", 43.5))]
    write_report([*usual, *longer, replace(longer[0], batch_size=3)], tmp_path)
    markdown, _ = page(tmp_path)
    assert f"### Two hands: {4 * STEPS:,} steps instead of {STEPS:,}" in markdown
    table = markdown.split("4,000 steps instead of")[-1].split("###")[0]
    assert "| 41.00 (1) |" in table
    assert "| +2.50 " in table
    assert f"DF-Mamba: 52.00 mm after {STEPS:,} steps, 41.00 mm after {4 * STEPS:,}" in table
    assert "| 51.00 ± 1.41 (2) |" in markdown
    assert "| two | dfmamba | 1 | batches of 3, not of 16 |" in markdown


@pytest.mark.usefixtures("no_charts")
def test_costs_off_the_budget_and_chosen_rates_are_shown(tmp_path: Path) -> None:
    def trial(rate: float, error: float) -> Result:
        return made_up("vit", TUNING_SEED, error, split="val", lr=rate, steps=TUNING_STEPS)

    larger = made_up("vit", 0, 50.0, parameters=int(1.06 * PARAMETERS))
    trials = [trial(rate, 60.0 + abs(i - 1)) for i, rate in enumerate(RATES)]
    write_report([larger, *trials], tmp_path)
    markdown, _ = page(tmp_path)
    assert "More than 5 % off the budget: `vit`." in markdown
    assert f"| ViT | 61.00 | 60.00 | 61.00 | {RATES[1]:g} |" in markdown
    assert "DF-Mamba was not run" in markdown
    write_report([larger, trials[0]], tmp_path)
    assert "not all were tried" in page(tmp_path)[0]


@pytest.mark.usefixtures("no_charts")
def test_further_figures_are_copied_and_embedded(tmp_path: Path) -> None:
    file = tmp_path / "own figure.png"
    file.write_bytes(PIXEL)
    figures = [Picture(file, "where <it> looks", "3 crops")]
    write_report(several({"vit": [50.0]}), tmp_path / "out", figures)
    markdown, web = page(tmp_path / "out")
    assert "![where &lt;it&gt; looks](figures/own%20figure.png)\n\n3 crops" in markdown
    assert (tmp_path / "out" / "figures" / "own figure.png").read_bytes() == PIXEL
    assert base64.b64encode(PIXEL).decode() in web
    with pytest.raises(ValueError, match=r"is called figures/own figure\.png, too"):
        write_report(several({"vit": [50.0]}), tmp_path / "out", figures * 2)
    inside = tmp_path / "out" / "models" / "a.png"
    inside.parent.mkdir()
    inside.write_bytes(PIXEL)
    write_report(several({"vit": [50.0]}), tmp_path / "out", [Picture(inside, "b", "c")])
    assert "![b](models/a.png)" in page(tmp_path / "out")[0]
    assert not (tmp_path / "out" / "figures" / "a.png").exists()
    file.write_bytes(b"<svg>")
    with pytest.raises(OSError, match="neither PNG nor JPEG"):
        write_report(several({"vit": [50.0]}), tmp_path / "out", figures)


@pytest.mark.usefixtures("no_charts")
def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    write_report(several(ERRORS), tmp_path / "a")
    write_report(several(ERRORS)[::-1], tmp_path / "b")
    assert page(tmp_path / "a") == page(tmp_path / "b")


def test_nothing_comparable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results to report on; run"):
        write_report([], tmp_path)
    with pytest.raises(ValueError, match=r"no results .*1 left out, the first: 3 steps"):
        write_report([replace(made_up("vit", 0, 1.0), steps=3)], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "costs", [{}, {"rows": [1]}, {"rows": {"vit": {}}}, {"rows": {"vit": {"latency_ms": "x"}}}]
)
def test_costs_of_another_form_are_an_error(tmp_path: Path, costs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"latency_ms each .* make them anew: {COSTS_COMMAND}"):
        write_report(several({"vit": [50.0]}), tmp_path, costs=costs)


@pytest.mark.usefixtures("no_charts")
def test_every_setting_is_accounted_for(tmp_path: Path) -> None:
    write_report(several({"vit": [50.0]}, "depth"), tmp_path)
    markdown, _ = page(tmp_path)
    for name, setting in SETTINGS.items():
        assert (f"{setting.title} (`{name}`): not run." in markdown) == (name != "depth")
