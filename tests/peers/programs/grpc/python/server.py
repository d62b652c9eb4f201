"""Target program: grpcio's server of the numbered service, threads. server.py HOST:PORT [NEXT]"""

import functools
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from numbers_service import NEXT_HTTP, PARTS, SERVICE, failing_code, number

CODES = {code.value[0]: code for code in grpc.StatusCode}


def one(message: bytes, context: grpc.ServicerContext) -> bytes:
    return message


def relay(message: bytes, context: grpc.ServicerContext) -> bytes:
    """The same call of One elsewhere, while this one is served."""
    if NEXT_HTTP:
        with urllib.request.urlopen(f"http://{NEXT_HTTP}/n/{number(message)}") as response:
            response.read()
    answer: bytes = next_channel().unary_unary(f"/{SERVICE}/One")(message, wait_for_ready=True)
    return answer


@functools.cache
def next_channel() -> grpc.Channel:
    return grpc.insecure_channel(sys.argv[2])


def fail(message: bytes, context: grpc.ServicerContext) -> bytes:
    n = number(message)
    context.abort(CODES[failing_code(n)], f"as asked: {n}%")
    raise AssertionError


def wait(message: bytes, context: grpc.ServicerContext) -> bytes:
    context.send_initial_metadata(())
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait()
    return message


def down(message: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for _ in range(PARTS):
        yield message


def up(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    return list(messages)[-1]


def both(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    yield from messages


HANDLERS = {
    "One": grpc.unary_unary_rpc_method_handler(one),
    "Relay": grpc.unary_unary_rpc_method_handler(relay),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}


def call_by_itself(address: str) -> None:
    """Calls that are part of no request, for ever: what a timer does."""
    while True:
        with urllib.request.urlopen(f"http://{address}/n/1") as response:
            response.read()
        time.sleep(0.02)


def main() -> None:
    if NEXT_HTTP and "PEERS_BACKGROUND" in os.environ:
        threading.Thread(target=call_by_itself, args=(NEXT_HTTP,), daemon=True).start()
    server = grpc.server(ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, HANDLERS)])
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()


main()
