"""Whose code is this? By where its file lies and what it is called.

A line of code is shown that somebody who runs the program wrote: the innermost one that
is neither the standard library's nor an installed package's.
"""

import re

from waggle.layout import CodeKind

# The standard library, packages of Debian, of an environment, of a user; what installs as
# a command and has no suffix only starts something.
_LIBRARY = re.compile(
    r"/(site|dist)-packages/|/lib(64|32)?/python3(\.\d+t?)?/|/python3\d*\.zip/|/bin/[^./]+$"
)
# They run what others gave them: whoever stands further out on the stack did not call.
_LOOPS = re.compile(
    r"/asyncio/runners\.py$|-packages/(uvloop|uvicorn|hypercorn|gunicorn|granian|waitress|daphne"
    r"|cheroot|sanic|twisted/internet|trio/_core|tornado/(ioloop\.py$|platform/))"
)
_LOOP_FUNCTIONS = {
    "/asyncio/base_events.py": {
        "BaseEventLoop._run_once",
        "BaseEventLoop.run_forever",
        "BaseEventLoop.run_until_complete",
    },
    "/asyncio/events.py": {"Handle._run"},
    "/concurrent/futures/thread.py": {"_WorkItem.run", "_worker"},
    "/socketserver.py": {"BaseServer.serve_forever"},
}


def judge(file: str, function: str, runs_loop: bool) -> CodeKind:
    """Whose a function is.

    file: as the code object names it. function: its qualified name. runs_loop: whether
    it names what starts an event loop, of which those written in C have no frames.
    """
    if runs_loop or _is_loop(file, function):
        return CodeKind.LOOP
    if not file or file.startswith("<") or _LIBRARY.search(file):
        return CodeKind.LIBRARY  # what has no file has no line that could be looked up
    return CodeKind.APPLICATION


def is_made_up(file: str) -> bool:
    """Whether code of this file is compiled as it is needed, and its address used again soon
    for other code of the same module, which may be somebody else's."""
    return file.startswith("<") and not file.startswith(("<frozen ", "<interpreter "))


def _is_loop(file: str, function: str) -> bool:
    if not _LIBRARY.search(file):
        return False
    if _LOOPS.search(file):
        return True
    return any(
        file.endswith(end) and function in functions for end, functions in _LOOP_FUNCTIONS.items()
    )
