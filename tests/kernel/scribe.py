"""Evaluates expressions, one a line of standard input; their values, in JSON, go to standard
error."""

import errno
import json
import os
import socket
import sys
import time

held: dict[str, object] = {"os": os, "socket": socket, "time": time}


def hold(name: str, value: object) -> object:
    held[name] = value
    return value


held["hold"] = hold
for line in sys.stdin:
    try:
        value = eval(line, held)  # noqa: S307  # the test's own expressions
    except OSError as error:
        value = errno.errorcode[error.errno or 0]
    text = json.dumps(value if isinstance(value, int | str) else None)
    os.write(2, text.encode() + b"\n")
