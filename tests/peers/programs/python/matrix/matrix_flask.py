"""A target program: Flask. `matrix_flask:app`."""

import calls
import shapes
from flask import Flask, Response, request

app = Flask(__name__)


@app.before_request
def middleware() -> None:
    shapes.before_handler(request.path)


@app.get("/ready")
def ready() -> Response:
    return Response("ready\n", mimetype="text/plain")


@app.get("/m/<shape>/<client>/<int:n>")
def handle(shape: str, client: str, n: int) -> Response:
    response = Response(shapes.run(shape, client, n), mimetype="text/plain")
    if shape == "after":
        response.call_on_close(lambda: calls.call(client, n))
    return response
