"""The demo's pay service: FastAPI, served by uvicorn (`uvicorn pay:app`).

POST /pay asks the stock service for price, discount and delivery at the same time, then the bank,
and has the article packed.
"""

import asyncio
import functools
import json
import os

import grpc
import httpx
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel

app = FastAPI()
STOCK_URL = os.environ["STOCK_URL"]
_BANK_S = 0.02  # how long the bank takes at its best


client = httpx.AsyncClient(timeout=10)


class Order(BaseModel):
    """What is to be paid. The card `refused` makes the bank fail."""

    article: int
    card: str
    bank_delay_ms: int = 0


@app.get("/ready")
async def ready() -> PlainTextResponse:
    return PlainTextResponse("ready\n")


@app.post("/pay")
async def pay(order: Order) -> JSONResponse:
    price, discount, delivery = await asyncio.gather(
        ask("price", order.article), ask("discount", order.article), ask("delivery", order.article)
    )
    await asyncio.sleep(_BANK_S + order.bank_delay_ms / 1000)
    if order.card == "refused":
        return JSONResponse({"error": "the bank does not answer"}, status_code=502)
    await have_packed(order.article)
    return JSONResponse({"cents": price - discount + delivery, "paid": True})


async def ask(what: str, article: int) -> int:
    """What the stock service says of an article, in cents."""
    answer = await client.get(f"{STOCK_URL}/{what}/{article}")
    answer.raise_for_status()
    cents: int = answer.json()["cents"]
    return cents


@functools.cache
def stock() -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(os.environ["STOCK_GRPC"])


async def have_packed(article: int) -> None:
    """Waits until the stock service has told every step."""
    pack = stock().unary_stream("/shop.Stock/Pack")
    async for _step in pack(json.dumps({"article": article}).encode()):
        pass
