"""The demo's price service: gRPC with threads. prices.py HOST:PORT"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc


def quote(message: bytes, _context: grpc.ServicerContext) -> bytes:
    """What an article costs: { article } -> { cents }."""
    article = json.loads(message)["article"]
    time.sleep(0.003)  # looking it up takes a moment
    return json.dumps({"cents": 100 * article + 99}).encode()


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {"Quote": grpc.unary_unary_rpc_method_handler(quote)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("shop.Prices", handlers)])
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()


main()
