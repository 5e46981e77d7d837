"""States on disk: kept, skipped when damaged, refused when foreign, safe when the disk is full."""

from __future__ import annotations

import errno
import json
import resource
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from dfmamba.io import files
from dfmamba.io.files import remove_leftovers, write_atomic
from dfmamba.train.run_folder import (
    OLD_STATE_FILE,
    find_states,
    load_state,
    read_state,
    save_state,
    state_file,
)


def network(seed: int = 0) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    """A small model, its average and its optimiser after one step."""
    torch.manual_seed(seed)
    model, average = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    return model, average, optimizer


def save(folder: Path, step: int, keep: int = 2, seed: int = 0) -> Path:
    facts = {"step": step, "best": float("inf"), "config": {"lr": 1.0}}
    save_state(folder, *network(seed), facts, keep)
    return folder / state_file(step)


def steps(folder: Path) -> list[str]:
    return [path.name for path in find_states(folder)]


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    model, average, optimizer = network(1)
    facts = {"step": 3, "best": 0.1, "config": {"a": [1, None]}}
    save_state(tmp_path, model, average, optimizer, facts)
    other_model, other_average, other = network(2)
    assert load_state(tmp_path, other_model, other_average, other) == facts
    assert torch.equal(other_model.weight, model.weight)  # type: ignore[arg-type]
    assert torch.equal(other_average.bias, average.bias)  # type: ignore[arg-type]
    for parameter, twin in zip(model.parameters(), other_model.parameters(), strict=True):
        for key, moment in optimizer.state[parameter].items():
            assert torch.equal(other.state[twin][key], moment)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert steps(tmp_path) == [state_file(15), state_file(10)]
    save(tmp_path, 20, keep=1)
    assert steps(tmp_path) == [state_file(20)]


def test_the_newest_valid_one_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 5)
    path = save(tmp_path, 10)
    path.write_bytes(path.read_bytes()[:-3])
    assert load_state(tmp_path, *network())["step"] == 5
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert state_file(10) in told[0]
    load_state(tmp_path, *network(), tell=False)
    assert capsys.readouterr().err == ""
    save(tmp_path, 7)  # the damaged state of a later step must not push out valid ones
    assert steps(tmp_path) == [state_file(7), state_file(5)]


def test_nothing_valid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        load_state(tmp_path, *network())
    for step in (5, 10):
        save(tmp_path, step)
    for path in find_states(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"state-00000005.*damaged"):
        load_state(tmp_path, *network())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_any_damage_is_found(tmp_path: Path, where: float, flip: int, cut: bool) -> None:
    path = save(tmp_path, 1)
    content = bytearray(path.read_bytes())
    place = int(where * len(content))
    if cut:
        del content[place:]
    else:
        content[place] ^= flip
    path.write_bytes(content)
    try:
        facts, tensors = read_state(path)
    except ValueError as error:
        assert path.name in str(error)
    else:  # padding and names of other metadata don't matter; what is read must be what was written
        path.unlink()
        original_facts, original = read_state(save(tmp_path, 1))
        assert facts == original_facts
        assert {n: t.tolist() for n, t in tensors.items()} == {n: t.tolist() for n, t in original.items()}


def test_a_state_under_another_name_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5).rename(tmp_path / state_file(6))
    with pytest.raises(ValueError, match="it is of step 5"):
        read_state(tmp_path / state_file(6))


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5)
    model = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="another model: weight"):
        load_state(tmp_path, model, nn.Linear(4, 2), torch.optim.Adam(model.parameters()))


def test_the_single_state_of_older_runs_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    tensors = load_file(path)
    path.unlink()
    facts = {"step": 5, "best": 1.0, "config": {}}
    save_file(tensors, tmp_path / OLD_STATE_FILE, {"facts": json.dumps(facts)})
    assert load_state(tmp_path, *network()) == facts
    save(tmp_path, 10)
    assert steps(tmp_path) == [state_file(10), OLD_STATE_FILE]
    save(tmp_path, 15)
    assert steps(tmp_path) == [state_file(15), state_file(10)]


def test_a_full_disk_keeps_the_state_before(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk; `make check-chaos` fills a real one."""
    size = save(tmp_path, 5).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
        with pytest.raises(OSError, match=r"state-00000010.*can't be written.*state-00000005.*--resume"):
            save(tmp_path, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in tmp_path.iterdir()] == [state_file(5)]
    assert load_state(tmp_path, *network())["step"] == 5


def test_no_space_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*last state on disk: none"):
        save(tmp_path, 10)
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_writers_are_removed(tmp_path: Path) -> None:
    write_atomic(tmp_path / "kept", b"x")
    (tmp_path / ".kept.0123456789ab.part").write_bytes(b"half")
    (tmp_path / ".other.part").write_bytes(b"not ours")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kept", ".other.part"}
    remove_leftovers(tmp_path / "missing")
