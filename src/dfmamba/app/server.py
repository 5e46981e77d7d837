"""The server: routes, page, errors, and the process around them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mimetypes
import socket
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

import dfmamba
from dfmamba.app.api import make_router
from dfmamba.app.config import AppConfig
from dfmamba.app.films import Films, TooMany
from dfmamba.app.guard import Guard, shorten
from dfmamba.app.work import Busy, Predictors, Threads
from dfmamba.formats.glb import to_glb
from dfmamba.hands.detection import Detector

STATIC = Path(__file__).parent / "static"
_SWEEP_SECONDS = 30.0
_RETRY = {503: "1", 429: "10"}
_STATUS: dict[type[Exception], int] = {
    HTTPException: 0,
    RequestValidationError: 400,
    ValueError: 400,
    OverflowError: 400,
    Busy: 503,
    TooMany: 429,
    OSError: 500,
}
"""What is answered to an exception; 0: its own status."""


def make_app(
    config: AppConfig,
    detector: Detector | None = None,
    films: Films | None = None,
    predictors: Predictors | None = None,
) -> FastAPI:
    """The page and its API as an ASGI application.

    Args:
        config: settings.
        detector: takes the place of the configuration's, for tests.
        films: likewise.
        predictors: those of the configuration, if they are there already.

    Raises:
        ValueError, OSError: model, detector or device can't be used.
    """
    predictors = predictors or Predictors(config, detector)
    threads = Threads(config.threads, config.places)
    jobs = Films(config) if films is None else films

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(jobs))
        try:
            yield
        finally:
            sweeper.cancel()
            threads.close()
            jobs.close()

    app = FastAPI(
        title="dfmamba",
        version=dfmamba.__version__,
        description='3D hand pose from pictures and films. Errors are JSON: {"error": one line}.',
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        servers=[{"url": config.public_url}] if config.public_url else None,
        lifespan=lifespan,
    )
    app.include_router(make_router(config, predictors, threads, jobs))
    for kind in ("text/javascript", ".js"), ("image/jpeg", ".jpg"), ("text/css", ".css"):
        mimetypes.add_type(*kind)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns of each damaged form
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    for fault, status in _STATUS.items():
        app.add_exception_handler(fault, _handler(status))
    app.add_middleware(Guard, config=config)
    return app


class ImpatientProtocol(H11Protocol):
    """Closes connections over which no whole head of a request comes in time; uvicorn would wait for ever."""

    head_seconds = 30.0
    _seen: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch = self.loop.call_later(self.head_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle if idle else self
        self._watch = self.loop.call_later(self.head_seconds, self._look)


def serve(config: AppConfig) -> None:
    """Serves until it is interrupted; prints the address.

    Raises:
        ValueError: model, detector or device can't be used.
        OSError: likewise, or the address can't be listened on.
    """
    listener = _listen(config.host, config.port)
    with listener:
        predictors = Predictors(config)
        # The first request is to find all that is made at first use.
        with ThreadPoolExecutor(config.threads) as pool:
            examples = sorted((STATIC / "examples").glob("*.jpg"))
            list(pool.map(lambda path: to_glb(predictors.get().predict(path)), examples * config.threads))
        app = make_app(config, predictors=predictors)
        port = listener.getsockname()[1]
        shown = address(config.host, port)
        public = f", shown at {config.public_url}" if config.public_url else ""
        print(f"dfmamba app: {shown}{public} (Ctrl-C stops it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(server_settings(app)).run(sockets=[listener])


def server_settings(app: FastAPI) -> uvicorn.Config:
    """How uvicorn runs the application."""
    return uvicorn.Config(
        app, http=ImpatientProtocol, log_level="warning", access_log=False, timeout_graceful_shutdown=3
    )


def address(host: str, port: int) -> str:
    """What to open in a browser."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(found[4][:2], family=found[0], backlog=128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(f"--host {host} --port {port}: cannot listen there ({reason})") from None


async def _sweep(films: Films) -> None:
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        films.sweep(time.monotonic())


def _handler(status: int) -> Any:
    """Answers an exception with one line of JSON; for the status see `_STATUS`."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        code = status
        reason: object = error
        if isinstance(error, HTTPException):
            code, reason = error.status_code, error.detail
        elif isinstance(error, RequestValidationError):
            reason = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        headers = {"Retry-After": _RETRY[code]} if code in _RETRY else {}
        return JSONResponse({"error": shorten(reason)}, code, headers)

    return answer
