"""A target program: Litestar. `matrix_litestar:app`."""

import calls
import calls_async
import shapes_async
from litestar import Litestar, Response, WebSocket, get, websocket
from litestar.background_tasks import BackgroundTask
from litestar.middleware import DefineMiddleware
from litestar.response import Stream


@get("/ready", media_type="text/plain")
async def ready() -> str:
    return "ready\n"


@get("/m/sync/{client:str}/{n:int}", media_type="text/plain", sync_to_thread=True)
def handle_sync(client: str, n: int) -> str:
    """No coroutine: Litestar runs it in a thread."""
    return calls.call(client, n)


@get("/m/stream/{client:str}/{n:int}", media_type="text/plain")
async def handle_stream(client: str, n: int) -> Stream:
    return Stream(shapes_async.stream(client, n))


@websocket("/m/websocket/{client:str}/{n:int}")
async def handle_websocket(socket: WebSocket, client: str, n: int) -> None:
    """One call before the handshake is answered."""
    text = await calls_async.call(client, n)
    await socket.accept()
    await socket.send_text(text)
    await socket.close()


@get("/m/{shape:str}/{client:str}/{n:int}", media_type="text/plain")
async def handle(shape: str, client: str, n: int) -> Response[str]:
    task = BackgroundTask(shapes_async.after, client, n) if shape == "after" else None
    return Response(await shapes_async.run(shape, client, n), background=task)


app = Litestar(
    [ready, handle_sync, handle_stream, handle_websocket, handle],
    middleware=[DefineMiddleware(shapes_async.Middleware)],
    openapi_config=None,
)
