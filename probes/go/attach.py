"""Attaches to a running Go program: where its goroutines are, and who asks for a call.

All that is needed is in the program's file (binary.py): the version of Go, which says
where the runtime keeps what (table.py), and the entries of the few functions in which
work passes from one goroutine to another. Of each the instruction is chosen that costs
least (instructions.py); what cannot be had cheaply is left alone, and said.

A version of Go that is newer than the table is read as the newest that is known; the
kernel side then believes nothing before the runtime's own word for who made a goroutine
agrees with ours, and nothing after it has once disagreed (waggle_go.must_agree).

No process is stopped and nothing is written into one.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.attach import NotYetError, RefusedError, Target
from waggle.errors import WaggleError
from waggle.layout import GoLimit, GoVerdict, Register
from waggle.libbpf import Link, Map, Program
from waggle.probes.go.binary import (
    Function,
    GoProgram,
    NoGoProgramError,
    build_id,
    code_of,
    read_program,
)
from waggle.probes.go.handlers import HANDLERS
from waggle.probes.go.sparing import Births, Introductions, Names, Routes
from waggle.probes.go.table import GO as OFFSETS
from waggle.probes.go.table import GRPC, ROUTERS
from waggle.probes.tls.attach import SINCE, tell_since
from waggle.process_memory import file_mappings
from waggle.runtimes import GO, go_build

if TYPE_CHECKING:  # needs capstone, which is large, and few runs meet a Go program
    from waggle.probes.go import instructions

PROCESSES, FUNCTIONS, POOLS = "go_processes", "go_functions", "go_pools"
_POOL_EPOCH = 4  # which of the words of a struct go_pool_key (bpf/go_claims.h)

_Rows = npt.NDArray[np.void]

_BIRTH, _READY = "runtime.newproc.func1", "runtime.runqput"
_SLOT = "runtime.asmcgocall"
_TLS_READ = "crypto/tls.(*Conn).Read"
_COPY = "runtime.memmove"
_OWN_HTTP2 = "net/http/internal/http2.(*serverConn).runHandler"
_TLS = ("go_tls_write", "go_tls_read", "go_tls_did_read")
# BPF program -> the functions at whose entry it looks; the names differ between versions.
_ENTRIES: dict[str, tuple[str, ...]] = {
    "go_round_trip": ("net/http.(*persistConn).roundTrip",),
    "go_conn_serve": ("net/http.(*conn).serve",),
    "go_serve_http": ("net/http.serverHandler.ServeHTTP",),
    "go_http2_handler": (
        "net/http.(*http2serverConn).runHandler",
        "golang.org/x/net/http2.(*serverConn).runHandler",
    ),
    "go_http2_own": (_OWN_HTTP2,),
    "go_http2_call": (
        "net/http.(*http2clientStream).encodeAndWriteHeaders",
        "golang.org/x/net/http2.(*clientStream).encodeAndWriteHeaders",
    ),
    "go_http2_own_call": ("net/http/internal/http2.(*clientStream).encodeAndWriteHeaders",),
    "go_tls_write": ("crypto/tls.(*Conn).Write",),
    "go_tls_read": (_TLS_READ,),
}
# Of grpc's server, whose fields move from version to version.
_GRPC_HANDLER = "google.golang.org/grpc.(*Server).handleStream"
_BORN, _INTRODUCES = "go_birth", "go_serve_http"
_NAME_CALLS = ("go_http2_call", "go_http2_own_call")
_ROUTES, _ROUTES_WANTED = "go_route_servemux", "go_timeout"
# Of grpc's client: the function in which a new stream gets its number, and what it calls then.
_NEW_STREAM = "google.golang.org/grpc/internal/transport.(*http2Client).NewStream"
_ASSIGN = "runtime.mapassign_fast32"
# Where that cannot be understood: a call in NewStream itself, and who takes what it gives.
_PUT = "google.golang.org/grpc/internal/transport.(*controlBuffer).executeAndPut"
_SEND_HEADERS = (
    "google.golang.org/grpc/internal/transport.(*loopyWriter).headerHandler",
    "google.golang.org/grpc/internal/transport.(*loopyWriter).clientHeaderHandler",
)
_GRPC = "google.golang.org/grpc"
# Routers: the module -> what is hooked (_Chooser.router_hooks).
_GIN, _CHI = "github.com/gin-gonic/gin", "github.com/go-chi/chi/v5"
_MUX, _ECHO = "github.com/gorilla/mux", "github.com/labstack/echo/v4"
_GIN_HANDLE = f"{_GIN}.(*Engine).handleHTTPRequest"
_CHI_ROUTE, _CHI_FIND = f"{_CHI}.(*Mux).routeHTTP", f"{_CHI}.(*node).FindRoute"
_MUX_MATCHED = f"{_MUX}.requestWithRoute"
_ECHO_SERVE, _ECHO_FIND = f"{_ECHO}.(*Echo).ServeHTTP", f"{_ECHO}.(*Router).Find"
_ECHO_CLOSURE, _ECHO_APPLY = f"{_ECHO}.(*Echo).add.func1", f"{_ECHO}.applyMiddleware"
# net/http's own: it tells where the Request that is kept does not (_Chooser.servemux_hooks).
_SERVEMUX, _SERVEMUX_FIND = "net/http.(*ServeMux).ServeHTTP", "net/http.(*ServeMux).findHandler"
_TIMEOUT = "net/http.(*timeoutHandler).ServeHTTP"
# The function without which a module routes nothing.
_ROUTERS = {_GIN: _GIN_HANDLE, _CHI: _CHI_ROUTE, _MUX: _MUX_MATCHED, _ECHO: _ECHO_SERVE}
_ROUTER_FUNCTIONS = (
    *(_GIN_HANDLE, _CHI_ROUTE, _CHI_FIND, _MUX_MATCHED),
    *(_ECHO_SERVE, f"{_ECHO_SERVE}.func1", _ECHO_FIND, _ECHO_CLOSURE, _ECHO_APPLY),
    *(_SERVEMUX, _SERVEMUX_FIND, _TIMEOUT),
)
# Channels (_Chooser.channel_hooks): who gives to one that waits, or takes from one; and how
# something is put into a buffer, and leaves it.
_CHANNEL_SEND, _CHANNEL_RECEIVE = "runtime.send", "runtime.recv"
_TO_CHANNEL, _FROM_CHANNEL, _SELECT = "runtime.chansend", "runtime.chanrecv", "runtime.selectgo"
_MOVE, _CLEAR = "runtime.typedmemmove", "runtime.typedmemclr"
_CHANNEL_FUNCTIONS = (
    *(_CHANNEL_SEND, _CHANNEL_RECEIVE, _TO_CHANNEL, _FROM_CHANNEL, _SELECT),
    *(_MOVE, _CLEAR),
)
# BPF program -> whose calls of what it looks at, and how many there are at least.
_CHANNEL_CALLS = (
    ("go_channel_put", _TO_CHANNEL, _MOVE, 1),
    ("go_channel_put", _SELECT, _MOVE, 2),
    ("go_channel_take", _FROM_CHANNEL, _CLEAR, 1),
    ("go_channel_take", _SELECT, _CLEAR, 1),
)
# What the names of functions begin with that goroutines run, and what is known of them.
_VERDICTS: dict[str, GoVerdict] = {
    # Readers and writers of pooled connections: made by whoever dialled, they live on.
    "net/http.(*Transport).dialConn": GoVerdict.PUMP,
    "net/http.(*persistConn).": GoVerdict.PUMP,
    "net/http.(*connReader).": GoVerdict.PUMP,
    "net/http.(*http2Transport).": GoVerdict.PUMP,
    "net/http/internal/http2.(*Transport).": GoVerdict.PUMP,
    "golang.org/x/net/http2.(*Transport).": GoVerdict.PUMP,
    "google.golang.org/grpc/internal/transport.": GoVerdict.PUMP,
    "database/sql.(*DB).connection": GoVerdict.PUMP,
    # One for each request, by whoever asks for it.
    "net/http.(*http2ClientConn).roundTrip": GoVerdict.ENDS,
    "net/http.(*http2ClientConn).RoundTrip": GoVerdict.ENDS,
    "net/http/internal/http2.(*ClientConn).roundTrip": GoVerdict.ENDS,
    "net/http/internal/http2.(*ClientConn).RoundTrip": GoVerdict.ENDS,
    "golang.org/x/net/http2.(*ClientConn).roundTrip": GoVerdict.ENDS,
    "golang.org/x/net/http2.(*ClientConn).RoundTrip": GoVerdict.ENDS,
}
_FIELDS = (
    *("goid", "parent_goid", "start", "status", "m", "curg"),
    *("persist_conn", "request_ctx", "descriptor", "family", "http2_conn", "http2_stream"),
    *("http2_ctx", "conn_cancel", "conn_response", "response_conn", "response_request"),
    "conn_hijacked",
    *("request_pattern", "http2_own_conn", "grpc_conn", "grpc_stream", "grpc_indirect", "grpc_ctx"),
    *("grpc_client_conn", "grpc_call_client", "grpc_call_stream"),
    *("routers", "gin_place", "gin_path", "gin_request", "gin_handlers"),
    *("chi_place", "chi_patterns", "chi_parent", "chi_handler"),
    *("mux_path", "mux_template", "mux_handler"),
    *("echo_place", "echo_before_place", "echo_path", "echo_request"),
    *("echo_handler", "echo_captured", "servemux_place"),
    *("channel_type", "channel_next"),
    *("request_method", "request_uri", "request_url", "url_opaque", "url_path", "url_raw_path"),
    *("url_query", "url_force_query", "own_method", "own_uri", "own_call_method", "own_call_url"),
    "grpc_method",
)
# Without these no name is read. Nothing would tell a wrong text from the right one, so a layout
# that is only a guess has none of them.
_NAMES = frozenset({"request_uri", "url_path", "own_uri", "own_call_url"})
# For functions whose goroutines call less often than this births are not looked at.
_RARELY_NS = 300 * 10**9
_OLDEST = (1, 17)
_PLANS_KEPT = 256
_USUAL_FUNCTION, _LONG_FUNCTION = 4096, 16384  # bytes of code that are read at most


class Kernel(Protocol):
    """What the probe needs of the loaded BPF object."""

    def map(self, name: str) -> Map: ...

    def attach_in_process(
        self, program: str | Program, binary: str, *, offset: int, pid: int
    ) -> Link: ...

    def detach(self, link: Link) -> None: ...

    def detach_soon(self, links: Iterable[Link]) -> "Future[None]": ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to every process of a program.

    hooks: BPF program and where in the file it is put. verdicts: address of a function
    that goroutines run, as in the file. missing: what could not be had, in words.
    """

    program: GoProgram
    slot: int
    offsets: Mapping[str, int]
    is_guess: bool
    hooks: tuple[tuple[str, int], ...]
    verdicts: Mapping[int, GoVerdict]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hook:
    """A BPF program, and where it is put."""

    program: str
    path: str
    offset: int


class GoProbe:
    """Rule `goroutine` for programs written in Go; with tls also what is in crypto/tls. What plans
    hooks of channels is there for workers that get their work through those."""

    name = "go"

    def __init__(
        self,
        kernel: Kernel,
        plans: "Plans",
        *,
        tls: bool = False,
    ) -> None:
        self._kernel = kernel
        self._plans = plans
        self._tls = tls
        self._epochs = itertools.count(1)
        self._began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._expected: dict[int, GoAttachment] = {}  # processes that have not executed it yet
        self._latest: dict[int, GoAttachment] = {}  # as long as anything of it is attached

    def wants(self, target: Target) -> bool:
        return target.runtime.name == GO

    def expect(self, tgid: int, path: str) -> None:
        """A process will execute this file next: all is there before its first instruction, if
        the file is a program of Go's that can be read. The kernel sets a uprobe when a process
        maps the file, and go_executes() in bpf/process.h makes the addresses true."""
        plan = self._plans.prepared(path)
        if plan is None:
            return
        row = _row(plan, 0, next(self._epochs))
        row["arrives"] = 1
        with suppress(WaggleError, OSError):  # then it is tried again when it was executed
            self._expected[tgid] = self._attach(tgid, plan, row, path, is_old=False)

    def attach(self, target: Target) -> "GoAttachment":
        """Attach to the process. Raises NotYetError or RefusedError."""
        path = f"/proc/{target.tgid}/exe"
        if target.tgid in self._expected:
            expected = self._expected.pop(target.tgid)
            if expected.has_arrived(path):
                return expected
            expected.close()
        plan = self._plans.of(path)
        bias = _bias(target.tgid, plan.program)
        row = _row(plan, bias, next(self._epochs))
        is_old = target.start_ns <= self._began_ns  # and so may its connections be
        row["old"] = GoLimit.SERVED if is_old else 0
        HANDLERS.add(int(row["epoch"][0]), path, bias)
        return self._attach(target.tgid, plan, row, path, is_old=is_old)

    def _attach(
        self, tgid: int, plan: Plan, row: _Rows, path: str, *, is_old: bool
    ) -> "GoAttachment":
        """row: layout.GO. Raises WaggleError or OSError."""
        epoch = int(row["epoch"][0])
        before = self._latest.get(tgid)
        if before is not None:  # no program may run twice for one hit
            before.wait()
        functions = self._kernel.map(FUNCTIONS)
        for address, verdict in plan.verdicts.items():
            known = np.zeros(1, layout.GO_FUNCTION)
            known["verdict"] = verdict
            functions.update(_function_key(address, epoch), known.tobytes())
        self._kernel.map(PROCESSES).update(_key(tgid), row.tobytes())
        hooks = [
            Hook(program, path, offset)
            for program, offset in plan.hooks
            if self._tls or program not in _TLS
        ]
        attachment = GoAttachment(
            *(self._kernel, tgid, epoch, hooks), is_guess=plan.is_guess, is_old=is_old
        )
        attachment.attach()
        self._latest[tgid] = attachment
        for gone in [one for one, latest in self._latest.items() if latest.is_gone]:
            del self._latest[gone]
        if self._tls:
            tell_since(self._kernel.map(SINCE), tgid)
        return attachment


class Plans:
    """What to do to programs, worked out once for every file, and once for all its copies
    (containers have theirs). handover: with their channels."""

    def __init__(
        self, say: Callable[[str], None] = lambda text: None, *, handover: bool = False
    ) -> None:
        self._say = say
        self._handover = handover
        self._plans: dict[tuple[int, ...] | str, Plan] = {}  # by file, and by build id

    @staticmethod
    def warm() -> None:
        """Import what reading a program takes: where one may be met that shall not wait for it."""
        import elftools.elf.elffile

        from waggle.probes.go import instructions

        assert elftools and instructions

    def prepared(self, path: str) -> Plan | None:
        """That of a file which may be anything: None where it is no program of Go's, or cannot
        be read. It is asked for again when it runs, and then says why."""
        if go_build(path) is None:
            return None
        with suppress(WaggleError, OSError):
            return self.of(path)
        return None

    def of(self, path: str) -> Plan:
        """That of a program. Raises RefusedError, and OSError when it cannot be read."""
        with Path(path).open("rb") as stream:
            state = os.fstat(stream.fileno())
            file = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
            if file not in self._plans:
                # It may end while it is read; the next one that runs this is known then.
                self._read(f"/proc/self/fd/{stream.fileno()}", file)
            return self._plans[file]

    def _read(self, path: str, file: tuple[int, ...]) -> None:
        build = build_id(path)
        plan = self._plans.get(build) if build else None
        if plan is None:
            plan = make_plan(path, handover=self._handover)
            for what in plan.missing:
                self._say(f"go: {Path(path).resolve().name}: {what}")
        for key in (build, file):
            if key:
                self._remember(key, plan)

    def _remember(self, key: tuple[int, ...] | str, plan: Plan) -> None:
        if len(self._plans) >= _PLANS_KEPT:
            self._plans.pop(next(iter(self._plans)))
        self._plans[key] = plan


class GoAttachment:
    """One Go program that is looked into."""

    def __init__(
        self,
        kernel: Kernel,
        tgid: int,
        epoch: int,
        hooks: Iterable[Hook],
        *,
        is_guess: bool,
        is_old: bool = False,
    ) -> None:
        self._kernel = kernel
        self._tgid = tgid
        self._epoch = epoch
        self._is_guess = is_guess
        hooks = tuple(hooks)
        self._switches = {
            name: _Switch(self, [hook for hook in hooks if hook.program == name])
            for name in {hook.program for hook in hooks}
        }
        self._path = ""  # where the file of all hooks is now, if not where they say
        self._links: dict[Hook, Link] = {}
        self._gone: Future[None] | None = None
        self._births = Births(self._switch(_BORN), self._is_asked_for_births)
        self._introductions = Introductions(self._switch(_INTRODUCES))
        self._routes = Routes(self._switch(_ROUTES), self._switch(_ROUTES_WANTED))
        self._names = [Names(self._switch(program), is_on=is_old) for program in _NAME_CALLS]
        self._later = () if is_old else _NAME_CALLS

    def attach(self) -> None:
        """Attach everything. Raises WaggleError or OSError, with nothing attached."""
        try:
            for name, switch in self._switches.items():
                if name not in self._later:
                    switch.attach()
        except BaseException:
            self.close()
            raise

    def hook(self, hook: Hook) -> None:
        if hook not in self._links:
            self._links[hook] = self._kernel.attach_in_process(
                hook.program, self._path or hook.path, offset=hook.offset, pid=self._tgid
            )

    def has_arrived(self, path: str) -> bool:
        """Whether the process has executed the program that was expected. path: where that is from
        now on: what it was executed from may be replaced."""
        found = self._kernel.map(PROCESSES).lookup(_key(self._tgid))
        row = np.frombuffer(found, layout.GO)[0] if found is not None else None
        if row is None or row["epoch"] != self._epoch or row["arrives"]:
            return False
        self._path = path
        HANDLERS.add(self._epoch, path, int(row["bias"]))
        return True

    def unhook(self, hook: Hook) -> None:
        link = self._links.pop(hook, None)
        if link is not None:
            self._kernel.detach(link)

    def look(self) -> str | None:
        found = self._kernel.map(PROCESSES).lookup(_key(self._tgid))
        if found is None:
            return None
        row = np.frombuffer(found, layout.GO)[0]
        self._births.look(row)
        self._introductions.look(row)
        self._routes.look(row)
        for names in self._names:
            names.look(row)
        is_unproven = row["served"] >= GoLimit.SERVED and not row["agrees"]
        if not self._is_guess or not (row["disagrees"] or is_unproven):
            return None
        return (
            "its version of Go keeps goroutines in another way than those that are known: its "
            "calls have no parents; `make go-offsets` with that version teaches it"
        )

    def close(self) -> None:
        """Detach; the functions that were learned of this process are forgotten with it."""
        self._gone = self._kernel.detach_soon(self._links.values())
        self._links.clear()
        found = self._kernel.map(PROCESSES).lookup(_key(self._tgid))
        if found is not None and np.frombuffer(found, layout.GO)["epoch"][0] == self._epoch:
            self._kernel.map(PROCESSES).delete(_key(self._tgid))
        keys, _ = self._functions()
        functions = self._kernel.map(FUNCTIONS)
        for key in keys:
            functions.delete(key.tobytes())
        pools = self._kernel.map(POOLS)
        for pool in pools.items()[0]:
            if pool.view("<u4")[_POOL_EPOCH] == self._epoch:
                pools.delete(pool.tobytes())

    @property
    def is_gone(self) -> bool:
        """Whether close() has been called, and all that it detaches is detached."""
        return self._gone is not None and self._gone.done()

    def wait(self) -> None:
        """Returns when what was closed is detached. Raises what that raised."""
        if self._gone is not None:
            self._gone.result()

    def _switch(self, program: str) -> "_Switch":
        return self._switches.get(program) or _Switch(self, [])

    def _functions(self) -> "tuple[_Rows, _Rows]":
        """What is known of this process's functions: layout.GO_FUNCTION_KEY, GO_FUNCTION."""
        keys, values = self._kernel.map(FUNCTIONS).items()
        names = np.ascontiguousarray(keys).view(layout.GO_FUNCTION_KEY).reshape(-1)
        rows = np.ascontiguousarray(values).view(layout.GO_FUNCTION).reshape(-1)
        mine = names["epoch"] == self._epoch
        return names[mine], rows[mine]

    def _is_asked_for_births(self) -> bool:
        _, rows = self._functions()
        is_recent = rows["caller_ns"].astype(np.int64) > time.monotonic_ns() - _RARELY_NS
        is_open = (rows["told"] == 0) & (rows["in_vain"] < GoLimit.IN_VAIN)
        may_tell = np.isin(rows["verdict"], (GoVerdict.UNKNOWN, GoVerdict.ENDS))
        return bool(np.any((rows["caller"] != 0) & is_recent & is_open & may_tell))


class _Switch:
    """The probes of one BPF program in one process."""

    def __init__(self, attachment: GoAttachment, hooks: list[Hook]) -> None:
        self._attachment = attachment
        self._hooks = hooks

    def attach(self) -> None:
        for hook in self._hooks:
            self._attachment.hook(hook)

    def on(self) -> None:
        with suppress(WaggleError, OSError):  # the process may end this very moment
            self.attach()

    def off(self) -> None:
        for hook in self._hooks:
            self._attachment.unhook(hook)


def _key(tgid: int) -> bytes:
    return tgid.to_bytes(4, "little")


def _function_key(address: int, epoch: int) -> bytes:
    row = np.zeros(1, layout.GO_FUNCTION_KEY)
    row["address"], row["epoch"] = address, epoch
    return row.tobytes()


def _row(plan: Plan, bias: int, epoch: int) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
    row = np.zeros(1, layout.GO)
    row["low"], row["high"] = plan.program.low + bias, plan.program.high + bias
    row["bias"], (row["code_start"], row["code_end"]) = bias, plan.program.code
    row["slot"], row["epoch"], row["must_agree"] = plan.slot, epoch, plan.is_guess
    for field in _FIELDS:
        row[field] = plan.offsets.get(field, 0)
    if plan.is_guess:
        for field in _NAMES:
            row[field] = 0
    closure = plan.program.functions.get(_ECHO_CLOSURE)
    row["echo_closure"] = closure.address + bias if closure else 0
    return row


def _bias(tgid: int, program: GoProgram) -> int:
    """What is added to the file's addresses in this process. Raises NotYetError."""
    exe = str(Path(f"/proc/{tgid}/exe").readlink())
    for mapping in file_mappings(tgid):
        if mapping.path == exe:
            bias = program.image.bias(mapping.start, mapping.offset)
            if bias is not None:
                return bias
    raise NotYetError("its program is not mapped yet")


# -- What to do -----------------------------------------------------------------------------


def make_plan(path: str, *, handover: bool = False) -> Plan:
    """Read a program's file and decide what to hook; with handover, its channels too. Raises
    RefusedError."""
    names = {name for several in _ENTRIES.values() for name in several}
    others = (
        *(_SLOT, _GRPC_HANDLER, _BIRTH, _READY, _NEW_STREAM, _ASSIGN, _PUT, _COPY),
        *_ROUTER_FUNCTIONS,
        *(_CHANNEL_FUNCTIONS if handover else ()),
    )
    try:
        asked = [*names, *others, *_SEND_HEADERS]
        program = read_program(path, asked, [*_VERDICTS, f"{_NEW_STREAM}.func"])
    except NoGoProgramError as error:
        raise RefusedError(
            f"its functions cannot be found, so its calls have no parents: {error}"
        ) from error
    offsets, is_guess = offsets_of(program.version)
    missing: list[str] = []
    if is_guess:
        missing.append(f"Go {program.version} is newer than what is known; it is verified first")
    chooser = _Chooser(path, program)
    grpc = grpc_offsets_of(program.modules.get(_GRPC, ""))
    hooks = [*chooser.hooks(), *chooser.grpc_hooks(grpc), *chooser.router_hooks()]
    if not is_guess:
        hooks += chooser.servemux_hooks()
    if handover:
        hooks += chooser.channel_hooks(offsets, is_guess=is_guess)
    missing += chooser.missing
    return Plan(
        program=program,
        slot=chooser.slot(),
        offsets={
            **offsets,
            **(grpc or {}),
            **chooser.places,
            # What net/http bundled before 1.27, and x/net has at every version, begins alike.
            "http2_conn": next(iter(OFFSETS.values()))["http2_conn"],
            "http2_own_conn": offsets["http2_conn"],
        },
        is_guess=is_guess,
        hooks=tuple(hooks),
        verdicts=_verdicts(program.functions.values()),
        missing=tuple(missing),
    )


def offsets_of(version: str) -> tuple[Mapping[str, int], bool]:
    """The row of a version of Go, and whether it is only that of the newest that is known.

    Raises RefusedError for what is too old, or says nothing of its version.
    """
    parts = version.split(".")
    minor = "".join(itertools.takewhile(str.isdigit, parts[1])) if len(parts) > 1 else ""
    if not parts[0].isdigit() or not minor:
        raise RefusedError(f"its version of Go makes no sense ({version!r}): no parents")
    number = (int(parts[0]), int(minor))
    if number < _OLDEST:
        raise RefusedError(f"Go {version} is older than 1.17: its calls have no parents")
    known = {tuple(int(part) for part in key.split(".")): row for key, row in OFFSETS.items()}
    if number in known:
        return known[number], False
    return known[max(known)], True


def _verdicts(functions: Iterable[Function]) -> dict[int, GoVerdict]:
    """By address; the longer of two beginnings that fit decides."""
    by_length = sorted(_VERDICTS, key=len, reverse=True)
    found: dict[int, GoVerdict] = {}
    for function in functions:
        for prefix in by_length:
            if function.name.startswith(prefix):
                found[function.address] = _VERDICTS[prefix]
                break
    return found


def grpc_offsets_of(version: str) -> Mapping[str, int] | None:
    """What is known of a version of grpc-go. What is read there must be a stream of that very
    socket, so newer ones may be taken for the newest; but for the name of a call, which
    nothing would tell from another text."""
    found = _module_offsets(GRPC, version)
    if found is None or not _is_newer(GRPC, version):
        return found
    return {field: at for field, at in found.items() if field != "grpc_method"}


def router_offsets_of(module: str, version: str) -> Mapping[str, int] | None:
    """What is known of a version of a router. Nothing would tell a wrong text from the right one,
    so only releases of the newest minor version that is known may be newer than it."""
    table = ROUTERS[module]
    return None if _is_newer(table, version) else _module_offsets(table, version)


def _is_newer(table: Iterable[str], version: str) -> bool:
    """Whether a version is of a newer minor version than all that are known, or makes no sense."""
    newest, number = max(_number(key) or () for key in table), _number(version)
    return number is None or number[:2] > newest[:2]


def _module_offsets(
    table: Mapping[str, Mapping[str, int]], version: str
) -> Mapping[str, int] | None:
    """What is known of a version of a module: measured, or the same before and after it. Newer
    ones are taken for the newest. None where it is not known."""
    number = _number(version)
    if number is None:
        return None
    known = sorted(((_number(key) or (), row) for key, row in table.items()), key=_by_number)
    before = [row for at, row in known if at <= number]
    after = [row for at, row in known if at >= number]
    if not before or (after and after[0] != before[-1]):
        return None
    return before[-1]


def _by_number(row: tuple[tuple[int, ...], Mapping[str, int]]) -> tuple[int, ...]:
    return row[0]


def _number(version: str) -> tuple[int, ...] | None:
    """v1.70.0-dev as (1, 70, 0)."""
    words = version.removeprefix("v").split("-")[0].split("+")[0].split(".")
    return tuple(int(word) for word in words) if all(w.isdigit() for w in words) else None


def _call_to(target: int, code: "instructions.Code") -> int:
    from waggle.probes.go.instructions import call_to

    return call_to(code, target)


def _place(where: str | int) -> int:
    """As enum waggle_register has it; 0 where it has not."""
    if isinstance(where, int):
        return Register.STACK + where
    names = {one.name.lower(): one for one in Register if one is not Register.STACK}
    return names.get(where, names.get(where.removeprefix("r"), Register.NONE))


class _Chooser:
    """Finds instructions for probes in one program."""

    def __init__(self, path: str, program: GoProgram) -> None:
        self.missing: list[str] = []
        self.places: dict[str, int] = {}  # of waggle_go: where go_grpc_call finds what
        self._path = path
        self._program = program

    def hooks(self) -> list[tuple[str, int]]:
        """BPF programs, and where in the file they are put."""
        from waggle.probes.go import instructions

        found: list[tuple[str, int]] = []
        for program, names in _ENTRIES.items():
            for name in names:
                is_once = program == "go_tls_write"  # must not be seen twice
                self._add(
                    found,
                    program,
                    name,
                    instructions.at_stack_check if is_once else instructions.at_entry,
                )
        self._add_call(found, _BORN, _BIRTH, _READY)
        self._add_call(found, "go_tls_did_read", _TLS_READ, _COPY)
        if _BORN not in dict(found):
            self.missing.append(f"no probe on {_BIRTH}: goroutines inherit no request")
        if len([name for name, _ in found if name in _TLS]) != len(_TLS):
            found = [hook for hook in found if hook[0] not in _TLS]  # one side alone says nothing
        return found

    def grpc_hooks(self, offsets: Mapping[str, int] | None) -> list[tuple[str, int]]:
        """The same for grpc. offsets: of its version, None where that is not known."""
        from waggle.probes.go import instructions

        found: list[tuple[str, int]] = []
        if offsets is not None:
            self._add(found, "go_grpc_handler", _GRPC_HANDLER, instructions.at_entry)
            found += self._grpc_call(offsets["grpc_stream"])
        elif _GRPC_HANDLER in self._program.functions:
            self.missing.append("its version of grpc is not known: handlers' calls have no parents")
        if not self.places:
            self._add_call(found, "go_grpc_new_stream", _NEW_STREAM, _PUT)
            for name in _SEND_HEADERS:
                self._add(found, "go_grpc_send_headers", name, instructions.at_entry)
        return found

    def _grpc_call(self, id_offset: int) -> list[tuple[str, int]]:
        """Where a call gets its stream, with `places`; none where it is not as it was."""
        from waggle.probes.go import instructions

        functions = self._program.functions
        assign = functions.get(_ASSIGN)
        for name, function in functions.items():
            if assign is None or not name.startswith(f"{_NEW_STREAM}.func"):
                continue
            with suppress(instructions.NoInstructionError):
                code = self._code(function)
                found = instructions.assignment_of(code, assign.address, id_offset)
                client, stream = _place(found.client), _place(found.stream)
                offset = self._program.image.file_offset(found.address)
                if client and stream and offset is not None:
                    self.places = {"grpc_call_client": client, "grpc_call_stream": stream}
                    return [("go_grpc_call", offset)]
        return []

    def router_hooks(self) -> list[tuple[str, int]]:
        """Where routers other than net/http's have found a handler; their fields go into
        `places`, as does where each probe finds what it reads."""
        from waggle.probes.go import instructions

        found: list[tuple[str, int]] = []
        functions = self._program.functions
        for module, function in _ROUTERS.items():
            if function not in functions:
                continue
            fields = router_offsets_of(module, self._program.modules.get(module, ""))
            if fields is None:
                self.missing.append(f"its version of {module} is not known: no routes")
                continue
            self.places |= fields
            if module == _GIN:
                after = partial(instructions.after_store, offset=fields["gin_path"])
                self._add_place(found, "go_route_gin", _GIN_HANDLE, after)
            elif module == _MUX:
                self._add(found, "go_route_mux", _MUX_MATCHED, instructions.at_entry)
            elif module == _CHI:
                self._add_after(found, "go_route_chi", _CHI_ROUTE, _CHI_FIND, "rbx")
                self._find_chi_handler(found)
            else:
                self._add_after(found, "go_route_echo", _ECHO_SERVE, _ECHO_FIND, "r9")
                before = f"{_ECHO_SERVE}.func1"
                self._add_after(found, "go_route_echo_before", before, _ECHO_FIND, "r9")
                self._find_echo_handler()
        if found:
            self.places["routers"] = 1
        return found

    def servemux_hooks(self) -> list[tuple[str, int]]:
        """The same for net/http's own, since Go 1.22, and who tells that it is wanted."""
        from waggle.probes.go import instructions

        found: list[tuple[str, int]] = []
        functions = self._program.functions
        if not {_SERVEMUX, _SERVEMUX_FIND} <= functions.keys():
            return []
        self._add_after(found, _ROUTES, _SERVEMUX, _SERVEMUX_FIND, "rbx")
        for _, offset in found:
            code = self._code(functions[_SERVEMUX])
            at, find = self._program.image.address_at(offset), functions[_SERVEMUX_FIND].address
            kept = ("rbx", "rcx", "rdi", "rsi")
            if not at or not all(instructions.is_left_alone(code, find, at, one) for one in kept):
                self.missing.append(
                    f"{_SERVEMUX}: what it has found is gone at once: not all routes"
                )
                self.places.pop("servemux_place")
                return []
        if found:
            self._add(found, _ROUTES_WANTED, _TIMEOUT, instructions.at_entry)
        return found

    def channel_hooks(self, offsets: Mapping[str, int], *, is_guess: bool) -> list[tuple[str, int]]:
        """All ways in which an item passes a channel; none where one of them is not found, since
        what is missed would make the others tell something wrong."""
        from waggle.probes.go import instructions

        functions = self._program.functions
        if is_guess or "channel_next" not in offsets:
            self.missing.append("its version of Go is not known: no parents by hand-over")
            return []
        found: list[tuple[str, int]] = []
        try:
            for program, name in (
                ("go_channel_send", _CHANNEL_SEND),
                ("go_channel_receive", _CHANNEL_RECEIVE),
            ):
                found.append((program, instructions.at_stack_check(self._code(functions[name]))))
            for program, name, called, least in _CHANNEL_CALLS:
                code = self._code(functions[name], _LONG_FUNCTION)
                calls = instructions.calls_to(code, functions[called].address)
                if len(calls) < least:
                    raise instructions.NoInstructionError(f"{name} does not call {called}")
                found += [(program, address) for address in calls]
        except (KeyError, instructions.NoInstructionError) as error:
            self.missing.append(f"its channels are not known: no parents by hand-over: {error}")
            return []
        offsets_in_file = [self._program.image.file_offset(address) for _, address in found]
        return [
            (program, offset)
            for (program, _), offset in zip(found, offsets_in_file, strict=True)
            if offset is not None
        ]

    def _find_echo_handler(self) -> None:
        """Where the closure that echo chooses has what the program gave it."""
        from waggle.probes.go import instructions

        functions = self._program.functions
        if {_ECHO_CLOSURE, _ECHO_APPLY} <= functions.keys():
            code = self._code(functions[_ECHO_CLOSURE])
            with suppress(instructions.NoInstructionError):
                self.places["echo_captured"] = instructions.captured(
                    code, functions[_ECHO_APPLY].address, "rax"
                )

    def _find_chi_handler(self, found: list[tuple[str, int]]) -> None:
        """Where the handler is that FindRoute returns: the second word of its third result."""
        from waggle.probes.go.instructions import is_left_alone

        functions = self._program.functions
        for program, offset in found:
            if program == "go_route_chi":
                code = self._code(functions[_CHI_ROUTE])
                at = self._program.image.address_at(offset)
                if at and is_left_alone(code, functions[_CHI_FIND].address, at, "rdi"):
                    self.places["chi_handler"] = Register.DI

    def _add_after(
        self, found: list[tuple[str, int]], program: str, name: str, called: str, register: str
    ) -> None:
        """A probe behind the call of a function that gets in a register what is read."""
        from waggle.probes.go.instructions import after_call

        function = self._program.functions.get(called)
        if function is not None:
            after = partial(after_call, target=function.address, register=register)
            self._add_place(found, program, name, after)

    def _add_place(
        self,
        found: list[tuple[str, int]],
        program: str,
        name: str,
        choose: "Callable[[instructions.Code], instructions.Found]",
    ) -> None:
        """As _add(), where the instruction comes with a place of what is read there."""

        def chosen(code: "instructions.Code") -> int:
            one = choose(code)
            place = _place(one.place)
            if not place:
                from waggle.probes.go.instructions import NoInstructionError

                raise NoInstructionError(f"{one.place} is none of the registers that are read")
            self.places[f"{program.removeprefix('go_route_')}_place"] = place
            return one.address

        self._add(found, program, name, chosen)

    def _add_call(self, found: list[tuple[str, int]], program: str, name: str, called: str) -> None:
        functions = self._program.functions
        if name in functions and called in functions:
            self._add(found, program, name, partial(_call_to, functions[called].address))

    def slot(self) -> int:
        """Where a thread keeps its g."""
        from waggle.probes.go import instructions

        function = self._program.functions.get(_SLOT)
        if function is None:
            return instructions.USUAL_SLOT
        try:
            return instructions.thread_slot(self._code(function))
        except instructions.NoInstructionError:
            return instructions.USUAL_SLOT

    def _add(
        self,
        found: list[tuple[str, int]],
        program: str,
        name: str,
        choose: "Callable[[instructions.Code], int]",
    ) -> None:
        from waggle.probes.go.instructions import NoInstructionError

        function = self._program.functions.get(name)
        if function is None:
            return
        try:
            address = choose(self._code(function))
        except NoInstructionError as error:
            self.missing.append(f"{function.name}: {error}: what it would tell is not known")
            return
        offset = self._program.image.file_offset(address)
        if offset is not None:
            found.append((program, offset))

    def _code(self, function: Function, most: int = _USUAL_FUNCTION) -> "instructions.Code":
        from waggle.probes.go.instructions import Code

        return Code(code_of(self._path, self._program, function, most), function.address)
