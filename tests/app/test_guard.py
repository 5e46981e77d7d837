"""Who may ask, and how much may be sent."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest

from dfmamba.app.config import AppConfig
from dfmamba.app.guard import Guard, shorten


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
    assert Guard(_nothing, host, 1).allows(authority) is allowed


@pytest.mark.parametrize("path", ["/", "/api/health", "/app.js"])
def test_foreign_hosts_and_origins_are_refused_everywhere(client, path: str) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 403
        assert len(answer.json()["error"].splitlines()) == 1
    assert client.get(path, headers={"origin": "http://localhost"}).status_code == 200


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
        while b"}" not in received:
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


def test_a_client_that_leaves_does_no_harm(server: str, capfd) -> None:
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(HEAD.encode() + b"Content-Length: 1000000\r\n\r\n" + PART + b"12345")
    status, _ = _send(server, "GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\n", [])
    assert " 200 " in status
    assert "Traceback" not in capfd.readouterr().err


def test_reasons_are_one_short_line() -> None:
    assert shorten("a\nb\tc") == "a b c"
    assert shorten(KeyError()) == "KeyError"
    assert len(shorten("x" * 5000)) == 300
