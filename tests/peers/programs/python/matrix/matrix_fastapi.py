"""A target program: FastAPI. `matrix_fastapi:app`."""

import calls
import calls_async
import shapes_async
from fastapi import BackgroundTasks, FastAPI, Response, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse

app = FastAPI()
app.add_middleware(shapes_async.Middleware)


@app.get("/ready")
async def ready() -> PlainTextResponse:
    return PlainTextResponse("ready\n")


@app.get("/m/sync/{client}/{n}")
def handle_sync(client: str, n: int) -> PlainTextResponse:
    """No coroutine: FastAPI runs it in its pool of threads."""
    return PlainTextResponse(calls.call(client, n))


@app.get("/m/stream/{client}/{n}")
async def handle_stream(client: str, n: int) -> StreamingResponse:
    return StreamingResponse(shapes_async.stream(client, n), media_type="text/plain")


@app.websocket("/m/websocket/{client}/{n}")
async def handle_websocket(socket: WebSocket, client: str, n: int) -> None:
    """One call before the handshake is answered."""
    text = await calls_async.call(client, n)
    await socket.accept()
    await socket.send_text(text)
    await socket.close()


@app.get("/m/{shape}/{client}/{n}")
async def handle(shape: str, client: str, n: int, tasks: BackgroundTasks) -> Response:
    if shape in shapes_async.PROXIES:
        body, fields = await shapes_async.proxy(shape, client, n)
        return StreamingResponse(body, headers=fields, media_type="text/plain")
    if shape == "after":
        tasks.add_task(shapes_async.after, client, n)
    text = await shapes_async.run(shape, client, n)
    return Response(text, media_type="text/plain", background=tasks)
