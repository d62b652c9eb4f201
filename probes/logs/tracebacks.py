"""Which lines are one record: tracebacks of Python and Java, panics of Go; and what they say.

Python's traceback.print_exc() and Java's printStackTrace() write each line by a call of its own,
so lines are followed over writes; a logging library writes all of them at once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

_PYTHON = b"Traceback (most recent call last):"
_CHAINED = (
    b"During handling of the above exception, another exception occurred:",
    b"The above exception was the direct cause of the following exception:",
)
_PYTHON_ERROR = re.compile(rb"([A-Za-z_][\w.]*)(?:: (.*))?$")
_JAVA_FRAME = re.compile(
    rb"\s+(?:at [\w.$/<>@-]+\(|\.\.\. \d+ (?:more|common frames)|Suppressed: )|Caused by: "
)
_JAVA_ERROR = re.compile(
    rb"(?:Exception in thread \"[^\"]*\" |.*?: )?"
    rb"((?:[a-z][\w$]*\.)+[A-Z][\w$]*|[A-Z]\w*(?:Exception|Error|Throwable))(?:: (.*))?$"
)
_JUL = re.compile(rb"[A-Z][a-z]{2} \d{1,2}, \d{4} \d{1,2}:\d\d:\d\d [AP]M \S+")
_JUL_LEVEL = re.compile(rb"(?:SEVERE|WARNING|INFO|CONFIG|FINER|FINEST|FINE): ")
_GO = re.compile(rb"(?:panic: |fatal error: )")
_GO_LINE = re.compile(
    rb"$|\s|goroutine \d+ |panic\(|created by |\[signal |[\w./()*\[\]{}-]+\([^)]*\)"
    rb"|exit status|\.\.\.|runtime stack:|panic: |r[a-z0-9]+ +0x|fatal error: "
)
_GO_SERVED = re.compile(rb".*?(?:http: panic serving [^:]+:\d+: |panic: )(.*)")
_GO_STACK = re.compile(rb"^goroutine \d+ \[", re.MULTILINE)

# How a line begins, in seven bytes, that may be a part of any of these.
BEGINNINGS = (
    *(text[:7] for text in (_PYTHON, *_CHAINED)),
    *(b"Caused ", b"panic: ", b"gorouti", b"fatal e", b"Excepti"),
)


class _State(IntEnum):
    NONE = 0
    PYTHON = 1  # within a traceback
    PYTHON_ERROR = 2  # behind the line that names the error
    PYTHON_BLANK = 3  # and an empty line, behind which another traceback may follow
    PYTHON_CHAINED = 4
    JAVA = 5
    JAVA_MAYBE = 6  # a line that names an exception; frames may follow
    GO = 7


@dataclass(slots=True)
class Grouping:
    """continues: which lines belong to the record before them. open: whether lines that come
    later may belong to the last record as well."""

    continues: list[bool]
    open: bool


def group(lines: Sequence[bytes], continues: Sequence[bool], heads: Sequence[bool]) -> Grouping:
    """Follow tracebacks through the lines of one thread on one stream.

    continues: lines that belong to the one before them for other reasons. heads: lines that say
    a level or a time. Empty lines are in their places.
    """
    result = list(continues)
    state = _State.NONE
    for number, line in enumerate(lines):
        known = result[number] and number > 0
        if heads[number] and not known:
            state = _State.GO if _GO.match(line) else _State.NONE
            continue
        joined, state = _step(state, line, number > 0)
        result[number] = known or (joined and number > 0)
    _drop_trailing(lines, result)
    in_one_write = bool(lines) and continues[-1]
    return Grouping(result, state is not _State.NONE and not in_one_write)


def _drop_trailing(lines: Sequence[bytes], continues: list[bool]) -> None:
    """An empty line belongs to a record only where more of it follows."""
    following = False
    for number in range(len(lines) - 1, -1, -1):
        if not lines[number].strip():
            continues[number] = continues[number] and following
        else:
            following = continues[number]


def _step(state: _State, line: bytes, has_before: bool) -> tuple[bool, _State]:
    """Whether the line belongs to what comes before it, and the state behind it."""
    if line.startswith(_PYTHON):
        return state is _State.PYTHON_CHAINED, _State.PYTHON
    if _JAVA_FRAME.match(line) and has_before:
        return True, _State.JAVA
    within = _STEPS.get(state)
    if within is not None:
        joined, following = within(line)
        if joined:
            return joined, following
    if _GO.match(line):
        return False, _State.GO
    return False, _State.JAVA_MAYBE if _JAVA_ERROR.match(line) else _State.NONE


def _in_python(line: bytes) -> tuple[bool, _State]:
    if line[:1] in (b" ", b"\t", b""):
        return True, _State.PYTHON
    is_error = _PYTHON_ERROR.match(line) is not None
    return is_error, _State.PYTHON_ERROR


def _behind_error(line: bytes) -> tuple[bool, _State]:
    if not line.strip():
        return True, _State.PYTHON_BLANK
    return line[:1] in (b" ", b"\t"), _State.PYTHON_ERROR


def _behind_blank(line: bytes) -> tuple[bool, _State]:
    return line.startswith(_CHAINED), _State.PYTHON_CHAINED


def _in_chain(line: bytes) -> tuple[bool, _State]:
    return not line.strip(), _State.PYTHON_CHAINED


def _in_go(line: bytes) -> tuple[bool, _State]:
    return _GO_LINE.match(line) is not None, _State.GO


_STEPS = {
    _State.PYTHON: _in_python,
    _State.PYTHON_ERROR: _behind_error,
    _State.PYTHON_BLANK: _behind_blank,
    _State.PYTHON_CHAINED: _in_chain,
    _State.GO: _in_go,
}


def names_error(line: bytes) -> bool:
    """Whether the line names an exception of Java, whose frames may follow."""
    return _JAVA_ERROR.match(line) is not None


def is_second_line(first: bytes, second: bytes) -> bool:
    """java.util.logging: date and place on one line, level and message on the next."""
    return _JUL_LEVEL.match(second) is not None and _JUL.match(first) is not None


class Failure(NamedTuple):
    """An exception as a record tells it: attributes of the event, by the conventions."""

    type: str
    message: str
    stacktrace: str


def read_failure(body: bytes) -> Failure | None:
    """The exception in a record of several lines; None where there is none."""
    if b"\n" not in body:
        return None
    at = body.find(_PYTHON)
    if at >= 0 and (at == 0 or body[at - 1 : at] in (b"\n", b" ", b"\t")):
        return _of_python(body[at:])
    lines = body.split(b"\n")
    for number in range(1, len(lines)):
        if _JAVA_FRAME.match(lines[number]):
            return _of_java(lines, number - 1)
    found = _GO_STACK.search(body)
    return _of_go(body, found.start()) if found else None


def _of_python(trace: bytes) -> Failure:
    """The last error of a chain: it is the one that was not handled."""
    error: re.Match[bytes] | None = None
    lines = trace.split(b"\n")
    end, inside = len(lines), False
    for number, line in enumerate(lines):
        if line.startswith(_PYTHON):
            inside, error = True, None
        elif inside and line[:1] not in (b" ", b"\t", b"") and (m := _PYTHON_ERROR.match(line)):
            error, inside, end = m, False, number + 1
    message = error[2] or b"" if error else b""
    if error:
        message = b"\n".join([message, *_more_of_message(lines[end:])])
    return Failure(_text(error[1]) if error else "", _text(message), _text(trace))


def _more_of_message(lines: Sequence[bytes]) -> list[bytes]:
    more: list[bytes] = []
    for line in lines:
        if not line.strip():
            break
        more.append(line)
    return more


def _of_java(lines: Sequence[bytes], at: int) -> Failure:
    found = _JAVA_ERROR.match(lines[at])
    stack = b"\n".join(lines[at:])
    if not found:
        return Failure("", "", _text(stack))
    return Failure(_text(found[1]), _text(found[2] or b""), _text(stack))


def _of_go(body: bytes, stack: int) -> Failure:
    found = _GO_SERVED.match(body)
    message = found[1] if found else body[:stack].strip()
    return Failure("panic", _text(message), _text(body[stack:]))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").rstrip("\n")
