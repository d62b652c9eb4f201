"""Target program: grpcio's server, with asyncio. server_aio.py HOST:PORT [NEXT]"""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator

import grpc
from numbers_service import NEXT_HTTP, PARTS, SERVICE, failing_code, number

CODES = {code.value[0]: code for code in grpc.StatusCode}
Context = grpc.aio.ServicerContext


async def one(message: bytes, context: Context) -> bytes:
    return message


async def ask(address: str, n: int) -> None:
    """A call of HTTP/1."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /n/{n} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
    await reader.read()
    writer.close()


async def relay(message: bytes, context: Context) -> bytes:
    """The same call of One elsewhere, while this one is served."""
    if NEXT_HTTP:
        await ask(NEXT_HTTP, number(message))
    call = next_channel().unary_unary(f"/{SERVICE}/One")
    answer: bytes = await call(message, wait_for_ready=True)
    return answer


@functools.cache
def next_channel() -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(sys.argv[2])


async def fail(message: bytes, context: Context) -> bytes:
    n = number(message)
    await context.abort(CODES[failing_code(n)], f"as asked: {n}%")
    raise AssertionError


async def wait(message: bytes, context: Context) -> bytes:
    await context.send_initial_metadata(())
    await asyncio.Event().wait()  # until the call is cancelled
    return message


async def down(message: bytes, context: Context) -> AsyncIterator[bytes]:
    for _ in range(PARTS):
        yield message


async def up(messages: AsyncIterator[bytes], context: Context) -> bytes:
    return [one async for one in messages][-1]


async def both(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for one in messages:
        yield one


HANDLERS = {
    "One": grpc.unary_unary_rpc_method_handler(one),
    "Relay": grpc.unary_unary_rpc_method_handler(relay),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}


async def main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, HANDLERS)])
    server.add_insecure_port(sys.argv[1])
    await server.start()
    await server.wait_for_termination()


asyncio.run(main())
