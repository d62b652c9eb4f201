"""Sends by io_uring, one at a time, by the system calls themselves: the kernel's headers
(include/uapi/linux/io_uring.h) have what the numbers stand for."""

import ctypes
import mmap
import os
import socket
import struct
from typing import Self

_LIBC = ctypes.CDLL(None, use_errno=True)
_SETUP, _ENTER = 425, 426
_GET_EVENTS = 1
_SQES_AT = 0x10000000  # in the ring's descriptor
_SQE, _CQE = 64, 16
SEND, SEND_ZC = 26, 47
_ENTRIES = 4


class Ring:
    """One ring. Raises OSError where the kernel gives none."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self._fd = _call(_SETUP, _ENTRIES, parameters)
        submissions, completions = struct.unpack_from("2I", parameters)
        offsets = struct.unpack_from("20I", parameters, 40)
        self._tail, self._array = offsets[1], offsets[6]
        self._done = offsets[15]
        size = max(self._array + 4 * submissions, self._done + _CQE * completions)
        self._rings = mmap.mmap(self._fd, size)
        self._sqes = mmap.mmap(self._fd, _SQE * submissions, offset=_SQES_AT)
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self._sqes.close()
        self._rings.close()
        os.close(self._fd)

    def send(self, sock: socket.socket, data: bytes, how: int) -> int:
        """What the kernel answers: bytes that were sent, or an error's number below 0. Once."""
        assert not self._sent, "one send for each ring"
        self._sent = 1
        buffer = ctypes.create_string_buffer(data, len(data))
        address = ctypes.addressof(buffer)
        struct.pack_into("BxHiQQI", self._sqes, 0, how, 0, sock.fileno(), 0, address, len(data))
        struct.pack_into("I", self._rings, self._array, 0)
        struct.pack_into("I", self._rings, self._tail, 1)
        _call(_ENTER, self._fd, 1, 1, _GET_EVENTS, None, 0)
        (result,) = struct.unpack_from("i", self._rings, self._done + 8)
        return int(result)


def _call(number: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
