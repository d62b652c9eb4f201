"""Target program: FastAPI, under uvicorn, that calls the numbered service by gRPC."""

import functools

import grpc
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from numbers_service import SERVICE, message, number

app = FastAPI()
METHOD = f"/{SERVICE}/One"


@functools.cache
def channel(target: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target)


@functools.cache
def sync_channel(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target)


@app.get("/ready")
async def ready() -> PlainTextResponse:
    return PlainTextResponse("ready\n")


@app.get("/call/{n}")
async def call(n: int, url: str) -> PlainTextResponse:
    answer = await channel(url).unary_unary(METHOD)(message(n), wait_for_ready=True)
    return PlainTextResponse(f"n={number(answer)}\n")


@app.get("/call-sync/{n}")
def call_sync(n: int, url: str) -> PlainTextResponse:
    answer = sync_channel(url).unary_unary(METHOD)(message(n), wait_for_ready=True)
    return PlainTextResponse(f"n={number(answer)}\n")
