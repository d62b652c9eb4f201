"""A target program: aiohttp's server. `aiohttp_app.py HOST:PORT | [::1]:PORT | unix:PATH`."""

import asyncio
import functools
import os
import ssl
import sys
from collections.abc import AsyncIterator

import aiohttp
import peer
from aiohttp import web

_CLIENT: web.AppKey[aiohttp.ClientSession] = web.AppKey("client", aiohttp.ClientSession)
routes = web.RouteTableDef()


def _number(request: web.Request) -> int:
    return int(request.match_info["n"])


@routes.get("/ready")
async def ready(_request: web.Request) -> web.Response:
    return web.Response(text="ready\n")


@routes.get("/n/{n}")
async def number(request: web.Request) -> web.Response:
    return web.Response(text=peer.body(_number(request)))


@routes.get("/slow/{n}")
async def slow(request: web.Request) -> web.Response:
    await asyncio.sleep(float(request.query.get("ms", "0")) / 1000)
    return web.Response(text=peer.body(_number(request)))


@routes.get("/status/{code}/{n}")
async def status(request: web.Request) -> web.Response:
    code = int(request.match_info["code"])
    if code in (204, 304):
        return web.Response(status=code)
    return web.Response(status=code, text=peer.body(_number(request)))


@routes.get("/chunked/{n}")
async def chunked(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    for piece in peer.pieces(_number(request)):
        await response.write(piece)
    await response.write_eof()
    return response


@routes.get("/big/{n}")
async def big(request: web.Request) -> web.Response:
    return web.Response(text=peer.big(_number(request)))


@routes.post("/echo/{n}")
async def echo(request: web.Request) -> web.Response:
    return web.Response(text=f"n={_number(request)} bytes={len(await request.read())}\n")


@routes.get("/call/{n}")
async def call(request: web.Request) -> web.Response:
    headers = peer.forwarded(request.headers.get("traceparent"), request.query.get("forward"))
    client = request.app[_CLIENT]
    async with client.get(request.query["url"], headers=headers) as answer:
        text = await answer.text()
    return web.Response(text=peer.called(_number(request), answer.status, text))


async def _with_client(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as client:
        app[_CLIENT] = client
        yield


def main() -> None:
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(_with_client)
    address = sys.argv[1]
    # Tests wait with connections open.
    run = functools.partial(web.run_app, app, access_log=None, keepalive_timeout=600)
    if address.startswith("unix:"):
        run(path=address.removeprefix("unix:"))
        return
    host, _, port = address.rpartition(":")
    run(host=host.strip("[]"), port=int(port), ssl_context=_tls())


def _tls() -> ssl.SSLContext | None:
    """By the certificate that a test gives us, with its key."""
    given = os.environ.get("PEER_CERTIFICATE")
    if given is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given)
    return context


if __name__ == "__main__":
    main()
