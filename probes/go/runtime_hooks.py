"""The runtime, net/http, x/net/http2 and crypto/tls: where work passes between goroutines."""

from waggle.probes.go import instructions, programs
from waggle.probes.go.chooser import Chooser, Hooks

_BIRTH, _READY = "runtime.newproc.func1", "runtime.runqput"
_SLOT = "runtime.asmcgocall"
_TLS_READ = "crypto/tls.(*Conn).Read"
_COPY = "runtime.memmove"
# BPF program -> the functions at whose entry it looks; the names differ between versions.
_ENTRIES: dict[str, tuple[str, ...]] = {
    "go_round_trip": ("net/http.(*persistConn).roundTrip",),
    "go_conn_serve": ("net/http.(*conn).serve",),
    programs.INTRODUCES: ("net/http.serverHandler.ServeHTTP",),
    "go_http2_handler": (
        "net/http.(*http2serverConn).runHandler",
        "golang.org/x/net/http2.(*serverConn).runHandler",
    ),
    "go_http2_own": ("net/http/internal/http2.(*serverConn).runHandler",),
    programs.NAME_CALLS[0]: (
        "net/http.(*http2clientStream).encodeAndWriteHeaders",
        "golang.org/x/net/http2.(*clientStream).encodeAndWriteHeaders",
    ),
    programs.NAME_CALLS[1]: ("net/http/internal/http2.(*clientStream).encodeAndWriteHeaders",),
    programs.TLS_WRITE: ("crypto/tls.(*Conn).Write",),
    programs.TLS_READ: (_TLS_READ,),
}
FUNCTIONS = (
    *(name for several in _ENTRIES.values() for name in several),
    *(_BIRTH, _READY, _SLOT, _COPY),
)


def runtime_hooks(chooser: Chooser) -> Hooks:
    """What every program may have."""
    found: Hooks = []
    for program, names in _ENTRIES.items():
        for name in names:
            is_once = program == programs.TLS_WRITE  # must not be seen twice
            choose = instructions.at_stack_check if is_once else instructions.at_entry
            chooser.add(found, program, name, choose)
    chooser.add_call(found, programs.BORN, _BIRTH, _READY)
    chooser.add_call(found, programs.TLS_DID_READ, _TLS_READ, _COPY)
    if programs.BORN not in dict(found):
        chooser.missing.append(f"no probe on {_BIRTH}: goroutines inherit no request")
    if len([name for name, _ in found if name in programs.TLS]) != len(programs.TLS):
        # One side alone says nothing.
        found = [hook for hook in found if hook[0] not in programs.TLS]
    return found


def thread_slot(chooser: Chooser) -> int:
    """Where a thread keeps its g: bytes from the base of its FS segment."""
    function = chooser.functions.get(_SLOT)
    if function is None:
        return instructions.USUAL_SLOT
    try:
        return instructions.thread_slot(chooser.code(function))
    except instructions.NoInstructionError:
        return instructions.USUAL_SLOT
