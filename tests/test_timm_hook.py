"""Registration with timm in either order of import, and what the hook leaves alone."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from dfmamba.backbones import list_backbones

timm = pytest.importorskip("timm")

from dfmamba.backbones import timm_models  # noqa: E402


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FINDERS = "[type(f).__name__ for f in sys.meta_path if type(f).__module__.startswith('dfmamba')]"


@pytest.fixture
def fake(tmp_path: Path) -> str:
    """Code before which `import timm` finds a small module and registering only counts, without PyTorch."""
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("x = 1")
    (tmp_path / "timm" / "models.py").touch()
    return f"""
import importlib, importlib.util, pathlib, sys, types
sys.dont_write_bytecode = True
sys.path.insert(0, {str(tmp_path)!r})
init = pathlib.Path(sys.path[0], "timm", "__init__.py")
for name in ("dfmamba.backbones", "dfmamba.backbones.timm_models"):
    sys.modules[name] = types.ModuleType(name)
registered = []
sys.modules[name].register = lambda: registered.append(sys.modules["timm"].x)
"""


def test_importing_dfmamba_waits_for_timm() -> None:
    code = f"""
import importlib, sys, dfmamba
importlib.reload(dfmamba)
print("torch" in sys.modules, "timm" in sys.modules, {FINDERS})
import timm
print(timm.list_models("dfmamba*"), {FINDERS})
"""
    assert run(code) == f"False False ['TimmFinder']\n{list_backbones(baselines=False)} []"


@pytest.mark.parametrize("order", ["timm, dfmamba", "dfmamba, timm", "dfmamba, timm.models"])
def test_registration_comes_after_timm_and_once(order: str, fake: str) -> None:
    assert run(f"{fake}import {order}\nprint(registered, {FINDERS})") == "[1] []"


def test_timm_is_found_and_described_as_ever(fake: str) -> None:
    code = f"""
import copy, importlib.machinery, importlib.metadata, importlib.resources, inspect
plain = importlib.machinery.PathFinder.find_spec("timm")
import dfmamba
spec = importlib.util.find_spec("timm")
assert "timm" not in sys.modules
for name in ("name", "origin", "cached", "submodule_search_locations"):
    assert getattr(spec, name) == getattr(plain, name)
assert spec.loader.is_package("timm") and spec.loader.get_source("timm") == "x = 1"
assert copy.copy(spec.loader).path == plain.origin
assert importlib.util.find_spec("dfmamba_no_such_module") is None
assert importlib.metadata.version("timm")
import timm
assert type(timm.__loader__) is type(timm.__spec__.loader) is type(plain.loader)
assert inspect.getsource(timm).strip() == "x = 1"
assert (importlib.resources.files("timm") / "models.py").is_file()
assert registered == [1] and {FINDERS} == []
assert importlib.reload(timm) is timm
"""
    run(fake + code)


def test_errors_of_timm_are_its_own_and_a_later_import_registers(fake: str) -> None:
    code = f"""
import dfmamba
init.write_text("raise RuntimeError('broken')")
try:
    import timm
except RuntimeError as error:
    print(error, "timm" in sys.modules, {FINDERS})
init.write_text("x = 'mended'")
importlib.invalidate_caches()
import timm
print(registered, {FINDERS})
"""
    assert run(fake + code) == "broken False ['TimmFinder']\n['mended'] []"


def test_absent_timm_is_absent_and_an_unknown_one_usable(fake: str) -> None:
    code = f"""
def register():
    raise AttributeError("no registry")
sys.modules["dfmamba.backbones.timm_models"].register = register
import dfmamba
sys.path, before = [], sys.path
print(importlib.util.find_spec("timm"))
sys.path = before
import timm
print(timm.x, {FINDERS})
"""
    assert run(fake + code) == "None\n1 []"


def test_hooks_that_ask_all_finders_again_register_once(fake: str) -> None:
    """Other libraries' import hooks do so, whether before or after ours on the path."""
    code = f"""
class Hook:
    asked = False
    def find_spec(self, name, path=None, target=None):
        if name == "timm" and not self.asked:
            self.asked = True
            return importlib.util.find_spec(name)
sys.meta_path.insert(0, Hook())
import dfmamba
sys.meta_path.insert(0, Hook())
import timm
print(registered, {FINDERS})
"""
    assert run(fake + code) == "[1] []"


def test_importing_dfmamba_while_threads_import_timm(fake: str) -> None:
    code = f"""
import threading, time
init.write_text("import time; time.sleep(0.3); x = 1")
threads = [threading.Thread(target=importlib.import_module, args=("timm",)) for _ in range(4)]
[t.start() for t in threads]
while "timm" not in sys.modules:
    time.sleep(0.01)
import dfmamba
[t.join(60) for t in threads]
print(any(t.is_alive() for t in threads), registered, {FINDERS})
"""
    assert run(fake + code) == "False [1] []"


def test_other_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is taken is left alone; a timm without a registry is an error that names the extra."""
    names = ["dfmamba_tiny"]
    other = types.ModuleType("timm.models")
    monkeypatch.setitem(sys.modules, "timm.models", other)
    with pytest.raises(ImportError, match=r"dfmamba\[baselines\]"):
        timm_models.register()
    other.is_model = names.__contains__
    other.register_model = lambda entry: names.append(entry.__name__)
    timm_models.register()
    assert names == ["dfmamba_tiny", "dfmamba_nano"]
