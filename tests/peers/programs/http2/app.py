"""Target program: an ASGI application on hypercorn, answering with the path: app.py HOST:PORT

A WebSocket is told the number at the path's end, and closed.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

Message = dict[str, Any]


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        number = scope["path"].rpartition("/")[2]
        await send({"type": "websocket.send", "text": f"n={number}\n"})
        await send({"type": "websocket.close"})
    if scope["type"] != "http":
        return
    body = scope["path"].encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    config = Config()
    config.bind = [sys.argv[1]]
    asyncio.run(serve(app, config))


if __name__ == "__main__":
    main()
