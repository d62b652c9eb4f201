"""What makes a start short: most of it is importing, which keeps one processor busy."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """No search for garbage until settle() or the end of this.

    What is imported stays: to search it again and again while more comes takes a seventh of the
    time that importing takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def settle() -> None:
    """Garbage is searched for from now on, but not among what the start has left behind."""
    gc.freeze()
    gc.enable()


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """A variable of the environment for what is imported meanwhile, and for nothing we start."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
