"""The kernel side, loaded: its maps, its rings, its counters.

The first flavour (flavours.py) that loads and attaches on this kernel is used.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from waggle import privileges, tcp_option
from waggle.capture_options import CaptureOptions, configure, mapped_rules, write_rules
from waggle.errors import PrivilegeError, UnsupportedError, WaggleError
from waggle.flavours import (
    COMMON,
    HANDOVER,
    INJECT,
    INJECT_FLAVOURS,
    LOGS,
    SWEEP,
    TLS,
    URING,
    Flavour,
    attach,
    flavours_for,
    probes_with,
    put_behind,
)
from waggle.libbpf import Link, LoadError, Object
from waggle.privileges import Capability

if TYPE_CHECKING:  # loading needs none of these, and begins before they are imported
    import numpy as np
    import numpy.typing as npt

    from waggle.discovery import Decision
    from waggle.layout import Counter
    from waggle.libbpf import ProgramInfo
    from waggle.ring import Ring

OBJECT_PATH = Path(__file__).parent / "bpf" / "waggle.bpf.o"

# Runs that an interrupt's packets would have been worth show elsewhere too (bpf/ending.h).
_MAY_MISS = frozenset({"tcp_state_change"})
_HAS_IO_URING = Path("/proc/sys/kernel/io_uring_disabled")  # since Linux 6.6


class Capture:
    """Programs that are attached, until close(). Nothing outlives the process."""

    def __init__(self, bpf: Object, flavour: Flavour, links: Sequence[Link]) -> None:
        from waggle import layout

        self.flavour = flavour.name
        self._program_names = (*COMMON, *flavour.programs)
        self.bpf = bpf
        self._links = list(links)
        self._sweep = bpf.program(SWEEP)
        self._counters = bpf.map("counters")
        self._processes = bpf.map("processes")
        hints = bpf.map("process_hints")
        self._hints = mmap.mmap(hints.fd, hints.value_size)
        #: What the kernel samples by, layout.SAMPLE_RULE; what is written there holds at once.
        self.sample_rules = mapped_rules(bpf)
        in_use = ("target_len", "kept_len", "http2_len")  # of the head
        self.exchanges = self._ring("exchange_ring", layout.EXCHANGE, in_use)
        self.large_exchanges = self._ring("large_ring", layout.LARGE_EXCHANGE, in_use)
        self.events = self._ring("event_ring", layout.PROCESS_EVENT)
        self.evidence = self._ring("evidence_ring", layout.EVIDENCE)
        self.tables = self._ring("table_ring", layout.TABLE_EVENT)
        self.codes = self._ring("code_ring", layout.CODE_EVENT)
        logs = bpf.program(LOGS).autoload
        self.logs = self._ring("log_ring", layout.LOG, ("length",)) if logs else None
        if logs:
            self._program_names += (LOGS,)
        #: Why nothing is loaded that writes headers into requests; empty when it is.
        self.not_injecting = "" if bpf.program(INJECT[0]).autoload else "not asked for"
        self._injection: list[Link] = []
        #: Whether plaintext of TLS libraries can be had.
        self.tls = bpf.program(TLS[0]).autoload
        #: Whether items are followed through Go's channels.
        self.handover = bpf.program(HANDOVER[0]).autoload
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
        for flavour in flavours_for(options.capture):
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
            logs = (LOGS,) if options.log_rate else ()
            inject = INJECT if options.inject else ()
            option = tcp_option.PROGRAMS if options.tcp_option else ()
            hooks = (*COMMON, *options.probes, *flavour.loaded())
            bpf.load_only(SWEEP, *hooks, *logs, *inject, *option)
            configure(bpf, options)
            for name in options.probes:
                bpf.program(name).as_uprobe_multi()
            bpf.load(silent=silent)
            if options.tls:
                put_behind(bpf, "behind_tls", "tls_call")
            write_rules(mapped_rules(bpf), options.sampling)
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
        probes = probes_with(tls=self.tls, handover=self.handover)
        names = (*self._program_names, SWEEP, *probes)
        return [self.bpf.program(name).info() for name in names]

    def attach_injection(self, cgroup: Path) -> None:
        """Enrol sockets of this tree of control groups. What is done to them the map
        inject_settings says."""
        enrolled = self.bpf.map("enrolled")
        if _HAS_IO_URING.exists():
            made, users = URING
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
    if flavour.name not in INJECT_FLAVOURS:
        return f"capture {flavour.name} cannot read what enrolled sockets send"
    return "" if privileges.has(Capability.NET_ADMIN) else "missing CAP_NET_ADMIN"
