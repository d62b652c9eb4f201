"""A target program: plain_threads.py beside a thread that copies contexts as fast as it can, as no
event loop does. `plain_copies.py PORT`."""

import contextvars
import sys
import threading

import plain_threads


def copy_for_ever() -> None:
    while True:
        contextvars.copy_context()


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    threading.Thread(target=copy_for_ever, daemon=True).start()
    address = ("127.0.0.1", int(sys.argv[1]))
    plain_threads.Server(address, plain_threads.Handler).serve_forever()
