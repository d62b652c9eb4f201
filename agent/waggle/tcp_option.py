"""The TCP option, which tells an agent on another machine whose child a request is.

bpf/tcp_option.h is the kernel's side, docs/tcp-option.md says what it does to segments. Here
is decided whether it may be used: by trying, on a connection of our own, before anybody
else's bears it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from waggle import cgroups, privileges
from waggle.errors import UnsupportedError, WaggleError

if TYPE_CHECKING:  # what the start need not wait for
    import socket

    from waggle.libbpf import Link, Object

PROGRAMS = ("tcp_option", "tcp_option_old")
MAPS = ("option_sockets", "option_peers", "option_inodes")
MOST_SOCKETS = 16384  # of the map option_inodes: old connections beyond that stay without

_TRIAL_PORT = 1 << 63  # OPTION_TRIAL_PORT in bpf/tcp_option_sockets.h
_PATIENCE_S = 2.0
# More than a segment of loopback, and not a multiple of one: a segment without room for the
# option would never leave.
_PROBE_BYTES = 300_001
_CLONE_NEWNET = 0x40000000


class OptionError(UnsupportedError):
    """The TCP option cannot be used here; the message says why."""


class TcpOption:
    """Attached to every socket of the machine's processes; the links belong to the capture."""

    def __init__(self, bpf: Object, links: list[Link]) -> None:
        self.links = links
        self._old = links[-1]
        self._inodes = bpf.map("option_inodes")
        self._counters = bpf.map("counters")
        self.skipped: list[str] = []  # network namespaces whose old connections stay without

    @classmethod
    def attach(cls, bpf: Object) -> TcpOption:
        """Attach and try. Raises WaggleError, with nothing left attached, when it is not safe."""
        path = cgroups.root()
        with ExitStack() as undo:
            everywhere = bpf.attach_cgroup("tcp_option", path)
            undo.callback(bpf.detach, everywhere)
            old = bpf.attach("tcp_option_old")
            undo.callback(bpf.detach, old)
            made = cls(bpf, [everywhere, old])
            made._try_it()
            undo.pop_all()
        return made

    def adopt(self, tgids: Iterable[int]) -> None:
        """Old connections of these processes take part, in each of their network namespaces."""
        before = self._refused()
        spaces: dict[int, int] = {}  # inode of the namespace -> a process in it
        for tgid in tgids:
            try:
                spaces.setdefault(os.stat(f"/proc/{tgid}/ns/net").st_ino, tgid)  # noqa: PTH116
            except OSError:
                continue  # it has ended
            self._mark(sockets_of(tgid))
        own = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116
        for space, tgid in spaces.items():
            if space == own:
                self._old.read_iterator()
            else:
                self._look_inside(tgid)
        if refused := self._refused() - before:
            self.skipped.append(f"this kernel changes no socket that is there ({refused} of them)")

    def _mark(self, inodes: Iterable[int]) -> None:
        for inode in inodes:
            try:
                self._inodes.update(inode.to_bytes(8, "little"), b"\1\0\0\0")
            except WaggleError:
                return  # the map is full

    def _look_inside(self, tgid: int) -> None:
        """Run the iterator in the network namespace of a process: a thread of ours goes there."""
        refused: list[str] = []

        def visit() -> None:
            try:
                _enter_network_of(tgid)
                self._old.read_iterator()
            except (OSError, WaggleError) as error:
                refused.append(f"process {tgid}: {error}")

        thread = threading.Thread(target=visit, name="waggle-namespace")
        thread.start()
        thread.join()
        self.skipped += refused

    def _try_it(self) -> None:
        """Does it arrive, and all that it is put before? Raises OptionError when not."""
        before = self._probed()
        with ExitStack() as stack:
            sender, receiver = self._connected(stack)
            arrived = _carry(sender, receiver)
        if arrived != _PROBE_BYTES:
            raise OptionError(f"{arrived} of {_PROBE_BYTES} bytes arrived behind it on loopback")
        if self._probed() == before:
            raise OptionError("it was not found in what arrived on loopback")

    def _connected(self, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
        """Two ends of a connection on loopback, of which the kernel knows that it is our trial."""
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            sender = stack.enter_context(socket.socket())
            sender.settimeout(_PATIENCE_S)
            inode = os.fstat(sender.fileno()).st_ino
            marks = [inode, _TRIAL_PORT | server.getsockname()[1]]
            self._mark(marks)
            try:
                sender.connect(server.getsockname())
                receiver, _ = server.accept()
            finally:
                for mark in marks:
                    self._inodes.delete(mark.to_bytes(8, "little"))
        stack.enter_context(receiver)
        receiver.settimeout(_PATIENCE_S)
        return sender, receiver

    def _probed(self) -> int:
        from waggle.layout import Counter

        return int(self._counters.sum_over_cpus()[Counter.OPTION_PROBED])

    def _refused(self) -> int:
        from waggle.layout import Counter

        return int(self._counters.sum_over_cpus()[Counter.OPTION_OLD_REFUSED])


def needs() -> str:
    """What is missing before anything was tried; empty when nothing is."""
    lacking = privileges.missing((privileges.Capability.NET_ADMIN,))
    return f"missing {lacking[0].label}" if lacking else ""


def sockets_of(tgid: int) -> Iterator[int]:
    """The inodes of a process's sockets."""
    try:
        with os.scandir(f"/proc/{tgid}/fd") as entries:
            links = [entry.path for entry in entries]
    except OSError:
        return
    for path in links:
        try:
            target = os.readlink(path)  # noqa: PTH115
        except OSError:
            continue
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _enter_network_of(tgid: int) -> None:
    """The calling thread goes into another network namespace, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{tgid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter its network namespace: {os.strerror(code)}")
    finally:
        os.close(descriptor)


def _carry(sender: socket.socket, receiver: socket.socket) -> int:
    """Send _PROBE_BYTES; how many arrive within the time."""

    def send() -> None:
        with suppress(OSError):  # the count says it
            sender.sendall(bytes(_PROBE_BYTES))

    thread = threading.Thread(target=send, name="waggle-option-probe")
    thread.start()
    arrived = 0
    try:
        while arrived < _PROBE_BYTES and (piece := receiver.recv(1 << 20)):
            arrived += len(piece)
    except OSError:
        pass
    finally:
        receiver.close()  # what is left to send has nobody to wait for
        thread.join()
    return arrived
