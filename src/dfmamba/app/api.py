"""The routes under /api. docs/use/app.md has an example of each; /openapi.json describes them to programs."""

from __future__ import annotations

import time
from typing import Any, BinaryIO

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException

import dfmamba
from dfmamba.app.config import AppConfig
from dfmamba.app.films import OVERLAY, PREDICTIONS, Films, Job, why_no_films
from dfmamba.app.uploads import (
    FILM_FIELDS,
    PICTURE_FIELDS,
    Options,
    Uploads,
    read_picture,
    receive_body,
    receive_form,
)
from dfmamba.app.work import Predictors, Sessions, Threads
from dfmamba.draw.canvas import CONFIDENT, SIDE_COLORS, joint_color
from dfmamba.hands.skeleton import BONES, FINGERS, JOINT_NAMES
from dfmamba.io.images import MAX_MEGAPIXELS
from dfmamba.predict.result import Prediction
from dfmamba.predict.surface import with_surface

_LARGEST_JSON = 2_000_000
_MEDIA = {OVERLAY: "video/mp4", PREDICTIONS: "application/jsonl", "glb": "model/gltf-binary"}

_FIELDS: dict[str, dict[str, Any]] = {
    "model": {"type": "string", "description": "one of /api/models; empty: the server's"},
    "detector": {"type": "string", "description": "one of /api/models; empty: the server's"},
    "threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
    "mirrored": {"type": "boolean", "default": False, "description": "a mirror image, as of selfie cameras"},
    "camera": {"type": "string", "description": "fx,fy,cx,cy in pixels"},
    "box": {"type": "string", "description": "x0,y0,x1,y1 in pixels: where the hands are"},
    "session": {
        "type": "string",
        "maxLength": 64,
        "description": "any name: pictures of one name are a film, whose hands are followed",
    },
    "smooth": {"type": "boolean", "default": False, "description": "one-euro smoothing"},
    "mesh": {
        "type": "boolean",
        "default": False,
        "description": "fit the hand model: its angles and shape in the answer, its surface in films",
    },
}


def make_router(config: AppConfig, predictors: Predictors, threads: Threads, films: Films) -> APIRouter:
    """The routes over these predictors, threads and films."""
    router = APIRouter(prefix="/api")
    uploads, sessions = Uploads(config.uploads, config.upload_seconds), Sessions()

    @router.get("/health", summary="Whether the server answers")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "version": dfmamba.__version__,
            "requests": threads.inside,
            "films": sum(job.ended is None for job in list(films.jobs.values())),
        }

    @router.get("/models", summary="Models, detectors, limits, and the skeleton of the joints")
    async def models() -> dict[str, Any]:
        return {
            "models": predictors.models,
            "detectors": predictors.detectors,
            "device": predictors.device,
            "limits": {"upload_bytes": config.max_upload_bytes, "megapixels": MAX_MEGAPIXELS},
            "formats": list(_CONVERTERS),
            "films": why_no_films(),
            "skeleton": {
                "joint_names": JOINT_NAMES,
                "bones": BONES,
                "fingers": FINGERS,
                "joint_colors": [_hex(joint_color(joint)) for joint in range(len(JOINT_NAMES))],
                "side_colors": {side: _hex(color) for side, color in SIDE_COLORS.items()},
                "confident": CONFIDENT,
            },
        }

    @router.post(
        "/predict", summary="The hands of one picture", openapi_extra=_form("picture", PICTURE_FIELDS)
    )
    async def predict(request: Request) -> Response:
        threads.require_place()
        async with receive_form(request, "picture", PICTURE_FIELDS, uploads) as form:
            with threads.place():
                asked = time.perf_counter()
                prediction, read, began = await threads.run(_predict, predictors, sessions, *form)
        timing = {"wait": began - asked, "read": read, "predict": prediction.seconds or 0.0}
        header = ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in timing.items())
        return Response(
            prediction.to_json(), media_type="application/json", headers={"Server-Timing": header}
        )

    @router.post("/convert", summary="A prediction as a GLB file", openapi_extra=_CONVERT)
    async def convert(request: Request, format: str = "glb") -> Response:
        if format not in _CONVERTERS:
            raise HTTPException(
                400, f"format {format!r} is not offered here; expected {', '.join(_CONVERTERS)}"
            )
        threads.require_place()
        body = await receive_body(request, uploads, _LARGEST_JSON)
        with threads.place():
            content = await threads.run(_CONVERTERS[format], body)
        return Response(content, media_type=_MEDIA[format])

    @router.post(
        "/film", status_code=202, summary="Takes a film over", openapi_extra=_form("film", FILM_FIELDS)
    )
    async def film(request: Request) -> dict[str, Any]:
        reason = why_no_films()
        if reason is not None:
            raise HTTPException(503, reason)
        films.require_room()
        async with receive_form(request, "film", FILM_FIELDS, uploads) as (file, options):
            with threads.place():
                job = await threads.run(films.submit, file, predictors, options)
        return job.to_dict()

    @router.get("/film/{name}", summary="State of a film")
    async def state(name: str) -> dict[str, Any]:
        return _known(films, name).to_dict()

    @router.delete("/film/{name}", summary="Ends the work at a film, or removes its results")
    async def cancel(name: str) -> dict[str, Any]:
        job = _known(films, name)
        films.cancel(job)
        return job.to_dict()

    @router.get("/film/{name}/{file}", summary="A result: overlay.mp4 or predictions.jsonl")
    async def result(name: str, file: str) -> Response:
        job = _known(films, name)
        if job.state != "done" or file not in (OVERLAY, PREDICTIONS):
            raise HTTPException(404, "no such file")
        return FileResponse(job.folder / file, media_type=_MEDIA[file])

    @router.api_route(
        "/{rest:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"], include_in_schema=False
    )
    async def unknown(rest: str) -> JSONResponse:
        raise HTTPException(404, "no such address; docs/use/app.md lists them")

    return router


def _predict(
    predictors: Predictors, sessions: Sessions, file: BinaryIO, options: Options
) -> tuple[Prediction, float, float]:
    """The prediction, the seconds that reading took, and when work began."""
    began = time.perf_counter()
    predictor = predictors.get(options.model, options.detector)
    picture: np.ndarray = read_picture(file)
    read = time.perf_counter() - began
    if options.session is not None:
        prediction = sessions.step(predictor, picture, options)
    else:
        prediction = predictor.predict(
            picture,
            box=options.box,
            camera=options.camera,
            mirrored=options.mirrored,
            threshold=options.threshold,
        )
    return with_surface(prediction) if options.mesh else prediction, read, began


def _to_glb(content: bytes) -> bytes:
    from dfmamba.formats.glb import to_glb

    return to_glb(Prediction.from_json(content))


_CONVERTERS = {"glb": _to_glb}


def _known(films: Films, name: str) -> Job:
    job = films.get(name)
    if job is None:
        raise HTTPException(404, "no such film; results are removed after a while")
    return job


def _hex(color: tuple[int, ...]) -> str:
    return "#" + "".join(f"{value:02x}" for value in color[:3])


def _form(file: str, fields: tuple[str, ...]) -> dict[str, Any]:
    """A multipart form in OpenAPI's words."""
    properties = {file: {"type": "string", "format": "binary"}} | {name: _FIELDS[name] for name in fields}
    schema = {"type": "object", "required": [file], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_CONVERT = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "description": "as from /api/predict"}}
        },
    }
}
