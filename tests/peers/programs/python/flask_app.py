"""A target program: Flask, to be served by gunicorn (`gunicorn flask_app:app`)."""

import threading
import time
from collections.abc import Iterator

import peer
import requests
from flask import Flask, Response, request

app = Flask(__name__)
_per_thread = threading.local()


def _session() -> requests.Session:
    """One session, hence one set of connections, for each thread."""
    if not hasattr(_per_thread, "session"):
        _per_thread.session = requests.Session()
        _per_thread.session.trust_env = False
    session: requests.Session = _per_thread.session
    return session


def _text(text: str, status: int = 200) -> Response:
    return Response(text, status=status, mimetype="text/plain")


@app.get("/ready")
def ready() -> Response:
    return _text("ready\n")


@app.get("/n/<int:n>")
def number(n: int) -> Response:
    return _text(peer.body(n))


@app.get("/slow/<int:n>")
def slow(n: int) -> Response:
    time.sleep(request.args.get("ms", 0, type=float) / 1000)
    return _text(peer.body(n))


@app.get("/status/<int:code>/<int:n>")
def status(code: int, n: int) -> Response:
    return _text("" if code in (204, 304) else peer.body(n), code)


@app.get("/chunked/<int:n>")
def chunked(n: int) -> Response:
    def stream() -> Iterator[bytes]:
        yield from peer.pieces(n)

    return Response(stream(), mimetype="text/plain")


@app.get("/big/<int:n>")
def big(n: int) -> Response:
    return _text(peer.big(n))


@app.post("/echo/<int:n>")
def echo(n: int) -> Response:
    return _text(f"n={n} bytes={len(request.get_data())}\n")


@app.get("/call/<int:n>")
def call(n: int) -> Response:
    headers = peer.forwarded(request.headers.get("traceparent"), request.args.get("forward"))
    answer = _session().get(request.args["url"], headers=headers, timeout=30)
    return _text(peer.called(n, answer.status_code, answer.text))
