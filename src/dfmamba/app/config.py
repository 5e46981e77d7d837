"""What the server of the page is started with."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class AppConfig:
    """Settings of the server.

    Attributes:
        host: address to listen on. All but this machine's own are a decision to let others in.
        port: 0 takes a free one.
        model: name or folder of the model that is used unless a request names a packaged one.
        detector: as `dfmamba predict --detector`; "none" looks at the whole picture.
        device: "auto", "cpu", "cuda" or "cuda:N".
        max_upload_mb: largest body of a request, in units of 10^6 bytes.
        public_url: address at which a proxy shows the page, such as https://hands.example.org/demo; empty
            where there is no proxy.
        threads: pictures that are predicted at the same time.
        places: requests that wait or are worked on; more are refused.
        uploads: bodies that are being received; a further one ends that which has stalled for longest.
        upload_seconds: time in which a body must have come.
        films: films that wait or are worked on; more are refused.
        film_frames: longest film.
        results: finished films that are kept.
        keep_seconds: time after which a finished film is removed.

    Raises:
        ValueError: a value is not usable.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    model: str = "nano"
    detector: str = "built-in"
    device: str = "auto"
    max_upload_mb: float = 50.0
    public_url: str = ""
    threads: int = 2
    places: int = 64
    uploads: int = 64
    upload_seconds: float = 120.0
    films: int = 3
    film_frames: int = 20_000
    results: int = 8
    keep_seconds: float = 1800.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port: expected a number from 0 to 65535, got {self.port}")
        if not 0 < self.max_upload_mb <= 4000:
            raise ValueError(
                f"--max_upload_mb: expected more than 0 and at most 4000, got {self.max_upload_mb}"
            )
        if not self.host:
            raise ValueError("--host: expected an address or a name, got nothing")
        if self.public_url:
            _check_address(self.public_url)
        for name in ("threads", "places", "uploads", "films", "film_frames", "results"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def max_upload_bytes(self) -> int:
        """The limit of a body in bytes."""
        return round(self.max_upload_mb * 1_000_000)

    @property
    def public_host(self) -> str:
        """Name and port by which a proxy is known; empty without one."""
        return urlsplit(self.public_url).netloc.lower()

    @property
    def public_path(self) -> str:
        """Where on the proxy's host the page is, without the last slash; empty at the top."""
        return urlsplit(self.public_url).path.rstrip("/")


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc or not url.isascii():
        raise ValueError(f"--public_url: expected such as https://hands.example.org/demo, got {url!r}")
