"""The demo's shop: Flask, served by gunicorn with threads (`gunicorn shop:app`).

GET /checkout asks the stock service for the article, the points service for points, then the pay
service for the money. GET /open asks whether they are ready.
"""

import os
import threading

import requests
from flask import Flask, Response, jsonify, request

app = Flask(__name__)
STOCK_URL = os.environ["STOCK_URL"]
PAY_URL = os.environ["PAY_URL"]
POINTS_URL = os.environ["POINTS_URL"]
_per_thread = threading.local()


def _session() -> requests.Session:
    """One session, hence one set of connections, for each thread."""
    if not hasattr(_per_thread, "session"):
        _per_thread.session = requests.Session()
    session: requests.Session = _per_thread.session
    return session


@app.get("/ready")
def ready() -> str:
    return "ready\n"


@app.get("/open")
def open_shop() -> str:
    for url in (STOCK_URL, PAY_URL, POINTS_URL):
        requests.get(f"{url}/ready", timeout=10).raise_for_status()
    return "open\n"


@app.get("/checkout")
def checkout() -> Response:
    article = request.args.get("article", 7, type=int)
    stock = _session().get(f"{STOCK_URL}/stock/{article}", timeout=10)
    stock.raise_for_status()
    points = requests.get(f"{POINTS_URL}/points/{article}", timeout=10)
    points.raise_for_status()
    order = {
        "article": article,
        "card": request.args.get("card", "good"),
        "bank_delay_ms": request.args.get("bank_delay_ms", 0, type=int),
    }
    payment = _session().post(f"{PAY_URL}/pay", json=order, timeout=10)
    paid = payment.status_code == 200
    return jsonify(
        article=article, left=stock.json()["left"], points=points.json()["points"], paid=paid
    )
