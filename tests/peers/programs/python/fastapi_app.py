"""A target program: FastAPI, to be served by uvicorn (`uvicorn fastapi_app:app`)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import peer
from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

_async_client = httpx.AsyncClient(timeout=30, trust_env=False)
_sync_client = httpx.Client(timeout=30, trust_env=False)


@contextlib.asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield
    await _async_client.aclose()
    _sync_client.close()


app = FastAPI(lifespan=_lifespan)


@app.get("/ready")
async def ready() -> PlainTextResponse:
    return PlainTextResponse("ready\n")


@app.get("/n/{n}")
async def number(n: int) -> PlainTextResponse:
    return PlainTextResponse(peer.body(n))


@app.get("/slow/{n}")
async def slow(n: int, ms: float = 0) -> PlainTextResponse:
    await asyncio.sleep(ms / 1000)
    return PlainTextResponse(peer.body(n))


@app.get("/status/{code}/{n}")
async def status(code: int, n: int) -> Response:
    if code in (204, 304):
        return Response(status_code=code)
    return PlainTextResponse(peer.body(n), status_code=code)


@app.get("/chunked/{n}")
async def chunked(n: int) -> StreamingResponse:
    async def stream() -> AsyncIterator[bytes]:
        for piece in peer.pieces(n):
            yield piece

    return StreamingResponse(stream(), media_type="text/plain")


@app.get("/big/{n}")
async def big(n: int) -> PlainTextResponse:
    return PlainTextResponse(peer.big(n))


@app.post("/echo/{n}")
async def echo(n: int, request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"n={n} bytes={len(await request.body())}\n")


@app.get("/call/{n}")
async def call(
    n: int, url: str, forward: str = "", traceparent: Annotated[str | None, Header()] = None
) -> PlainTextResponse:
    answer = await _async_client.get(url, headers=peer.forwarded(traceparent, forward))
    return PlainTextResponse(peer.called(n, answer.status_code, answer.text))


@app.get("/call-sync/{n}")
def call_sync(
    n: int, url: str, forward: str = "", traceparent: Annotated[str | None, Header()] = None
) -> PlainTextResponse:
    """The same call from a synchronous endpoint, which FastAPI runs in a thread pool."""
    answer = _sync_client.get(url, headers=peer.forwarded(traceparent, forward))
    return PlainTextResponse(peer.called(n, answer.status_code, answer.text))
