"""A server in this process, and what is sent to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra app is not installed")
pytest.importorskip("python_multipart", reason="the extra app is not installed")

import uvicorn
from browser_fixtures import browser, launch_browser  # noqa: F401
from fastapi.testclient import TestClient

from dfmamba.app.config import AppConfig
from dfmamba.app.server import make_app, server_settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A rendered picture of one hand, 384 x 384 JPEG."""
    return (EXAMPLES / "one_hand.jpg").read_bytes()


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """The application with the packaged model and small limits, asked without a socket."""
    config = AppConfig(detector="none", device="cpu", max_upload_mb=3.0)
    with TestClient(make_app(config), base_url="http://localhost") as one:
        yield one


@contextmanager
def serving(config: AppConfig) -> Iterator[str]:
    """A real server on a free port; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = uvicorn.Server(server_settings(make_app(config)))

    def run() -> None:
        asyncio.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def serve_app() -> Callable[[AppConfig], AbstractContextManager[str]]:
    """To start servers with other settings; see `serving`."""
    return serving


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a server with the packaged model."""
    with serving(AppConfig(detector="none", device="cpu")) as address:
        yield address


@pytest.fixture
def ask(client: TestClient) -> Callable[..., Any]:
    """Sends bytes as a picture with options; gives the answer."""

    def ask(content: bytes, name: str = "picture.jpg", **options: str) -> Any:
        return client.post("/api/predict", files={"picture": (name, content)}, data=options)

    return ask
