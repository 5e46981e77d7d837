"""What the results of several seeds allow to be said: means, paired differences to DF-Mamba, verdicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from studies.synthhands5.compare import STEPS
from studies.synthhands5.results import HIDDEN, THRESHOLDS_MM, Result
from studies.synthhands5.rows import REFERENCE, ROWS, Row, find_row, is_defined
from studies.synthhands5.settings import SETTINGS, SPLITS, VERSION
from studies.synthhands5.training import BenchmarkRun

FIGURES = ("mpjpe_mm", "pa_mpjpe_mm", "mpjpe_visible_mm", "mpjpe_occluded_mm", "auc_0_50")
"""Of `Result.figures`, those that are reported."""
LEVEL = 0.95
"""Of all intervals."""
RESAMPLES = 2000


class Verdict(StrEnum):
    """What the interval over seeds says."""

    BETTER = "DF-Mamba better"
    WORSE = "DF-Mamba worse"
    OPEN = "not distinguishable"
    FEW = "too few seeds"


@dataclass(frozen=True)
class Spread:
    """Values of several seeds: mean, sample standard deviation (None for one value), number."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True)
class Summary:
    """All results of one row in one setting, by seed.

    Attributes:
        setting: of the benchmark.
        row: as defined today.
        results: one a seed, at least one.
    """

    setting: str
    row: Row
    results: tuple[Result, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """In ascending order."""
        return tuple(result.seed for result in self.results)

    @property
    def rates(self) -> tuple[float, ...]:
        """Peak learning rates, each once."""
        return tuple(sorted({result.lr for result in self.results}))

    def figure(self, name: str) -> Spread | None:
        """One of `FIGURES` over the seeds; None where a result lacks it."""
        values = [result.figures[name] for result in self.results if name in result.figures]
        return spread(values) if len(values) == len(self.results) else None

    def by_hidden(self) -> tuple[float | None, ...]:
        """Mean over seeds of the error in mm at each occlusion level; None where there are no hands."""
        means: list[float | None] = []
        for level in zip(*(result.by_hidden for result in self.results), strict=True):
            values = [value for value in level if value is not None]
            means.append(float(np.mean(values)) if len(values) == len(level) else None)
        return tuple(means)

    def success(self) -> tuple[float, ...]:
        """Mean over seeds of the share of joints within each of `THRESHOLDS_MM`."""
        return tuple(np.mean([result.success for result in self.results], axis=0).tolist())


@dataclass(frozen=True)
class Difference:
    """MPJPE of a row minus DF-Mamba's, in mm, paired by seed: above 0 where DF-Mamba is better.

    Attributes:
        row: that is compared.
        seeds: that both have.
        mean: over these seeds; None without any.
        interval: Student's t over the seeds; None with fewer than two.
        p: of the two-sided paired t test.
        p_holm: after Holm's correction for all comparisons made with this one.
        pictures: percentile bootstrap over test pictures of the difference between the means over seeds of
            their errors; it says nothing of other seeds.
        verdict: by `interval`.
    """

    row: Row
    seeds: tuple[int, ...]
    mean: float | None
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    pictures: tuple[float, float] | None
    verdict: Verdict


def mismatch(result: Result, steps: int = STEPS) -> str:
    """Why a result isn't one of today's benchmark with so many steps; "" where it is."""
    if result.setting not in SETTINGS:
        return f"unknown setting {result.setting!r}"
    if result.entry not in ROWS:
        return f"unknown row {result.entry!r}"
    version = result.versions.get("synthhands5")
    batch, pictures = BenchmarkRun().batch_size, SPLITS["test"].pictures
    if result.split != "test":
        return f"measured on the split {result.split!r}, not on test"
    if version != str(VERSION):
        return f"version {version} of the benchmark, today's is {VERSION}"
    if not is_defined(result.entry, result.backbone, result.backbone_args):
        return "the row's definition has changed since"
    if result.steps != steps:
        return f"{result.steps} steps, not {steps}"
    if result.batch_size != batch:
        return f"batches of {result.batch_size}, not of {batch}"
    if len(result.picture_mm) != pictures:
        return f"measured on {len(result.picture_mm)} pictures, not on {pictures}"
    levels = len(HIDDEN) - 1
    if (len(result.success), len(result.by_hidden), len(result.hands_by_hidden)) != (
        len(THRESHOLDS_MM), levels, levels,
    ):  # fmt: skip
        return "other thresholds or occlusion levels than today's"
    if not math.isfinite(result.figures.get("mpjpe_mm", math.nan)):
        return "no finite error: the training diverged"
    return ""


def sort_out(results: Iterable[Result], steps: int = STEPS) -> tuple[list[Result], list[tuple[Result, str]]]:
    """Parts results of so many steps into those that can be compared, and the others with the reason.

    Beyond `mismatch`, all of a setting must have been measured on the same hands, and all of a row have the
    same cost: what most have counts. Of two results of the same row and seed the first counts.
    """
    used: list[Result] = []
    apart: list[tuple[Result, str]] = []
    seen: set[tuple[str, str, int]] = set()
    for result in results:
        key = (result.setting, result.entry, result.seed)
        reason = mismatch(result, steps) or ("another result of the same seed" if key in seen else "")
        if reason:
            apart.append((result, reason))
        else:
            seen.add(key)
            used.append(result)
    hands = "other hands at the occlusion levels than most results have: other pictures"
    used = _usual(used, lambda r: (r.setting,), lambda r: r.hands_by_hidden, hands, apart)
    cost = "other parameters or multiply-adds than most results of the row have"
    used = _usual(used, lambda r: (r.setting, r.entry), lambda r: (r.parameters, r.macs), cost, apart)
    return used, apart


def _usual(
    results: list[Result],
    group: Callable[[Result], tuple[str, ...]],
    value: Callable[[Result], tuple[int, ...]],
    reason: str,
    apart: list[tuple[Result, str]],
) -> list[Result]:
    counts: dict[tuple[str, ...], Counter[tuple[int, ...]]] = {}
    for result in results:
        counts.setdefault(group(result), Counter())[value(result)] += 1
    usual = {key: counter.most_common(1)[0][0] for key, counter in counts.items()}
    apart += [(result, reason) for result in results if value(result) != usual[group(result)]]
    return [result for result in results if value(result) == usual[group(result)]]


def summarise(results: Iterable[Result]) -> dict[str, dict[str, Summary]]:
    """Comparable results (see `sort_out`) by setting and row, both in the order of their definition."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.setting, result.entry), []).append(result)
    summaries: dict[str, dict[str, Summary]] = {}
    for setting in SETTINGS:
        for name, row in ROWS.items():
            runs = sorted(found.get((setting, name), []), key=lambda r: r.seed)
            if runs:
                summaries.setdefault(setting, {})[name] = Summary(setting, row, tuple(runs))
    return summaries


def on_common_seeds(summaries: Sequence[Summary]) -> list[Summary]:
    """The same rows over the seeds that all of them have; as they are where there is none."""
    common = set.intersection(*(set(one.seeds) for one in summaries)) if summaries else set()
    if not common:
        return list(summaries)
    return [replace(one, results=tuple(r for r in one.results if r.seed in common)) for one in summaries]


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def student_within(t: float, freedom: int) -> float:
    """Probability that Student's t with `freedom` >= 1 degrees of freedom lies within -t to t.

    The finite series for whole degrees of freedom: Abramowitz and Stegun, Handbook of Mathematical
    Functions (1964), 26.7.3 and 26.7.4.
    """
    if math.isinf(t):
        return 1.0
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(2 if odd else 1, freedom, 2):
        total += term
        term *= cosine * cosine * power / (power + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def student_quantile(level: float, freedom: int) -> float:
    """The t for which `student_within` is `level` (0 <= level < 1), by bisection."""
    low, high = 0.0, 1.0
    while student_within(high, freedom) < level:
        high *= 2
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        low, high = (middle, high) if student_within(middle, freedom) < level else (low, middle)


def holm(values: Sequence[float]) -> list[float]:
    """p values after the correction for their number: Holm, Scandinavian Journal of Statistics 6 (1979)."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def bootstrap(values: Sequence[float], resamples: int = RESAMPLES) -> tuple[float, float]:
    """Percentile interval of the mean of at least one value; the same resamples every time."""
    array, generator = np.asarray(values, float), np.random.default_rng(0)
    means = array[generator.integers(len(array), size=(resamples, len(array)))].mean(axis=1)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def differences(summaries: Mapping[str, Summary], names: Iterable[str]) -> dict[str, Difference]:
    """Every named row of one setting against DF-Mamba, Holm's correction over all of them.

    Args:
        summaries: of one setting, by row.
        names: of rows; those without results, and DF-Mamba itself, are passed over.

    Returns:
        By row; nothing where DF-Mamba has no results.
    """
    reference = summaries.get(REFERENCE)
    if reference is None:
        return {}
    found = {
        name: _difference(reference, summaries[name])
        for name in names
        if name in summaries and name != REFERENCE
    }
    tested = {name: one.p for name, one in found.items() if one.p is not None}
    for name, p in zip(tested, holm(list(tested.values())), strict=True):
        found[name] = replace(found[name], p_holm=p)
    return found


def _difference(reference: Summary, other: Summary) -> Difference:
    ours = {result.seed: result for result in reference.results}
    theirs = {result.seed: result for result in other.results}
    seeds = tuple(sorted(set(ours) & set(theirs)))
    if not seeds:
        return Difference(other.row, seeds, None, None, None, None, None, Verdict.FEW)
    gaps = spread([theirs[s].figures["mpjpe_mm"] - ours[s].figures["mpjpe_mm"] for s in seeds])
    each = np.mean([np.subtract(theirs[s].picture_mm, ours[s].picture_mm) for s in seeds], axis=0)
    pictures = bootstrap(each)
    if gaps.deviation is None:
        return Difference(other.row, seeds, gaps.mean, None, None, None, pictures, Verdict.FEW)
    error, freedom = gaps.deviation / math.sqrt(gaps.n), gaps.n - 1
    half = student_quantile(LEVEL, freedom) * error
    low, high = gaps.mean - half, gaps.mean + half
    t = abs(gaps.mean) / error if error else math.inf if gaps.mean else 0.0
    p = 1 - student_within(t, freedom)
    verdict = Verdict.BETTER if low > 0 else Verdict.WORSE if high < 0 else Verdict.OPEN
    return Difference(other.row, seeds, gaps.mean, (low, high), p, None, pictures, verdict)


def signed(value: float) -> str:
    """Millimetres with their sign."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def spread_text(value: Spread | None, digits: int = 2) -> str:
    """Mean ± standard deviation, a dash for None."""
    if value is None:
        return "–"
    around = "" if value.deviation is None else f" ± {value.deviation:.{digits}f}"
    return f"{value.mean:.{digits}f}{around}"


def difference_texts(found: Difference | None) -> tuple[str, str, str, str]:
    """Cells: difference with its interval over seeds, interval over pictures, corrected p, verdict."""
    if found is None or found.mean is None:
        return "–", "–", "–", "" if found is None else str(found.verdict)
    low_high = "" if found.interval is None else " [{}, {}]".format(*map(signed, found.interval))
    pictures = "–" if found.pictures is None else "{}, {}".format(*map(signed, found.pictures))
    p = "–" if found.p_holm is None else "< 0.001" if found.p_holm < 1e-3 else f"{found.p_holm:.3f}"
    return f"{signed(found.mean)}{low_high}", pictures, p, str(found.verdict)


def _evidence(found: Difference) -> str:
    if found.interval is None:
        return f"common seeds: {len(found.seeds)}"
    low, high = found.interval
    return f"{100 * LEVEL:.0f} % interval {signed(low)} to {signed(high)} mm, {len(found.seeds)} seeds"


def sentence(found: Difference) -> str:
    """What one comparison says, in words."""
    name, title = find_row(REFERENCE).title, f"“{found.row.title}”"
    if found.mean is None or found.verdict is Verdict.FEW:
        return f"{name} against {title}: too few seeds for a verdict ({_evidence(found)})."
    size = f"{abs(found.mean):.2f} mm"
    if found.verdict is Verdict.OPEN:
        return (
            f"{name} and {title} can't be told apart: {title} minus {name} is {signed(found.mean)} mm, "
            f"and the interval holds 0 ({_evidence(found)})."
        )
    word = "better" if found.verdict is Verdict.BETTER else "worse"
    return f"{name} is {word} than {title} by {size}, beyond seed noise ({_evidence(found)})."


def scan_sentences(found: Mapping[str, Difference]) -> list[str]:
    """Whether the deformable scan helps: against the budget spent otherwise, and against its mere removal."""
    lines = []
    for name, condition in (("mamba", "At the same budget"), ("off", "With only the deformation removed")):
        if name not in found:
            lines.append(f"{condition} (row `{name}`): not known, no results to compare.")
            continue
        one = found[name]
        answer = {
            Verdict.BETTER: "yes, the deformable scan helps beyond seed noise",
            Verdict.WORSE: "no, it is worse than the scan that isn't deformed, beyond seed noise",
            Verdict.OPEN: "not shown, the difference is within seed noise",
            Verdict.FEW: "not known, too few seeds",
        }[one.verdict]
        size = "" if one.mean is None else f"without it the error changes by {signed(one.mean)} mm; "
        lines.append(f"{condition} (row `{name}`): {answer} ({size}{_evidence(one)}).")
    return lines


def tally(found: Mapping[str, Difference]) -> str:
    """How many comparisons had which verdict, and how many of the clear ones withstand Holm's correction."""
    counts = Counter(one.verdict for one in found.values())
    clear = [one for one in found.values() if one.verdict in (Verdict.BETTER, Verdict.WORSE)]
    stand = sum(one.p_holm is not None and one.p_holm < 1 - LEVEL for one in clear)
    parts = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in Verdict if counts[verdict])
    return f"Rows compared: {len(found)} ({parts}). Clear after Holm's correction: {stand} of {len(clear)}."
