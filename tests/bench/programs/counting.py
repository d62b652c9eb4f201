"""The Flask program that is measured, with an account of what it answered."""

import itertools

from flask import Flask, Response

app = Flask(__name__)
# One more of either is one atomic step of the interpreter.
_answered = itertools.count()


@app.get("/n/<int:n>")
def number(n: int) -> Response:
    next(_answered)
    return Response(f"n={n}\n", mimetype="text/plain")


@app.get("/answered")
def answered() -> Response:
    return Response(f"{_answered.__reduce__()[1][0]}\n", mimetype="text/plain")


@app.get("/ready")
def ready() -> Response:
    return Response("ready\n", mimetype="text/plain")
