"""A target program: what FastAPI logs, under uvicorn. The number in the URL is in every line.

/n/<n> logs twice; /fail/<n> raises, which uvicorn logs when the answer has been sent.
"""

import asyncio
import json
import logging
import sys

from fastapi import FastAPI

logging.basicConfig(
    level=logging.INFO,
    stream=sys.stdout,
    format='{"time": "%(asctime)s", "level": "%(levelname)s", "message": "%(message)s"}',
)
log = logging.getLogger("shop")
app = FastAPI()


@app.get("/ready")
async def ready() -> str:
    return "ready"


@app.get("/n/{n}")
async def number(n: int) -> str:
    log.info("request=%d begins", n)
    await asyncio.sleep(0.002)
    log.warning("request=%d ends", n)
    return json.dumps({"n": n})


@app.get("/fail/{n}")
async def fail(n: int) -> str:
    await asyncio.sleep(0.001)
    raise ValueError(f"request={n} fails")
