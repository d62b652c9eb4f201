"""A target program: Sanic. `sanic matrix_sanic:app`."""

import asyncio

import calls
import shapes
import shapes_async
from sanic import HTTPResponse, Request, Sanic, Websocket, text

app = Sanic("matrix_sanic")


@app.on_request
async def middleware(request: Request) -> None:
    parsed = shapes.parse(request.path)
    if parsed and parsed[0] == "middleware":
        await shapes_async.after(parsed[1], parsed[2])


@app.get("/ready")
async def ready(_request: Request) -> HTTPResponse:
    return text("ready\n")


@app.get("/m/stream/<client:str>/<n:int>")
async def handle_stream(request: Request, client: str, n: int) -> None:
    response = await request.respond(content_type="text/plain")
    async for piece in shapes_async.stream(client, n):
        await response.send(piece)
    await response.eof()


@app.websocket("/m/websocket/<client:str>/<n:int>")
async def handle_websocket(_request: Request, socket: Websocket, client: str, n: int) -> None:
    """Sanic answers the handshake before the handler runs: the call comes after it."""
    await shapes_async.after(client, n)
    await socket.send(f"n={n} called\n")


@app.get("/m/<shape:str>/<client:str>/<n:int>")
async def handle(_request: Request, shape: str, client: str, n: int) -> HTTPResponse:
    if shape == "sync":
        return text(await asyncio.to_thread(calls.call, client, n))
    return text(await shapes_async.run(shape, client, n))
