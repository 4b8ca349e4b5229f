"""The routes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from icclip import __version__
from icclip.config.indexing import bytes_of
from icclip.runtime.scoring import probabilities
from icclip.serving.door import FAILED, App, Door
from icclip.serving.inputs import Text
from icclip.serving.problems import RequestProblem, invalid
from icclip.serving.schema import (
    About,
    Embedding,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    Found,
    ImageAnswer,
    Invocation,
    ProblemAnswer,
    RankAnswer,
    Ranked,
    SearchAnswer,
    SearchRequest,
    TextsAnswer,
    Usage,
)
from icclip.serving.service import Service

log = logging.getLogger("icclip.serving")
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer} for status in (400, 401, 404, 413, 415, 422, 429, 500, 503, 504)
}
CONTENT_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The page loads nothing from elsewhere, and runs nothing that is written into it."""
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def application(service: Service, api_key: str | None = None) -> App:
    """The whole service as an ASGI application."""
    app = FastAPI(
        title="icclip", version=__version__, lifespan=_lifespan(service), docs_url=None, redoc_url=None, responses=PROBLEMS,
        description="A dual encoder of images and texts, and an index of images.",
    )  # fmt: skip
    app.state.service = service
    _health(app, service)
    _encoding(app, service)
    _searching(app, service)
    _page(app)
    app.add_exception_handler(RequestProblem, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_failed)
    return Door(app, api_key, bytes_of(service.config.max_body) or 0, service.metrics.done)


def _lifespan(service: Service) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        proving = asyncio.create_task(_prove(service))
        yield
        await proving
        await service.close()

    return lifespan


async def _prove(service: Service) -> None:
    try:
        await asyncio.get_running_loop().run_in_executor(None, service.prove)
    except Exception as error:  # noqa: BLE001 # it stays up, and says that it is not ready
        service.failure = str(error)
        log.error("not ready: %s", error)  # noqa: TRY400 # one line
    else:
        log.info("ready: the golden inputs match")


def _health(app: FastAPI, service: Service) -> None:
    @app.get("/live")
    async def live() -> dict[str, str]:
        """200 as long as the process answers."""
        return {"status": "alive"}

    @app.get("/ping")
    async def ping() -> dict[str, str]:
        """200 once the golden inputs were encoded again and match."""
        if not service.ready:
            raise RequestProblem(503, "not_ready", service.failure or "the golden inputs are being encoded")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/info")
    async def about() -> About:
        """Which model and which index."""
        index, encoder = service.index, service.encoder
        known = None
        if index is not None:
            known = {"items": index.record.items, "columns": index.items.shown, "kind": index.record.factory}
        return About(
            model=encoder.manifest.source.name, dim=encoder.dim, precision=encoder.precision,
            fingerprint=encoder.fingerprint, index=known,
        )  # fmt: skip


def _encoding(app: FastAPI, service: Service) -> None:
    inputs = service.inputs

    @app.post("/invocations")
    async def invocations(body: Invocation) -> RankAnswer | ImageAnswer | TextsAnswer:
        """Rank texts for an image, or encode an image or texts."""
        if body.task == "encode_image":
            (vector,) = await service.within(service.vectors([inputs.picture(body.image_b64, "image_b64")]))
            return ImageAnswer(image_embedding=vector.tolist())
        texts = inputs.texts(body.texts, "texts")
        if body.task == "encode_text":
            made = await service.within(service.vectors(texts))
            return TextsAnswer(text_embeddings=[vector.tolist() for vector in made])
        image, *made = await service.within(service.vectors([inputs.picture(body.image_b64, "image_b64"), *texts]))
        scores = probabilities(np.stack(made) @ image, service.encoder.manifest)
        best = np.argsort(-scores, kind="stable")[: body.top_k]
        return RankAnswer(top_k=[Ranked(text=texts[i].value, score=float(scores[i])) for i in best])

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingsRequest) -> EmbeddingsAnswer:
        """Embeddings of length 1, as clients of OpenAI's interface ask for them."""
        given = [body.input] if isinstance(body.input, str) else body.input
        if not given:
            raise invalid("input is empty", "input")
        if body.dimensions not in (None, service.encoder.dim):
            raise invalid(
                f"dimensions is {body.dimensions}, but the embeddings have {service.encoder.dim}", "dimensions"
            )
        inputs.count(given, "input")
        asked = [inputs.either(value, f"input.{place}") for place, value in enumerate(given)]
        made = await service.within(service.vectors(asked))
        data = [
            Embedding(index=place, embedding=_packed(vector) if body.encoding_format == "base64" else vector.tolist())
            for place, vector in enumerate(made)
        ]
        tokens = service.encoder.tokenization.tokens_in([one.value for one in asked if isinstance(one, Text)])
        name = service.encoder.manifest.source.name
        return EmbeddingsAnswer(data=data, model=name, usage=Usage(prompt_tokens=tokens, total_tokens=tokens))


def _searching(app: FastAPI, service: Service) -> None:
    @app.post("/search")
    async def search(body: SearchRequest) -> SearchAnswer:
        """Search the index."""
        hits, pictures, seconds = await service.within(service.search(body))
        found = [
            Found(**{**hit.to_mapping(), "thumbnail": _data_url(picture)})
            for hit, picture in zip(hits, pictures, strict=True)
        ]
        return SearchAnswer(hits=found, seconds=seconds)


def _page(app: FastAPI) -> None:
    for route, (name, kind) in PAGE.items():
        headers = {
            "Content-Security-Policy": CONTENT_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        app.add_api_route(route, _route(name, kind, headers), include_in_schema=False)


def _route(name: str, kind: str, headers: dict[str, str]) -> Any:
    async def give() -> Response:
        return Response(_file(name), media_type=f"{kind}; charset=utf-8", headers=headers)

    return give


@cache
def _file(name: str) -> bytes:
    return files("icclip.serving").joinpath("page", name).read_bytes()


def _packed(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _data_url(picture: bytes | None) -> str | None:
    return None if picture is None else f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def _said(problem: RequestProblem, request: Request) -> JSONResponse:
    body = problem.body(request.scope["state"]["request_id"])
    return JSONResponse(body, status_code=problem.status, headers=problem.headers)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestProblem)
    return _said(error, request)


async def _answer_failed(request: Request, _: Exception) -> JSONResponse:
    """A fault of ours, which the log tells and the answer does not."""
    return _said(RequestProblem(500, "internal", FAILED), request)


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong, by its field; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    names = [str(part) for part in first["loc"] if part != "body"]
    field = ".".join(part for part in names if part not in ("str", "list[str]")) or None
    text = "the body is not valid JSON" if first["type"] == "json_invalid" else f"{field or 'the body'}: {first['msg']}"
    return _said(invalid(text[:300], None if first["type"] == "json_invalid" else field), request)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """Unknown paths and methods, and bodies that cannot be parsed at all."""
    assert isinstance(error, HTTPException)
    kinds = {404: "not_found", 405: "method_not_allowed"}
    problem = RequestProblem(
        error.status_code,
        kinds.get(error.status_code, "bad_request"),
        str(error.detail)[:200],
        None,
        dict(error.headers or {}),
    )
    return _said(problem, request)
