"""The FastAPI program that is measured: one call a request, and an account of its answers."""

import os

import httpx
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

app = FastAPI()
CALLED = os.environ["CALLED"]
_client = httpx.AsyncClient(timeout=10, trust_env=False)
_counts = {"answered": 0}


@app.get("/n/{n}")
async def number(n: int) -> PlainTextResponse:
    answer = await _client.get(f"{CALLED}/n/{n}")
    _counts["answered"] += 1
    return PlainTextResponse(answer.text)


@app.get("/answered")
async def answered() -> PlainTextResponse:
    return PlainTextResponse(f"{_counts['answered']}\n")


@app.get("/ready")
async def ready() -> PlainTextResponse:
    return PlainTextResponse("ready\n")
