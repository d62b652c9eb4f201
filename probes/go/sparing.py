"""Which probes a Go program is spared, because what they tell nobody needs.

Four cost a stop for each request, or more: births of goroutines; ServeHTTP, which
only introduces connections that are older than the agent; calls over HTTP/2, which are only
named on such; and ServeMux, whose pattern can be
read without a stop but where the Request was copied. They are there from the
beginning, so that the first calls have their parents too, and are looked at now
and then after that. What is taken away too early comes back: the kernel counts the calls
of which a birth might have told, and requests on connections that nobody introduced, and
remembers when an answer had no route.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

import numpy as np

from waggle.layout import GoLimit

# Looks for which ServeMux is looked at in vain, and after which at the latest it is again.
_ROUTES_LOOKS, _ROUTES_PAUSE = 3, 256
# Looks after which nobody calls any more on connections older than the agent.
_NAMES_LOOKS = 30
# Looks after which connections that nothing introduces are left alone.
_STRANGERS_LOOKS = 30


class Switch(Protocol):
    """Probes of one kind, in one process."""

    def on(self) -> None: ...

    def off(self) -> None: ...


class _State(Enum):
    TRIAL = auto()  # from the beginning, until enough requests have shown that none is needed
    OFF = auto()
    ASKED = auto()  # on again, since somebody called of whom nothing was known
    KEPT = auto()  # a birth has told whose a call was: on for good


class Births:
    """Births of goroutines.

    is_asked: whether a function is known whose goroutines have called, with nothing known
    of them, and of which births may yet tell.
    """

    def __init__(self, switch: Switch, is_asked: Callable[[], bool]) -> None:
        self._switch = switch
        self._is_asked = is_asked
        self._state = _State.TRIAL
        self._wanted = 0

    def look(self, row: np.void) -> None:
        """row: layout.GO, as the kernel has it now."""
        if self._state is _State.KEPT:
            return
        if row["used"]:
            self._turn_on(_State.KEPT)
        elif self._state is _State.OFF:
            if row["wanted"] != self._wanted:
                self._turn_on(_State.ASKED)
        elif self._state is _State.ASKED or _is_tried(row):
            if self._is_asked():
                self._state = _State.ASKED
            else:
                self._turn_off(int(row["wanted"]))

    def _turn_on(self, state: _State) -> None:
        if self._state is _State.OFF:
            self._switch.on()
        self._state = state

    def _turn_off(self, wanted: int) -> None:
        self._wanted = wanted
        self._state = _State.OFF
        self._switch.off()


def _is_tried(row: np.void) -> bool:
    """Whether enough was seen; where the layout is a guess, that births agree with it too."""
    return bool(row["served"] >= GoLimit.SERVED and (row["agrees"] or not row["must_agree"]))


class Introductions:
    """ServeHTTP, for connections that were there before."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch
        self._is_on = True
        self._strangers = 0
        self._in_vain = 0

    def look(self, row: np.void) -> None:
        """row: layout.GO, as the kernel has it now."""
        has_new = row["strangers"] != self._strangers
        self._strangers = int(row["strangers"])
        if not self._is_on:
            if has_new and self._in_vain < _STRANGERS_LOOKS:
                self._is_on = True
                self._switch.on()
        elif row["served"] and (not has_new or self._in_vain >= _STRANGERS_LOOKS):
            self._is_on = False
            self._switch.off()
        elif has_new:
            self._in_vain += 1


class Names:
    """Calls of net/http's client over HTTP/2, whose paths are not known otherwise on connections
    older than the agent. is_on: whether there may be any from the beginning."""

    def __init__(self, switch: Switch, *, is_on: bool) -> None:
        self._switch = switch
        self._is_on = is_on
        self._calls = 0
        self._in_vain = 0

    def look(self, row: np.void) -> None:
        """row: layout.GO, as the kernel has it now."""
        has_new = row["old_calls"] != self._calls
        self._calls = int(row["old_calls"])
        self._in_vain = 0 if has_new else self._in_vain + 1
        if has_new and not self._is_on:
            self._is_on = True
            self._switch.on()
        elif self._is_on and self._in_vain >= _NAMES_LOOKS:
            self._is_on = False
            self._switch.off()


class Routes:
    """ServeMux, for requests that are copied before it routes them, and so that is wanted: what
    tells of http.TimeoutHandler, which copies them."""

    def __init__(self, switch: Switch, wanted: Switch) -> None:
        self._switch = switch
        self._wanted = wanted
        self._state = _State.TRIAL
        self._unrouted_ns = 0
        self._looks = 0  # until it is tried no longer, or may be tried again
        self._pause = 1

    def look(self, row: np.void) -> None:
        """row: layout.GO, as the kernel has it now."""
        if self._state is _State.KEPT:
            return
        self._looks -= 1
        if row["servemux_told"]:
            if self._state is _State.OFF:
                self._switch.on()
            self._wanted.off()
            self._state = _State.KEPT
        elif self._state is _State.OFF:
            if self._looks <= 0 and row["unrouted_ns"] != self._unrouted_ns:
                self._switch.on()
                self._state, self._looks = _State.ASKED, _ROUTES_LOOKS
        elif self._looks <= 0 and row["served"] >= GoLimit.SERVED:
            if self._state is _State.ASKED:
                self._pause = min(2 * self._pause, _ROUTES_PAUSE)
            self._switch.off()
            self._state, self._looks = _State.OFF, self._pause
            self._unrouted_ns = int(row["unrouted_ns"])
