"""Two small event loops that serve connections at once and call another server for each.

loops.py asyncio|select BACK_PORT COUNT      prints its port; ends after COUNT connections
"""

import asyncio
import select
import socket
import sys

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def _call(request: bytes) -> bytes:
    """The request to the back: the number in the URL plus 1000."""
    number = int(request.split(b" ")[1].rpartition(b"/")[2]) + 1000
    return b"GET /n/%d HTTP/1.1\r\nHost: back\r\n\r\n" % number


class AsyncioServer:
    """One task a connection, all on one thread."""

    def __init__(self, back_port: int, count: int) -> None:
        self._back_port = back_port
        self._left = count
        self._done = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._back_port)
        back_writer.write(_call(request))
        await back_reader.readuntil(b"ok")
        back_writer.close()
        writer.write(_ANSWER)
        await writer.drain()
        writer.close()
        self._left -= 1
        if not self._left:
            self._done.set()

    async def run(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await self._done.wait()
        server.close()


class SelectServer:
    """select() over sockets that block, as old programs have it."""

    def __init__(self, back_port: int, count: int) -> None:
        self._back_port = back_port
        self._left = count
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=count)
        self._waiting: dict[socket.socket, socket.socket] = {}  # back -> client
        self._open: list[socket.socket] = [self._listener]

    def run(self) -> None:
        print(self._listener.getsockname()[1], flush=True)
        while self._left:
            for sock in select.select(self._open, [], [])[0]:
                self._act(sock)

    def _act(self, sock: socket.socket) -> None:
        if sock is self._listener:
            self._open.append(sock.accept()[0])
        elif sock in self._waiting:
            self._answer(sock, self._waiting.pop(sock))
        else:
            self._ask(sock)

    def _ask(self, client: socket.socket) -> None:
        self._open.remove(client)
        request = client.recv(4096)
        back = socket.create_connection(("127.0.0.1", self._back_port))
        back.sendall(_call(request))
        self._waiting[back] = client
        self._open.append(back)

    def _answer(self, back: socket.socket, client: socket.socket) -> None:
        back.recv(4096)
        back.close()
        self._open.remove(back)
        client.sendall(_ANSWER)
        client.close()
        self._left -= 1


def main() -> None:
    kind, back_port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind == "asyncio":
        asyncio.run(_run_asyncio(back_port, count))
    else:
        SelectServer(back_port, count).run()


async def _run_asyncio(back_port: int, count: int) -> None:
    await AsyncioServer(back_port, count).run()


if __name__ == "__main__":
    main()
