"""What a request brings: a form with one file and options, read within limits."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from dfmamba.app.guard import drain
from dfmamba.hands.affine import parse_box
from dfmamba.hands.camera import Camera
from dfmamba.io.images import PictureTooLargeError, UnsupportedPictureError, decode_image

_FIELD_BYTES = 4096
_MOST_FIELDS = 16
_SWITCH = {"true": True, "1": True, "on": True, "false": False, "0": False, "": False}


@dataclass(frozen=True)
class Options:
    """How a picture or film is to be predicted; as the arguments of `Predictor.predict`.

    Attributes:
        model: name of a model; None: the server's.
        detector: name of a detector; None: the server's.
        threshold: hands with a lower score are left out.
        mirrored: the picture is a mirror image.
        camera: its intrinsics.
        box: where its hands are.
        smooth: of films only: one-euro smoothing.
        mesh: whether hands get a fit, and films show their surface.
        session: a name of the client's own choice, for the pictures of one camera, whose hands are followed.
    """

    model: str | None = None
    detector: str | None = None
    threshold: float = 0.5
    mirrored: bool = False
    camera: Camera | None = None
    box: tuple[float, float, float, float] | None = None
    smooth: bool = False
    mesh: bool = False
    session: str | None = None


PICTURE_FIELDS = ("model", "detector", "threshold", "mirrored", "camera", "box", "session", "mesh")
FILM_FIELDS = ("model", "detector", "threshold", "mirrored", "camera", "smooth", "mesh")


def parse_options(fields: Mapping[str, str], known: tuple[str, ...]) -> Options:
    """Options from the texts of a form; an empty text stands for the default.

    Raises:
        ValueError: a field is unknown or its value not usable.
    """
    values: dict[str, Any] = {}
    for name, text in fields.items():
        if name not in known:
            raise ValueError(f"unknown field {name!r}; expected {', '.join(known)} and one file")
        if not text.strip():
            continue
        if name == "threshold":
            values[name] = _number(name, text)
        elif name in ("mirrored", "smooth", "mesh"):
            if text.lower() not in _SWITCH:
                raise ValueError(f"{name}: expected true or false, got {text!r}")
            values[name] = _SWITCH[text.lower()]
        elif name == "camera":
            values[name] = Camera.parse(text)
        elif name == "box":
            try:
                values[name] = parse_box(text)
            except ValueError as error:
                raise ValueError(f"box: {error}") from None
        else:
            values[name] = text
    return Options(**values)


@dataclass(eq=False)
class _Upload:
    """A body that is coming: when it must be there, when it last grew, and the wait for more of it."""

    end: float
    grown: float
    wait: asyncio.Timeout | None = None


class Uploads:
    """The bodies that are being received: a few at a time, and each within some time.

    Args:
        most: of them. A further one takes the place of that which has stalled for longest.
        seconds: in which a body must have come.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._uploads: set[_Upload] = set()

    async def chunks(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body of a request.

        Raises:
            HTTPException: 408 where it took too long or stalled while others waited; 413: too large.
            ClientDisconnect: it will not come.
        """
        now = asyncio.get_running_loop().time
        while len(self._uploads) >= self.most:
            self._give_up(min(self._uploads, key=lambda one: one.grown), now())
        upload = _Upload(now() + self.seconds, now())
        self._uploads.add(upload)
        try:
            async with contextlib.aclosing(request.stream()) as body:
                while True:
                    async with asyncio.timeout_at(upload.end) as upload.wait:
                        chunk = await anext(body, None)
                    upload.wait, upload.grown = None, now()
                    if chunk is None:
                        return
                    yield chunk
        except TimeoutError:
            taken = upload in self._uploads
            reason = f"took longer than {self.seconds:g} s" if taken else "stalled while others waited"
            raise HTTPException(408, f"the upload {reason}") from None
        finally:
            self._uploads.discard(upload)

    def _give_up(self, upload: _Upload, now: float) -> None:
        self._uploads.discard(upload)
        upload.end = now
        if upload.wait is not None:
            upload.wait.reschedule(now)


async def receive_body(request: Request, uploads: Uploads, limit: int) -> bytes:
    """A body of at most `limit` bytes, whatever its header announces.

    Raises:
        HTTPException: 413 if it is longer; 408 for a slow one.
    """
    content = bytearray()
    async with contextlib.aclosing(uploads.chunks(request)) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > limit:
                await drain(request.receive)
                raise HTTPException(413, f"larger than the limit of {limit / 1e6:g} MB")
    return bytes(content)


@contextlib.asynccontextmanager
async def receive_form(
    request: Request, file: str, known: tuple[str, ...], uploads: Uploads
) -> AsyncIterator[tuple[BinaryIO, Options]]:
    """The file and the options of a multipart form; the file is gone afterwards.

    Args:
        request: its body has not been read.
        file: name of the field with the file.
        known: names of the other fields.
        uploads: receives it.

    Raises:
        HTTPException: 415 for another type of content, 408 for a slow body, 400 for a form that is damaged or
            lacks the file.
        ValueError: an option is unknown or not usable.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise HTTPException(415, f"expected multipart/form-data with a file in the field {file!r}")
    faults: list[Exception] = []
    try:
        form = await MultiPartParser(
            request.headers,
            _chunks(uploads.chunks(request), faults),
            max_files=1,
            max_fields=_MOST_FIELDS,
            max_part_size=_FIELD_BYTES,
        ).parse()
    except MultiPartException as error:
        raise faults[0] if faults else HTTPException(400, error.message) from None
    try:
        upload = form.get(file)
        if not isinstance(upload, UploadFile):
            raise HTTPException(400, f"the field {file!r} with the file is missing")
        fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        yield upload.file, parse_options(fields, known)
    finally:
        await form.close()


async def _chunks(body: AsyncGenerator[bytes, None], faults: list[Exception]) -> AsyncGenerator[bytes, None]:
    """The body. The parser closes its files after its own exception only; the real one goes to `faults`."""
    try:
        async with contextlib.aclosing(body):
            async for chunk in body:
                yield chunk
        return
    except (HTTPException, ClientDisconnect) as error:
        faults.append(error)
    raise MultiPartException("")


def read_picture(file: BinaryIO) -> np.ndarray:
    """The picture in an upload, (H, W, 3) uint8; see `dfmamba.io.images.decode_image` for what is refused.

    Raises:
        HTTPException: 413 if it has too many pixels, 415 if it is no still picture of a known format, 400 if
            it is empty or damaged.
    """
    try:
        return decode_image(file)
    except PictureTooLargeError as error:
        raise HTTPException(413, str(error)) from None
    except UnsupportedPictureError as error:
        raise HTTPException(415, str(error)) from None
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


def save_upload(file: BinaryIO, path: Path) -> None:
    """Copies an upload to a file."""
    file.seek(0)
    with path.open("wb") as target:
        shutil.copyfileobj(file, target)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {text!r}") from None
