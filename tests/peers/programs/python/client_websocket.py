"""A load program: WebSocket handshakes. Each connection is for one number: the handshake, one text
message from the server (the answer), the end."""

import base64
import socket

import client


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ValueError(f"the connection ended after {data!r}")
        data += piece
    return data


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _read_exactly(connection, 1)
    return head


def _read_message(connection: socket.socket) -> str:
    """A server's text message in one short frame (RFC 6455, section 5.2)."""
    kind, length = _read_exactly(connection, 2)
    if kind != 0x81 or length > 125:
        raise ValueError(f"not one short text message: {kind:#x} {length}")
    return _read_exactly(connection, length).decode()


def _fetch(job: client.Job, n: int) -> None:
    where = job.base.removeprefix("http://")
    host, _, port = where.rpartition(":")
    key = base64.b64encode(n.to_bytes(16)).decode()
    lines = [
        f"GET {job.path.replace('{}', str(n))} HTTP/1.1",
        f"Host: {where}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = _read_head(connection)
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise ValueError(f"no handshake: {head!r}")
        client.check(n, 101, _read_message(connection))


def main() -> None:
    job = client.parse(__doc__)
    client.run_threads(job, lambda: lambda n: _fetch(job, n))


if __name__ == "__main__":
    main()
