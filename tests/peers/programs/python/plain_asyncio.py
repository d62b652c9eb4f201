"""A target program of the standard library alone, for any CPython from 3.7 on: asyncio's streams.
GET /n/<n> calls $CALLED/n/<n> three times at once, /one/<n> once. `plain_asyncio.py PORT`."""

import asyncio
import os
import sys

CALLED = os.environ["CALLED"].replace("http://", "")


async def call(number: str) -> bytes:
    """One call over a connection of its own."""
    host, port = CALLED.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = "GET /slow/{0}?ms={1} HTTP/1.1\r\nHost: {2}\r\nConnection: close\r\n\r\n"
    writer.write(request.format(number, int(number) * 7 % 5, CALLED).encode())
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def answer(path: str) -> bytes:
    if path == "/ready":
        return b"ready\n"
    number = path.rpartition("/")[2]
    if path.startswith("/one/"):
        return await call(number)
    return (await asyncio.gather(*(call(number) for _ in range(3))))[0]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One task for all the requests of a connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await answer(head.split(maxsplit=2)[1].decode())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
            if b"connection: close" in head.lower():
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=128)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
