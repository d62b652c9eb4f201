"""How the C library manages our memory."""

import ctypes

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # malloc.h of glibc
# What a batch takes goes back at once. By itself the threshold grows with what is freed, and the
# heap then keeps the largest of everything: 8 MB, at no less CPU a span.
_LARGE = 512 << 10


def keep_little() -> None:
    """Let all threads share one heap: ours hand memory to each other, and would each keep some.
    What is large is kept by none.

    To be called before there are threads. Nothing happens where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
