"""The app that network/serve.py runs: embeds images that come by HTTP, and searches for them.

    POST /embed             {"dim": D, "embeddings": [[...], ...]}
    POST /search?top_k=10   {"results": [{"image": name, "found": [{"rank", "pid", "fid", "distance",
                            "same"}, ...]}, ...]}
    GET  /health            {"status": "ok", ...}
    GET  /metrics           for Prometheus

The body of a POST is one image file (Content-Type image/... or application/octet-stream), or several
as multipart/form-data. `?crop=x1,y1,x2,y2` takes a part of a single image. What cannot be answered is
a 4xx with {"error": "one line"}.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import prometheus_client as prometheus
import tensorflow as tf
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

import common
from data import decoding, pictures
from data.dataset import WHOLE, Box, parse_box
from evaluation.gallery import Gallery, Threshold
from evaluation.search import Found, Searcher
from network.embedder import Embedder
from runtime import cores
from runtime.terminal import log

MOST_FOUND = 1000  # images for one query
# So many times the largest body are read before an answer is given: who sends would not hear it.
_PATIENCE = 8


class Limits(NamedTuple):
    """What a request may ask for.

    Attributes:
        body: bytes.
        images: in one request.
        pixels: of one image.
        requests: that are read or answered at a time; more are sent away.
        seconds: for a body to come.
    """

    body: int
    images: int
    pixels: int
    requests: int
    seconds: float


class Backend(NamedTuple):
    """What answers requests."""

    embedder: Embedder
    gallery: Gallery
    searcher: Searcher
    threshold: Threshold | None


class RefusedError(Exception):
    """A request that is not answered, with its status and why, in one line."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class Upload(NamedTuple):
    """An image file that came."""

    name: str
    content: bytes


def make_app(backend: Backend, limits: Limits) -> FastAPI:
    """The app."""
    # Its pages of documentation would load scripts from elsewhere; /openapi.json stays.
    app = FastAPI(title="triplet-reid", docs_url=None, redoc_url=None)
    service = Service(backend, limits)
    _answer_errors(app)
    app.middleware("http")(service.count)

    @app.post("/embed")
    async def embed(request: Request, crop: str | None = None) -> JSONResponse:
        _, embs = await service.embedded(request, crop)
        return JSONResponse({"dim": embs.shape[1], "embeddings": embs.tolist()})

    @app.post("/search")
    async def search(
        request: Request, crop: str | None = None, top_k: int = Query(10, ge=1, le=MOST_FOUND)
    ) -> JSONResponse:
        uploads, embs = await service.embedded(request, crop)
        k = min(top_k, len(backend.gallery.embs))
        found = await asyncio.to_thread(backend.searcher.search, embs, k)
        results = [
            {"image": upload.name, "found": service.listed(found, row)}
            for row, upload in enumerate(uploads)
        ]
        return JSONResponse({"results": results})

    @app.get("/health")
    async def health() -> JSONResponse:
        values = {"status": "ok", "images": len(backend.gallery.embs)}
        return JSONResponse(values | {"checkpoint": str(backend.embedder.checkpoint)})

    @app.get("/metrics")
    async def metrics() -> Response:
        content = prometheus.generate_latest(service.metrics.registry)
        return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _answer_errors(app: FastAPI) -> None:
    """Let every error be {"error": one line}."""

    def answer(status: int, why: str) -> JSONResponse:
        return JSONResponse({"error": common.visible(why)}, status)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        return answer(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()]
        return answer(422, "; ".join(faults))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error(f"A request failed: {type(error).__name__}: {common.reason(error)}")
        return answer(500, "internal error; the log of the server tells more")


class Service:
    """What the requests share: queues, limits, counters.

    Args:
        backend: what answers requests.
        limits: what they may ask for.
    """

    def __init__(self, backend: Backend, limits: Limits):
        self._backend = backend
        self._limits = limits
        self._running = 0
        self._decoders = asyncio.Semaphore(cores.count())  # bounds the pixels in memory
        self.metrics = _Metrics(len(backend.gallery.embs))
        self._batches = Batches(self._embed, most=64)

    def _embed(self, images: np.ndarray) -> np.ndarray:
        self.metrics.batch.observe(len(images))
        return self._backend.embedder.embed_loaded(images)

    async def count(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Count and time a request."""
        path = request.url.path
        path = path if path in ("/embed", "/search", "/health", "/metrics") else "other"
        began = time.perf_counter()
        status = 500
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)

    async def embedded(self, request: Request, crop: str | None) -> tuple[list[Upload], np.ndarray]:
        """The images of a request, and their embeddings, [n, D]. Raises: RefusedError."""
        if self._running >= self._limits.requests:
            raise RefusedError(503, f"{self._running} requests are running: try again later")
        self._running += 1
        self.metrics.running.set(self._running)
        try:
            box = _box(crop)
            uploads = await self._uploads(request)
            if box != WHOLE and len(uploads) != 1:
                raise RefusedError(422, f"crop is for one image. Received: {len(uploads)}")
            for upload in uploads:  # all, before the first is decoded
                self._check(upload, box)
            loading = [self._load(upload, box) for upload in uploads]
            embs = await self._batches.embed(await asyncio.gather(*loading))
            self.metrics.images.inc(len(uploads))
            return uploads, embs
        finally:
            self._running -= 1
            self.metrics.running.set(self._running)

    async def _uploads(self, request: Request) -> list[Upload]:
        body = await self._body(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("image/") or kind == "application/octet-stream":
            uploads = [Upload("", body)]
        elif kind == "multipart/form-data":
            uploads = await self._parts(request, body)
        else:
            raise RefusedError(
                415,
                f"the Content-Type should be image/..., application/octet-stream or multipart/form-data. Received: "
                f"{kind[:100] or 'none'}",
            )
        if not uploads:
            raise RefusedError(422, "there is no image in the request")
        return uploads

    async def _body(self, request: Request) -> bytes:
        """The body, not more than is allowed. More is read without being kept, as far as that goes."""
        most = self._limits.body
        too_large = RefusedError(413, f"a request should have at most {most:,} bytes")
        told = request.headers.get("content-length", "")
        if told.isdigit() and int(told) > _PATIENCE * most:
            raise too_large
        body = bytearray()
        size = 0
        try:
            async with asyncio.timeout(self._limits.seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= most:
                        body += chunk
                    elif size > _PATIENCE * most:
                        break
        except TimeoutError:
            raise RefusedError(
                408, f"the request did not come to its end in {self._limits.seconds:g} s"
            ) from None
        if size > most:
            raise too_large
        return bytes(body)

    async def _parts(self, request: Request, body: bytes) -> list[Upload]:
        """The files of a form."""

        async def replay() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        most = self._limits.images
        # One more file than allowed is parsed, so that the message is ours.
        form = await Request(request.scope, replay).form(max_files=most + 1, max_fields=10)
        try:
            files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            if len(files) > most:
                raise RefusedError(413, f"a request should have at most {most} images")
            return [Upload(file.filename or "", await file.read()) for file in files]
        finally:
            await form.close()

    def _check(self, upload: Upload, box: Box) -> None:
        """Look at the header alone. Raises: RefusedError."""
        if not upload.content:
            raise RefusedError(422, f"{_called(upload)} is empty")
        try:
            height, width = pictures.size(upload.content)
        except pictures.UnfitError as error:
            status = 413 if "pixels" in str(error) else 415
            raise RefusedError(status, f"{_called(upload)}: {error}") from None
        except ValueError as error:
            raise RefusedError(422, f"{_called(upload)} cannot be decoded: {error}") from None
        if height * width > self._limits.pixels:
            raise RefusedError(
                413,
                f"{_called(upload)} has {width} x {height} pixels, more than the {self._limits.pixels:,} that are "
                "allowed",
            )
        if box[2] > width or box[3] > height:
            raise RefusedError(
                422,
                f"the crop {','.join(map(str, box))} is not within the image, {width} x {height}",
            )

    async def _load(self, upload: Upload, box: Box) -> np.ndarray:
        async with self._decoders:
            try:
                return await asyncio.to_thread(self._backend.embedder.load, upload.content, box)
            except (tf.errors.OpError, ValueError) as error:
                why = await asyncio.to_thread(decoding.fault, upload.content)
                raise RefusedError(
                    422, f"{_called(upload)} cannot be decoded: {why or common.reason(error)}"
                ) from None

    def listed(self, found: Found, row: int) -> list[dict[str, Any]]:
        """What was found for a query, as JSON has it."""
        images, threshold = self._backend.gallery.images, self._backend.threshold
        pairs = zip(found.rows[row].tolist(), found.dists[row].tolist(), strict=True)
        return [
            {
                "rank": rank,
                "pid": images.pids[place] or None,
                "fid": images.name(place),
                "distance": dist,
                "same": None if threshold is None else dist < threshold.distance,
            }
            for rank, (place, dist) in enumerate(pairs, 1)
            if place >= 0
        ]


def _box(crop: str | None) -> Box:
    if crop is None:
        return WHOLE
    try:
        return parse_box(crop)
    except ValueError as error:
        raise RefusedError(422, f"crop {error}") from None


def _called(upload: Upload) -> str:
    return f"the image {upload.name[:100]}" if upload.name else "the image"


class Batches:
    """Embeds the images of all who wait together, one batch at a time.

    Args:
        embed: from float32 [n, H, W, 3] to [n, D]; called in a thread.
        most: images in a batch, unless one caller brings more.
    """

    def __init__(self, embed: Callable[[np.ndarray], np.ndarray], most: int):
        self._embed = embed
        self._most = most
        self._waiting: deque[tuple[Sequence[np.ndarray], asyncio.Future]] = deque()
        self._task: asyncio.Task | None = None

    async def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The embeddings of some images, [n, D]."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((images, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft()]
            while self._waiting and self._count(batch) + len(self._waiting[0][0]) <= self._most:
                batch.append(self._waiting.popleft())
            images = np.stack([image for some, _ in batch for image in some])
            try:
                embs = await asyncio.to_thread(self._embed, images)
            except Exception as error:
                for _, future in batch:
                    if not future.done():  # whoever waits may have left
                        future.set_exception(error)
                continue
            start = 0
            for some, future in batch:
                if not future.done():
                    future.set_result(embs[start : start + len(some)])
                start += len(some)

    @staticmethod
    def _count(batch: Sequence[tuple[Sequence[np.ndarray], asyncio.Future]]) -> int:
        return sum(len(some) for some, _ in batch)


class _Metrics:
    """Counters for Prometheus, of one app."""

    def __init__(self, images: int):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "reid_requests", "Requests.", ["path", "status"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "reid_request_seconds", "Seconds of a request.", ["path"], registry=self.registry
        )
        self.images = prometheus.Counter(
            "reid_images", "Images that were embedded.", registry=self.registry
        )
        self.batch = prometheus.Histogram(
            "reid_batch_images",
            "Images that were embedded at a time.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.running = prometheus.Gauge(
            "reid_requests_running", "Requests that are being answered.", registry=self.registry
        )
        gallery = prometheus.Gauge(
            "reid_gallery_images", "Images of the gallery.", registry=self.registry
        )
        gallery.set(images)
