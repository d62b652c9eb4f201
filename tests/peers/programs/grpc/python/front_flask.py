"""Target program: Flask, under gunicorn with threads, that calls the numbered service by gRPC."""

import functools

import grpc
from flask import Flask, Response, request
from numbers_service import SERVICE, message, number

app = Flask(__name__)


@functools.cache
def channel(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target)


@app.get("/ready")
def ready() -> Response:
    return Response("ready\n")


@app.get("/call/<int:n>")
def call(n: int) -> Response:
    one = channel(request.args["url"]).unary_unary(f"/{SERVICE}/One")
    return Response(f"n={number(one(message(n), wait_for_ready=True))}\n")
