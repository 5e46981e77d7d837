"""The package works with its required dependencies alone, and importing it stays cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""

EXTRAS = ("timm", "torchvision", "warp", "scipy", "mambapy", "onnx", "onnxruntime", "onnxscript")
EXTRAS += ("av", "fastapi", "playwright", "rerun", "trimesh", "uvicorn", "hypothesis", "pytest")


def run(code: str, absent: tuple[str, ...] = EXTRAS) -> str:
    whole = BLOCK.format(names=set(absent)) + code
    done = subprocess.run([sys.executable, "-W", "error", "-c", whole], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_extras_a_model_predicts() -> None:
    code = """
import numpy as np
import torch
import dfmamba
from dfmamba.models import MODELS, HandPoseModel
torch.manual_seed(0)
model = HandPoseModel(MODELS["test"]).eval()
predictor = dfmamba.Predictor(model, "cpu", detector=None)
result = predictor.predict(np.zeros((40, 60, 3), np.uint8), threshold=0.0)
print(len(result.hands) > 0, dfmamba.list_backbones()[0])
"""
    assert run(code) == "True dfmamba_nano"


def test_the_missing_extra_is_named() -> None:
    code = """
from dfmamba.synth import SyntheticHands
try:
    SyntheticHands()
except ImportError as error:
    print(error)
"""
    assert "dfmamba[synthetic]" in run(code)


def test_import_loads_nothing_heavy() -> None:
    code = """
import dfmamba
print([name for name in ("torch", "numpy", "jsonargparse", "huggingface_hub", "PIL") if name in sys.modules])
"""
    assert run(code) == "[]"


def test_the_library_needs_no_command_line_library() -> None:
    code = """
import dfmamba.models, dfmamba.ops, dfmamba.heads, dfmamba.predict.predictor, dfmamba.train.engine
print("jsonargparse" in sys.modules)
"""
    assert run(code, (*EXTRAS, "jsonargparse", "yaml")) == "False"


WITHOUT_WARP = """
import sys
sys.modules["warp"] = None
from dfmamba.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_verb_that_needs_the_renderer_names_its_extra(tmp_path: Path) -> None:
    for words in (["train", "--out", str(tmp_path / "run"), "--dry-run"], ["eval", "single", "--count", "1"]):
        command = [sys.executable, "-c", WITHOUT_WARP, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 2
        said = done.stderr.splitlines()[-1]
        assert said.startswith(f"dfmamba {words[0]}: error: synthetic hands need Warp")
        assert "dfmamba[synthetic]" in said
