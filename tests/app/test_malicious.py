"""Uploads that mean harm, to a server in a process of its own: refused in one line, in bounded memory."""

from __future__ import annotations

import io
import os
import re
import secrets
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from PIL import Image

MOST_MEMORY_MB = 150
"""What all refused uploads together may add to the server's peak."""


MIXED = 200
"""With 1,000 it takes two minutes, and the memory grows by as much."""


@dataclass
class Server:
    address: str
    process: subprocess.Popen[str]

    def peak_mb(self) -> float:
        """Largest resident memory so far."""
        return self._status("VmHWM")

    def resident_mb(self) -> float:
        return self._status("VmRSS")

    def _status(self, name: str) -> float:
        found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found.group(1)) / 1000

    def send(self, content: bytes, name: str) -> httpx2.Response:
        return httpx2.post(f"{self.address}/api/predict", files={"picture": (name, content)}, timeout=120)


@pytest.fixture(scope="module")
def apart(photo: bytes, tmp_path_factory) -> Iterator[Server]:
    """`dfmamba app` as a user starts it."""
    words = [sys.executable, "-m", "dfmamba", "app", "--port", "0", "--detector", "none", "--device", "cpu"]
    errors = tmp_path_factory.mktemp("server") / "stderr"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        errors.open("w") as sink,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=sink, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://127.0.0.1:" in line, errors.read_text()
            server = Server(line.split()[2], process)
            assert server.send(photo, "a.jpg").status_code == 200
            yield server
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(30)
    assert code == 0
    assert errors.read_text() == ""


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _zeros(size: int) -> bytes:
    packer = zlib.compressobj(1)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join(parts) + packer.flush()


def _gif(frames: int) -> bytes:
    head = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff"
    frame = b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00"
    return head + frame * frames + b";"


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    return buffer.getvalue()


def _large_tiff() -> bytes:
    entries = [(256, 4, 60_000), (257, 4, 60_000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    entries += [(277, 3, 1), (278, 4, 60_000), (279, 4, 100)]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + bytes(104)


def _cases() -> dict[str, tuple[bytes, str, int, str]]:
    """Content, file name, expected status and a part of the reason."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    text = _chunk(b"zTXt", b"Comment\0\0" + _zeros(100 << 20))
    return {
        "200 megapixels": (_png(20_000, 10_000, _zeros(1 << 20)), "big.png", 413, "100 megapixels"),
        "3600 megapixels": (_large_tiff(), "big.tif", 413, "100 megapixels"),
        "bomb in a png": (_png(64, 64, _zeros(100 << 20)), "bomb.png", 0, ""),
        "bomb in a text": (_png(64, 64, _zeros(1 << 20), text), "text.png", 0, ""),
        "zip bomb": (_zip(), "bomb.jpg", 415, "not a picture"),
        "gif of 10,000 frames": (_gif(10_000), "long.gif", 415, "animated picture"),
        "svg": (svg, "drawing.svg", 415, "not a picture"),
        "text": (b"hello\n" * 100, "text.jpg", 415, "not a picture"),
        "page": (b"<!doctype html><script>alert(1)</script>", "page.jpg", 415, "not a picture"),
        "nothing": (b"", "empty.jpg", 400, "empty"),
        "postscript": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n",
            "a.eps",
            415,
            "not a picture",
        ),
        "pickle": (
            b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix",
            "a.jpg",
            415,
            "not a picture",
        ),
    }


def test_harmful_uploads_are_refused_in_one_line_and_bounded_memory(apart: Server, photo: bytes) -> None:
    before = apart.peak_mb()
    for what, (content, name, status, reason) in _cases().items():
        answer = apart.send(content, name)
        if status == 0:  # a small picture with a bomb beside its pixels may as well be read
            assert answer.status_code in (200, 400), what
        else:
            assert answer.status_code == status, (what, answer.text)
            assert reason in answer.json()["error"], what
        assert "error" not in answer.text or len(answer.json()["error"].splitlines()) == 1, what
        assert "Traceback" not in answer.text
    for cut in (100, len(photo) // 2, len(photo) - 40):
        answer = apart.send(photo[:cut], "cut.jpg")
        assert answer.status_code == 400
        assert "damaged or truncated" in answer.json()["error"]
    grown = apart.peak_mb() - before
    assert grown < MOST_MEMORY_MB, f"{grown:.0f} MB"
    assert httpx2.get(f"{apart.address}/api/health", timeout=60).json()["requests"] == 0
    assert apart.send(photo, "a.jpg").json()["hands"]


def test_names_of_files_on_the_server_are_not_told(apart: Server) -> None:
    answer = apart.send(b"hello", "../../etc/passwd")
    assert "/" not in answer.json()["error"]


def test_memory_after_a_thousand_mixed_requests(apart: Server, photo: bytes) -> None:
    address = apart.address
    text = apart.send(photo, "a.jpg").text
    big = io.BytesIO()
    Image.new("RGB", (1600, 1200), (90, 120, 150)).save(big, "PNG")
    kinds: list[Callable[[httpx2.Client], object]] = [
        lambda client: client.get(f"{address}/"),
        lambda client: client.get(f"{address}/api/models"),
        lambda client: client.post(f"{address}/api/convert", content=text),
        lambda client: client.post(f"{address}/api/convert", content=b"[" + b"0," * 500_000),
        lambda client: client.post(f"{address}/api/predict", files={"picture": ("a.jpg", photo)}),
        lambda client: client.post(f"{address}/api/predict", files={"picture": ("a.png", big.getvalue())}),
        lambda client: client.post(
            f"{address}/api/predict",
            files={"picture": ("a.jpg", photo)},
            data={"session": secrets.token_hex(4)},
        ),
        lambda client: client.post(f"{address}/api/predict", files={"picture": ("a.jpg", photo[:2000])}),
        lambda client: client.get(f"{address}/api/film/none"),
        lambda client: client.post(f"{address}/api/nothing", content=bytes(100_000)),
    ]

    def send(count: int) -> None:
        with httpx2.Client(timeout=120) as client, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: kinds[i % len(kinds)](client), range(count)))

    send(60)  # what a server keeps once it has done everything
    before = apart.resident_mb()
    send(MIXED)
    grown = apart.resident_mb() - before
    assert grown < 50, f"{grown:.0f} MB"


@pytest.mark.slow
def test_many_large_pictures_at_once_need_the_memory_of_a_few(apart: Server) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000), (90, 120, 150)).save(buffer, "JPEG")
    before = apart.peak_mb()
    assert apart.send(buffer.getvalue(), "a.jpg").status_code == 200
    one = apart.peak_mb() - before
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: apart.send(buffer.getvalue(), "a.jpg"), range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert apart.peak_mb() - before < 4 * max(one, 100)  # two threads, and what the allocator keeps
