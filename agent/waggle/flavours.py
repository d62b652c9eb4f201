"""Which programs there are: the flavours of capture, and what each feature adds to any of them.

A flavour is a set of programs that see the same things from different places
(docs/architecture.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from waggle.errors import WaggleError
from waggle.libbpf import Link, Object

SWEEP = "sweep_connections"
COMMON = ("process_fork", "process_exec", "process_exit", "tcp_destroy", "tcp_state_change")
# Loaded with every flavour, attached by probes to the processes they want (attach.py).
PROBES = (
    *("python_context_copied", "python_context_freed"),
    *("go_round_trip", "go_conn_serve", "go_serve_http", "go_birth", "go_http2_handler"),
    *("go_http2_own", "go_grpc_handler", "go_grpc_call", "go_http2_call", "go_http2_own_call"),
    *("go_grpc_new_stream", "go_grpc_send_headers"),
    *("go_route_gin", "go_route_chi", "go_route_mux", "go_route_echo", "go_route_echo_before"),
    *("go_route_servemux", "go_timeout"),
    *("node_turn_over", "node_round_over"),
)
# What --tls adds, attached like those; the one they pass on to takes as long to verify as all else.
TLS = (
    *("tls_write", "tls_wrote", "tls_read", "tls_did_read", "tls_handshake", "tls_shook"),
    *("tls_free", "tls_call", "go_tls_write", "go_tls_read", "go_tls_did_read"),
)
TLS_MAPS = (
    *("tls_sessions", "tls_tails", "tls_since", "tls_waiting", "go_tls_reads"),
    "tls_connects",
)
# What --go-handover adds.
HANDOVER = ("go_channel_send", "go_channel_receive", "go_channel_put", "go_channel_take")
HANDOVER_MAPS = ("go_claims", "go_pools", "go_slots")
# What --logs adds: attached to the exit of every system call, so only when it is wanted.
LOGS = "log_written"
LOG_MAPS = ("log_ring", "log_budgets", "log_writes")
# What --inject adds (injecting.py); the second tells who uses io_uring.
URING = ("inject_ring_made", "inject_ring_users")
INJECT = ("inject_enrol", "inject_header", "inject_watch_options", *URING)
INJECT_MAPS = (
    *("enrolments", "enrolled", "header_texts", "inject_settings", "inject_rules"),
    *("http1_peers", "leavers", "uring_users"),
)
INJECT_FLAVOURS = ("socket",)  # that can read what an enrolled socket sends


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


def probes_with(*, tls: bool, handover: bool) -> tuple[str, ...]:
    """Programs that are attached to processes."""
    return (*PROBES, *(TLS if tls else ()), *(HANDOVER if handover else ()))


def flavours_for(capture: str) -> tuple[Flavour, ...]:
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
        put_behind(bpf, "behind_hooks", flavour.behind)
    return [bpf.attach(name) for name in (*COMMON, *flavour.programs)]


def put_behind(bpf: Object, programs: str, name: str) -> None:
    """Names the program that others pass on to, by a map of programs."""
    bpf.map(programs).update((0).to_bytes(4, "little"), bpf.program(name).fd.to_bytes(4, "little"))
