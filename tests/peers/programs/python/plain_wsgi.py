"""A target program by WSGI alone: GET /m/SHAPE/CLIENT/N calls CALLED/n/N twice; in shape `fire` the
second call is left behind by the request, where there are greenlets for it (gevent)."""

import os
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

CALLED = os.environ["CALLED"]  # of this machine
GREENLETS = os.environ.get(
    "GREENLETS"
)  # "loop": uWSGI's loop is gevent's; "patched": it is its own

if GREENLETS == "patched":
    from gevent import monkey

    monkey.patch_all()


def call(number: str) -> None:
    with urllib.request.urlopen(f"{CALLED}/n/{number}") as answer:  # noqa: S310
        answer.read()


def leave_behind(number: str) -> None:
    if GREENLETS:
        import gevent

        gevent.spawn_later(0.001, call, number)
    else:
        call(number)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    _, route, *rest = environ["PATH_INFO"].split("/")
    text = "ready\n"
    if route == "m":
        call(rest[-1])
        (leave_behind if rest[0] == "fire" else call)(rest[-1])
        text = f"n={rest[-1]}\n"
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]
