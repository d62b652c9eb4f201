"""A target program of the standard library alone, for any CPython from 3.11 on: calls made from
every kind of code, and what the interpreter itself says of where each was made.

    lines.py HOST:PORT TRUTH CLIENT

CLIENT: one of `CLIENTS`. Reads `warm` and `go` from stdin. `warm`
calls /n/0; `go` calls /n/1, /n/2, ... and writes TRUTH: {number: [shape, file, line, function]},
null for those that an event loop writes when nobody of theirs is on the stack.

The truth is taken when the interpreter enters the C function that sends, by sys.setprofile: no
frame is added, and what is walked are the frames of `inspect`, f_lineno and co_qualname.
"""

import asyncio
import contextvars
import functools
import json
import re
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

HOST, TRUTH, CLIENT = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
OURS = str(Path(__file__).parent) + "/"
SENDS = {"send", "sendall", "sendmsg", "write"}
number = contextvars.ContextVar("number", default=0)
shapes: dict[int, str] = {}
truth: dict[int, Any] = {}


def observe(frame: FrameType, event: str, argument: Any) -> None:
    """sys.setprofile: note where a call is made from, the first time that something is sent."""
    if event != "c_call" or getattr(argument, "__name__", "") not in SENDS:
        return
    if type(getattr(argument, "__self__", None)).__name__ not in ("socket", "SSLSocket"):
        return
    if number.get() and number.get() not in truth:
        truth[number.get()] = [shapes[number.get()], *where(frame)]


def where(frame: FrameType | None) -> list[Any]:
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(OURS):
            return [code.co_filename, frame.f_lineno, code.co_qualname]
        if code.co_name == "_run_once":
            break
        frame = frame.f_back
    return [None, None, None]


def numbered(shape: str) -> str:
    """The URL of the next call, whose truth is noted from now on."""
    shapes[len(shapes) + 1] = shape
    number.set(len(shapes))
    return f"http://{HOST}/n/{number.get()}"


# -- Clients: none of these has a frame of ours ---------------------------------------------------


def by_urllib() -> Callable[[str], Any]:
    return urllib.request.urlopen


def by_requests() -> Callable[[str], Any]:
    import requests

    return requests.Session().get


def by_urllib3() -> Callable[[str], Any]:
    import urllib3

    return functools.partial(urllib3.PoolManager(maxsize=8).request, "GET")


def by_httpx() -> Callable[[str], Any]:
    import httpx

    return httpx.Client().get


CLIENTS = {"urllib": by_urllib, "requests": by_requests, "urllib3": by_urllib3, "httpx": by_httpx}
ask = CLIENTS[CLIENT]()


# -- Shapes without an event loop ----------------------------------------------------------------


def plainly() -> None:
    ask(numbered("plain"))
    ask(
        numbered("many lines"),
    )
    for _ in range(3):
        ask(numbered("loop"))
    try:
        raise ValueError
    except ValueError:
        ask(numbered("except"))
    finally:
        ask(numbered("finally"))


def again(depth: int) -> None:
    if depth:
        again(depth - 1)
    ask(numbered("recursion"))


def decorator(function: Callable[[str], None]) -> Callable[[str], None]:
    @functools.wraps(function)
    def inner(shape: str) -> None:
        function(shape)
        ask(numbered("decorator"))

    return inner


@decorator
def decorated(shape: str) -> None:
    ask(numbered(shape))


class Account:
    def __init__(self) -> None:
        ask(numbered("constructor"))

    def __enter__(self) -> "Account":
        ask(numbered("enter"))
        return self

    def __exit__(self, *_: object) -> None:
        ask(numbered("exit"))

    def __lt__(self, other: object) -> bool:
        ask(numbered("operator, called from C"))
        return False

    @property
    def balance(self) -> int:
        ask(numbered("property"))
        return 1

    @classmethod
    def open(cls) -> "Account":
        ask(numbered("class method"))
        return cls()


def generator() -> Iterator[int]:
    for i in range(3):
        ask(numbered("generator"))
        yield i


def delegating() -> Iterator[int]:
    yield from generator()


def within_c() -> None:
    list(map(lambda shape: ask(numbered(shape)), ["lambda, called from C"] * 2))  # noqa: C417
    sorted([Account(), Account()])
    re.sub("a", lambda found: "b" if ask(numbered("callback of re")) else "", "aa")
    functools.partial(ask, numbered("partial"))()
    list(generator())
    sum(delegating())
    assert len([ask(numbered("list comprehension")) for _ in range(2)]) == 2
    assert {ask(numbered("set comprehension")) is None for _ in range(2)} == {False}
    assert all(ask(numbered("generator expression")) for _ in range(2))
    max([1, 2], key=lambda one: (ask(numbered("key")), one)[1])


def compiled(text: str, file: str) -> None:
    exec(compile(text, file, "exec"), {"ask": ask, "numbered": numbered})  # noqa: S102


def made_up() -> None:
    """The addresses of these code objects are used again and again."""
    for i in range(40):
        compiled("\n" * (i % 7) + "ask(numbered('compiled'))\n", f"{OURS}made_up_{i % 3}.py")
    for i in range(20):
        compiled(
            "ask(numbered('one line lower'))\n" if i % 2 else "\nask(numbered('lower'))", "<x>"
        )
    for i in range(20):
        place = OURS if i % 2 else "/usr/lib/python3/dist-packages/"
        compiled("ask(numbered('of others'))\n", f"{place}made_up.py")
    eval(compile("ask(numbered('eval'))", f"{OURS}evaluated.py", "eval"))  # noqa: S307


def in_threads() -> None:
    thread = threading.Thread(target=lambda: ask(numbered("thread")))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(decorated, "pool").result()


def without_loop() -> None:
    plainly()
    again(2)
    decorated("decorated")
    with Account.open() as account:
        assert account.balance
    within_c()
    made_up()
    in_threads()


# -- With asyncio: a request is written by the task that wants it, or else by nobody --------------


def path(shape: str) -> str:
    return numbered(shape).removeprefix(f"http://{HOST}")


async def fetch(shape: str) -> None:
    reader, writer = await asyncio.open_connection(*HOST.split(":"))
    writer.write(f"GET {path(shape)} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    await writer.drain()
    await answered(reader, writer)


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    assert length, head
    await reader.readexactly(int(length[1]))
    writer.close()
    await writer.wait_closed()


async def from_the_loop(shape: str) -> None:
    """The loop itself writes: no line is the caller's."""
    reader, writer = await asyncio.open_connection(*HOST.split(":"))
    request = f"GET {path(shape)} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    asyncio.get_running_loop().call_soon(writer.transport.write, request)
    await answered(reader, writer)


async def callback(shape: str) -> None:
    """A function of ours that the loop calls does write."""
    reader, writer = await asyncio.open_connection(*HOST.split(":"))
    request = f"GET {path(shape)} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    asyncio.get_running_loop().call_soon(lambda: writer.write(request))
    await answered(reader, writer)


async def numbers() -> AsyncIterator[int]:
    for i in range(2):
        await fetch("async generator")
        yield i


async def with_loop() -> None:
    await fetch("coroutine")
    await asyncio.gather(*(fetch("gather") for _ in range(5)))
    await asyncio.create_task(fetch("task"))
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(fetch("task group"))
    assert [i async for i in numbers()] == [0, 1]
    assert [await fetch("async comprehension") for _ in range(2)]
    await asyncio.to_thread(decorated, "to_thread")
    await asyncio.wait_for(fetch("wait_for"), 30)
    await from_the_loop("the loop")
    await callback("callback")


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "warm\n":
            ask(f"http://{HOST}/n/0")
            print("warm", flush=True)
        else:
            break
    threading.setprofile(observe)
    sys.setprofile(observe)
    without_loop()
    asyncio.run(with_loop())
    sys.setprofile(None)
    TRUTH.write_text(json.dumps(truth))
    print("done", flush=True)
    sys.stdin.readline()


main()
