"""Which figures are reported on which data set, under which name, and when two of them may be compared.

A protocol is more than a formula: what a method was given (box, depth of the wrist, length of a bone) moves a
figure more than most methods do. Sources: the papers, evaluation code and pages of the data sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Unit = Literal["mm", "%", "share"]


@dataclass(frozen=True)
class Figure:
    """One reported value.

    Attributes:
        key: name in `HandMetrics.compute`, or in what `score_depth` gives.
        title: as published.
        unit: of the published value; "%" is 100 times the value of `key`.
        uses: what of the truth the figure itself uses, beyond what the method was given.
        at: index into a value that is a curve.
    """

    key: str
    title: str
    unit: Unit = "mm"
    uses: str = "nothing"
    at: int | None = None

    def value(self, figures: Mapping[str, Any]) -> float | None:
        """The value in the published unit; None where `figures` doesn't hold a finite one.

        Args:
            figures: name -> value, or list of values for curves.
        """
        found = figures.get(self.key)
        if self.at is not None:
            found = found[self.at] if isinstance(found, Sequence) and len(found) > self.at else None
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        try:
            value = float(found) * (100 if self.unit == "%" else 1)
        except OverflowError:
            return None
        return value if math.isfinite(value) else None

    def text(self, value: float) -> str:
        """A value with the decimals of the literature."""
        return f"{value:.3f}" if self.unit == "share" else f"{value:.2f}"


@dataclass(frozen=True)
class Protocol:
    """One way to report on a data set. Figures of different protocols are never compared.

    Attributes:
        name: within the data set.
        text: what is averaged over what.
        given: what of the truth a method gets before it predicts.
        figures: in the order of the publications.
        splits: on which it is reported.
        frameworks: those of this package (`dfmamba.frameworks`) that are given just that; none, if empty.
        options: settings of the reader that it asks for: name -> allowed values, None for a setting left out.
        needs: settings of the reader that must be given some value.
        headline: key of the figure to quote; the first one if empty.
        note: how published figures came about, where that differs or isn't known.
        source: where it is defined.
    """

    name: str
    text: str
    given: str
    figures: tuple[Figure, ...]
    splits: tuple[str, ...]
    frameworks: tuple[str, ...] = ()
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    headline: str = ""
    note: str = ""
    source: str = ""

    @property
    def quoted(self) -> Figure:
        """The headline figure."""
        named = [figure for figure in self.figures if figure.key == self.headline]
        return named[0] if named else self.figures[0]

    def mismatch(self, split: str, framework: str, options: Mapping[str, Any]) -> str:
        """Why figures do not obey the protocol, in a few words; "" where they do.

        Args:
            split: that was evaluated.
            framework: name of the framework that predicted, "" for none.
            options: settings of the reader.
        """
        if not self.frameworks:
            return f"{self.name}: published methods are given {self.given}; frameworks of this package, more"
        if framework not in self.frameworks:
            return f"{self.name}: framework {framework or 'none'}, expected {' or '.join(self.frameworks)}"
        if split not in self.splits:
            return f"{self.name}: split {split}, expected {' or '.join(self.splits)}"
        for key, allowed in self.options.items():
            if options.get(key) not in allowed:
                wanted = " or ".join("left out" if value is None else repr(value) for value in allowed)
                return f"{self.name}: option {key} is {options.get(key)!r}, expected {wanted}"
        for key in self.needs:
            if options.get(key) is None:
                return f"{self.name}: option {key} is left out, expected a value"
        return ""


@dataclass(frozen=True)
class DatasetProtocol:
    """What is reported on a data set.

    Attributes:
        dataset: a name of `dfmamba.data.registry.DATASETS`.
        protocols: the first one is that of the headline.
    """

    dataset: str
    protocols: tuple[Protocol, ...]

    @property
    def headline(self) -> Figure:
        """The figure to quote where there is room for one."""
        return self.protocols[0].quoted

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures of all protocols, each once."""
        return tuple(dict.fromkeys(figure for protocol in self.protocols for figure in protocol.figures))

    def protocol(self, name: str) -> Protocol:
        """One of the protocols.

        Raises:
            ValueError: there is none of that name.
        """
        for protocol in self.protocols:
            if protocol.name == name:
                return protocol
        known = ", ".join(protocol.name for protocol in self.protocols)
        raise ValueError(f"unknown protocol {name!r} of {self.dataset}; known: {known}")


WRIST = "position of the wrist"
BONE = "position of the wrist and length of the bone wrist-middle_mcp"
SIMILARITY = "rotation, scale and shift of each hand (mirrored, if that is nearer)"
RIGID = "rotation, scale and shift of each hand"

EPE = Figure("epe_mm", "EPE", uses=WRIST)
ABSOLUTE = (Figure("epe_absolute_mm", "absolute"), Figure("auc_absolute_0_50", "AUC 0-50", "share"))
RELATIVE = (Figure("epe_mm", "root-rel.", uses=WRIST), Figure("auc_0_50", "AUC 0-50", "share", WRIST))
ALIGNED = (
    Figure("epe_pa_mm", "Procrustes", uses=SIMILARITY),
    Figure("auc_pa_0_50", "AUC 0-50", "share", SIMILARITY),
)
SCALED = (
    Figure("mpjpe_bone_scaled_mm", "MPJPE", uses=BONE),
    Figure("auc_bone_scaled_20_50", "AUC 20-50", "%", BONE),
)
SUCCESS = "fraction_of_frames_with_max_error_le_threshold"

_PER_JOINT = "mean of each joint over the samples in which it is valid, then over the joints"
_DETNET = (
    f"{_PER_JOINT}; the prediction is moved to the true wrist and scaled to the true length of the bone "
    "wrist-middle_mcp; AUC over 20-50 mm with 15 thresholds; wrist counted"
)

_INTERHAND = Protocol(
    "true-root",
    f"{_PER_JOINT} (42); each hand relative to its own wrist; the two wrists count, with error 0; single and "
    "two by the labelled hand type; all pools the samples of each joint",
    "the box and the depth of each wrist",
    (
        Figure("mpjpe_single_mm", "single", uses=WRIST),
        Figure("mpjpe_two_mm", "two", uses=WRIST),
        Figure("mpjpe_interhand_mm", "all", uses=WRIST),
    ),
    ("test",),
    ("a2j",),
    {"fps": (None, 5), "annotations": (None, "all"), "version": (None, "1.0")},
    headline="mpjpe_interhand_mm",
    note="InterNet's own figures rest on RootNet's boxes and root depths: another protocol. MRRPE is not "
    "reported, since the depths of both wrists are given.",
    source="InterHand2.6M evaluation code; A2J-Transformer",
)

_RHP = Protocol(
    "true-root",
    "EPE: mean of each joint over the pictures, right and left hands together, then over 21 joints; relative "
    "to the wrist, which counts with error 0; one hand a picture",
    "the box, the hand's side and the depth of the wrist",
    (EPE,),
    ("evaluation",),
    ("a2j",),
    {"hand": (None, "mask")},
    note="The published table lists the method as given neither side nor scale; the released evaluation "
    "selects the hand by the true side and adds the true depth of the wrist.",
    source="InterNet's and A2J-Transformer's evaluation code",
)

_NYU = Protocol(
    "benchmark",
    "mean distance over all frames and 14 joints, no alignment; success: share of frames whose largest error "
    "is within a threshold",
    "the centre of the hand as estimated from the depth map",
    (
        Figure("mean_error_mm", "mean error"),
        *(Figure(SUCCESS, f"all <= {t} mm", "%", at=t) for t in (20, 30, 40)),
    ),
    ("test",),
    ("a2j_depth",),
    {"camera": (None, 1), "synthetic": (None, False)},
    needs=("centres",),
    note="Centres from the true joints give smaller errors, and another protocol.",
    source="NYU Hand Pose; public comparison of prediction files",
)

_DEXYCB_DETNET = Protocol(
    "detnet",
    _DETNET,
    "the crop around the true joints, the position of the wrist and the length of a bone",
    SCALED,
    ("s0_test", "s1_test"),
    ("detnet",),
    {"detnet_filter": (True,), "min_visible": (None, 0), "partial": (None, False)},
    note="Which setup the paper's figures were taken on is not established: S0 is assumed, and the code it "
    "probably used defaults to S1. Report both.",
    source="Minimal-Hand, S2DHand and SiMHand evaluation code",
)

_DEXYCB_TOOLKIT = Protocol(
    "toolkit",
    f"{_PER_JOINT} (21, wrist counted); absolute, relative to the wrist, and after Procrustes alignment, "
    "which may mirror; AUC over 0-50 mm with 100 thresholds",
    "nothing of the wrist's depth",
    (*ABSOLUTE, *RELATIVE, *ALIGNED),
    ("s0_test", "s1_test", "s2_test", "s3_test"),
    headline="epe_mm",
    note="Figures of a framework that is given the wrist's depth are smaller, most of all the absolute ones.",
    source="DexYCB toolkit",
)

_ASSEMBLYHANDS_DETNET = Protocol(
    "detnet",
    _DETNET,
    "the hand's box, the position of the wrist and the length of a bone",
    SCALED,
    ("val",),
    ("detnet",),
    note="The range of the paper's AUC is inferred from its value, and its split is not established; labels "
    "of the test split are not public.",
    source="Minimal-Hand, S2DHand and SiMHand evaluation code",
)

_ASSEMBLYHANDS_TOOLKIT = Protocol(
    "toolkit",
    f"{_PER_JOINT} that occur (of 42, wrists counted with error 0); one hand a sample, relative to its wrist",
    "the hand's box and the depth of the wrist",
    (Figure("mpjpe_interhand_mm", "MPJPE", uses=WRIST),),
    ("val",),
    ("a2j",),
    note="The published figures are of the test split.",
    source="AssemblyHands toolkit",
)

_FREIHAND = Protocol(
    "toolkit",
    f"{_PER_JOINT} (21, wrist counted), after Procrustes alignment, which may mirror; AUC over 0-50 mm with "
    "100 thresholds",
    "nothing of the wrist's depth",
    (*ALIGNED, *RELATIVE),
    ("evaluation",),
    note="No published figures of FreiHAND are kept here.",
    source="FreiHAND evaluation code",
)

_OWN = Protocol(
    "plain",
    "mean over all valid joints but the wrist, relative to the wrist; mean over all valid joints after "
    "Procrustes alignment without reflection; AUC over 0-50 mm with 100 thresholds, per joint",
    "what the framework is given",
    (
        Figure("mpjpe_mm", "MPJPE", uses=WRIST),
        Figure("pa_mpjpe_mm", "PA-MPJPE", uses=RIGID),
        Figure("auc_0_50", "AUC 0-50", "share", WRIST),
        Figure("mrrpe_mm", "MRRPE"),
    ),
    ("train", "val", "test"),
    ("a2j", "detnet"),
)

DATASET_PROTOCOLS: dict[str, DatasetProtocol] = {
    name: DatasetProtocol(name, protocols)
    for name, protocols in (
        ("interhand26m", (_INTERHAND,)),
        ("rhp", (_RHP,)),
        ("nyu", (_NYU,)),
        ("dexycb", (_DEXYCB_DETNET, _DEXYCB_TOOLKIT)),
        ("assemblyhands", (_ASSEMBLYHANDS_DETNET, _ASSEMBLYHANDS_TOOLKIT)),
        ("freihand", (_FREIHAND,)),
        ("own", (_OWN,)),
        ("shards", (_OWN,)),
    )
}
"""The protocols of each data set by its name in `dfmamba.data.registry`; others are measured like "own"."""
