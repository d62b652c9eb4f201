"""Starting the program to trace: known to us before it runs, and never hurt by us.

The child is forked at once and waits on a pipe. When tracing is ready it is
released and executes the command. It keeps its terminal, process group, environment,
and the descriptors our caller gave us; it is not tied to our life.
"""

import errno
import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from waggle.errors import TargetError

_NEVER_STARTED = 127  # what shells say of a command that could not be started
_GO = b"g"
# Python ignores these, and what is ignored stays ignored over an exec.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Launched:
    """A command that was forked and waits for `release`.

    pid: its process id, which stays the same when it executes the command. path: the file.
    """

    def __init__(self, command: Sequence[str], *, close: Iterable[int] = ()) -> None:
        """Forks the command, suspended. close: descriptors of ours that it must not have.

        Call it before any thread is started. Raises TargetError when there is no such program.
        """
        self.command = tuple(command)
        self.path = _resolve(self.command)
        self._status: int | None = None
        _keep_exit_statuses()
        go_read, self._go = os.pipe2(os.O_CLOEXEC)
        self._failure, failure_write = os.pipe2(os.O_CLOEXEC)
        # No handler of ours may run in the child before it has given them all up.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = os.fork()
            if self.pid == 0:
                os.close(self._go)
                _become(self.path, self.command, go_read, failure_write, mask, tuple(close))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(go_read)
        os.close(failure_write)
        self._pidfd = os.pidfd_open(self.pid)

    def release(self) -> None:
        """Lets the command run. Raises TargetError when it cannot be executed after all."""
        try:
            os.write(self._go, _GO)
        except BrokenPipeError:  # it was killed while it waited; poll() tells how
            return
        finally:
            os.close(self._go)
            self._go = -1
        with os.fdopen(self._failure, "rb") as failure:
            self._failure = -1
            code = failure.read(16)  # empty at once when the exec closed the other end
        if code:
            self.wait()
            raise TargetError(_cannot_start(self.command[0], int(code)))

    def fileno(self) -> int:
        """A descriptor that becomes readable when the command has ended: for select and poll."""
        return self._pidfd

    def poll(self) -> int | None:
        """The exit code, or None while it runs: 128 + signal when a signal killed it."""
        if self._status is None:
            self._reap(os.WNOHANG)
        return self._status

    def wait(self) -> int:
        """Waits for the end; the exit code as poll() gives it."""
        while self._status is None:
            self._reap(0)
        return self._status

    def send_signal(self, signum: int) -> None:
        """Passes a signal on; no error when the command has ended."""
        if self._status is None:
            try:
                signal.pidfd_send_signal(self._pidfd, signum)
            except ProcessLookupError:
                return

    def close(self) -> None:
        """Gives back descriptors. A command not yet released ends without having run; one that
        runs goes on."""
        for name in ("_go", "_failure", "_pidfd"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    def _reap(self, options: int) -> None:
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | options)
        if found is not None:
            killed = found.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
            self._status = 128 + found.si_status if killed else found.si_status


@contextmanager
def forwarding(launched: Launched, signals: Iterable[int] = (signal.SIGTERM,)) -> Iterator[None]:
    """Within it, these signals to us go to the command, and we wait for its end as usual.

    Ctrl-C needs none of this: the terminal sends it to both, being of one process group.
    """

    def forward(signum: int, _frame: FrameType | None) -> None:
        launched.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def _resolve(command: Sequence[str]) -> str:
    """The file to execute, by the rules of a shell: a name with a slash is a path."""
    name = command[0] if command else ""
    if not name:
        raise TargetError("no command after --: give one, such as -- python3 app.py")
    if found := shutil.which(name):
        return found
    if "/" in name:
        if os.path.isdir(name):  # noqa: PTH112
            raise TargetError(f"cannot start '{name}': it is a directory")
        if os.path.exists(name):  # noqa: PTH110
            raise TargetError(_cannot_start(name, errno.EACCES))
        raise TargetError(_cannot_start(name, errno.ENOENT))
    raise TargetError(f"cannot start '{name}': no such program in PATH{_path_hint(name)}")


def _path_hint(name: str) -> str:
    if name.isdigit():
        return f"; to trace a running process give --pid {name}"
    if os.environ.get("SUDO_USER"):
        return " (sudo sets a PATH of its own: give the program's full path)"
    return ""


def _cannot_start(name: str, code: int) -> str:
    remedies = {
        errno.ENOENT: "no such file, or the interpreter in its first line is missing",
        errno.EACCES: f"it is not executable; chmod +x {name} makes it so",
        errno.ENOEXEC: "it is neither a program nor a script that begins with #!",
    }
    return f"cannot start '{name}': {remedies.get(code, os.strerror(code))}"


def _keep_exit_statuses() -> None:
    """A caller may have made us ignore SIGCHLD, and then the kernel throws exit codes away."""
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _become(
    path: str,
    command: tuple[str, ...],
    go: int,
    failure: int,
    mask: Iterable[int],
    close: Sequence[int],
) -> NoReturn:
    """The child: waits for the word, then becomes the command. Never returns to our code."""
    try:
        for descriptor in close:
            os.close(descriptor)
        _restore_signals(mask)
        if os.read(go, 1) == _GO:  # nothing comes when the agent died first
            os.execv(path, command)  # noqa: S606
    except OSError as error:
        os.write(failure, str(error.errno).encode("ascii"))
    finally:
        os._exit(_NEVER_STARTED)


def _restore_signals(mask: Iterable[int]) -> None:
    """Default handling of what Python or we changed; what our caller ignored stays ignored."""
    for signum in signal.valid_signals():
        if signum in _IGNORED_BY_PYTHON or callable(signal.getsignal(signum)):
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
