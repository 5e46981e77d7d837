"""Show a page for photos, films and the webcam in the browser, with an HTTP API. Needs the extra app.

Pictures stay on this machine: the page talks to this program only, and this program to nobody else. Ctrl-C
ends it.
"""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of `dfmamba app`."""
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in"
    )
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one")
    parser.add_argument(
        "--model", type=str, default="nano", help="name or folder of a model (see dfmamba info)"
    )
    parser.add_argument(
        "--detector", type=str, default="built-in", help="what finds the hands; none: the model itself"
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--max_upload_mb", type=float, default=50.0, help="largest upload in megabytes")
    parser.add_argument(
        "--public_url",
        type=str,
        default="",
        metavar="URL",
        help="where a proxy shows the page, such as https://hands.example.org/demo",
    )


def run(options: Namespace) -> int:
    """Serve until Ctrl-C; returns the exit code.

    Raises:
        ValueError: an option is unusable, or the extra is missing.
        OSError: the address can't be used, or a file can't be read.
    """
    from dfmamba.app.config import AppConfig
    from dfmamba.extras import need

    try:
        need("app", "fastapi", "uvicorn", "python_multipart")
    except ImportError as error:
        raise ValueError(str(error)) from None
    from dfmamba.app.server import serve

    names = ("host", "port", "model", "detector", "device", "max_upload_mb", "public_url")
    serve(AppConfig(**{name: options[name] for name in names}))
    return 0
