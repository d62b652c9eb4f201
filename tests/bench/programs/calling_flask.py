"""The Flask program that is measured: one call a request, and an account of its answers."""

import itertools
import os
import threading

import requests
from flask import Flask, Response

app = Flask(__name__)
CALLED = os.environ["CALLED"]
# One more of it is one atomic step of the interpreter.
_answered = itertools.count()
_per_thread = threading.local()


def _session() -> requests.Session:
    if not hasattr(_per_thread, "session"):
        _per_thread.session = requests.Session()
        _per_thread.session.trust_env = False
    session: requests.Session = _per_thread.session
    return session


@app.get("/n/<int:n>")
def number(n: int) -> Response:
    text = _session().get(f"{CALLED}/n/{n}", timeout=10).text
    next(_answered)
    return Response(text, mimetype="text/plain")


@app.get("/answered")
def answered() -> Response:
    return Response(f"{_answered.__reduce__()[1][0]}\n", mimetype="text/plain")


@app.get("/ready")
def ready() -> Response:
    return Response("ready\n", mimetype="text/plain")
