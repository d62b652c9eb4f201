"""A target program: Starlette. `matrix_starlette:app`."""

import calls
import calls_async
import shapes_async
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket


async def ready(_request: Request) -> Response:
    return PlainTextResponse("ready\n")


async def handle(request: Request) -> Response:
    found = request.path_params
    shape, client, n = found["shape"], found["client"], found["n"]
    if shape == "stream":
        return StreamingResponse(shapes_async.stream(client, n), media_type="text/plain")
    if shape in shapes_async.PROXIES:
        body, fields = await shapes_async.proxy(shape, client, n)
        return StreamingResponse(body, headers=fields, media_type="text/plain")
    task = BackgroundTask(shapes_async.after, client, n) if shape == "after" else None
    return PlainTextResponse(await shapes_async.run(shape, client, n), background=task)


def handle_sync(request: Request) -> Response:
    """No coroutine: Starlette runs it in its pool of threads."""
    found = request.path_params
    return PlainTextResponse(calls.call(found["client"], found["n"]))


async def handle_websocket(socket: WebSocket) -> None:
    """One call before the handshake is answered."""
    client, n = socket.path_params["client"], socket.path_params["n"]
    text = await calls_async.call(client, n)
    await socket.accept()
    await socket.send_text(text)
    await socket.close()


app = Starlette(
    routes=[
        Route("/ready", ready),
        Route("/m/sync/{client}/{n:int}", handle_sync),
        WebSocketRoute("/m/websocket/{client}/{n:int}", handle_websocket),
        Route("/m/{shape}/{client}/{n:int}", handle),
    ],
    middleware=[Middleware(shapes_async.Middleware)],
)
