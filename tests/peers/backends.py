"""What the real servers for traces have in common: had once, started on ports of our own, asked
over HTTP."""

import http.client
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from .processes import Program, ProgramError

_Found = TypeVar("_Found")
_POLL_S = 0.1


def get_json(port: int, path: str, **query: Any) -> Any:
    """The JSON that a server on this machine answers with. Raises ProgramError for any other
    answer: some answer unknown paths with a page and 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    target = f"{path}?{urlencode(query)}" if query else path
    try:
        connection.request("GET", target, headers={"Connection": "close"})
        answer = connection.getresponse()
        body, kind = answer.read(), answer.headers.get("content-type", "")
    finally:
        connection.close()
    if answer.status != 200 or "json" not in kind:
        raise ProgramError(f"GET {target}: {answer.status} ({kind}): {body[:300]!r}")
    return json.loads(body)


def wait_for(
    program: Program,
    look: Callable[[], _Found],
    is_enough: Callable[[_Found], bool],
    timeout_s: float = 30,
) -> _Found:
    """What `look` finds, once that is enough. Raises ProgramError with what was found last."""
    deadline = time.monotonic() + timeout_s
    while not is_enough(found := look()):
        if time.monotonic() > deadline:
            raise program.error(f"held only {found!r} after {timeout_s:g} s")
        time.sleep(_POLL_S)
    return found


def edges(links: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    """Dependencies as Zipkin and Jaeger give them: (caller, called) -> calls."""
    return {(str(link["parent"]), str(link["child"])): int(link["callCount"]) for link in links}
