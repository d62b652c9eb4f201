"""What the agent says to whoever runs it."""

import sys
from contextlib import suppress


def say(text: str, prefix: str = "waggle: ") -> None:
    """One message for the user, on stderr; stdout belongs to the traces."""
    with suppress(OSError):
        print(prefix + text, file=sys.stderr, flush=True)
