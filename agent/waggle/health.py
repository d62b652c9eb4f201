"""Is the agent well? /healthz says whether it moves, /readyz whether what it is for is done.

/healthz fails when the loop that moves spans has stood still: only starting anew helps. /readyz
also fails while an exporter cannot deliver or a queue is full; that is no reason to kill the agent,
which sends again and counts what is lost. Both tell every check, as JSON.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from waggle.pages import Answer, Page

# The loop waits for a second at most; everything beyond is work, and a batch takes milliseconds.
STANDS_STILL_S = 30.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is well or not. vital: only a new start can mend it."""

    name: str
    ok: bool
    detail: str
    vital: bool = False


class Health:
    """beat() is called by the loop; pages may be asked for by any thread."""

    def __init__(
        self,
        checks: Callable[[], Sequence[Check]],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = checks
        self._now = now
        self._beat = now()
        self._stopping = threading.Event()

    def beat(self) -> None:
        """The loop is alive."""
        self._beat = self._now()

    def stop(self) -> None:
        """From here on the agent is not ready: it sends what is left."""
        self._stopping.set()

    def pages(self) -> dict[str, Page]:
        return {"/healthz": self._live, "/livez": self._live, "/readyz": self._ready}

    def checks(self) -> list[Check]:
        still_s = self._now() - self._beat
        moving = Check("loop", still_s < STANDS_STILL_S, f"last moved {still_s:.1f} s ago", True)
        stopping = self._stopping.is_set()
        run = Check("run", not stopping, "stopping" if stopping else "tracing")
        return [moving, run, *self._checks()]

    def _live(self, _accept: str) -> Answer:
        return _answer([check for check in self.checks() if check.vital])

    def _ready(self, _accept: str) -> Answer:
        return _answer(self.checks())


def _answer(checks: Sequence[Check]) -> Answer:
    ok = all(check.ok for check in checks)
    body = {
        "status": "ok" if ok else "failing",
        "checks": {check.name: {"ok": check.ok, "detail": check.detail} for check in checks},
    }
    status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(status, "application/json", [json.dumps(body, indent=2).encode(), b"\n"])
