"""A target program: what Flask logs, under gunicorn. The number in the URL is in every line.

/n/<n> logs twice; /two/<n> writes one line in two parts; /lines/<n> three lines at once;
/fail/<n> raises.
"""

import logging
import os
import sys
import time

from flask import Flask

logging.basicConfig(
    level=logging.INFO,
    stream=sys.stdout,
    format="%(asctime)s %(levelname)s %(name)s %(message)s",
)
log = logging.getLogger("shop")
app = Flask(__name__)


@app.get("/ready")
def ready() -> str:
    return "ready\n"


@app.get("/n/<int:n>")
def number(n: int) -> str:
    log.info("request=%d begins", n)
    time.sleep(0.002)
    log.warning("request=%d ends", n)
    return f"n={n}\n"


@app.get("/two/<int:n>")
def two(n: int) -> str:
    os.write(2, b"request=%d one " % n)
    time.sleep(0.001)
    os.write(2, b"and two\n")
    return f"n={n}\n"


@app.get("/lines/<int:n>")
def lines(n: int) -> str:
    os.write(1, b"".join(b"request=%d line %d\n" % (n, line) for line in range(3)))
    return f"n={n}\n"


@app.get("/fail/<int:n>")
def fail(n: int) -> str:
    raise ValueError(f"request={n} fails")
