"""The synchronous HTTP clients of the matrix. Each calls the server at $CALLED for number n and
gives the text of the answer; the libraries are imported when a client is first used."""

import functools
import os
import threading
from collections.abc import Callable
from typing import Any

CALLED = os.environ.get("CALLED", "")
PATH = os.environ.get("CALLED_PATH", "/slow/{n}?ms={ms}")
TIMEOUT_S = 30
Call = Callable[[int], str]
_per_thread = threading.local()


def path(n: int) -> str:
    """Answers come out of order: each takes 0 to 4 ms."""
    return PATH.format(n=n, ms=n * 7 % 5)


def failing_path(n: int) -> str:
    return f"/status/503/{n}"


def url(n: int) -> str:
    return CALLED + path(n)


def answer(n: int, text: str) -> str:
    """What a server of the matrix answers for number n. Raises ValueError for another's answer."""
    if text.split(maxsplit=1)[:1] != [f"n={n}"]:
        raise ValueError(f"call {n} was answered with {text[:80]!r}")
    return f"n={n} called\n"


def _own(name: str, make: Callable[[], Any]) -> Any:
    """One of these for each thread (greenlet, where threads are patched)."""
    if not hasattr(_per_thread, name):
        setattr(_per_thread, name, make())
    return getattr(_per_thread, name)


def _with_requests(n: int) -> str:
    import requests

    def make() -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        return session

    return str(_own("requests", make).get(url(n), timeout=TIMEOUT_S).text)


def _with_requests_once(n: int) -> str:
    """No session: a connection for each call."""
    import requests

    return requests.get(url(n), timeout=TIMEOUT_S).text


@functools.cache
def _pool() -> Any:
    import urllib3

    return urllib3.PoolManager(maxsize=8)


def _with_urllib3(n: int) -> str:
    """One pool for all threads."""
    return str(_pool().request("GET", url(n), timeout=TIMEOUT_S, retries=False).data, "utf-8")


def _with_http_client(n: int) -> str:
    import http.client

    connection = http.client.HTTPConnection(CALLED.removeprefix("http://"), timeout=TIMEOUT_S)
    try:
        connection.request("GET", path(n))
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@functools.cache
def _httpx_client() -> Any:
    import httpx

    return httpx.Client(timeout=TIMEOUT_S, trust_env=False)


def _with_httpx(n: int) -> str:
    """One client, hence one pool, for all threads."""
    return str(_httpx_client().get(url(n)).text)


def _with_pycurl(n: int) -> str:
    import io

    import pycurl

    body = io.BytesIO()
    curl = _own("pycurl", pycurl.Curl)
    curl.setopt(pycurl.URL, url(n))
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.TIMEOUT, TIMEOUT_S)
    curl.setopt(pycurl.WRITEDATA, body)
    curl.perform()
    return body.getvalue().decode()


@functools.cache
def _s3() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=CALLED,
        region_name="nowhere",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",  # noqa: S106 (the server asks for no signature)
        config=Config(
            s3={"addressing_style": "path"}, response_checksum_validation="when_required"
        ),
    )


_making = threading.Lock()


def _with_boto3(n: int) -> str:
    """An object n in the bucket `n`: GET /n/<n>."""
    with _making:  # boto3 makes clients in one thread only
        client = _s3()
    return str(client.get_object(Bucket="n", Key=str(n))["Body"].read(), "utf-8")


CALLS: dict[str, Call] = {
    "requests": _with_requests,
    "requests-once": _with_requests_once,
    "urllib3": _with_urllib3,
    "http.client": _with_http_client,
    "httpx": _with_httpx,
    "pycurl": _with_pycurl,
    "boto3": _with_boto3,
}


def call(client: str, n: int) -> str:
    return answer(n, CALLS[client](n))


def fail(n: int) -> None:
    """One call that is answered with 503, by http.client."""
    import http.client

    connection = http.client.HTTPConnection(CALLED.removeprefix("http://"), timeout=TIMEOUT_S)
    try:
        connection.request("GET", failing_path(n))
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 503:
        raise ValueError(f"a failing call was answered with {status}")
