"""A target program: calls from greenlets, whose URLs say the line they are made at.

lines_gevent.py HOST:PORT. Reads `warm` and `go` from stdin, as lines_async.py does.
"""

from gevent import monkey

monkey.patch_all()

import itertools  # noqa: E402 (what is imported now is patched)
import sys  # noqa: E402

import gevent  # noqa: E402
import urllib3  # noqa: E402

URL = f"http://{sys.argv[1]}"
numbers = itertools.count(1)
pool = urllib3.PoolManager(maxsize=200)


def here() -> str:
    """The URL of a call that is made at the line where this is called."""
    return f"{URL}/line/{sys._getframe(1).f_lineno}/n/{next(numbers)}"


def twice() -> None:
    pool.request("GET", here())
    gevent.sleep(0)
    pool.request("GET", here())


def thrice() -> None:
    for _ in range(3):
        pool.request("GET", here())


def main() -> None:
    print("ready", flush=True)
    while sys.stdin.readline() == "warm\n":
        pool.request("GET", f"{URL}/n/0")
        print("warm", flush=True)
    gevent.joinall([gevent.spawn(made) for made in [twice, thrice] * 40], raise_error=True)
    nobodys = [f"{URL}/line/0/n/{next(numbers)}" for _ in range(5)]
    gevent.joinall([gevent.spawn(pool.request, "GET", url) for url in nobodys], raise_error=True)
    print("done", flush=True)
    sys.stdin.readline()


main()
