"""Registration with timm: by an explicit call, and by importing dfmamba after timm."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dfmamba.backbones import list_backbones

pytest.importorskip("timm")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_dfmamba_imports_neither_torch_nor_timm_nor_changes_how_modules_are_found() -> None:
    code = """
import sys
before = list(sys.meta_path)
import dfmamba
print("torch" in sys.modules, "timm" in sys.modules, sys.meta_path == before)
"""
    assert run(code) == "False False True"


@pytest.mark.parametrize(
    "start",
    ["import dfmamba, timm; dfmamba.register_with_timm()", "import timm, dfmamba"],
    ids=["explicit", "after-timm"],
)
def test_timm_makes_the_backbones(start: str) -> None:
    code = f"""
{start}
print(timm.list_models("dfmamba*"))
dfmamba.register_with_timm()
print(timm.create_model("dfmamba_nano", num_classes=2).num_classes)
"""
    assert run(code) == f"{list_backbones(baselines=False)}\n2"


def test_without_timm_the_call_names_the_extra() -> None:
    code = """
import sys
sys.modules["timm"] = None
sys.modules["timm.models"] = None
import importlib
try:
    import dfmamba
    dfmamba.register_with_timm()
except ImportError as error:
    print(error)
"""
    assert "pip install 'dfmamba[baselines]'" in run(code)
