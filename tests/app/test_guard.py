"""Who may ask, and how much may be sent."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from dfmamba.app.config import AppConfig
from dfmamba.app.guard import Guard, shorten
from dfmamba.app.server import ImpatientProtocol, make_app


async def _nothing(scope, receive, send) -> None:
    raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("host", "authority", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "localhost:7860", True),
        ("127.0.0.1", "LOCALHOST", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("127.0.0.1", "evil.example:7860", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "192.168.0.2:7860", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "[::1", False),
        ("192.168.0.2", "192.168.0.2:7860", True),
        ("0.0.0.0", "10.1.2.3:7860", True),
        ("0.0.0.0", f"{socket.gethostname()}:7860", True),
        ("0.0.0.0", "evil.example", False),
        ("::", "[fe80::1]:80", True),
    ],
)
def test_only_own_names_are_hosts(host: str, authority: str, allowed: bool) -> None:
    assert Guard(_nothing, AppConfig(host=host)).allows(authority) is allowed


@pytest.mark.parametrize("path", ["/", "/api/health", "/app.js"])
def test_foreign_hosts_and_origins_are_refused_everywhere(client, path: str) -> None:
    odd = (
        "http://evil.example",
        "null",
        "",
        "http://[",
        "http://[::1",
        "http://user@localhost",
        b"http://\xe9",
    )
    for headers in ({"host": "evil.example"}, *({"origin": origin} for origin in odd)):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 403
        assert len(answer.json()["error"].splitlines()) == 1
    assert client.get(path, headers={"origin": "http://localhost"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        # The proxy hands on what the browser asked for, with its folder or without.
        ("/api/health", {"host": "hands.example.org", "origin": "https://hands.example.org"}, 200),
        ("/demo/api/health", {"host": "hands.example.org", "origin": "https://Hands.example.org"}, 200),
        ("/demo/", {"host": "hands.example.org"}, 200),
        ("/demo", {"host": "hands.example.org"}, 307),
        ("/demonstration", {"host": "hands.example.org"}, 404),
        # The proxy asks by the name it knows the server by.
        ("/api/health", {"host": "127.0.0.1:7860", "origin": "https://hands.example.org"}, 200),
        ("/api/health", {"host": "127.0.0.1:7860", "origin": "https://evil.example"}, 403),
        ("/api/health", {"host": "hands.example.org:8443"}, 403),
        ("/api/health", {"host": "evil.example", "origin": "https://hands.example.org"}, 403),
        ("/api/health", {"host": "localhost"}, 200),
    ],
)
def test_a_proxy_that_is_known_may_ask(path: str, headers: dict[str, str], status: int) -> None:
    config = AppConfig(detector="none", device="cpu", public_url="https://hands.example.org/demo/")
    client = TestClient(make_app(config), base_url="http://localhost", follow_redirects=False)
    answer = client.get(path, headers=headers)
    assert answer.status_code == status
    if status == 307:
        assert answer.headers["location"] == "/demo/"


@pytest.mark.parametrize(
    "url",
    ["hands.example.org", "ftp://a", "https://", "https://a:x", "https://a?b", "https://u@a", "https://["],
)
def test_public_addresses_are_checked(url: str) -> None:
    with pytest.raises(ValueError, match=r"--public_url: expected such as https://"):
        AppConfig(public_url=url)


def test_no_answer_allows_other_origins_or_scripts(client) -> None:
    for path in ("/", "/api/health", "/api/nothing"):
        headers = client.get(path).headers
        assert "access-control-allow-origin" not in headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.options("/api/predict", headers={"origin": "http://localhost"}).status_code in (404, 405)


def _send(server: str, head: str, chunks: list[bytes]) -> tuple[str, dict]:
    """Sends a request over a socket until it is answered; status line and JSON."""
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(head.encode())
        for chunk in chunks:
            connection.sendall(chunk)
        received = b""
        while True:
            head, found, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head) if found else None
            if length and len(body) >= int(length.group(1)):
                break
            part = connection.recv(65536)
            if not part:
                break
            received += part
    lines, _, body = received.partition(b"\r\n\r\n")
    return lines.decode().splitlines()[0], json.loads(body)


HEAD = "POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\n\r\n'


def test_a_body_without_a_length_is_counted_while_it_comes(server: str) -> None:
    piece = bytes(1_000_000)
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in [PART, *[piece] * 52]]
    status, answer = _send(server, HEAD + "Transfer-Encoding: chunked\r\n\r\n", [*chunks, b"0\r\n\r\n"])
    assert " 413 " in status
    assert answer == {"error": "the upload is larger than the limit of 50 MB"}


def test_a_client_that_asks_first_is_answered_before_it_sends(server: str) -> None:
    status, answer = _send(server, HEAD + "Content-Length: 60000000\r\nExpect: 100-continue\r\n\r\n", [])
    assert " 413 " in status
    assert "limit of 50 MB" in answer["error"]


def test_a_client_that_does_not_go_on_is_sent_away(serve_app) -> None:
    with serve_app(AppConfig(detector="none", device="cpu", upload_seconds=0.2)) as address:
        status, answer = _send(address, HEAD + "Content-Length: 1000000\r\n\r\n", [PART, b"12345"])
        health = _send(address, "GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n", [])[1]
    assert " 408 " in status
    assert answer == {"error": "the upload took longer than 0.2 s"}
    assert health["requests"] == 0


def test_a_prediction_that_does_not_come_or_is_too_long_is_refused(serve_app) -> None:
    head = "POST /api/convert HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serve_app(AppConfig(detector="none", device="cpu", upload_seconds=0.5)) as address:
        status, _ = _send(address, head + "Content-Length: 1000000\r\n\r\n", [b"{"])
        assert " 408 " in status
        chunks = [b"f4240\r\n%s\r\n" % bytes(1_000_000)] * 3 + [b"0\r\n\r\n"]
        status, answer = _send(address, head + "Transfer-Encoding: chunked\r\n\r\n", chunks)
        assert " 413 " in status
        assert answer == {"error": "larger than the limit of 2 MB"}
        status, _ = _send(address, head + "Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n", chunks)
        assert " 413 " in status


def test_connections_without_a_request_are_closed(serve_app, monkeypatch) -> None:
    monkeypatch.setattr(ImpatientProtocol, "head_seconds", 0.3)
    with serve_app(AppConfig(detector="none", device="cpu")) as server:
        address = urlsplit(server)
        for begun in (b"", b"GET /api/health HTTP/1.1\r\nHo"):
            with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
                connection.sendall(begun)
                assert connection.recv(100) == b""


STALLED = {
    "predict": HEAD + "Content-Length: 1000000\r\n\r\n--x\r\n",
    "film": HEAD.replace("predict", "film") + "Content-Length: 1000000\r\n\r\n--x\r\n",
    "convert": HEAD.replace("predict", "convert") + "Content-Length: 1000000\r\n\r\n{",
    "health": "GET /api/health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
    "page": "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
    "nothing": "POST /api/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n",
    "other site": "POST /api/predict HTTP/1.1\r\nHost: evil\r\nContent-Length: 1000\r\n\r\n",
    "too long": HEAD + "Content-Length: 60000000\r\n\r\n--x\r\n",
    "head": "POST /api/predict HTTP/1.1\r\nHost: loc",
}


def test_others_are_answered_beside_64_stalled_requests_of_every_route(serve_app, photo: bytes) -> None:
    body = PART + photo + b"\r\n--x--\r\n"
    with serve_app(AppConfig(detector="none", device="cpu")) as server, contextlib.ExitStack() as stack:
        address = urlsplit(server)
        for what, begun in STALLED.items():
            for _ in range(64):
                one = stack.enter_context(socket.create_connection((address.hostname, address.port)))
                one.sendall(begun.encode())
            status, answer = _send(server, HEAD + f"Content-Length: {len(body)}\r\n\r\n", [body])
            assert " 200 " in status, what
            assert answer["hands"]
            status, _ = _send(server, "GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n", [])
            assert " 200 " in status, what


def test_a_client_that_leaves_does_no_harm(server: str, capfd) -> None:
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(HEAD.encode() + b"Content-Length: 1000000\r\n\r\n" + PART + b"12345")
    status, _ = _send(server, "GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n", [])
    assert " 200 " in status
    assert "Traceback" not in capfd.readouterr().err


def test_reasons_are_one_short_line() -> None:
    assert shorten("a\nb\tc") == "a b c"
    assert shorten("a\x1b]0;title\x07\u202e\udcff") == r"a\x1b]0;title\x07\u202e\udcff"
    assert shorten(KeyError()) == "KeyError"
    assert len(shorten("x" * 5000)) == 300
