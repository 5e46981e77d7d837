"""The folder for the browser: its content, and its modules against the Python code, without a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dfmamba.cli.main import main
from dfmamba.detect import Detection, merge_overlapping
from dfmamba.detect.decode import decode
from dfmamba.export import ExportConfig, Subject, backbone_subject
from dfmamba.export.browser import (
    RUNTIME_FILES,
    VIEW,
    WEB,
    detector_settings,
    detector_subject,
    export_page,
    find_detector,
    page_files,
    settings,
)
from dfmamba.hands.affine import Affine, crop_affine, picture_square, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.hands.upright import upright_affines
from dfmamba.heads import HandPoseOutput
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.predict import Prediction, Predictor, looking
from dfmamba.predict.lift import lift_joints

SCRIPT = Path(__file__).with_name("browser_parity.mjs")


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder with files of onnxruntime-web's names."""
    folder = tmp_path / "onnxruntime-web" / "dist"
    folder.mkdir(parents=True)
    (folder.parent / "package.json").write_text('{"version": "1.99.0"}')
    for name in RUNTIME_FILES:
        (folder / name).write_text(name)
    return folder


def test_the_folder_holds_what_the_page_loads(
    subject: Subject, detector: HandPoseModel, runtime: Path, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "page"
    report = export_page(subject, folder, runtime, ExportConfig(), [str(picture)], detector)
    assert report.errors is not None
    assert report.size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    facts = json.loads((folder / "settings.json").read_text())
    for name in ("pose", "detector"):
        assert (folder / facts[name]["file"]).stat().st_size == facts[name]["bytes"]
    assert {path.name for path in (folder / "ort").iterdir()} == {*RUNTIME_FILES, "LICENSE"}
    assert "onnxruntime-web 1.99.0" in (folder / "ort" / "LICENSE").read_text()
    assert facts["model"] == "test"
    assert (facts["detector"]["size"], facts["detector"]["stride"]) == (64, detector.head.stride)
    page = (folder / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page):
        assert (folder / name).is_file(), name
    for module in folder.glob("*.js"):
        for name in re.findall(r"(?:from|new URL\() ?'(?:\./)?([\w.]+\.js)'", module.read_text()):
            assert (folder / name).is_file(), f"{module.name} needs {name}"


def test_nothing_of_the_page_names_another_machine() -> None:
    assert VIEW in page_files()
    for path in page_files():
        assert not re.search(r"\b(https?|wss?)://|[\"']//", path.read_text()), path.name
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', (WEB / "index.html").read_text())
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == rules["worker-src"] == "'self'"
    assert all(set(value.split()) <= {"'self'", "'none'", "blob:", "data:", "'wasm-unsafe-eval'"}
               for value in rules.values())  # fmt: skip


def test_refusals(subject: Subject, runtime: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--runtime is missing.*npm install onnxruntime-web"):
        export_page(subject, tmp_path / "page", None)
    (runtime / RUNTIME_FILES[2]).unlink()
    with pytest.raises(OSError, match=rf"has no {RUNTIME_FILES[2]}; npm install onnxruntime-web"):
        export_page(subject, tmp_path / "page", runtime)
    (runtime / RUNTIME_FILES[2]).touch()
    with pytest.raises(ValueError, match="--batch 4"):
        export_page(subject, tmp_path / "page", runtime, ExportConfig(batch=4))
    with pytest.raises(OSError, match="is a file"):
        export_page(subject, runtime / RUNTIME_FILES[0], runtime)
    backbone = HandPoseModel(MODELS["test"]).backbone
    with pytest.raises(ValueError, match="needs a pose model for colour pictures"):
        settings(backbone_subject("bare", backbone, 64))
    with pytest.raises(ValueError, match="is no detector"):
        detector_subject(HandPoseModel(MODELS["test"]))
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--format", "browser"], "--runtime is missing"),
        (["--format", "browser", "--runtime", "/nowhere"], "--runtime /nowhere: has no"),
        (["--runtime", "dist"], "--runtime: works with --format browser only"),
        (["--detector", "none"], "--detector: works with --format browser only"),
    ],
)
def test_one_line_on_the_command_line(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "nano", "--out", str(tmp_path / "out"), *words]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_find_detector(detector: HandPoseModel, tmp_path: Path) -> None:
    assert find_detector("none") is None
    detector.save(tmp_path / "own")
    found = find_detector(str(tmp_path / "own"))
    assert found is not None
    assert found.config == detector.config


class _Made(nn.Module):
    """A made-up network whose answer depends on the crop's mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(name="made", image_size=64)

    def forward(self, x: torch.Tensor) -> HandPoseOutput:
        r, g, b = x.double().mean((2, 3))[:, :, None, None].unbind(1)
        joint, slot = torch.arange(21.0)[None, None], torch.arange(2.0)[None, :, None]
        u = 32 + 20 * torch.cos(joint + slot) * (0.5 + r)
        v = 32 + 20 * torch.sin(1.3 * joint + slot) * (0.5 + g)
        d = (0.3 * b * joint).expand_as(u)
        logits = (joint / 10 - r).expand_as(u)
        present = torch.cat((3 * r - 0.2, 3 * g), dim=1)[..., 0]
        return HandPoseOutput(torch.stack((u, v, d), -1), logits, present, ())


def _made_settings() -> dict[str, Any]:
    model = HandPoseModel(MODELS["test"])
    subject = SimpleNamespace(
        pose=model, in_chans=3, name="made", size=64, metadata={"license": "none"}, network=model
    )
    return settings(subject)  # type: ignore[arg-type]


def ask_node(*jobs: tuple[str, dict[str, Any]]) -> list[Any]:
    """Answers of the page's modules."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node not found (apt-get install nodejs)")
    job = json.dumps({"web": str(WEB), "settings": _made_settings(), "jobs": jobs})
    done = subprocess.run([node, str(SCRIPT)], input=job.encode(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def rgba(picture: np.ndarray) -> dict[str, Any]:
    """A picture (H, W, 3) as the page has it."""
    full = np.concatenate([picture, np.full_like(picture[..., :1], 255)], axis=2)
    return {
        "data": base64.b64encode(full.tobytes()).decode(),
        "width": picture.shape[1],
        "height": picture.shape[0],
    }


def smooth(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A picture (H, W, 3) of coloured blobs."""
    coarse = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    larger = warp_image(coarse, crop_affine((-0.5, -0.5, 8.5, 8.5), max(width, height)), max(width, height))
    return np.ascontiguousarray(larger[:height, :width])


def test_maps_equal_pythons() -> None:
    random = np.random.default_rng(0)
    jobs: list[tuple[str, dict[str, Any]]] = []
    wanted = []
    for case in range(12):
        low, size = random.uniform(-40, 300, 2), random.uniform(5, 200, 2)
        box, joints = np.concatenate([low, low + size]), random.uniform(-50, 700, (21, 2))
        left, side = bool(case % 2), int(random.integers(20, 300))
        map_ = crop_affine(square_box(box), side, random.uniform(-3, 3), flip=left)
        wanted.append(
            {
                "crop": crop_affine(square_box(box, 1.4), side),
                "upright": upright_affines(joints, left, side, (1.3,)),
                "inverse": map_.inverse(),
                "twice": map_.compose(map_),
                "square": picture_square((side, side + 7)),
            }
        )
        values = {"box": box.tolist(), "size": side, "joints": joints.tolist(), "left": left}
        values |= {"factor": 1.3, "map": map_.matrix.ravel().tolist()}
        jobs.append(("affine", values))

    def flat(value: Any) -> np.ndarray:
        if isinstance(value, list):
            return np.concatenate([flat(each) for each in value])
        return value.matrix.ravel() if isinstance(value, Affine) else np.ravel(value)

    for expected, found in zip(wanted, ask_node(*jobs), strict=True):
        for name in expected:
            np.testing.assert_allclose(
                np.ravel(found[name]), flat(expected[name]), rtol=1e-9, atol=1e-7, err_msg=name
            )


def test_merging_equals_pythons() -> None:
    random = np.random.default_rng(2)
    cases = []
    for count in (0, 1, 2, 5, 9):
        low = random.uniform(0, 60, (count, 2))
        cases.append(np.concatenate([low, low + random.uniform(20, 60, (count, 2))], axis=1))
    found = ask_node(*(("merge", {"boxes": boxes.tolist(), "iou": 0.3}) for boxes in cases))
    for boxes, merged in zip(cases, found, strict=True):
        expected = merge_overlapping(list(boxes), 0.3)
        assert len(merged) == len(expected)
        np.testing.assert_allclose(np.reshape(merged, (-1, 4)), np.reshape(expected, (-1, 4)))


def test_crops_are_pythons_bit_for_bit() -> None:
    random = np.random.default_rng(1)
    picture = random.integers(0, 256, (131, 177, 3), dtype=np.uint8)
    maps = [crop_affine(picture_square((177, 131)), 40), crop_affine((900, 900, 950, 950), 40)]
    for _ in range(16):
        middle, half = random.uniform(-20, 190, 2), random.choice([3.0, 15.0, 41.0, 90.0, 160.0])
        box = np.concatenate([middle - half, middle + half])
        maps.append(crop_affine(box, 40, random.uniform(-3, 3), bool(random.integers(2))))
    shown = rgba(picture)
    found = ask_node(
        *(("warp", {"picture": shown, "map": m.matrix.ravel().tolist(), "size": 40}) for m in maps)
    )
    for map_, crop in zip(maps, found, strict=True):
        got = np.frombuffer(base64.b64decode(crop), np.uint8).reshape(40, 40, 3)
        np.testing.assert_array_equal(got, warp_image(picture, map_, 40))


def test_lifting_equals_pythons() -> None:
    random = np.random.default_rng(4)
    hands = [random.normal(scale=s, size=(21, 3)) for s in (0.1, 5.0, 300.0)] + [np.zeros((21, 3))]
    for hand, found in zip(hands, ask_node(*(("lift", {"joints": h.tolist()}) for h in hands)), strict=True):
        np.testing.assert_allclose(found, lift_joints(hand, None), rtol=1e-9, atol=1e-9)


def test_detections_equal_pythons(detector: HandPoseModel) -> None:
    random = np.random.default_rng(5)
    facts = detector_settings(detector)
    cells = facts["size"] // facts["stride"]
    cases = [random.normal(size=(5, cells, cells)).astype(np.float32) for _ in range(8)]
    cases.append(np.full((5, cells, cells), -20, np.float32))
    found = ask_node(*(("decode", {"maps": m.ravel().tolist(), "settings": facts}) for m in cases))
    for maps, answer in zip(cases, found, strict=True):
        (expected,) = decode(torch.from_numpy(maps)[None], facts["stride"], [Affine.identity()])
        assert len(answer) == len(expected)
        for got, one in zip(answer, expected, strict=True):
            np.testing.assert_allclose(got["box"], one.box_xyxy, rtol=1e-5, atol=1e-3)
            assert got["score"] == pytest.approx(one.score, abs=1e-6)


def _same(found: dict[str, Any], expected: Prediction) -> None:
    assert [hand["side"] for hand in found["hands"]] == [hand.side for hand in expected.hands]
    for got, hand in zip(found["hands"], expected.hands, strict=True):
        np.testing.assert_allclose(got["joints_2d_px"], hand.joints_2d_px, atol=0.05)
        np.testing.assert_allclose(got["joints_3d_mm"], hand.joints_3d_mm, atol=0.05)
        np.testing.assert_allclose(got["box_xyxy"], hand.box_xyxy, atol=0.05)
        np.testing.assert_allclose(got["joint_scores"], hand.joint_scores, atol=1e-3)
        assert got["score"] == pytest.approx(hand.score, abs=1e-3)


def test_views_and_results_equal_pythons() -> None:
    random = np.random.default_rng(6)
    pictures = [
        smooth(random, width, height) for width, height in ((120, 90), (75, 140), (64, 64), (33, 200))
    ]
    predictor = Predictor(_Made(), "cpu", detector=None)
    found = ask_node(*(("predict", {"picture": rgba(picture)}) for picture in pictures))
    hands = 0
    for picture, answer in zip(pictures, found, strict=True):
        expected = predictor.predict(picture)
        _same(answer, expected)
        Prediction.from_dict(answer)
        hands += len(expected.hands)
    assert hands > len(pictures)


@pytest.mark.parametrize("exchange", [1e9, -100.0])
def test_exchanged_hands_equal_pythons(exchange: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "EXCHANGE", exchange)
    random = np.random.default_rng(6)
    pictures = [smooth(random, 120, 90) for _ in range(6)]
    found = ask_node(*(("predict", {"picture": rgba(picture)}) for picture in pictures))
    pairs = 0
    for picture, answer in zip(pictures, found, strict=True):
        _same(answer, Predictor(_Made(), "cpu", detector=None).predict(picture))
        pairs += sorted(hand["side"] for hand in answer["hands"]) == ["left", "right"]
    assert pairs >= 3


def test_hands_at_detections_equal_pythons() -> None:
    random = np.random.default_rng(7)
    picture = smooth(random, 200, 150)
    boxes = [(20, 20, 70, 80), (30, 25, 75, 90), (120, 60, 190, 130), (0, 100, 20, 140)]
    scores = [0.9, 0.8, 0.7, 0.3]
    detections = [Detection(np.array(b, float), s) for b, s in zip(boxes, scores, strict=True)]
    job = [{"box": b, "score": s} for b, s in zip(boxes, scores, strict=True)]
    (found,) = ask_node(("at", {"picture": rgba(picture), "detections": job}))
    (expected,) = Predictor(_Made(), "cpu", detector=None).predict_at([picture], [detections])
    assert len(expected.hands) >= 2
    _same(found, expected)
    assert Prediction.from_dict(found).hands[0].track is None


def test_hands_of_a_film_are_followed() -> None:
    """Between two searches each hand costs one view, and keeps its number."""
    picture = smooth(np.random.default_rng(6), 120, 90)
    (seen, empty) = ask_node(
        ("film", {"picture": rgba(picture), "times": [0, 0.1, 0.2, 100.0]}),
        ("film", {"picture": rgba(picture), "times": [0, 0.03, 0.06, 0.11, 0.05], "threshold": 1.0}),
    )
    count = len(seen[0]["tracks"])
    assert count >= 1
    assert sorted(seen[0]["tracks"]) == list(range(count))
    assert [each["views"] for each in seen[1:3]] == [count, count]
    assert seen[3]["views"] > count
    assert all(each["tracks"] == seen[0]["tracks"] for each in seen)
    assert all(each["sides"] == seen[0]["sides"] for each in seen)
    # Without a hand it is not searched for in every picture; a film that begins anew is.
    assert [each["views"] > 0 for each in empty] == [True, False, False, True, True]
