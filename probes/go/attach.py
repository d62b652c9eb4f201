"""Attaches to a running Go program: where its goroutines are, and who asks for a call.

What there is to do is worked out from the program's file (plans.py).

A version of Go that is newer than the table is read as the newest that is known; the
kernel side then believes nothing before the runtime's own word for who made a goroutine
agrees with ours, and nothing after it has once disagreed (waggle_go.must_agree).

No process is stopped and nothing is written into one.
"""

import itertools
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from waggle import layout
from waggle.attach import NotYetError, Target
from waggle.errors import WaggleError
from waggle.layout import GoLimit, GoVerdict
from waggle.libbpf import Link, Map, Program
from waggle.probes.go import programs
from waggle.probes.go.binary import GoProgram
from waggle.probes.go.handlers import HANDLERS
from waggle.probes.go.plans import Plan, Plans
from waggle.probes.go.sparing import Births, Introductions, Names, Routes
from waggle.probes.tls.attach import SINCE, tell_since
from waggle.process_memory import file_mappings
from waggle.runtimes import GO

PROCESSES, FUNCTIONS, POOLS = "go_processes", "go_functions", "go_pools"
_POOL_EPOCH = 4  # which of the words of a struct go_pool_key (bpf/go_claims.h)

_Rows = npt.NDArray[np.void]


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


class Kernel(Protocol):
    """What the probe needs of the loaded BPF object."""

    def map(self, name: str) -> Map: ...

    def attach_in_process(
        self, program: str | Program, binary: str, *, offset: int, pid: int
    ) -> Link: ...

    def detach(self, link: Link) -> None: ...

    def detach_soon(self, links: Iterable[Link]) -> "Future[None]": ...


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
        plans: Plans,
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
            if self._tls or program not in programs.TLS
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
        self._births = Births(self._switch(programs.BORN), self._is_asked_for_births)
        self._introductions = Introductions(self._switch(programs.INTRODUCES))
        self._routes = Routes(self._switch(programs.ROUTES), self._switch(programs.ROUTES_WANTED))
        self._names = [
            Names(self._switch(program), is_on=is_old) for program in programs.NAME_CALLS
        ]
        self._later = () if is_old else programs.NAME_CALLS

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
    closure = plan.program.functions.get(programs.ECHO_CLOSURE)
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
