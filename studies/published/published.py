"""Published figures, each with its source and the protocol that it was taken by.

Cells whose value isn't known to us are None. Rows of different groups were taken by different protocols or
on different data; they are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from dfmamba.metrics.protocols import ALIGNED, DATASET_PROTOCOLS, RELATIVE, Figure

BACKBONES: dict[str, str] = {
    "dfmamba_tiny": "DF-Mamba",
    "resnet50": "ResNet-50",
    "convnext_tiny": "ConvNeXt-T",
    "vit_small": "ViT-S",
    "swin_tiny": "Swin-T",
    "vmamba_tiny": "VMamba-T",
    "spatial_mamba_tiny": "Spatial-Mamba-T",
}
"""Backbones that the paper compares: our name -> its name."""

SOURCES: dict[str, str] = {
    "A": "tables of the A2J-Transformer paper",
    "A*": "A2J, recomputed from its released predictions",
    "D": "DexYCB paper, table 7",
    "X": "evaluation table of awesome-hand-pose-estimation",
    "mm": "mmpose model zoo",
    "pre": "README of a precursor in the authors' lab, single runs",
    "DF": "the DF-Mamba paper, as handed down; its text was not at hand",
    "M": "from memory, not verified",
    "index": "an index page of results",
    "repo": "a list in a public repository",
    "user": "a user's report",
    "code": "a comment in SiMHand's code",
    "summary": "summary of the AssemblyHands paper",
    "report": "abstract of a technical report",
    "port": "Minimal-Hand's paper and its PyTorch port",
}
"""What the tags of `Row.source` stand for."""


@dataclass(frozen=True)
class Row:
    """One line of a published table.

    Attributes:
        method: as published.
        values: in the order and the units of the group's figures; None where not known here.
        source: tags of `SOURCES`, separated by blanks.
        backbone: our name of the backbone, for the cells of the DF-Mamba paper.
        note: what else is needed to read it.
    """

    method: str
    values: tuple[float | None, ...]
    source: str = ""
    backbone: str = ""
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Rows that were taken by one protocol and may be compared.

    Attributes:
        title: the protocol, in a few words.
        figures: the columns.
        rows: lines.
        protocol: name of the protocol of the data set by which runs of this package join; "" where none can.
        splits: those of the data set on which runs join.
        cells: whether the rows with a `backbone` are the cells of the DF-Mamba paper.
    """

    title: str
    figures: tuple[Figure, ...]
    rows: tuple[Row, ...]
    protocol: str = ""
    splits: tuple[str, ...] = ()
    cells: bool = False


@dataclass(frozen=True)
class PublishedTable:
    """What is published about one data set, or another topic.

    Attributes:
        name: by which the table is asked for.
        title: what it is about.
        groups: the rows.
        dataset: a name of `dfmamba.data.registry.DATASETS`; "" where runs of this package don't belong in it.
        framework: a name of `dfmamba.frameworks.base.FRAMEWORKS` that the DF-Mamba paper used on it.
        notes: lines below.
    """

    name: str
    title: str
    groups: tuple[Group, ...]
    dataset: str = ""
    framework: str = ""
    notes: tuple[str, ...] = ()


_INTERHAND = DATASET_PROTOCOLS["interhand26m"].protocol("true-root").figures
_MRRPE = (*_INTERHAND, Figure("mrrpe_mm", "MRRPE"))
_EPE = DATASET_PROTOCOLS["rhp"].protocol("true-root").figures
_MEAN = DATASET_PROTOCOLS["nyu"].protocol("benchmark").figures
_TOOLKIT = DATASET_PROTOCOLS["dexycb"].protocol("toolkit").figures
_MPJPE = DATASET_PROTOCOLS["assemblyhands"].protocol("toolkit").figures
_SETS = tuple(
    Figure("auc_bone_scaled_20_50", name, "share") for name in ("RHD", "STB", "Dexter+Object", "EgoDexter")
)
_COST = (Figure("parameters", "M params"), Figure("gflops", "GFLOPs"), Figure("fps", "frames/s"))


def _rows(figures: tuple[Figure, ...], text: str) -> tuple[Row, ...]:
    """Rows of lines "method | values | sources | note | backbone", the last two optional, "-" for unknown."""
    rows = []
    for line in text.strip().splitlines():
        method, values, source, note, backbone = [*map(str.strip, line.split("|")), "", ""][:5]
        numbers = tuple(None if word == "-" else float(word) for word in values.split())
        assert len(numbers) == len(figures), line
        rows.append(Row(method, numbers, source, backbone, note))
    return tuple(rows)


def _group(title: str, figures: tuple[Figure, ...], text: str) -> Group:
    return Group(title, figures, _rows(figures, text))


def _paper(dataset: str, protocol: str, title: str, text: str) -> Group:
    """The cells of the DF-Mamba paper on a data set, unknown ones too, and rows of the same protocol."""
    found = DATASET_PROTOCOLS[dataset].protocol(protocol)
    rows = _rows(found.figures, text)
    known = {row.backbone: row for row in rows if row.backbone}
    unknown = (None,) * len(found.figures)
    cells = tuple(known.get(name) or Row(title, unknown, "", name) for name, title in BACKBONES.items())
    others = tuple(row for row in rows if not row.backbone)
    return Group(title, found.figures, (*cells, *others), protocol, found.splits, cells=True)


def _toolkit(setup: str, text: str) -> Group:
    title = f"toolkit, setup {setup}: given nothing of the wrist's depth"
    return Group(title, _TOOLKIT, _rows(_TOOLKIT, text), "toolkit", (f"{setup.lower()}_test",))


_TABLES = (
    PublishedTable(
        "interhand26m",
        "InterHand2.6M test, MPJPE in mm",
        (
            _paper("interhand26m", "true-root", "true box and wrist depth, wrists counted with error 0", """
                DF-Mamba + A2J-Transformer's head | 7.94 10.53 9.32 | DF | | dfmamba_tiny
                A2J-Transformer, ResNet-50 | 8.10 10.96 9.63 | A DF | quoted by the DF-Mamba paper | resnet50
                DF-Mamba without deformable scan | - - 9.47 | DF | ablation
            """),
            _group("RootNet's box and root depth", _MRRPE, """
                InterNet (Moon 2020) | 12.16 16.02 14.22 32.57 | A M | MRRPE not verified
            """),
            _group("mmpose, v1.0, all of test; true box and root depth by default (not verified)", _MRRPE, """
                InterNet R50, mmpose 1.x | 9.69 13.72 11.86 29.27 | mm M
                InterNet R50, mmpose 0.x | 9.47 13.40 11.59 29.28 | mm M
            """),
            _group("mmpose, val split, machine annotations", _MRRPE, """
                InterNet R50, mmpose 1.x | 11.30 15.57 13.36 32.15 | mm
                InterNet R50, mmpose 0.x | 11.22 15.23 13.16 31.73 | mm
            """),
            _group("protocol not stated in our source", _MRRPE, """
                DIGIT (Fan 2021) | 11.32 15.57 - - | A
                Kim 2021 | - - 12.08 - | A
                Keypoint Transformer (Hampali 2022) | 10.99 14.34 12.78 - | A
                Keypoint Transformer, re-run | - - 10.36 29.4 | user | authors' code
                Zhang 2021 | - 13.48 - - | A | mesh, model-based
                Meng 2022 (HDR) | 8.51 13.12 10.97 - | A | model-based
            """),
            _group("valid interacting frames, MANO joints, root middle_mcp, true bone length", _MRRPE, """
                IntagHand (Li 2022) | - 8.79 - - | A code
            """),
        ),
        "interhand26m",
        "a2j",
        (
            "The gain to reproduce is 0.31 mm on all, 0.15 of it from the deformable scan; the noise between "
            "runs is not known: run several seeds, and a ResNet-50 of your own.",
        ),
    ),
    PublishedTable(
        "rhp",
        "RHP (RHD) evaluation, EPE in mm",
        (
            _paper("rhp", "true-root", "released evaluation: true box, side and wrist depth", """
                A2J-Transformer, ResNet-50 | 17.75 | A DF | | resnet50
                precursor, Swin-B | 17.49 | pre | 100 epochs
                precursor, Swin-L | 17.42 | pre | 100 epochs
                precursor, MambaVision-T | 17.87 | pre
                precursor, MambaVision-T2 | 17.48 | pre
                precursor, MambaVision-S | 17.37 | pre
                precursor, MambaVision-B | 17.55 | pre
                precursor, MambaVision-L | 17.34 | pre
                precursor, MambaVision-L2 | 17.34 | pre
                precursor, depth layer 1 | 17.19 | pre | a defect in the depths of its anchors
                precursor, depth layer 1, MambaVision-L | 17.21 | pre | likewise
            """),
            _group("true scale and handedness", _EPE, """
                Zimmermann 2017 | 30.42 | A
                Chen 2018 | 24.20 | A
                Yang 2019 | 19.95 | A
                Spurr 2018 | 19.73 | A | a second row repeats it without truth given
            """),
            _group("no truth given, root depth from RootNet", _EPE, """
                InterNet | 20.89 | A
            """),
            _group("10,000 pictures", _EPE, """
                A2J-Transformer | 22.31 | pre
                Swin-B, lowest | 20.67 | pre | of several schedules
                Swin-B, highest | 21.56 | pre | of several schedules
                MambaVision-L, lowest | 20.36 | pre | of several schedules
                MambaVision-L, highest | 20.85 | pre | of several schedules
            """),
        ),
        "rhp",
        "a2j",
        ("On 10,000 pictures schedules differ by about 0.9 mm, more than most backbones do.",),
    ),
    PublishedTable(
        "nyu",
        "NYU test, mean 3D error in mm (14 joints, 8,252 frames, no alignment)",
        (
            _paper("nyu", "benchmark", "hand centre estimated, nothing aligned", """
                DF-Mamba | 7.96 - - - | DF | | dfmamba_tiny
                A2J-Transformer, ResNet-50 | 8.43 - - - | A DF | | resnet50
                DeepPrior++ | 12.24 - - - | X
                Pose-REN | 11.81 - - - | X
                HandPointNet | 10.54 - - - | X
                DenseReg | 10.21 - - - | X
                CrossInfoNet | 10.08 - - - | X
                SRNet | 9.17 - - - | X
                Point-to-Point | 9.05 - - - | X
                V2V-PoseNet | 8.42 - - - | X | ensemble
                V2V-PoseNet, as cited | 9.22 - - - | A
                A2J | 8.61 70.6 85.2 90.9 | A A* | retrained by its authors: 8.58 to 8.68
                HandFoldingNet | 8.58 - - - | index
                JGR-P2O (Fang 2020) | 8.29 - - - | A
                TriHorn-Net | 7.68 - - - | X
                FeatureMapping | 7.44 - - - | X | further synthetic pictures
            """),
        ),
        "nyu",
        "a2j_depth",
    ),
    PublishedTable(
        "dexycb",
        "DexYCB, DetNet framework, MPJPE in mm",
        (
            _paper("dexycb", "detnet", "true bone length, AUC 20-50 mm", """
                DF-Mamba | 17.80 87.31 | DF | setup not established | dfmamba_tiny
            """),
            _group("S1 val, sequence mode, earlier DetNet; root-relative, AUC of the 0-50 kind",
                (Figure("epe_mm", "MPJPE"), Figure("auc_0_50", "AUC", "%")), """
                a comment in SiMHand's loader | 16.42 69.7 | code
            """),
        ),
        "dexycb",
        "detnet",
        (
            "SiMHand's pre-training is reported to lower the error by about 10 % against PeCLR (abstract).",
            "Not to be put beside dexycb-toolkit: no bone length is given there, and its AUC is of 0-50 mm.",
        ),
    ),
    PublishedTable(
        "assemblyhands",
        "AssemblyHands, egocentric pictures, MPJPE in mm",
        (
            _paper("assemblyhands", "detnet", "DetNet framework: true bone length, AUC 20-50 mm", """
                DF-Mamba | 18.78 86.12 | DF | split not known, AUC range inferred | dfmamba_tiny
            """),
            Group("toolkit, val split: true wrist depth", _MPJPE, (), "toolkit", ("val",)),
            _group("test split, relative to the wrist", _MPJPE, """
                UmeTrack | 32.91 | summary
                SVEgoNet (ResNet-50, 2.5D heat maps) | 21.92 | summary | trained on M+A
            """),
            _group("HANDS2023 server", _MPJPE, """
                winner (ViT) | 12.21 | report | several views, test-time augmentation, ensemble
            """),
            _group("quality of the annotation, against manual labels", _MPJPE, """
                original labels of Assembly101 | 27.55 | summary
                MVExoNet | 4.20 | summary
            """),
        ),
        "assemblyhands",
        "detnet",
        ("SiMHand's pre-training is reported to lower the error by about 4 % against PeCLR (abstract).",),
    ),
    PublishedTable(
        "dexycb-toolkit",
        "DexYCB, official toolkit: MPJPE in mm, AUC 0-50 mm",
        (
            _toolkit("S0", """
                Spurr + ResNet50 | 53.92 0.307 17.71 0.683 7.12 0.858 | D
                Spurr + HRNet32 | 52.26 0.328 17.34 0.698 6.83 0.864 | D
                A2J (depth) | 27.53 0.612 23.93 0.588 12.07 0.760 | D
            """),
            _toolkit("S1", """
                Spurr + ResNet50 | 70.23 0.240 22.71 0.601 8.43 0.832 | D
                Spurr + HRNet32 | 70.10 0.248 22.26 0.615 7.98 0.841 | D
                A2J (depth) | 29.09 0.584 25.57 0.562 12.95 0.743 | D
            """),
            _toolkit("S2", """
                Spurr + ResNet50 | 83.46 0.208 23.15 0.566 8.11 0.838 | D
                Spurr + HRNet32 | 80.63 0.217 25.49 0.530 8.21 0.836 | D
                A2J (depth) | 23.44 0.576 27.65 0.540 13.42 0.733 | D
            """),
            _toolkit("S3", """
                Spurr + ResNet50 | 58.69 0.281 19.41 0.665 7.56 0.849 | D
                Spurr + HRNet32 | 55.39 0.311 18.44 0.686 7.06 0.859 | D
                A2J (depth) | 30.99 0.608 24.92 0.581 12.15 0.759 | D
            """),
            _group("S0, later methods; what was given is not stated", (*RELATIVE, ALIGNED[0]), """
                ArtiBoost | 12.8 - - | repo
                HandOccNet | 14.0 - 5.8 | M
                simpleHand, retrained | 12.4 0.757 - | user
            """),
        ),
        "dexycb",
    ),
    PublishedTable(
        "detnet",
        "DetNet and Minimal-Hand, AUC 20-50 mm",
        (
            _group("paper", _SETS, """
                DetNet | - 0.891 0.923 0.804 | port
                DetNet + IKNet | 0.856 0.898 0.948 0.811 | port
            """),
            _group("PyTorch port: scale aligned, DO and EO labels cleaned, a checkpoint a set", _SETS, """
                DetNet | 0.934 0.874 0.938 0.927 | port
            """),
        ),
    ),
    PublishedTable(
        "hands2017",
        "HANDS2017, mean error in mm",
        (
            _group("challenge", _MEAN[:1], """
                Ge | 11.30 | A
                Yuan | 9.97 | A
                V2V | 9.95 | A
                A2J | 8.57 | A
                A2J-Transformer | 8.32 | A
            """),
        ),
    ),
    PublishedTable(
        "efficiency",
        "Size and speed",
        (
            _group("DF-Mamba paper; device and scope not known here", _COST, """
                DF-Mamba | 42 4.9 112.2 | DF
                ResNet-50 | - - 109.2 | DF
            """),
            _group("whole models on an RTX 2080 Ti", _COST, """
                A2J-Transformer, ResNet-50 | 42 - 25.65 | A | 42.7 M counted
                InterNet | 47 - 107.1 | A
                Keypoint Transformer | 48 - 19.7 | A
                IntagHand | 39 - 18.1 | A
                Meng 2022 | 55 - 15.5 | A
                Zhang 2021 | 143 - 17.0 | A
            """),
            _group("as cited for NYU", _COST, """
                A2J | - - 105.06 | A
                JGR-P2O | - - 111.20 | A
                V2V-PoseNet | - - 35 | A
            """),
        ),
        notes=(
            "4.9 GFLOPs and 112 frames a second must be those of the backbone: A2J-Transformer's transformer "
            "alone takes about 16 GMACs.",
            "Measure here with: dfmamba bench backbones, dfmamba bench models",
        ),
    ),
)  # fmt: skip

TABLES: dict[str, PublishedTable] = {table.name: table for table in _TABLES}
"""All tables; those of the DF-Mamba paper, which have cells to fill, first."""
