"""Atomic writing."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dfmamba.io.files import draft_folder, open_atomic, open_atomic_bytes, remove_leftovers, write_atomic


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.json"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, b"old")

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.json"]


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_atomic(tmp_path, b"")


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    real, link, further = tmp_path / "there" / "real.json", tmp_path / "link.json", tmp_path / "further"
    real.parent.mkdir()
    real.write_bytes(b"old")
    link.symlink_to(real)
    further.symlink_to("link.json")
    write_atomic(further, b"new")
    assert (link.is_symlink(), further.is_symlink(), real.read_bytes()) == (True, True, b"new")
    assert [path.name for path in real.parent.iterdir()] == ["real.json"]


def test_a_dead_link_gets_its_target(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "new" / "real.json")
    with open_atomic(link) as file:
        file.write("new")
    assert link.is_symlink()
    assert (tmp_path / "new" / "real.json").read_text() == "new"


def test_a_ring_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_is_written_to(tmp_path: Path, through_a_link: bool) -> None:
    pipe = path = tmp_path / "pipe"
    os.mkfifo(pipe)
    if through_a_link:
        path = tmp_path / "link"
        path.symlink_to(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_atomic(path, b"whole")
    reader.join()
    assert got == [b"whole"]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_devices_stay(tmp_path: Path) -> None:
    write_atomic("/dev/null", b"nothing")
    assert stat.S_ISCHR(os.lstat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left"):
        write_atomic("/dev/full", b"nothing")
    assert stat.S_ISCHR(os.lstat("/dev/full").st_mode)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.chdir(tmp_path)  # the name of a socket may have 100 characters
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        with pytest.raises(OSError, match="is a socket; expected a file"):
            write_atomic("socket", b"new")
    assert stat.S_ISSOCK(os.lstat("socket").st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("target", ["file", "pipe"])
def test_standard_output_is_written_to(tmp_path: Path, name: str, target: str) -> None:
    program = (
        "import sys; from dfmamba.io.files import write_atomic\n"
        f"print('before'); write_atomic({name!r}, b'between\\n'); print('after')"
    )
    redirected = tmp_path / "out"
    with redirected.open("wb") as file:
        ran = subprocess.run(
            [sys.executable, "-c", program], stdout=file if target == "file" else subprocess.PIPE, check=True
        )
    content = redirected.read_bytes() if target == "file" else ran.stdout
    assert content == b"before\nbetween\nafter\n"


def test_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    path.chmod(0o640)
    write_atomic(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


_HOLD = """
import sys, time
from dfmamba.io.files import draft_folder, open_atomic_bytes
with open_atomic_bytes(sys.argv[1] + "/file") as file, draft_folder(sys.argv[1] + "/folder") as folder:
    file.write(b"half")
    (folder / "half").write_bytes(b"half")
    print("written", flush=True)
    time.sleep(100)
"""


def test_drafts_of_killed_processes_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / ".other.part").write_bytes(b"not ours")
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        drafts = {path.name for path in tmp_path.iterdir()} - {".other.part"}
        assert len(drafts) == 2
        write_atomic(tmp_path / "second", b"")
        assert drafts < {path.name for path in tmp_path.iterdir()}
        process.send_signal(signal.SIGKILL)
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".other.part", "second"}


def test_the_first_write_into_a_folder_removes_drafts(tmp_path: Path) -> None:
    (tmp_path / ".file.0123456789ab.part").write_bytes(b"half")
    (tmp_path / ".folder.0123456789ab.part").mkdir()
    write_atomic(tmp_path / "file", b"")
    assert os.listdir(tmp_path) == ["file"]


def test_a_draft_that_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    with open_atomic_bytes(tmp_path / "file") as file, draft_folder(tmp_path / "folder") as folder:
        remove_leftovers(tmp_path)
        file.write(b"new")
        folder.rename(tmp_path / "folder")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}
