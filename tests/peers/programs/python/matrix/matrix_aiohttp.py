"""A target program: aiohttp's server. `matrix_aiohttp.py PORT asyncio|uvloop`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

import aiohttp
import calls
import calls_async
import shapes
import shapes_async
from aiohttp import web

routes = web.RouteTableDef()


@web.middleware
async def middleware(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    parsed = shapes.parse(request.path)
    if parsed and parsed[0] == "middleware":
        await calls_async.call(parsed[1], parsed[2])
    return await handler(request)


@routes.get("/ready")
async def ready(_request: web.Request) -> web.Response:
    return web.Response(text="ready\n")


@routes.get("/m/websocket/{client}/{n}")
async def handle_websocket(request: web.Request) -> web.StreamResponse:
    """One call before the handshake is answered."""
    text = await calls_async.call(request.match_info["client"], int(request.match_info["n"]))
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str(text)
    await socket.close(code=aiohttp.WSCloseCode.OK)
    return socket


@routes.get("/m/{shape}/{client}/{n}")
async def handle(request: web.Request) -> web.StreamResponse:
    found = request.match_info
    shape, client, n = found["shape"], found["client"], int(found["n"])
    if shape == "sync":
        return web.Response(text=await asyncio.to_thread(calls.call, client, n))
    if shape != "stream":
        return web.Response(text=await shapes_async.run(shape, client, n))
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    await response.prepare(request)
    async for piece in shapes_async.stream(client, n):
        await response.write(piece)
    await response.write_eof()
    return response


def main() -> None:
    port, loop = int(sys.argv[1]), sys.argv[2]
    if loop == "uvloop":
        import uvloop

        uvloop.install()
    app = web.Application(middlewares=[middleware])
    app.add_routes(routes)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None)


if __name__ == "__main__":
    main()
