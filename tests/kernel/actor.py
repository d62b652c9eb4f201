"""A process that does with sockets what a test tells it to, one system call at a time.

Commands come as JSON lines on stdin: {id, thread, verb, arguments}; the answer to each is a JSON
line {id, result | error, began_ns, ended_ns} on stdout. Bytes travel as Latin-1 text. A command
runs on the thread it names, made when first named ("" is the main thread), so that a test can
build any program it likes: thread per connection, an event loop, a pipeline, a fork.

    actor.py [NAME=FD ...]        sockets that were inherited
"""

import array
import ctypes
import fcntl
import json
import mmap
import os
import queue
import select
import socket
import struct
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers" / "programs" / "raw"))

import rawio
import uring

_LIBC = ctypes.CDLL(None, use_errno=True)
_SO_ZEROCOPY, _MSG_ZEROCOPY = 60, 0x4000000
_FROM_ZEROCOPY = 5  # SO_EE_ORIGIN_ZEROCOPY
_LIMIT_S = 30.0
_SIZE = 65536

sockets: dict[str, socket.socket] = {}
verbs: dict[str, Callable[..., Any]] = {}


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that tests may call by its name."""
    verbs[function.__name__] = function
    return function


def _new_socket(family: str) -> socket.socket:
    sock = socket.socket(getattr(socket, family), socket.SOCK_STREAM)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _address(address: Any) -> Any:
    return tuple(address) if isinstance(address, list) else address.replace("@", "\0", 1)


@verb
def listen(name: str, family: str, address: Any, reuse_port: bool = False) -> Any:
    """Listens; gives the address, with the port that was chosen."""
    sock = _new_socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(_address(address))
    sock.listen(1024)
    sockets[name] = sock
    return address if sock.family == socket.AF_UNIX else list(sock.getsockname()[:2])


@verb
def accept(listener: str, name: str) -> None:
    sockets[name], _ = sockets[listener].accept()
    sockets[name].setblocking(True)
    if sockets[name].family != socket.AF_UNIX:
        sockets[name].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@verb
def try_accept(listener: str, name: str) -> bool:
    """Accepts from a listener that does not block; whether there was somebody."""
    try:
        sockets[name], _ = sockets[listener].accept()
    except BlockingIOError:
        return False
    sockets[name].setblocking(True)
    return True


@verb
def connect(name: str, family: str, address: Any) -> Any:
    """Connects; gives the own address."""
    sock = _new_socket(family)
    sock.settimeout(None)
    sock.connect(_address(address))
    sockets[name] = sock
    return None if sock.family == socket.AF_UNIX else list(sock.getsockname()[:2])


@verb
def begin_connect(name: str, address: Any) -> None:
    """Asks for a connection, which may take as long as it likes."""
    sock = _new_socket("AF_INET")
    sock.setblocking(False)
    sock.connect_ex(_address(address))
    sockets[name] = sock


@verb
def end_connect(name: str) -> None:
    """Waits until the connection is there."""
    poll = select.poll()
    poll.register(sockets[name], select.POLLOUT)
    assert poll.poll(1000 * _LIMIT_S)
    sockets[name].setblocking(True)
    sockets[name].getpeername()


@verb
def connect_zerocopy(name: str, address: Any) -> None:
    """Connects a socket that may send without copying."""
    sock = _new_socket("AF_INET")
    sock.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
    sock.connect(_address(address))
    sockets[name] = sock


@verb
def unread(name: str) -> int:
    """What FIONREAD says."""
    buffer = array.array("i", [0])
    fcntl.ioctl(sockets[name], termios.FIONREAD, buffer, True)
    return buffer[0]


@verb
def set_blocking(name: str, on: bool) -> None:
    sockets[name].setblocking(on)


@verb
def set_option(name: str, option: str, value: int) -> None:
    sockets[name].setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)


@verb
def no_delay(name: str, on: bool = True) -> None:
    sockets[name].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, on)


@verb
def user_timeout(name: str, ms: int) -> None:
    sockets[name].setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ms)


def _wait(sock: socket.socket, events: int) -> None:
    poll = select.poll()
    poll.register(sock, events)
    if not poll.poll(_LIMIT_S * 1000):
        raise TimeoutError("the peer did not move")


@verb
def send(name: str, pieces: list[str], how: str = "send") -> None:
    """Sends the pieces, all of them, in one call where the way to send has vectors."""
    if how == "zerocopy":
        _send_zerocopy(sockets[name], pieces)
        return
    rawio.SENDERS[how](sockets[name], [piece.encode("latin-1") for piece in pieces])


def _send_zerocopy(sock: socket.socket, pieces: list[str]) -> None:
    sock.setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, 1)
    for piece in pieces:
        rest = memoryview(piece.encode("latin-1"))
        while rest:
            rest = rest[sock.send(rest, _MSG_ZEROCOPY) :]


@verb
def may_send_uncopied(name: str, on: bool = True) -> None:
    """Sets SO_ZEROCOPY."""
    sockets[name].setsockopt(socket.SOL_SOCKET, _SO_ZEROCOPY, on)


@verb
def send_uncopied(name: str, data: str) -> list[list[int]]:
    """Sends without copying; how many calls that were, and which completions came of them: the
    numbers of the first and the last send of each."""
    rest, calls = memoryview(data.encode("latin-1")), 0
    while rest:
        rest = rest[sockets[name].send(rest, _MSG_ZEROCOPY) :]
        calls += 1
    return [[calls], *_completions(sockets[name], calls)]


def _completions(sock: socket.socket, wanted: int) -> Iterator[list[int]]:
    """All that come until these many sends are complete, and what came with them."""
    deadline, complete = time.monotonic() + _LIMIT_S, 0
    poll = select.poll()
    poll.register(sock, 0)  # errors are always told
    while time.monotonic() < deadline:
        for first, last in _told(sock):
            complete += last - first + 1
            yield [first, last]
        if complete >= wanted:
            return
        poll.poll(1000)


def _told(sock: socket.socket) -> Iterator[tuple[int, int]]:
    while True:
        try:
            _, ancillary, _, _ = sock.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        for _, _, data in ancillary:
            _, origin, _, _, _, first, last = struct.unpack_from("IBBBBII", data)
            assert origin == _FROM_ZEROCOPY, origin
            yield first, last


@verb
def try_options(name: str, options: list[Any]) -> list[int]:
    """What setsockopt() says to each of these (level, option, length): 0 or the error."""
    return [_try_option(sockets[name], *option) for option in options]


def _try_option(sock: socket.socket, level: int, option: int, length: int, null: bool) -> int:
    value = None if null else ctypes.create_string_buffer(b"\1", max(length, 1))
    failed = _LIBC.setsockopt(sock.fileno(), level, option, value, length)
    return int(ctypes.get_errno()) if failed else 0


_rings: list[uring.Ring] = []


@verb
def make_ring() -> None:
    """A ring that stays."""
    _rings.append(uring.Ring())


@verb
def send_by_ring(name: str, data: str, uncopied: bool) -> int:
    """What io_uring answers to a send by a new ring: bytes, or an error's number below 0."""
    with uring.Ring() as ring:
        how = uring.SEND_ZC if uncopied else uring.SEND
        return ring.send(sockets[name], data.encode("latin-1"), how)


@verb
def send_untouched(name: str, data: str) -> None:
    """Sends what lies in a page of a file that is mapped, and that nobody has touched yet."""
    with tempfile.TemporaryFile() as file:
        file.write(data.encode("latin-1"))
        file.flush()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            sockets[name].sendall(mapped)


@verb
def send_each(name: str, pieces: list[str], how: str = "send") -> None:
    """Sends each piece by a call of its own."""
    for piece in pieces:
        rawio.SENDERS[how](sockets[name], [piece.encode("latin-1")])


@verb
def send_vector(name: str, pieces: list[str], how: str) -> None:
    """One call with exactly these pieces, empty ones too; all of it must be taken."""
    data = [piece.encode("latin-1") for piece in pieces]
    if how == "writev":
        sent = os.writev(sockets[name].fileno(), data)
    elif how == "sendmsg":
        sent = sockets[name].sendmsg(data)
    else:
        sent = rawio._send_by_sendmmsg(sockets[name], [memoryview(piece) for piece in data])
    if sent != sum(len(piece) for piece in data):
        raise ValueError(f"only {sent} bytes were taken")


@verb
def peek(name: str, size: int) -> int:
    return len(sockets[name].recv(size, socket.MSG_PEEK))


@verb
def send_once(name: str, data: str) -> int:
    """One send; gives how much was taken, 0 when the socket is full."""
    try:
        return sockets[name].send(data.encode("latin-1"))
    except BlockingIOError:
        return 0


@verb
def send_pattern(name: str, head: str, pattern: str, size: int, call_size: int) -> int:
    """Sends a head and `size` bytes of a repeated pattern, `call_size` bytes offered a call, and
    what a call refuses again in the next one. Gives how many calls were cut short."""
    sock = sockets[name]
    repeated = pattern.encode("latin-1") * (size // len(pattern) + 1)
    rest = memoryview(head.encode("latin-1") + repeated[:size])
    short = 0
    while rest:
        offered = rest[:call_size]
        try:
            sent = sock.send(offered)
        except BlockingIOError:
            sent = 0
        short += sent < len(offered)
        rest = rest[sent:]
        if sent < len(offered):
            _wait(sock, select.POLLOUT)
    return short


@verb
def send_file(name: str, head: str, pattern: str, size: int, how: str) -> None:
    """Sends a head by send(), then `size` bytes of a repeated pattern by sendfile or splice."""
    sock = sockets[name]
    body = (pattern.encode("latin-1") * (size // len(pattern) + 1))[:size]
    sock.sendall(head.encode("latin-1"), socket.MSG_MORE)
    rawio.SENDERS[how](sock, [body])


@verb
def receive(name: str, size: int = _SIZE, how: str = "recv") -> str:
    """One receiving call; "" at the end of the stream."""
    return _receive(sockets[name], size, how).decode("latin-1")


def _receive(sock: socket.socket, size: int, how: str) -> bytes:
    if how == "recvmmsg-one":
        return _receive_one_by_recvmmsg(sock, size)
    if how == "trunc":
        received = _LIBC.recv(sock.fileno(), None, size, socket.MSG_TRUNC)
        return b"\0" * int(rawio._checked(received))
    return rawio.RECEIVERS[how](sock, size)


def _receive_one_by_recvmmsg(sock: socket.socket, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    messages = rawio._Messages([buffer], [size])
    rawio._checked(_LIBC.recvmmsg(sock.fileno(), messages.array, 1, 0, None))
    return bytes(buffer.raw[: messages.array[0].length])


@verb
def receive_to(name: str, mark: str, size: int = _SIZE, how: str = "recv") -> str:
    """Receives until what came ends in `mark`."""
    wanted, got = mark.encode("latin-1"), b""
    while not got.endswith(wanted):
        some = _receive(sockets[name], size, how)
        if not some:
            raise EOFError(f"the stream ended after {got[-80:]!r}")
        got += some
    return got.decode("latin-1")


@verb
def turn(name: str, mark: str, to: str, pieces: list[str], datagram: bool = False) -> None:
    """Receives until what came ends in `mark` and sends the pieces, each in a call, to another,
    without any wait between: a turn of a loop. datagram: one is read before they are sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("127.0.0.1", 0))
        own.sendto(b"192.0.2.1", own.getsockname())
        receive_to(name, mark)
        if datagram:
            own.recv(_SIZE)
        send_each(to, pieces)


@verb
def receive_count(name: str, count: int, size: int = _SIZE, how: str = "recv") -> int:
    """Receives exactly `count` bytes, `size` a call; gives how many calls that took."""
    calls = 0
    while count:
        _wait(sockets[name], select.POLLIN)
        got = len(_receive(sockets[name], min(size, count), how))
        if not got:
            raise EOFError(f"{count} bytes are missing")
        count -= got
        calls += 1
    return calls


@verb
def receive_splice(name: str, count: int) -> int:
    """Moves exactly `count` bytes from the socket to /dev/null by splice; gives the calls."""
    reading, writing = os.pipe()
    sink = os.open("/dev/null", os.O_WRONLY)
    calls = 0
    while count:
        moved = os.splice(sockets[name].fileno(), writing, min(_SIZE, count))
        count -= moved
        calls += 1
        while moved:
            moved -= os.splice(reading, sink, moved)
    for descriptor in (reading, writing, sink):
        os.close(descriptor)
    return calls


@verb
def receive_all(name: str, size: int = _SIZE) -> str:
    """Everything up to the end of the stream."""
    got = b""
    while some := sockets[name].recv(size):
        got += some
    return got.decode("latin-1")


@verb
def receive_failing(name: str) -> str:
    """Receives until that fails; gives the error's name."""
    try:
        while sockets[name].recv(_SIZE):
            pass
    except OSError as error:
        return type(error).__name__
    return ""


@verb
def end_sending(name: str) -> None:
    sockets[name].shutdown(socket.SHUT_WR)


@verb
def close(name: str) -> None:
    sockets.pop(name).close()


@verb
def close_all() -> None:
    """Closes every socket there is."""
    while sockets:
        sockets.popitem()[1].close()


@verb
def reset(name: str) -> None:
    rawio.reset(sockets.pop(name))


@verb
def many(family: str, address: Any, first: int, count: int) -> None:
    """Makes `count` requests, a connection each; the answers end with the connection."""
    for n in range(first, first + count):
        with _new_socket(family) as sock:
            sock.connect(_address(address))
            sock.sendall(b"GET /n/%d HTTP/1.1\r\nHost: many\r\n\r\n" % n)
            while sock.recv(_SIZE):
                pass


@verb
def answer_many(listener: str, count: int) -> None:
    """Accepts `count` connections, answers one request on each and closes it."""
    for _ in range(count):
        sock, _ = sockets[listener].accept()
        with sock:
            sock.recv(_SIZE)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@verb
def answer_loop(listener: str, count: int) -> None:
    """As answer_many, but all connections are taken before the first is answered."""
    taken = [sockets[listener].accept()[0] for _ in range(count)]
    for sock in taken:
        with sock:
            sock.recv(_SIZE)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@verb
def ask_at_once(port: int, first: int, count: int) -> None:
    """Makes `count` requests on as many connections, and only then reads the answers."""
    asked = []
    for n in range(first, first + count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(b"GET /n/%d HTTP/1.1\r\nHost: once\r\n\r\n" % n)
        asked.append(sock)
    for sock in asked:
        while sock.recv(_SIZE):
            pass
        sock.close()


@verb
def ask(name: str, first: int, count: int) -> None:
    """Makes `count` requests on one connection, one after the other."""
    sock = sockets[name]
    for n in range(first, first + count):
        sock.sendall(b"GET /n/%d HTTP/1.1\r\nHost: ask\r\n\r\n" % n)
        sock.recv(_SIZE)


@verb
def answer(name: str, count: int) -> None:
    """Answers `count` requests that come whole and one after the other on one connection."""
    sock = sockets[name]
    for _ in range(count):
        sock.recv(_SIZE)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


_asked = 0
_enough = threading.Event()


@verb
def ask_on(name: str) -> None:
    """As ask, until `enough`; then it closes the connection. On a thread of its own."""
    global _asked
    with sockets.pop(name) as sock:
        while not _enough.is_set():
            sock.sendall(b"GET /n/%d HTTP/1.1\r\nHost: on\r\n\r\n" % _asked)
            if not sock.recv(_SIZE):
                raise ConnectionError("no answer")
            _asked += 1


@verb
def asked() -> int:
    """How many requests of `ask_on` were answered."""
    return _asked


@verb
def enough() -> None:
    _enough.set()


@verb
def answer_on(name: str) -> None:
    """As answer, until the connection's end."""
    sock = sockets[name]
    while sock.recv(_SIZE):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@verb
def fork() -> int:
    """Goes on in a child, which has all sockets; the parent waits for it. Gives its pid."""
    child = os.fork()
    if child:
        for sock in sockets.values():
            sock.close()
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    return os.getpid()


@verb
def fork_aside(name: str) -> int:
    """Forks a child that only holds socket `name`, and sleeps. Gives its pid."""
    child = os.fork()
    if not child:
        for other, sock in sockets.items():
            if other != name:
                sock.close()
        os.close(0)
        os.close(1)
        threading.Event().wait()
    sockets.pop(name).close()
    return child


@verb
def execute() -> None:
    """Becomes a fresh actor program with all sockets."""
    for sock in sockets.values():
        sock.set_inheritable(True)
    given = [f"{name}={sock.fileno()}" for name, sock in sockets.items()]
    os.execv(sys.executable, [sys.executable, __file__, *given])  # noqa: S606


@verb
def pid() -> int:
    return os.getpid()


@verb
def thread_id() -> int:
    return threading.get_native_id()


_print_lock = threading.Lock()


def _answer(**fields: Any) -> None:
    with _print_lock:
        os.write(1, json.dumps(fields).encode() + b"\n")


def _carry_out(command: dict[str, Any]) -> None:
    began_ns = time.monotonic_ns()
    try:
        outcome: dict[str, Any] = {"result": verbs[command["verb"]](**command["arguments"])}
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}"}
    _answer(id=command["id"], began_ns=began_ns, ended_ns=time.monotonic_ns(), **outcome)


def _work(commands: "queue.SimpleQueue[dict[str, Any]]") -> None:
    while True:
        _carry_out(commands.get())


def _start_thread() -> "queue.SimpleQueue[dict[str, Any]]":
    commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_work, args=(commands,), daemon=True).start()
    return commands


def _lines() -> Iterator[bytes]:
    """Lines of stdin. A test sends one and waits or sends the next, so what one read brings is
    whole lines; nothing is kept back that a program executed later would miss."""
    waiting = b""
    while some := os.read(0, 1 << 20):
        *lines, waiting = (waiting + some).split(b"\n")
        yield from lines


def main() -> None:
    for given in sys.argv[1:]:
        name, _, descriptor = given.partition("=")
        sockets[name] = socket.socket(fileno=int(descriptor))
    threads: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
    _answer(id=0, result=os.getpid(), began_ns=0, ended_ns=0)
    for line in _lines():
        command = json.loads(line)
        if not command["thread"]:
            _carry_out(command)
            continue
        if command["thread"] not in threads:
            threads[command["thread"]] = _start_thread()
        threads[command["thread"]].put(command)


if __name__ == "__main__":
    main()
