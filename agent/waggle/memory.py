"""How the C library manages our memory."""

import ctypes

_M_ARENA_MAX = -8  # malloc.h of glibc


def keep_little() -> None:
    """Let all threads share one heap: ours hand memory to each other, and would each keep some.

    The heap keeps what batches take, some 5 MB at full load: giving that back at once costs a
    third more CPU a span, for pages that come back empty.

    To be called before there are threads. Nothing happens where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
