"""A target program by WSGI alone: GET /m/SHAPE/CLIENT/N calls CALLED/n/N twice."""

import os
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

CALLED = os.environ["CALLED"]  # of this machine


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    _, route, *rest = environ["PATH_INFO"].split("/")
    text = "ready\n"
    if route == "m":
        for _ in range(2):
            with urllib.request.urlopen(f"{CALLED}/n/{rest[-1]}") as answer:  # noqa: S310
                answer.read()
        text = f"n={rest[-1]}\n"
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]
