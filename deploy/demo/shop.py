"""The demo's shop: Flask, served by gunicorn with threads (`gunicorn shop:app`).

GET /checkout asks the stock service for the article, then the pay service for the money.
"""

import os
import threading

import requests
from flask import Flask, Response, jsonify, request

app = Flask(__name__)
STOCK_URL = os.environ["STOCK_URL"]
PAY_URL = os.environ["PAY_URL"]
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


@app.get("/checkout")
def checkout() -> Response:
    article = request.args.get("article", 7, type=int)
    stock = _session().get(f"{STOCK_URL}/stock/{article}", timeout=10)
    stock.raise_for_status()
    order = {
        "article": article,
        "card": request.args.get("card", "good"),
        "bank_delay_ms": request.args.get("bank_delay_ms", 0, type=int),
    }
    payment = _session().post(f"{PAY_URL}/pay", json=order, timeout=10)
    paid = payment.status_code == 200
    return jsonify(article=article, left=stock.json()["left"], paid=paid)
