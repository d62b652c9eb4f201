"""A target program: Flask on eventlet's own server. `matrix_eventlet.py PORT`."""

import eventlet

eventlet.monkey_patch()

import sys  # noqa: E402

import eventlet.wsgi  # noqa: E402
from matrix_flask import app  # noqa: E402

if __name__ == "__main__":
    listener = eventlet.listen(("127.0.0.1", int(sys.argv[1])), backlog=128)
    eventlet.wsgi.server(listener, app, log_output=False)
