"""The service's routes: the page, the images, and the HTTP interface."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Scope

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.encoding import check_text
from rtd_plugin.evaluation.image_files import FORMATS, OversizedImage
from rtd_plugin.serving.batching import Batcher
from rtd_plugin.serving.guards import Guards
from rtd_plugin.serving.interface import describe_interface
from rtd_plugin.serving.metrics import Metrics
from rtd_plugin.serving.service import VIEW, Answer, ComposedQuery, Limits, Service, UnknownImage

MOST = 50  # images that a search returns
STATIC = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript"}

log = logging.getLogger(__name__)
Result = TypeVar("Result")

ReferenceImage = Annotated[UploadFile | None, File(description="The reference image.")]
Name = Annotated[
    str | None, Form(max_length=4000, description="Instead of an image: the name of an image of the gallery.")
]
Text = Annotated[str, Form(min_length=1, max_length=2000, description="The condition: what should be different.")]
Count = Annotated[int, Form(ge=1, le=MOST, description="How many images to find.")]
Where = Annotated[
    str | None, Form(max_length=2000, description='A condition on an index\'s columns in SQL, such as "price < 50".')
]


class FoundImage(BaseModel):
    """An image that was found."""

    image: str
    score: float
    columns: dict[str, Any]


class Found(BaseModel):
    """What one text encoder found, best first."""

    name: str
    images: list[FoundImage]


class SearchResult(BaseModel):
    """The images that each text encoder found; the pre-trained one is the first."""

    results: list[Found]


class ComposedFeature(BaseModel):
    """A composed query's normalised feature by one text encoder."""

    name: str
    feature: list[float]


class ComposeResult(BaseModel):
    """The features of a composed query; the pre-trained text encoder's is the first."""

    features: list[ComposedFeature]


class PlainJSON(JSONResponse):
    """JSON whose strings may hold names of files that are not UTF-8, as lone surrogates."""

    def render(self, content: Any) -> bytes:
        """Return the content as bytes."""
        return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()


def make_app(
    service: Service, limits: Limits, hosts: Collection[str] = (), origins: Collection[str] = (), readers: int = 4
) -> ASGIApp:
    """Return the service as an ASGI application.

    Args:
        service: what answers.
        limits: what one client may ask for.
        hosts: names of this machine that requests may address, beside `localhost` and its addresses.
        origins: other sites whose pages may ask (CORS).
        readers: threads that read images.
    """
    metrics = Metrics()
    metrics.images.set(service.size)
    pool = ThreadPoolExecutor(readers, "images")
    batcher: Batcher[ComposedQuery, Answer] = Batcher(service.answer, metrics.batches.observe)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        batcher.close()
        pool.shutdown(cancel_futures=True)

    app = FastAPI(
        title="rtd-plugin",
        description="Finds images by a reference image and a condition.",
        version=version("rtd-plugin"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        default_response_class=PlainJSON,
    )
    _handle_errors(app)

    async def read(call: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(pool, call)

    async def answer(image: UploadFile | None, name: str | None, text: str, **options: Any) -> Answer:
        check_text(text)
        if (image is None) == (name is None):
            raise RTDError("pass an image as `image`, or the name of an image of the gallery as `name`")
        if image is not None:
            pixels = await read(partial(service.read_upload, image.file, limits))
        else:
            pixels = await read(partial(service.read_image, str(name)))
        return await asyncio.wrap_future(batcher.submit(ComposedQuery(pixels, text, name, **options)))

    @app.post("/search", summary="Find the best images")
    async def search(
        text: Text, image: ReferenceImage = None, name: Name = None, k: Count = 10, where: Where = None
    ) -> SearchResult:
        found = await answer(image, name, text, k=k, where=where)
        return SearchResult(
            results=[
                Found(
                    name=encoder.name,
                    images=[
                        FoundImage(image=each.image, score=each.score, columns=dict(each.columns)) for each in matches
                    ],
                )
                for encoder, matches in zip(service.encoders, found.matches, strict=True)
            ]
        )

    @app.post("/compose", summary="Encode a composed query")
    async def compose(text: Text, image: ReferenceImage = None, name: Name = None) -> ComposeResult:
        features = (await answer(image, name, text)).features.tolist()
        return ComposeResult(
            features=[
                ComposedFeature(name=encoder.name, feature=feature)
                for encoder, feature in zip(service.encoders, features, strict=True)
            ]
        )

    @app.get("/images/{name:path}", summary="Show an image of the gallery", response_class=Response)
    async def show_image(name: str) -> Response:
        return _show(*await read(partial(service.show_image, name, VIEW)))

    @app.get("/thumbnails/{name:path}", summary="Show an image of the gallery, small", response_class=Response)
    async def show_thumbnail(name: str) -> Response:
        return _show(*await read(partial(service.show_thumbnail, name)))

    @app.get("/info", summary="Describe the service")
    async def describe() -> dict[str, Any]:
        return {
            "gallery": service.gallery.title,
            "images": service.size,
            "method": service.method,
            "columns": list(service.gallery.columns),
            "remarks": list(service.remarks),
            "encoders": [{"name": encoder.name, "tuned": encoder.is_tuned} for encoder in service.encoders],
            "starts": [vars(start) for start in service.starts],
            "limits": {"bytes": limits.bytes, "pixels": limits.pixels, "formats": FORMATS},
        }

    @app.get("/healthz", summary="Say whether queries are answered")
    async def check_health() -> dict[str, str]:
        if not batcher.is_alive:
            raise HTTPException(503, "Queries are not answered any more: restart the service.")
        return {"status": "ok"}

    @app.get("/metrics", summary="Count requests, for Prometheus", response_class=Response)
    async def count() -> Response:
        return Response(metrics.write(), media_type="text/plain; version=0.0.4")

    _add_pages(app)
    guarded: ASGIApp = Guards(app, limits, metrics, hosts, origins, _name_path)
    if origins:
        guarded = CORSMiddleware(guarded, allow_origins=list(origins), allow_methods=["GET", "POST"])
    return guarded


def _add_pages(app: FastAPI) -> None:
    for name, media_type in STATIC.items():
        content = files("rtd_plugin.serving").joinpath(f"static/{name or 'page.html'}").read_bytes()
        page = partial(Response, content, media_type=media_type, headers={"Cache-Control": "no-cache"})
        app.add_api_route(f"/{name}", _make_route(page), include_in_schema=False)

    @app.get("/docs", include_in_schema=False)
    async def show_interface(request: Request) -> Response:
        return HTMLResponse(describe_interface(app.openapi(), str(request.base_url).rstrip("/")))


def _make_route(page: Callable[[], Response]) -> Callable[[], Any]:
    async def show() -> Response:
        return page()

    return show


def _show(content: bytes, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers={"Cache-Control": "private, max-age=60"})


def _name_path(scope: Scope) -> str:
    """Return the route of a request, so that there are few values."""
    route = scope.get("route")
    return getattr(route, "path", "") or "other"


def _handle_errors(app: FastAPI) -> None:
    """Answer each error with a sentence under the key `error`."""

    @app.exception_handler(RTDError)
    async def say_what_is_wrong(request: Request, error: RTDError) -> Response:
        status = {OversizedImage: 413, UnknownImage: 404}.get(type(error), 400)
        return PlainJSON({"error": str(error)}, status)

    @app.exception_handler(StarletteHTTPException)
    async def say_status(request: Request, error: StarletteHTTPException) -> Response:
        if isinstance(error.__cause__, OSError):  # FastAPI blames the client's body for it
            reason = f"The image cannot be stored ({error.__cause__.strerror})"
            log.error("%s %s: %s: is the folder for temporary files full?", request.method, request.url.path, reason)
            return PlainJSON({"error": f"{reason}: send a smaller copy, or try again later."}, 507)
        return PlainJSON({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def say_which_field(request: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        return PlainJSON({"error": f"{problem['loc'][-1]}: {problem['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def say_unexpected(request: Request, error: Exception) -> Response:
        log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
        return PlainJSON({"error": f"unexpected {type(error).__name__}"}, 500)
