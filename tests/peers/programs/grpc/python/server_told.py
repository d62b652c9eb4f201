"""Target program: grpcio's server that prints what it was told of each call of One, one JSON object
a line: the number and the metadata. server_told.py HOST:PORT"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from numbers_service import SERVICE, number


def one(message: bytes, context: grpc.ServicerContext) -> bytes:
    metadata = [[entry.key, entry.value] for entry in context.invocation_metadata()]
    line = json.dumps({"number": number(message), "metadata": metadata})
    os.write(1, line.encode() + b"\n")  # whole, whatever other threads write
    return message


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {"One": grpc.unary_unary_rpc_method_handler(one)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    server.add_insecure_port(sys.argv[1])
    server.start()
    server.wait_for_termination()


main()
