"""Ports on the loopback that stay ours for as long as we want them."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

# Below Linux's usual range of ephemeral ports (from 32768): an outgoing connection cannot take
# one between our choice and the program's bind.
_FIRST, _END = 20_000, 32_000
_LOCKS = Path(tempfile.gettempdir()) / f"waggle-test-ports-{os.getuid()}"


class PortLease:
    """One port that no other user of this module on this machine is given until `release`."""

    def __init__(self, port: int, lock: int) -> None:
        self.port = port
        self._lock = lock

    def release(self) -> None:
        os.close(self._lock)


def lease_port() -> PortLease:
    """Leases a port that nobody listens on, on 127.0.0.1 and on ::1. Raises OSError when all of
    the range is in use."""
    _LOCKS.mkdir(mode=0o700, exist_ok=True)
    candidates = range(_FIRST, _END)
    for port in random.sample(candidates, len(candidates)):
        lock = os.open(_LOCKS / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if _locked(lock) and _is_free(port):
            return PortLease(port, lock)
        os.close(lock)
    raise OSError(f"no free port from {_FIRST} to {_END - 1} on the loopback: end what listens")


def is_open(port: int) -> bool:
    """Whether somebody takes connections there, on 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(port: int) -> bool:
    families = [(socket.AF_INET, "127.0.0.1")]
    if socket.has_ipv6 and _has_ipv6_loopback():
        families.append((socket.AF_INET6, "::1"))
    return all(_can_bind(family, host, port) for family, host in families)


def _has_ipv6_loopback() -> bool:
    return _can_bind(socket.AF_INET6, "::1", 0)


def _can_bind(family: socket.AddressFamily, host: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections in TIME_WAIT are no hindrance, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
