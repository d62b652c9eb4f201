"""The demo's stranger: Flask with OpenTelemetry's own SDK, by nothing but how it is started
(`opentelemetry-instrument gunicorn points:app`). It makes its own spans, and exports them itself.

GET /points/ARTICLE asks the stock service for the discount, and makes points of it.
"""

import os

import requests
from flask import Flask, Response, jsonify

app = Flask(__name__)
STOCK_URL = os.environ["STOCK_URL"]


@app.get("/ready")
def ready() -> str:
    return "ready\n"


@app.get("/points/<int:article>")
def points(article: int) -> Response:
    discount = requests.get(f"{STOCK_URL}/discount/{article}", timeout=10)
    discount.raise_for_status()
    return jsonify(points=10 * discount.json()["cents"])
