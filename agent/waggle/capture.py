"""The kernel side, loaded: which flavour of capture, its maps, its rings, its counters.

A flavour is a set of programs that see the same things from different places
(docs/architecture.md). The first that loads and attaches on this kernel is used.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from waggle import privileges, tcp_option
from waggle.errors import PrivilegeError, UnsupportedError, WaggleError
from waggle.libbpf import Link, LoadError, Object, possible_cpus
from waggle.privileges import Capability
from waggle.propagators import Propagators
from waggle.sampling import Rule, Sampling, threshold_of

if TYPE_CHECKING:  # loading needs none of these, and begins before they are imported
    import numpy as np
    import numpy.typing as npt

    from waggle.discovery import Decision
    from waggle.layout import Counter
    from waggle.libbpf import ProgramInfo
    from waggle.ring import Ring

OBJECT_PATH = Path(__file__).parent / "bpf" / "waggle.bpf.o"
MAX_EVENTS = 4096

_SWEEP = "sweep_connections"
# Runs that an interrupt's packets would have been worth show elsewhere too (bpf/ending.h).
_MAY_MISS = frozenset({"tcp_state_change"})
# Loaded with every flavour, attached by probes to the processes they want (attach.py).
_PROBES = (
    *("python_context_copied", "python_context_freed"),
    *("go_round_trip", "go_conn_serve", "go_serve_http", "go_birth", "go_http2_handler"),
    *("go_http2_own", "go_grpc_handler", "go_grpc_call", "go_http2_call", "go_http2_own_call"),
    *("go_grpc_new_stream", "go_grpc_send_headers"),
    *("go_route_gin", "go_route_chi", "go_route_mux", "go_route_echo", "go_route_echo_before"),
    *("go_route_servemux", "go_timeout"),
    *("node_turn_over", "node_round_over"),
)
# What --tls adds, attached like those; the one they pass on to takes as long to verify as all else.
_TLS = (
    *("tls_write", "tls_wrote", "tls_read", "tls_did_read", "tls_handshake", "tls_shook"),
    *("tls_free", "tls_call", "go_tls_write", "go_tls_read", "go_tls_did_read"),
)
_TLS_MAPS = (
    *("tls_sessions", "tls_tails", "tls_since", "tls_waiting", "go_tls_reads"),
    "tls_connects",
)
# What --go-handover adds.
_HANDOVER = ("go_channel_send", "go_channel_receive", "go_channel_put", "go_channel_take")
_HANDOVER_MAPS = ("go_claims", "go_pools", "go_slots")
_FEW = 64  # entries of a map that nobody uses
# What --logs adds: attached to the exit of every system call, so only when it is wanted.
_LOGS = "log_written"
_LOG_MAPS = ("log_ring", "log_budgets", "log_writes")
# What --inject adds (injecting.py); the second tells who uses io_uring.
_RINGS = ("inject_ring_made", "inject_ring_users")
_INJECT = ("inject_enrol", "inject_header", "inject_watch_options", *_RINGS)
_INJECT_MAPS = (
    *("enrolments", "enrolled", "header_texts", "inject_settings", "inject_rules"),
    *("http1_peers", "leavers", "uring_users"),
)
_HAS_IO_URING = Path("/proc/sys/kernel/io_uring_disabled")  # since Linux 6.6
_INJECT_FLAVOURS = ("socket",)  # that can read what an enrolled socket sends
_COMMON = ("process_fork", "process_exec", "process_exit", "tcp_destroy", "tcp_state_change")


@dataclass(frozen=True, slots=True)
class Flavour:
    """One way to see the bytes of sockets.

    programs: to be attached. behind: the one that they pass on to (bpf/pass_on.h).
    """

    name: str
    programs: tuple[str, ...]
    needs: str
    behind: str | None = None

    def loaded(self) -> tuple[str, ...]:
        return self.programs if self.behind is None else (*self.programs, self.behind)


FLAVOURS = (
    Flavour(
        "socket",
        ("socket_send", "socket_receive", "socket_unix_send"),
        "the tracepoints tcp_sendmsg_locked, sock_recv_length and sk_data_ready (Linux 6.16)",
        behind="socket_call",
    ),
    # Where there are tracepoints for what is received (6.4), they also see calls that
    # began before we came.
    Flavour(
        "probe",
        ("probe_send", "socket_receive", "socket_unix_send"),
        "fentry programs, and the tracepoints sock_recv_length and sk_data_ready (Linux 6.4)",
        behind="socket_call",
    ),
    Flavour(
        "probe",
        (
            "probe_send",
            "probe_receive_inet",
            "probe_receive_inet6",
            "probe_receive_unix",
            "probe_send_unix",
            "probe_sent_unix",
        ),
        "fentry and fexit programs (CONFIG_FUNCTION_TRACER with direct calls, no lockdown)",
    ),
    Flavour("syscall", ("syscall_enter", "syscall_exit"), "raw tracepoints"),
)


def _probes(*, tls: bool, handover: bool) -> tuple[str, ...]:
    """Programs that are attached to processes."""
    return (*_PROBES, *(_TLS if tls else ()), *(_HANDOVER if handover else ()))


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """What is fixed when the programs are loaded.

    capture: auto or a flavour's name. trace_all: record whoever is in no entry.
    watch_processes: record every new program until it is decided about.
    ring_bytes: of the ring of ordinary records, a power of two. log_rate: records of 0.9 KB
    a second that one process may write to its logs, 0: logs are not looked at. inject: load what
    writes headers into requests (injecting.py). headers_first: where the parent of a request would
    have to wait for its proof it has none, and a header. tls: load what reads plaintext of TLS
    libraries. max_entries:
    other bounds than the maps have by themselves, by name of the map. sampling: who decides
    what is recorded, and how (see Sampling). propagators: which headers say whose child a
    request is. baggage: whether that header is recorded. tcp_option: tell other machines by the
    TCP option, if that can be had. handover: load what follows items through Go's channels.
    """

    capture: str = "auto"
    trace_all: bool = False
    watch_processes: bool = False
    ring_bytes: int = 8 << 20
    log_rate: int = 0
    inject: bool = False
    headers_first: bool = False
    max_entries: Mapping[str, int] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)
    propagators: Propagators = field(default_factory=Propagators)
    baggage: bool = False
    tcp_option: bool = False
    tls: bool = False
    handover: bool = False

    @property
    def probes(self) -> tuple[str, ...]:
        """Programs that are attached to processes."""
        return _probes(tls=self.tls, handover=self.handover)


class Capture:
    """Programs that are attached, until close(). Nothing outlives the process."""

    def __init__(self, bpf: Object, flavour: Flavour, links: Sequence[Link]) -> None:
        from waggle import layout

        self.flavour = flavour.name
        self._program_names = (*_COMMON, *flavour.programs)
        self.bpf = bpf
        self._links = list(links)
        self._sweep = bpf.program(_SWEEP)
        self._counters = bpf.map("counters")
        self._processes = bpf.map("processes")
        hints = bpf.map("process_hints")
        self._hints = mmap.mmap(hints.fd, hints.value_size)
        #: What the kernel samples by, layout.SAMPLE_RULE; what is written there holds at once.
        self.sample_rules = _mapped_rules(bpf)
        in_use = ("target_len", "kept_len", "http2_len")  # of the head
        self.exchanges = self._ring("exchange_ring", layout.EXCHANGE, in_use)
        self.large_exchanges = self._ring("large_ring", layout.LARGE_EXCHANGE, in_use)
        self.events = self._ring("event_ring", layout.PROCESS_EVENT)
        self.evidence = self._ring("evidence_ring", layout.EVIDENCE)
        self.tables = self._ring("table_ring", layout.TABLE_EVENT)
        self.codes = self._ring("code_ring", layout.CODE_EVENT)
        logs = bpf.program(_LOGS).autoload
        self.logs = self._ring("log_ring", layout.LOG, ("length",)) if logs else None
        if logs:
            self._program_names += (_LOGS,)
        #: Why nothing is loaded that writes headers into requests; empty when it is.
        self.not_injecting = "" if bpf.program(_INJECT[0]).autoload else "not asked for"
        self._injection: list[Link] = []
        #: Whether plaintext of TLS libraries can be had.
        self.tls = bpf.program(_TLS[0]).autoload
        #: Whether items are followed through Go's channels.
        self.handover = bpf.program(_HANDOVER[0]).autoload
        self.handshakes = self._ring("handshake_ring", layout.HANDSHAKE) if self.tls else None
        self.not_tls = ""  # why it cannot, where it was asked for
        #: The TCP option, where it is in use; else why it is not, if it was asked for.
        self.tcp_option: tcp_option.TcpOption | None = None
        self.tcp_option_refused = ""

    @classmethod
    def open(cls, options: CaptureOptions, path: Path = OBJECT_PATH) -> Capture:
        """Load the first flavour that this kernel takes, or the one asked for.

        Raises UnsupportedError when none works, saying why for each.
        """
        if not options.tcp_option:
            return cls._open(options, path)
        missing = tcp_option.needs()
        try:
            opened = cls._open(replace(options, tcp_option=not missing), path)
        except UnsupportedError as error:  # all the rest may do without it
            opened = cls._open(replace(options, tcp_option=False), path)
            missing = str(error).splitlines()[-1].strip()
        opened.tcp_option_refused = opened.tcp_option_refused or missing
        return opened

    @classmethod
    def _open(cls, options: CaptureOptions, path: Path) -> Capture:
        refused: list[str] = []
        for flavour in _wanted(options.capture):
            try:
                return cls._load_with_tls(flavour, options, path)
            except LoadError as error:
                if error.exit_code == PrivilegeError.exit_code:
                    raise
                refused.append(f"{flavour.name} needs {flavour.needs}: {error}")
        from waggle import features

        if not features.bpf_loop():
            raise UnsupportedError(
                "this kernel has no bpf_loop, which came with Linux 5.17: upgrade the kernel"
            )
        raise UnsupportedError("no way to capture works on this kernel\n  " + "\n  ".join(refused))

    @classmethod
    def _load_with_tls(cls, flavour: Flavour, options: CaptureOptions, path: Path) -> Capture:
        """Rather in the clear than not at all."""
        if not options.tls:
            return cls._load(flavour, options, path)
        try:
            return cls._load(flavour, options, path)
        except LoadError as error:
            capture = cls._load(flavour, replace(options, tls=False), path)
            capture.not_tls = str(error)
            return capture

    @classmethod
    def _load(cls, flavour: Flavour, options: CaptureOptions, path: Path) -> Capture:
        """Quickly; and again, listening to what libbpf says, where that fails. Headers are not
        worth a failure: without them rather than not at all."""
        if options.inject:
            reason = _no_headers(flavour)
            try:
                if not reason:
                    return cls._load_once(flavour, options, path, silent=True)
            except LoadError as error:
                reason = str(error)
            capture = cls._load(flavour, replace(options, inject=False), path)
            capture.not_injecting = reason
            return capture
        try:
            return cls._load_once(flavour, options, path, silent=True)
        except LoadError:
            return cls._load_once(flavour, options, path, silent=False)

    @classmethod
    def _load_once(
        cls, flavour: Flavour, options: CaptureOptions, path: Path, *, silent: bool
    ) -> Capture:
        bpf = Object.open(path)
        try:
            logs = (_LOGS,) if options.log_rate else ()
            inject = _INJECT if options.inject else ()
            option = tcp_option.PROGRAMS if options.tcp_option else ()
            hooks = (*_COMMON, *options.probes, *flavour.loaded())
            bpf.load_only(_SWEEP, *hooks, *logs, *inject, *option)
            _configure(bpf, options)
            for name in options.probes:
                bpf.program(name).as_uprobe_multi()
            bpf.load(silent=silent)
            if options.tls:
                _put_behind(bpf, "behind_tls", "tls_call")
            write_rules(_mapped_rules(bpf), options.sampling)
            capture = cls(bpf, flavour, [*attach(bpf, flavour), *map(bpf.attach, logs)])
            if options.tcp_option:
                capture._begin_tcp_option()
            return capture
        except BaseException:
            bpf.close()
            raise

    def _begin_tcp_option(self) -> None:
        try:
            self.tcp_option = tcp_option.TcpOption.attach(self.bpf)
        except WaggleError as error:
            self.tcp_option_refused = str(error)
        else:
            self._links += self.tcp_option.links

    def _ring(self, name: str, dtype: np.dtype[np.void], used: Sequence[str] = ()) -> Ring:
        from waggle.ring import Ring

        ring = self.bpf.map(name)
        return Ring(ring.fd, ring.max_entries, dtype, used)

    def decide(self, decision: Decision, sample_rules: int = 0) -> None:
        """Apply a decision about one process; its scores are kept when it is known already.

        sample_rules: see Sampling.rules_for; 0 where nobody has asked for the service.
        """
        import numpy as np

        from waggle.layout import ProcessMode

        key = decision.tgid.to_bytes(4, "little")
        row = self._process(key, decision.start_ns)
        if decision.mode:
            # What was found out about an SDK holds, for children as well.
            found = row["mode"] & np.uint32(ProcessMode.SDK | ProcessMode.SDK_SERVER)
            row["mode"] = np.uint32(decision.mode) | found
            if row["turn_contradicts"][0]:  # ended for good, and costs nothing any more
                row["mode"] &= ~np.uint32(ProcessMode.RULE_TURN)
            if row["alone_contradicts"][0]:
                row["mode"] &= ~np.uint32(ProcessMode.RULE_ALONE)
            if row["thread_contradicts"][0]:
                row["mode"] &= ~np.uint32(ProcessMode.RULE_WORKER)
            row["sample_rules"] = sample_rules
            if not row["start_ns"][0]:
                row["start_ns"] = decision.start_ns
            self._hints[decision.tgid % len(self._hints)] = 1
            self._processes.update(key, row.tobytes())
        elif row["start_ns"][0]:
            self._processes.delete(key)

    def add_mode(self, tgid: int, bits: int) -> None:
        """Add bits of ProcessMode to a process that the kernel knows."""
        import numpy as np

        from waggle import layout

        key = tgid.to_bytes(4, "little")
        known = self._processes.lookup(key)
        if known is not None:
            row = np.frombuffer(known, layout.PROCESS).copy()
            row["mode"] |= np.uint32(bits)
            self._processes.update(key, row.tobytes())

    def _process(self, key: bytes, start_ns: int) -> npt.NDArray[np.void]:
        """The kernel's entry of a process; all zero when it is none's, or that of another."""
        import numpy as np

        from waggle import layout
        from waggle.procfs import same_start

        known = self._processes.lookup(key)
        if known is not None:
            row = np.frombuffer(known, layout.PROCESS).copy()
            if same_start(int(row["start_ns"][0]), start_ns):
                return row
        return np.zeros(1, layout.PROCESS)

    def processes(self) -> dict[int, np.void]:
        """The kernel's entry of every process it knows: tgid -> layout.PROCESS."""
        import numpy as np

        from waggle import layout

        keys, values = self._processes.items()
        tgids = keys.view(np.uint32).reshape(-1)
        rows = np.ascontiguousarray(values).view(layout.PROCESS).reshape(-1)
        return dict(zip(tgids.tolist(), rows, strict=True))

    def open_requests(self) -> dict[tuple[int, int], int]:
        """Requests of HTTP/1 that servers have read and not answered whole: by process and
        layout.Method. Method.OTHER also stands for those whose head was long; one that waits
        behind another on its connection counts under that one's method."""
        import numpy as np

        from waggle import layout

        found: dict[tuple[int, int], int] = {}
        for _, values in self.bpf.map("connections").chunks():
            rows = np.ascontiguousarray(values).view(layout.CONNECTION).reshape(-1)
            some = rows[(rows["role"] == layout.Role.SERVER) & (rows["tgid"] != 0)]
            some = some[some["requests"] != some["responses"]]
            methods = np.where(some["current_used"] != 0, some["method"], layout.Method.OTHER)
            counts = (some["requests"] - some["responses"]).tolist()
            keys = zip(some["tgid"].tolist(), methods.tolist(), strict=True)
            for key, count in zip(keys, counts, strict=True):
                found[key] = found.get(key, 0) + count
        return found

    def counters(self) -> dict[Counter, int]:
        """Everything the kernel side counted since it was loaded."""
        from waggle.layout import Counter

        totals: npt.NDArray[np.uint64] = self._counters.sum_over_cpus()
        return {counter: int(totals[counter]) for counter in Counter}

    def traces_begun(self) -> tuple[int, int]:
        """Traces that a sampler has decided about so far: kept, dropped."""
        from waggle.layout import Counter

        totals: npt.NDArray[np.uint64] = self._counters.sum_over_cpus()
        return int(totals[Counter.TRACES_SAMPLED]), int(totals[Counter.TRACES_UNSAMPLED])

    def sweep(self) -> int:
        """End and forget connections that no hook saw end; how many."""
        return self._sweep.run()

    def end_answered(self) -> None:
        """When nothing is captured any more: what nobody could read, and was answered, is over."""
        if self.tls:
            self.bpf.map("sweep_last").update(bytes(4), b"\1\0\0\0")
            self.sweep()

    def missed_runs(self) -> int:
        """Times a program did not run because it was running on that CPU already, where that may
        have lost something."""
        names = [name for name in self._program_names if name not in _MAY_MISS]
        return sum(self.bpf.program(name).info().recursion_misses for name in names)

    @property
    def attached(self) -> bool:
        """Whether programs still run."""
        return bool(self._links)

    def program_infos(self) -> list[ProgramInfo]:
        """What the kernel knows of each program that may run, the probes' too."""
        probes = _probes(tls=self.tls, handover=self.handover)
        names = (*self._program_names, _SWEEP, *probes)
        return [self.bpf.program(name).info() for name in names]

    def attach_injection(self, cgroup: Path) -> None:
        """Enrol sockets of this tree of control groups. What is done to them the map
        inject_settings says."""
        enrolled = self.bpf.map("enrolled")
        if _HAS_IO_URING.exists():
            made, users = _RINGS
            self._injection.append(self.bpf.attach(made))
            with self.bpf.attach(users) as link:
                link.read_iterator()
        self._injection.append(self.bpf.attach_cgroup("inject_watch_options", cgroup))
        self._injection.append(self.bpf.attach_to_map("inject_header", enrolled))
        self._injection.append(self.bpf.attach_cgroup("inject_enrol", cgroup))

    def stop_injecting(self) -> None:
        """No socket is enrolled any more, and nothing is written into those that are."""
        if not self._injection:
            return
        settings = self.bpf.map("inject_settings")
        settings.update(bytes(4), bytes(settings.value_size))
        self._injection.pop().close()  # nobody comes in any more
        enrolled = self.bpf.map("enrolled")
        with suppress(WaggleError):  # then they leave when the map goes
            for key in list(enrolled.keys()):
                enrolled.delete(key)
        while self._injection:
            self._injection.pop().close()

    def detach(self) -> None:
        """Stop capturing; rings and counters can still be read."""
        self.stop_injecting()
        for link in self._links:
            link.close()
        self._links.clear()

    def close(self) -> None:
        self.detach()
        rings = (self.exchanges, self.large_exchanges, self.events, self.evidence, self.tables)
        wanted = [ring for ring in (self.logs, self.handshakes) if ring is not None]
        for ring in (*rings, self.codes, *wanted):
            ring.close()
        self._hints.close()
        self.bpf.close()


def _no_headers(flavour: Flavour) -> str:
    """Why none can be written with this flavour, before anything is tried; else empty."""
    if flavour.name not in _INJECT_FLAVOURS:
        return f"capture {flavour.name} cannot read what enrolled sockets send"
    return "" if privileges.has(Capability.NET_ADMIN) else "missing CAP_NET_ADMIN"


def _wanted(capture: str) -> tuple[Flavour, ...]:
    if capture == "auto":
        return FLAVOURS
    found = tuple(f for f in FLAVOURS if f.name == capture)
    if not found:
        names = ", ".join(dict.fromkeys(f.name for f in FLAVOURS))
        raise WaggleError(f"no capture flavour '{capture}': auto, {names}")
    return found


def attach(bpf: Object, flavour: Flavour) -> list[Link]:
    """Everything that a flavour attaches, in working order."""
    if flavour.behind is not None:
        _put_behind(bpf, "behind_hooks", flavour.behind)
    return [bpf.attach(name) for name in (*_COMMON, *flavour.programs)]


def _put_behind(bpf: Object, programs: str, name: str) -> None:
    """Names the program that others pass on to, by a map of programs."""
    bpf.map(programs).update((0).to_bytes(4, "little"), bpf.program(name).fd.to_bytes(4, "little"))


def _mapped_rules(bpf: Object) -> npt.NDArray[np.void]:
    """The map of rules in our own memory, for as long as the array is referred to."""
    import numpy as np

    from waggle import layout

    rules = bpf.map("sample_rules")
    memory = mmap.mmap(rules.fd, rules.max_entries * layout.SAMPLE_RULE.itemsize)
    return np.frombuffer(memory, layout.SAMPLE_RULE)


def write_rules(rules: npt.NDArray[np.void], sampling: Sampling) -> None:
    """What each rule is for, and its threshold."""
    import numpy as np

    for number, rule in enumerate(sampling.rules, 1):
        path = np.frombuffer(rule.path, np.uint8)
        rules["path"][number, : len(path)] = path
        rules["mask"][number, : len(path)] = 0xFF
        rules["path_len"][number] = len(path)
        rules["exact"][number] = rule.exact
        if rule.path:
            _write_codes(rules[number], rule)
    for number, probability in enumerate(sampling.probabilities):
        rules["threshold"][number] = threshold_of(probability)


def _of_extras(bpf: Object, options: CaptureOptions) -> dict[str, int]:
    """Settings of what is only loaded when it is wanted; the maps of what is not take no room."""
    settings: dict[str, int] = {}
    without: list[str] = []
    if not options.tcp_option:
        without += tcp_option.MAPS
    if options.log_rate:
        settings["log_rate"] = options.log_rate
    else:
        without += _LOG_MAPS
    if options.inject:
        settings["inject_wanted"] = 1
        settings["headers_first"] = int(options.headers_first)
        bpf.map("leavers").max_entries = possible_cpus()
    else:
        without += _INJECT_MAPS
    for name in without:
        bpf.map(name).leave_out()
    if not options.sampling.by_path:
        bpf.map("stream_paths").max_entries = _FEW
    if not options.propagators.beside_traceparent:
        bpf.map("table_texts").max_entries = _FEW
    unused: list[str] = []
    if options.tls:
        settings["tls_wanted"] = 1
    else:
        unused += _TLS_MAPS
        bpf.map("handshake_ring").max_entries = mmap.PAGESIZE
    if options.handover:
        settings["go_handover_wanted"] = 1
    else:
        unused += _HANDOVER_MAPS
    for name in unused:
        bpf.map(name).max_entries = _FEW
    return settings


def _write_codes(row: np.void, rule: Rule) -> None:
    """How HTTP/2 writes the rule's path."""
    import numpy as np

    from waggle.path_codes import code_bits, code_of, static_paths

    code, mask = code_of(rule.path)
    row["coded"][: len(code)] = np.frombuffer(code, np.uint8)
    row["coded_mask"][: len(mask)] = np.frombuffer(mask, np.uint8)
    row["coded_bits"] = code_bits(rule.path)
    row["static_paths"] = static_paths(rule.path, exact=rule.exact)


def _configure(bpf: Object, options: CaptureOptions) -> None:
    settings: Mapping[str, int | bytes] = {
        "agent_tgid": os.getpid(),
        "keep_baggage": int(options.baggage),
        "tcp_option_on": int(options.tcp_option),
        "trace_all": int(options.trace_all),
        "watch_processes": int(options.watch_processes),
        "sampling_mode": options.sampling.mode,
        "sample_rules_for_all": options.sampling.rules_for_all,
        "shape_seed": int.from_bytes(os.urandom(8), "little") | 1,
    }
    settings = {**settings, **_of_extras(bpf, options)}
    settings = {**settings, **options.propagators.variables()}
    for name, value in settings.items():
        bpf.rodata[name] = value
    bpf.map("exchange_ring").max_entries = options.ring_bytes
    for name, entries in options.max_entries.items():
        bpf.map(name).max_entries = entries
